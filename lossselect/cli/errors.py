"""The user's mistakes at the command line, each as one message."""

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
from lossselect.run.settings import known_keys, variants
from lossselect.utils.checks import format_setting, suggestion

OTHERS = {
    "lightning.fabric.utilities.exceptions": "MisconfigurationException",
    "mlflow.exceptions": "MlflowException",
    "wandb.errors": "Error",
}
"""Errors of other libraries that are about settings or their use, by module."""


def _errors_of_others() -> tuple[type[Exception], ...]:
    """Return those of `OTHERS` whose libraries have been imported."""
    return tuple(getattr(sys.modules[name], error) for name, error in OTHERS.items() if name in sys.modules)


def message_of(error: Exception, arguments: Iterable[str] = ()) -> str | None:
    """One message for an error that is the user's to mend; None for any other, which is a bug.

    The user's are those of `lossselect.exceptions`, Hydra's of a config that cannot be composed, and the
    operating system's of a file.

    Args:
        error: What was raised.
        arguments: The command line, of which the groups chosen tell which settings there are.
    """
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group == "loss":
            return unknown_loss_error(name, ("auto",))
        options = ", ".join(error.options)
        if group == "data" and "." in name:
            return f"data={name} is a file: say data=table data.path={name} data.target=..."
        more = {"optimizer": "Adam", "scheduler": "StepLR"}.get(group)
        of_torch = f" Others of torch's by {group}.name={more}." if more else ""
        return (
            f"There is no {group} {name!r}.{suggestion(name, error.options)} "
            f"Choose one of: {options}.{of_torch}"
        )
    if isinstance(error, MissingConfigException) and "Could not load" in str(error):  # one of a list
        group, _, name = (
            str(error).partition("'/")[0].partition("Could not load '")[2].partition("'")[0].partition("/")
        )
        if name and group in variants():
            known = variants(group)
            return (
                f"There is no {group} {name!r}.{suggestion(name, known)} Choose one of: {', '.join(known)}."
            )
    if isinstance(error, OverrideParseException):
        cause = [
            line for line in str(error).splitlines() if not line.startswith(("Error parsing", "See http"))
        ]
        said = f"{error.override!r} cannot be read: settings look like KEY=VALUE."
        key, equals, value = str(error.override).partition("=")
        if not equals or not value or value[0] in "[{":
            return f"{said} {' '.join(cause)}"
        quoted = format_setting(key, value.strip(), plain=False)
        return f"{said} This value needs quotes within quotes: {quoted}."
    if isinstance(error, InstantiationException):
        return _not_made(error)
    if isinstance(error, YAMLError):
        return f"A config cannot be read as YAML: {' '.join(str(error).split())}"
    if str(error).startswith("Unable to configure"):
        return f"{error}: {' '.join(str(error.__cause__).split())}"
    if "Config group override must be a string" in str(error):
        odd = [text for text in arguments if re.fullmatch(r"\w+=(null|true|false|[\d.]+)", text)]
        which = next((text for text in odd if text.partition("=")[0] in variants()), "")
        said = f"{which}: a part takes" if which else "A part takes"
        return f"{said} the name of a variant, as in model=mlp; --help lists them."
    if isinstance(error, HydraException) and "Error merging override" in str(error):
        override = str(error).partition("override ")[2].strip()
        return f"{override!r} is not what that setting can be: {str(error.__cause__).splitlines()[0]}."
    if "Ambiguous value for argument" in str(error):
        wrong = re.search(r"argument '([^']+)'", str(error))
        return (
            f"{wrong[1] if wrong else 'Several values'}: several values are a sweep, which -m begins: -m ..."
        )
    if isinstance(error, HydraException):
        unknown = re.match(r"Could not override '([^']+)'", str(error))
        return _no_setting(unknown[1], arguments) if unknown else " ".join(str(error).split())
    if isinstance(error, OmegaConfBaseException):
        return str(error).splitlines()[0]
    if isinstance(error, FileExistsError):
        return (
            f"{error.filename} is a file, where a folder is needed: choose another one, hydra.run.dir=FOLDER."
        )
    if isinstance(error, PermissionError) and FIRST & {*Path(str(error.filename)).parts}:
        folder = re.sub(r"[/\\]+(\.lock|\.hydra|plan\.json).*", "", str(error.filename))
        return f"The folder {folder} cannot be written to: choose another one, hydra.run.dir=FOLDER."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and not error.filename:
        return f"{error.strerror}: a file, or stdout, cannot be written to. Make room."
    if isinstance(error, OSError) and error.filename:
        return f"{error.strerror}: {error.filename}"
    if lost_process(error):
        return "Another of the run's processes has ended, and this one cannot go on alone: see what it said."
    return str(error) if isinstance(error, (LossSelectError, *_errors_of_others())) else None


FIRST = {".lock", ".hydra", "plan.json"}
"""What is written first into a run's folder."""

ALONE = r"Connection (closed|reset) by|Broken pipe|NCCL (error|communicator)|remote process exited"
"""What torch says where another process does not answer."""


def lost_process(error: BaseException) -> bool:
    """Whether torch.distributed lost its connection to another process, for which gloo has no type."""
    return isinstance(error, RuntimeError) and re.search(ALONE, str(error)) is not None


def _not_made(error: Exception) -> str:
    """What went wrong with a part that is named by `_target_`."""
    said, _, part = str(error).partition("\nfull_key: ")
    target = re.search(r"target '([^']+)'", said)
    cause = error.__cause__
    while cause and cause.__cause__:
        cause = cause.__cause__
    return (
        f"{part or 'A part'}._target_{'=' + target[1] if target else ''} cannot be made: "
        f"{type(cause).__name__ + ': ' + next(iter(str(cause).splitlines()), '') if cause else said} "
        "(HYDRA_FULL_ERROR=1 shows the traceback.)"
    )


GROUPS = ("trainer", "optimizer", "scheduler", "model", "data")
"""Parts among whose settings one is looked for that is given without its part."""


def _settings_in(config: Any, part: str) -> Iterable[str]:
    """The keys of a part of the config; of data, also those of a table."""
    own = config.get(part)
    return [
        *(own if isinstance(own, DictConfig) else ()),
        *(known_keys("data", "table") if part == "data" else ()),
    ]


FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir")
"""Settings of Hydra's own that runs are given."""


def _no_part(key: str, place: int, known: list[str], config: Any) -> str:
    """Of a setting within a part that there is not; `known` are those beside it."""
    if key.startswith("hydra."):
        return f"There is no setting {key!r}.{suggestion(key, FOLDERS)}"
    parts = key.split(".")
    name, within = parts[place], ".".join(parts[:place])
    if name in known:
        return f"{'.'.join(parts[: place + 1])} is {config.get(name)}, and has no settings."
    if within == "logger":
        return _no_logger(key, name)
    said = f"There is no setting {key!r}.{suggestion(name, known)}"
    return said + (f" {within or 'A run'} has: {', '.join(known)}." if known else "")


def _no_logger(key: str, name: str) -> str:
    """Of a setting of a logger that was not chosen."""
    known = variants("logger")
    if name == "csv":
        return "The CSV log is kept beside other loggers: +logger.csv=false leaves it out."
    if name in known:
        return f"There is no setting {key!r} without that logger: say logger={name} too."
    return (
        f"There is no setting {key!r}.{suggestion(name, known)} A logger is chosen by logger=, one of "
        f"{', '.join(known)}, and has its settings under its name, as logger.mlflow.run_name is one."
    )


def _no_setting(key: str, arguments: Iterable[str]) -> str:
    from hydra import compose, initialize_config_module

    groups = "task|loss|mix|decision|data|model|optimizer|scheduler|trainer|callbacks|logger"
    chosen = [text for text in arguments if re.fullmatch(rf"({groups})=(\w+|\[[\w,]+\])", text)]
    parent, _, name = key.rpartition(".")
    choice = re.search(rf"\b{re.escape(parent)}=(\w+)", " ".join(chosen)) if parent else None
    owner = f"{parent}={choice[1]}" if choice else parent
    try:
        with initialize_config_module("lossselect.configs", version_base="1.3"):
            config: Any = compose("train", overrides=chosen)
        for place, part in enumerate(parent.split(".") if parent else ()):
            inner = config.get(part) if isinstance(config, DictConfig) else None
            if not isinstance(inner, DictConfig):  # the part itself is misspelt, or takes no settings
                return _no_part(key, place, sorted(config), config)
            config = inner
        known = sorted({*config, *([] if parent else ["task", "experiment"])})
    except (HydraException, OmegaConfBaseException, KeyError, TypeError):
        known = []  # a config folder of the user's own, say
    if owner.endswith("=none"):
        return f"{key} is no setting beside {owner}, which has none. Leave one of them out."
    if name in known:
        return (
            f"{key} is given as what it cannot be: {name} takes the name of a variant, and --help lists them."
        )
    said = f"There is no setting {key!r}.{suggestion(name, known)}"
    if known:
        said += f" {owner} has: {', '.join(known)}." if parent else f" There are: {', '.join(known)}."
    if parent == "data" and name in known_keys("data", "table"):
        said += f" {name} is a setting of data=table: say that too."
    elif parent in ("task", "data", "trainer", "optimizer", "scheduler") or parent.startswith("logger."):
        said += f" Another one that it takes is added with a plus: +{key}=..."
    homes = [part for part in GROUPS if known and not parent and name in _settings_in(config, part)]
    if parent == "logger":  # of which there may be several, by their names
        homes = [f"logger.{part}" for part in known if name in _settings_in(config, part)]
    if parent == "logger" and not homes:
        return _no_logger(key, name)
    if homes:
        said = f"There is no setting {key!r}. Did you mean {homes[0]}.{name}?"
    having = [loss for loss in LOSSES if name in row_options(loss)]
    return said + (f" {name} is an option of loss={having[0]}." if parent == "loss" and having else "")
