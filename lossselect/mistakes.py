"""The user's mistakes at the command line, each as one message."""

import linecache
import re
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from .names import nearest


def message_of(error: Exception, arguments: Iterable[str] = ()) -> str | None:
    """One message for an error that is the user's to mend; None for any other, which is a bug.

    The user's are those that this package raises on purpose, Hydra's of a config that cannot be
    composed, and the operating system's of a file.

    Args:
        error: What was raised.
        arguments: The command line, of which the groups chosen tell which settings there are.
    """
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        options = ", ".join(error.options)
        return f"There is no {group} {name!r}.{nearest(name, error.options)} Choose one of: {options}."
    if isinstance(error, OverrideParseException):
        cause = [
            line for line in str(error).splitlines() if not line.startswith(("Error parsing", "See http"))
        ]
        return f"{error.override!r} cannot be read: settings look like KEY=VALUE. {' '.join(cause)}"
    if isinstance(error, HydraException):
        unknown = re.match(r"Could not override '([^']+)'", str(error))
        return _no_setting(unknown[1], arguments) if unknown else " ".join(str(error).split())
    if isinstance(error, OmegaConfBaseException):
        return str(error).splitlines()[0]
    if isinstance(error, OSError) and error.filename:
        return f"{error.strerror}: {error.filename}"
    return str(error) if _raised_on_purpose(error.__traceback__) else None


def _raised_on_purpose(traceback: TracebackType | None) -> bool:
    """Whether a `raise` of this package or of Hydra made the error, and not a line that went wrong."""
    while traceback and traceback.tb_next:
        traceback = traceback.tb_next
    if traceback is None:
        return False
    frame = traceback.tb_frame
    line = linecache.getline(frame.f_code.co_filename, traceback.tb_lineno)
    package = str(frame.f_globals.get("__name__")).partition(".")[0]
    return package in (__package__, "hydra") and "raise" in line.split()


def _no_setting(key: str, arguments: Iterable[str]) -> str:
    from hydra import compose, initialize_config_module

    from .losses import LOSSES, row_options

    groups = "task|loss|data|model|optimizer|scheduler|trainer"
    chosen = [text for text in arguments if re.fullmatch(rf"({groups})=\w+", text)]
    parent, _, name = key.rpartition(".")
    choice = re.search(rf"\b{re.escape(parent)}=(\w+)", " ".join(chosen)) if parent else None
    owner = f"{parent}={choice[1]}" if choice else parent
    try:
        with initialize_config_module("lossselect.configs", version_base="1.3"):
            config: Any = compose("train", overrides=chosen)
        for part in parent.split(".") if parent else ():
            config = config[part]
        known = sorted({*config, *([] if parent else ["task", "experiment"])})
    except (HydraException, OmegaConfBaseException, KeyError, TypeError):
        known = []  # a config folder of the user's own, say
    said = f"There is no setting {key!r}.{nearest(name, known)}"
    if known:
        said += f" {owner} has: {', '.join(known)}." if parent else f" There are: {', '.join(known)}."
    having = [loss for loss in LOSSES if name in row_options(loss)]
    return said + (f" {name} is an option of loss={having[0]}." if parent == "loss" and having else "")
