"""Which code a config may name: by `_target_` it could name any that is installed.

This is checked before a config is used, and again by Hydra whenever it makes an object.
"""

import inspect
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig

from lossselect.compat.hydra import configure_log, initialize_sources, install_checks, resolve_target
from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.run.allowed_classes import ANYWHERE, DENIED_ARGUMENTS, find_position, public_name
from lossselect.run.settings import as_list
from lossselect.run.validation import SETTINGS

PACKAGES = ("hydra", "hydra_plugins", "lightning", "lossselect", "torch")
"""Packages with allowed classes; others are trusted as a whole or not at all."""

VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    *("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "NCCL_DEBUG"),
)
"""Environment variables that a config may set: none of them names a file to load."""

VARIABLE = "LOSSSELECT_TRUST"  # tells the processes that a run starts what its command line trusts

ALLOWED_LOG_PARTS = (
    *("sys.stdout", "sys.stderr", "logging.Filter", "logging.Formatter"),
    *("logging.FileHandler", "logging.NullHandler", "logging.StreamHandler", "rich.logging.RichHandler"),
    *("logging.handlers.RotatingFileHandler", "logging.handlers.TimedRotatingFileHandler"),
    *("logging.handlers.MemoryHandler", "logging.handlers.WatchedFileHandler"),
)

MAX_DEPTH = 60  # of a config


def find_trusted(arguments: Iterable[str]) -> list[str]:
    """Return what a command line trusts: packages in `trust=[a,b]`, and each `_target_` that it sets itself.

    An argument that a config may not set, such as `hydra.launcher.setup`, is trusted if it is set there.
    """
    denied = "|".join(name for names in DENIED_ARGUMENTS.values() for name in names)
    trusted: list[str] = []
    for argument in arguments:
        key = argument.partition("=")[0].lstrip("+~")
        if match := re.match(rf"(\w+\.)+({denied})(?=\.|$)", key):
            trusted.append(match[0])
        if key != "trust" and not key.endswith("._target_"):
            continue
        for override in OverridesParser.create().parse_overrides([argument]):
            value = override.value()
            if isinstance(value, bool | int | float | dict):
                raise OptionTypeError(f"{key} must be a name or a list of names, got {value!r}.")
            for entry in as_list(getattr(value, "list", value)):  # of a sweep
                trusted += map(str, as_list(entry))
    return trusted


def trust(arguments: Iterable[str]) -> None:
    """Let this process, and those that it starts, trust what the command line trusts."""
    os.environ[VARIABLE] = ":".join(find_trusted(arguments))
    install_checks(_resolve_allowed_target, _configure_allowed_log, _initialize_allowed_sources)


def make_part(part: DictConfig, place: str, kind: type = object, **derived: Any) -> Any:
    """Return the object, a `kind`, that a part at `place`, such as "model", describes.

    Of the `derived` arguments it gets those that it has parameters for.
    """
    check_part(part, place)  # before its class is imported
    arguments: dict[str, Any] = {}
    if derived:
        parameters: Iterable[str] = ()
        with suppress(ImportError, TypeError, ValueError):  # a name that is not found: instantiate raises
            parameters = inspect.signature(hydra.utils.get_object(part._target_)).parameters
        # a monitor replaces that of the part, also where it is one of **kwargs
        arguments = {k: v for k, v in derived.items() if k in parameters or k == "monitor"}
    made = hydra.utils.instantiate(part, **arguments)
    if not isinstance(made, kind):
        expected = f"{kind.__module__}.{kind.__name__}"
        raise OptionTypeError(f"{place}._target_ must make a {expected}, got {type(made).__name__}.")
    return made


def _resolve_allowed_target(target: Any, full_key: str) -> Any:
    """Check a class before Hydra imports it, and import it."""
    if isinstance(target, str):  # else it was made from what was checked
        # `make_part` has checked the positions of a run's parts; the user's own code may make others
        check_target(target, full_key if full_key.startswith("hydra.") else "")
    return resolve_target(target, full_key)


def _initialize_allowed_sources(self: Any, config_search_path: Any) -> None:
    """Reject a config's own packages with configs (hydra.searchpath=[pkg://package]), which Hydra imports."""
    for entry in config_search_path.get_path():
        if entry.provider != "hydra.searchpath in main" or not str(entry.path).startswith("pkg://"):
            continue
        package = str(entry.path).removeprefix("pkg://").replace("/", ".").partition(".")[0]
        if package not in PACKAGES and not _is_trusted(package):
            raise ConfigError(
                f"hydra.searchpath={entry.path}: a config may not import {package}. To allow it, add "
                f"trust=[{package}] to the command line."
            )
    initialize_sources(self, config_search_path)


def _configure_allowed_log(config: dict[str, Any]) -> None:
    """Set up a log of handlers, formatters and filters of the standard library, or of what is trusted."""
    check_log(config)
    configure_log(config)


def check_log(config: Any, place: str = "hydra.job_logging") -> None:
    """Raise ConfigError for a name that is not in `ALLOWED_LOG_PARTS`: logging calls what it finds."""
    if isinstance(config, list | tuple):
        config = dict(enumerate(config))
    for key, value in config.items() if isinstance(config, Mapping) else ():
        # logging imports and calls the text of the last two from Python 3.12 on
        is_named = isinstance(value, str) and (value.startswith("ext://") or key in ("queue", "listener"))
        if is_named or key in ("()", "class", "factory"):
            name = str(value).removeprefix("ext://")
            if name not in ALLOWED_LOG_PARTS and not _is_trusted(name):
                raise ConfigError(
                    f"{place}.{key}={value}: a log is made of parts of the standard library's logging. If "
                    f"that is meant, the command line may say so: trust=[{name.partition('.')[0]}]."
                )
        check_log(value, f"{place}.{key}")


def check_targets(config: DictConfig) -> None:
    """Raise ConfigError for the first `_target_` of a config, at any position, that it may not name."""
    job = (config.get("hydra") or {}).get("job") or {}
    for name in map(str, job.get("env_set") or {}):
        if name not in VARIABLES and name not in _trusted():
            raise ConfigError(
                f"hydra.job.env_set.{name}: some variables let a run's processes load other code. A config "
                f"may set {', '.join(VARIABLES)}; the command line may allow another one: trust=[{name}]."
            )
    if not {*map(str, as_list(config.get("trust") or []))} <= {*_trusted()}:
        raise ConfigError("trust=[...] is said on the command line; in a config it would trust itself.")
    check_part(config, "")


def check_part(part: DictConfig, place: str) -> None:
    """Raise ConfigError for the first class within a part of a config that is not allowed at its position."""
    for position, node in _iterate_parts(part, place):
        check_target(node["_target_"], position)
        if position.startswith("hydra.") or find_position(position):
            _check_arguments(node, position)


def _check_arguments(node: DictConfig, place: str) -> None:
    """Raise ConfigError for an argument that runs a command or calls a function."""
    target = str(node["_target_"])
    if _is_trusted(target):
        return
    kind = target.rpartition(".")[2]
    for name in DENIED_ARGUMENTS.get(kind, ()):
        if _get_value(node, name) and not _is_trusted(f"{place}.{name}"):
            raise ConfigError(
                f"{place}.{name} can run commands, and a config may not set it. To allow it, set it on the "
                f"command line, or add trust=[{place}.{name}]."
            )
    if kind == "SlurmLauncher":  # which writes a script of them
        for name in map(str, node):
            if isinstance(value := _get_value(node, name), str) and len(value.splitlines()) > 1:
                raise ConfigError(f"{place}.{name} must be a single line, got {value!r}.")


def _iterate_parts(node: Any, place: str) -> Iterator[tuple[str, DictConfig]]:
    """Yield each mapping with a `_target_`, interpolations resolved, and its position."""
    if len(re.findall(r"[.\[]", place)) > MAX_DEPTH:
        raise ConfigError(f"{place[:60]}...: a config must not refer to itself, or nest this deep.")
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield place, node
        for key in node:
            if key != "_target_":
                yield from _iterate_parts(_get_value(node, key), f"{place}.{key!s}" if place else str(key))
    elif isinstance(node, ListConfig):
        for i in range(len(node)):
            yield from _iterate_parts(_get_value(node, i), f"{place}[{i}]")


def _get_value(node: Any, key: Any) -> Any:
    """Return a value, which may refer to a part of the config; None if it is missing or not known yet."""
    try:
        return node[key]
    except Exception:  # a folder that does not exist yet, a variable that is not set: no part of a config
        return None


def _trusted() -> list[str]:
    return [name for name in os.environ.get(VARIABLE, "").split(":") if name]


def _is_trusted(target: str) -> bool:
    return any(target == name or target.startswith(f"{name}.") for name in _trusted())


def check_target(target: Any, place: str) -> None:
    """Raise ConfigError for a class that is neither trusted nor allowed at `place` ("": in no config)."""
    where = f"{place}._target_" if place else "_target_"
    if not isinstance(target, str):
        raise ConfigError(f"{where} must be the name of a class, got {type(target).__name__}.")
    if _is_trusted(target):
        return
    position = find_position(place)
    if position is None and re.split(r"[.\[]", place)[0] not in (*SETTINGS, "hydra"):
        position = ANYWHERE  # a custom setting is checked where others refer to it; no object is made of it
    if position and public_name(target, position.classes):
        return
    package = target.partition(".")[0]
    name = target if package in PACKAGES else package
    fix = f" If you trust it, add trust=[{name}] to the command line."
    if package in sys.stdlib_module_names:
        fix = ""  # Hydra rejects many of these in any case
    rule = f"may name only {position.what} here" if position else "may not name a class here"
    raise ConfigError(f"{where}={target}: a config {rule} (see SECURITY.md).{fix}")
