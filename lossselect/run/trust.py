"""Checks of the code that a config names: without them `_target_` could run any installed function.

A config is checked before it is used, and again whenever Hydra creates an object.
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
from lossselect.run.validation import SETTINGS
from lossselect.utils.checks import as_list

PACKAGES = ("hydra", "hydra_plugins", "lightning", "lossselect", "torch", "torchmetrics")
"""Packages with allowed classes; other packages are trusted completely or not at all."""

VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    *("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "NCCL_DEBUG"),
)
"""Environment variables that a config may set, because none of them names a file to load."""

VARIABLE = "LOSSSELECT_TRUST"  # passes what the command line trusts to the processes that a run starts

ALLOWED_LOG_PARTS = (
    *("sys.stdout", "sys.stderr", "logging.Filter", "logging.Formatter"),
    *("logging.FileHandler", "logging.NullHandler", "logging.StreamHandler", "rich.logging.RichHandler"),
    *("logging.handlers.RotatingFileHandler", "logging.handlers.TimedRotatingFileHandler"),
    *("logging.handlers.MemoryHandler", "logging.handlers.WatchedFileHandler"),
)

MAX_DEPTH = 60  # of the nesting in a config


def find_trusted(arguments: Iterable[str]) -> list[str]:
    """Return the names that a command line trusts: `trust=[a,b]`, and each `_target_` that it sets.

    An argument that a config may not set, such as `hydra.launcher.setup`, is trusted on the command line.
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
            for entry in as_list(getattr(value, "list", value)):  # a sweep has a list
                trusted += map(str, as_list(entry))
    return trusted


def trust(arguments: Iterable[str]) -> None:
    """Make this process, and the processes that it starts, trust what the command line trusts."""
    os.environ[VARIABLE] = ":".join(find_trusted(arguments))
    install_checks(_resolve_allowed_target, _configure_allowed_log, _initialize_allowed_sources)


def make_part(part: DictConfig, place: str, kind: type = object, **derived: Any) -> Any:
    """Return the object, a `kind`, that the part at `place`, such as "model", describes.

    Only `derived` arguments that the object has parameters for are passed.
    """
    check_part(part, place)  # before its class is imported
    arguments: dict[str, Any] = {}
    if derived:
        parameters: Iterable[str] = ()
        with suppress(ImportError, TypeError, ValueError):  # instantiate raises for an unknown name
            parameters = inspect.signature(hydra.utils.get_object(part._target_)).parameters
        # a derived monitor replaces the part's, even if it is passed by **kwargs
        arguments = {k: v for k, v in derived.items() if k in parameters or k == "monitor"}
    instance = hydra.utils.instantiate(part, **arguments)
    if not isinstance(instance, kind):
        expected = f"{kind.__module__}.{kind.__name__}"
        raise OptionTypeError(f"{place}._target_ must create a {expected}, got {type(instance).__name__}.")
    return instance


def _resolve_allowed_target(target: Any, full_key: str) -> Any:
    """Check a class before Hydra imports it, and import it."""
    if isinstance(target, str):  # a class was resolved before, from a name that was checked
        # `make_part` has checked the positions of a run's parts, but the user's code may create others
        check_target(target, full_key if full_key.startswith("hydra.") else "")
    return resolve_target(target, full_key)


def _initialize_allowed_sources(self: Any, config_search_path: Any) -> None:
    """Reject hydra.searchpath=[pkg://package] in a config, because Hydra imports the package."""
    for entry in config_search_path.get_path():
        if entry.provider != "hydra.searchpath in main" or not str(entry.path).startswith("pkg://"):
            continue
        package = str(entry.path).removeprefix("pkg://").replace("/", ".").partition(".")[0]
        if package not in PACKAGES and not _is_trusted(package):
            raise ConfigError(
                f"hydra.searchpath={entry.path}: a config may not import {package}. If you trust it, add "
                f"trust=[{package}] to the command line."
            )
    initialize_sources(self, config_search_path)


def _configure_allowed_log(config: dict[str, Any]) -> None:
    """Set up a log whose handlers, formatters and filters are allowed or trusted."""
    check_log(config)
    configure_log(config)


def check_log(config: Any, place: str = "hydra.job_logging") -> None:
    """Raise ConfigError for a name that is not in `ALLOWED_LOG_PARTS`, because logging would call it."""
    if isinstance(config, list | tuple):
        config = dict(enumerate(config))
    for key, value in config.items() if isinstance(config, Mapping) else ():
        # from Python 3.12 on, logging also imports and calls what queue and listener name
        is_named = isinstance(value, str) and (value.startswith("ext://") or key in ("queue", "listener"))
        if is_named or key in ("()", "class", "factory"):
            name = str(value).removeprefix("ext://")
            if name not in ALLOWED_LOG_PARTS and not _is_trusted(name):
                raise ConfigError(
                    f"{place}.{key}={value}: a config may only use the standard library's logging. If you "
                    f"trust it, add trust=[{name.partition('.')[0]}] to the command line."
                )
        check_log(value, f"{place}.{key}")


def check_targets(config: DictConfig) -> None:
    """Raise ConfigError for the first `_target_` of a config that is not allowed at its position."""
    job = (config.get("hydra") or {}).get("job") or {}
    for name in map(str, job.get("env_set") or {}):
        if name not in VARIABLES and name not in _trusted():
            raise ConfigError(
                f"hydra.job.env_set.{name}: some variables make a run's processes load other code. A config "
                f"may only set {', '.join(VARIABLES)}. If you trust it, add trust=[{name}] to the command "
                "line."
            )
    if not {*map(str, as_list(config.get("trust") or []))} <= {*_trusted()}:
        raise ConfigError("A config cannot set trust, or it would trust itself. Set it on the command line.")
    check_part(config, "")


def check_part(part: DictConfig, place: str) -> None:
    """Raise ConfigError for the first class in a part of a config that is not allowed at its position."""
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
                f"{place}.{name} can run commands, so a config may not set it. If you trust it, set it on "
                f"the command line, or add trust=[{place}.{name}]."
            )
    if kind == "SlurmLauncher":  # it writes its arguments into a script
        for name in map(str, node):
            if isinstance(value := _get_value(node, name), str) and len(value.splitlines()) > 1:
                raise ConfigError(f"{place}.{name} must be a single line, got {value!r}.")


def _iterate_parts(node: Any, place: str) -> Iterator[tuple[str, DictConfig]]:
    """Yield each mapping with a `_target_`, interpolations resolved, and its position."""
    if len(re.findall(r"[.\[]", place)) > MAX_DEPTH:
        raise ConfigError(f"{place[:60]}... is nested too deeply. A config cannot contain itself.")
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
    """Return a value with its references resolved; None if it is missing or cannot be resolved yet."""
    try:
        return node[key]
    except Exception:  # such as a folder that does not exist yet, or a variable that is not set
        return None


def _trusted() -> list[str]:
    return [name for name in os.environ.get(VARIABLE, "").split(":") if name]


def _is_trusted(target: str) -> bool:
    return any(target == name or target.startswith(f"{name}.") for name in _trusted())


def check_target(target: Any, place: str) -> None:
    """Raise ConfigError for a class that is neither trusted nor allowed at `place` ("" outside a config)."""
    where = f"{place}._target_" if place else "_target_"
    if not isinstance(target, str):
        raise ConfigError(f"{where} must be the name of a class, got {type(target).__name__}.")
    if re.search("[:/]", target):
        dotted = re.sub("[:/]+", ".", re.sub(r"\.py\b", "", target)).strip(".")
        raise ConfigError(f"{where}={target}: expected an import path with dots. Set {where}={dotted}.")
    if _is_trusted(target):
        return
    position = find_position(place)
    if position is None and re.split(r"[.\[]", place)[0] not in (*SETTINGS, "hydra"):
        position = (
            ANYWHERE  # no object is created from a custom setting; references to it are checked as well
        )
    if position and public_name(target, position.classes):
        return
    package = target.partition(".")[0]
    name = target if package in PACKAGES else package
    fix = f" If you trust it, add trust=[{name}] to the command line."
    if package in sys.stdlib_module_names:
        fix = ""  # Hydra rejects many of these even if they are trusted
    rule = f"may name only {position.what} here" if position else "may not name a class here"
    raise ConfigError(f"{where}={target}: a config {rule} (see SECURITY.md).{fix}")
