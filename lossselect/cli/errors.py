"""Messages for errors at the command line that are the user's to fix."""

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

from lossselect.exceptions import LossSelectError
from lossselect.losses.registry import LOSSES, row_options, unknown_loss_error
from lossselect.run.settings import list_variants, packaged_config
from lossselect.utils.checks import format_setting, suggestion

OTHER_ERRORS = {
    "lightning.fabric.utilities.exceptions": "MisconfigurationException",
    "mlflow.exceptions": "MlflowException",
    "wandb.errors": "Error",
}
"""Errors of other libraries that are about settings or their use, by module."""

FIRST_FILES = {".lock", ".hydra", "plan.json"}  # what is written first into a run's folder

LOST_PROCESS = r"Connection (closed|reset) by|Broken pipe|NCCL (error|communicator)|remote process exited"
"""Messages of torch.distributed if another process does not answer."""

HYDRA_SETTINGS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir")


def get_message(error: Exception, arguments: Iterable[str] = ()) -> str | None:
    """Return one message for an error that is the user's to fix; None for any other, which is a bug.

    `arguments`, the command line, tell which settings a config has.
    """
    text, line = str(error), " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and (message := _missing_variant(error)):
        return message
    if isinstance(error, OverrideParseException):
        return _unreadable_override(error)
    if isinstance(error, InstantiationException):
        return _failed_target(error)
    if isinstance(error, YAMLError):
        return f"A config cannot be read as YAML: {line}"
    if text.startswith("Unable to configure"):
        return f"{error}: {' '.join(str(error.__cause__).split())}"
    if "Config group override must be a string" in text:
        pattern = rf"({'|'.join(list_variants())})=(null|true|false|[\d.]+)"
        setting = next((argument for argument in arguments if re.fullmatch(pattern, argument)), "")
        subject = f"{setting}: a part takes" if setting else "A part takes"
        return f"{subject} the name of a variant, as in model=mlp; --help lists them."
    if "Ambiguous value for argument" in text:
        setting = text.partition("argument '")[2].partition("'")[0] or "Several values"
        return f"{setting}: several values are a sweep, which -m begins: -m ..."
    if isinstance(error, HydraException):
        if match := re.search(r"Error merging override (.*)", text):
            return f"{match[1]!r} is not what that setting can be: {str(error.__cause__).splitlines()[0]}."
        match = re.match(r"Could not override '([^']+)'", text)
        return _unknown_setting(match[1], arguments) if match else line
    if isinstance(error, OmegaConfBaseException):
        return text.splitlines()[0]
    if isinstance(error, OSError) and (message := _os_message(error)):
        return message
    if isinstance(error, RuntimeError) and re.search(LOST_PROCESS, text):  # gloo has no type for that
        return "Another of the run's processes has ended, and this one cannot go on alone: see what it said."
    others = [getattr(sys.modules[name], kind) for name, kind in OTHER_ERRORS.items() if name in sys.modules]
    return text if isinstance(error, (LossSelectError, *others)) else None


def _os_message(error: OSError) -> str | None:
    path = str(error.filename)
    if isinstance(error, FileExistsError):
        return f"{path} is a file, where a folder is needed: choose another one, hydra.run.dir=FOLDER."
    if isinstance(error, PermissionError) and FIRST_FILES & {*Path(path).parts}:
        folder = re.sub(r"[/\\]+(\.lock|\.hydra|plan\.json).*", "", path)
        return f"The folder {folder} cannot be written to: choose another one, hydra.run.dir=FOLDER."
    if error.errno == errno.ENOSPC and not error.filename:
        return f"{error.strerror}: a file, or stdout, cannot be written to. Make room."
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
        return f"data={name} is a file: say data=table data.path={name} data.target=..."
    example = {"optimizer": "Adam", "scheduler": "StepLR"}.get(group)
    return (
        f"There is no {group} {name!r}.{suggestion(name, options)} Choose one of: {', '.join(options)}."
        + (f" Others of torch's by {group}.name={example}." if example else "")
    )


def _unreadable_override(error: OverrideParseException) -> str:
    message = f"{error.override!r} cannot be read: settings look like KEY=VALUE."
    key, _, value = str(error.override).partition("=")
    if value and value[0] not in "[{":
        quoted = format_setting(key, value.strip(), plain=False)
        return f"{message} This value needs quotes within quotes: {quoted}."
    lines = [line for line in str(error).splitlines() if not line.startswith(("Error parsing", "See http"))]
    return " ".join([message, *lines])


def _failed_target(error: InstantiationException) -> str:
    text, _, part = str(error).partition("\nfull_key: ")
    target = re.search(r"target '([^']+)'", text)
    cause = error.__cause__
    while cause and cause.__cause__:
        cause = cause.__cause__
    if cause:
        text = f"{type(cause).__name__}: {next(iter(str(cause).splitlines()), '')}"
    return (
        f"{part or 'A part'}._target_{'=' + target[1] if target else ''} cannot be made: {text} "
        "(HYDRA_FULL_ERROR=1 shows the traceback.)"
    )


def _unknown_setting(key: str, arguments: Iterable[str]) -> str:
    from hydra import compose, initialize_config_module

    message = f"There is no setting {key!r}."
    if key.startswith("hydra."):
        return message + suggestion(key, HYDRA_SETTINGS)
    groups = "|".join(("loss", *list_variants()))  # their variants decide which settings a config has
    chosen = [text for text in arguments if re.fullmatch(rf"({groups})=(\w+|\[[\w,]+\])", text)]
    if (empty := f"{key.rpartition('.')[0]}=none") in chosen:
        return f"{key} is no setting beside {empty}, which has none. Leave one of them out."
    extensible = key.startswith(("task.", "data.", "trainer.", "optimizer.", "scheduler.", "logger."))
    plus = f" Another one that it takes is added with a plus: +{key}=..." if extensible else ""
    try:
        with initialize_config_module("lossselect.configs", version_base="1.3"):
            node: Any = compose("train", overrides=chosen)
    except (HydraException, OmegaConfBaseException):  # a config folder of the user's own, say
        return message + plus
    place, available = "", sorted({*node, "task", "experiment"})
    for name in key.split("."):  # the first name that the config lacks
        if name not in available:
            break
        node, place = node.get(name), f"{place}.{name}".lstrip(".")
        if place != key and not isinstance(node, DictConfig):
            variants = list_variants(place) if node is None and place in list_variants() else []
            choices = "".join(f" {place}={variant}," for variant in variants)
            hint = f" Choose one first:{choices[:-1]}." if choices else ""
            return f"{place} is {node}, and has no settings.{hint}"
        available = sorted(node or ())
    else:
        return (
            f"{key} is given as what it cannot be: {name} takes the name of a variant, and --help lists them."
        )
    # there may be several loggers, each by its name
    parts = {"": ("trainer", "optimizer", "scheduler", "model", "data"), "logger": available}.get(place, ())
    for part in parts:
        if _has_setting(node, part, name):
            return f"{message} Did you mean {f'{place}.{part}'.lstrip('.')}.{name}?"
    if place == "logger":
        return _unknown_logger(key, name)
    owner = next((text for text in chosen if text.startswith(f"{place}=")), place)
    message += suggestion(name, available)
    message += f" {f'{owner} has' if place else 'There are'}: {', '.join(available) or 'no settings'}."
    if place == "data" and name in packaged_config("data", "table"):
        return f"{message} {name} is a setting of data=table: say that too."
    losses = (loss for loss in LOSSES if place == "loss" and name in row_options(loss))
    return message + plus + next((f" {name} is an option of loss={loss}." for loss in losses), "")


def _has_setting(config: Any, part: str, name: str) -> bool:
    """Return whether a part of the config has a setting; data has also those of a table."""
    value = config.get(part)
    is_of_table = part == "data" and name in packaged_config("data", "table")
    return is_of_table or (isinstance(value, DictConfig) and name in value)


def _unknown_logger(key: str, name: str) -> str:
    """Return the message for a setting of a logger that was not chosen."""
    available = list_variants("logger")
    if name == "csv":
        return "The CSV log is kept beside other loggers: +logger.csv=false leaves it out."
    if name in available:
        return f"There is no setting {key!r} without that logger: say logger={name} too."
    return (
        f"There is no setting {key!r}.{suggestion(name, available)} A logger is chosen by logger=, one of "
        f"{', '.join(available)}, and has its settings under its name, as logger.mlflow.run_name is one."
    )
