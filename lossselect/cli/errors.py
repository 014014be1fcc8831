"""Messages for errors at the command line that the user can fix."""

import errno
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lossselect.cli.arguments import find_value, guess
from lossselect.exceptions import LossSelectError
from lossselect.losses.registry import LOSSES, row_options, unknown_loss_error
from lossselect.run.settings import list_variants, packaged_config
from lossselect.utils.checks import format_setting, suggestion

OTHER_ERRORS = {
    "lightning.fabric.utilities.exceptions": "MisconfigurationException",
    "mlflow.exceptions": "MlflowException",
    "wandb.errors": "Error",
}
"""Errors of other libraries about settings or their use, by module."""

FIRST_FILES = {".lock", ".hydra", "plan.json"}  # the first files that a run writes to its folder

LOST_PROCESS = r"Connection (closed|reset) by|Broken pipe|NCCL (error|communicator)|remote process exited"
"""Messages of torch.distributed for a process that does not respond."""

HYDRA_SETTINGS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir")


def get_message(error: Exception, arguments: Iterable[str] = ()) -> str | None:
    """Return one message for an error that the user can fix; None for any other error, which is a bug.

    `arguments` is the command line, which determines the settings of the config. The message starts with the
    notes of the error, such as the names of the job and of the fold.
    """
    message = _get_message(error, arguments)
    return message and ": ".join([*reversed(getattr(error, "__notes__", ())), message])


def _get_message(error: Exception, arguments: Iterable[str]) -> str | None:
    text, line = str(error), " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and (message := _missing_variant(error)):
        return message
    if isinstance(error, OverrideParseException):
        return _unreadable_override(error)
    if isinstance(error, InstantiationException):
        return _failed_target(error)
    if isinstance(error, YAMLError):
        return f"A config is not valid YAML: {line}"
    if text.startswith("Unable to configure"):
        return f"{error}: {' '.join(str(error.__cause__).split())}"
    if "Config group override must be a string" in text:
        pattern = rf"({'|'.join(list_variants())})=(null|true|false|[\d.]+)"
        setting = next((argument for argument in arguments if re.fullmatch(pattern, argument)), "")
        subject = f"{setting} is not the name of a variant." if setting else "Expected the name of a variant."
        return f"{subject} Set a part to one of its variants, such as model=mlp; --help lists them."
    if "Ambiguous value for argument" in text:
        setting = text.partition("argument '")[2].partition("'")[0] or "Several values"
        return f"{setting} has several values, which requires a sweep. Add -m to the command."
    if isinstance(error, HydraException):
        if match := re.search(r"Error merging override (.*)", text):
            return f"{match[1]!r} cannot be used as a value: {str(error.__cause__).splitlines()[0]}."
        match = re.match(r"Could not override '([^']+)'", text)
        return _unknown_setting(match[1], arguments) if match else line
    if isinstance(error, OmegaConfBaseException):
        return text.splitlines()[0]
    if isinstance(error, OSError) and (message := _os_message(error)):
        return message
    if isinstance(error, RuntimeError) and re.search(LOST_PROCESS, text):  # gloo has no type for that
        return "Another process of the run has ended, so this one stopped as well. See the other's message."
    others = [getattr(sys.modules[name], kind) for name, kind in OTHER_ERRORS.items() if name in sys.modules]
    return text if isinstance(error, (LossSelectError, *others)) else None


def _os_message(error: OSError) -> str | None:
    path = str(error.filename)
    if isinstance(error, FileExistsError):
        return f"Expected a folder, but {path} is a file. Set hydra.run.dir to another folder."
    if isinstance(error, PermissionError) and FIRST_FILES & {*Path(path).parts}:
        folder = re.sub(r"[/\\]+(\.lock|\.hydra|plan\.json).*", "", path)
        return f"The folder {folder} is not writable. Set hydra.run.dir to another folder."
    if error.errno == errno.ENOSPC and not error.filename:
        return f"{error.strerror}: a file, or stdout, cannot be written. Free disk space."
    return f"{error.strerror}: {path}" if error.filename else None


def _missing_variant(error: MissingConfigException) -> str | None:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    options = error.options
    if options is None:
        match = re.search(r"Could not load '([^'/]+)/([^']+)'", str(error))  # one of a list
        if not match or match[1] not in list_variants():
            return None
        (group, name), options = match.groups(), list_variants(match[1])
    if group == "loss":
        return unknown_loss_error(name, ("auto",))
    if group == "data" and "." in name:
        return f"data={name} is a file. Set data=table data.path={name} data.target=..."
    hint = {
        "optimizer": " For another one of torch, set optimizer.name=Adam.",
        "scheduler": " For another one of torch, set scheduler.name=StepLR.",
        "data": " For your own file, set data=table data.path=FILE data.target=COLUMN.",
        "module": f" For your own subclass of TaskModule, set module._target_={name}.",
    }.get(group, "")
    kind = "data set" if group == "data" else group
    return f"Unknown {kind} {name!r}.{suggestion(name, options)} Choose one of: {', '.join(options)}.{hint}"


def _unreadable_override(error: OverrideParseException) -> str:
    message = f"{error.override!r} cannot be read as KEY=VALUE."
    key, _, value = str(error.override).partition("=")
    if value and value[0] not in "[{":
        quoted = format_setting(key, value.strip(), plain=False)
        return f"{message} This value needs quotes within quotes: {quoted}."
    return f"{message} Write a list as [a,b] and a mapping as {{a:1,b:2}}, and quote names: \"['a b',c]\"."


def _failed_target(error: InstantiationException) -> str:
    text, _, part = str(error).partition("\nfull_key: ")
    target = re.search(r"target '([^']+)'", text)
    cause = error.__cause__
    while cause and cause.__cause__:
        cause = cause.__cause__
    if cause:
        text = f"{type(cause).__name__}: {next(iter(str(cause).splitlines()), '').rstrip('.')}"
    return (
        f"{part or 'A part'}._target_{'=' + target[1] if target else ''} cannot be created: {text}. Set "
        "HYDRA_FULL_ERROR=1 to see the traceback."
    )


def _unknown_setting(key: str, arguments: Iterable[str]) -> str:
    from hydra import compose, initialize_config_module

    message = f"Unknown setting {key!r}."
    arguments = [*arguments]
    value = find_value(key, arguments) or "VALUE"
    if answer := guess(key, value, arguments):
        return f"{message} {answer}"
    if key.startswith("hydra."):
        return message + suggestion(key, HYDRA_SETTINGS)
    groups = "|".join(("loss", *list_variants()))  # their variants decide which settings a config has
    chosen = [text for text in arguments if re.fullmatch(rf"({groups})=(\w+|\[[\w,]+\])", text)]
    group = key.rpartition(".")[0]
    if empty := next((text for text in (f"{group}=none", f"{group}=false") if text in arguments), ""):
        return f"{key} cannot be combined with {empty}, which has no settings. Remove one of them."
    extensible = key.startswith(("task.", "data.", "trainer.", "optimizer.", "scheduler.", "logger."))
    plus = f" To pass another argument, add a plus: +{key}=..." if extensible else ""
    try:
        with initialize_config_module("lossselect.configs", version_base="1.3"):
            node: Any = compose("train", overrides=chosen)
    except (HydraException, OmegaConfBaseException):  # for example, variants from the user's config folder
        return message + plus
    place, available = "", sorted({*node, "task", "experiment"})
    for name in key.split("."):  # the first name that the config lacks
        if name not in available:
            break
        node, place = node.get(name), f"{place}.{name}".lstrip(".")
        if place != key and not isinstance(node, DictConfig):
            variants = list_variants(place) if node is None and place in list_variants() else []
            choices = "".join(f" {place}={variant}," for variant in variants)
            hint = f" Choose a variant first:{choices[:-1]}." if choices else ""
            if hint or node is not None or "." not in place:
                return f"{place} is not set.{hint}" if hint else f"{place} is {node} and has no settings."
            return f"{message} To add it to {place}, write plus signs: ++{key}={value}"
        available = sorted(node or ())
    else:
        return f"{key} must be the name of a variant; --help lists them."
    # each logger has its settings under its name
    parts = {"": ("trainer", "optimizer", "scheduler", "model", "data"), "logger": available}.get(place, ())
    for part in parts:
        if _has_setting(node, part, name):
            return f"{message} Did you mean '{f'{place}.{part}'.lstrip('.')}.{name}'?"
    if place == "logger":
        return _unknown_logger(key, name)
    owner = next((text for text in chosen if text.startswith(f"{place}=")), place)
    message += suggestion(name, available)
    message += f" {f'{owner} has' if place else 'Choose one of'}: {', '.join(available) or 'no settings'}."
    if owners := [f"{place}={variant}" for variant in _variants_with(place, name)]:
        *others, last = owners
        names = f"{', '.join(others)} and {last}" if others else last
        return f"{message} {name} is a setting of {names}."
    losses = (loss for loss in LOSSES if place == "loss" and name in row_options(loss))
    return message + plus + next((f" {name} is an option of loss={loss}." for loss in losses), "")


def _has_setting(config: Any, part: str, name: str) -> bool:
    """Return whether a part of the config has a setting, for data also with data=table."""
    value = config.get(part)
    is_of_table = part == "data" and name in packaged_config("data", "table")
    return is_of_table or (isinstance(value, DictConfig) and name in value)


def _variants_with(group: str, name: str) -> list[str]:
    """Return the variants of a group that have a setting."""
    if group not in list_variants() or group in ("callbacks", "experiment", "logger"):
        return []
    configs = {variant: packaged_config(group, variant) for variant in list_variants(group)}
    # the variants of task also change other parts
    return [v for v, config in configs.items() if config and name in (config.get(group) or config)]


def _unknown_logger(key: str, name: str) -> str:
    """Return the message for a setting of a logger that is not in the config."""
    available = list_variants("logger")
    if name == "csv":
        return "The CSV log is written in addition to other loggers. To switch it off, set +logger.csv=false."
    if name in available:
        return f"{key!r} is a setting of a logger that is not in use. Set logger={name} as well."
    return (
        f"Unknown setting {key!r}.{suggestion(name, available)} Set logger= to one of "
        f"{', '.join(available)}; its settings have its name in them, such as logger.mlflow.run_name."
    )
