"""Which code a config may name: by `_target_` it could name any that is installed.

Checked before anything is made of a config, from within Hydra too. Nothing here is said by a checkpoint.
"""

import logging.handlers
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import hydra
from hydra._internal import logging_config
from hydra._internal.instantiate import _instantiate2
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

PACKAGES = ("hydra", "hydra_plugins", "lightning", "lossselect", "torch")
"""Whose classes a config may name, of the kinds that a run is made of."""

KNOWN = {
    "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.loggers.CSVLogger",
    "lightning.pytorch.loggers.MLFlowLogger",
    "lightning.pytorch.loggers.TensorBoardLogger",
    "lightning.pytorch.loggers.WandbLogger",
    "lossselect.train.CheckBeforeRun",
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
}
"""Classes that the package's own configs name, and Hydra's: they need not be imported to be known."""

VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    *("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "NCCL_DEBUG"),
)
"""Of the environment, that a config may set: none of them names a file to load."""

VARIABLE = "LOSSSELECT_TRUST"
"""Tells the processes that a run starts what its command line trusts."""


def trusted_by(arguments: Iterable[str]) -> list[str]:
    """What a command line trusts: packages by `trust=[a,b]`, and each `_target_` that it says itself."""
    found: list[str] = []
    for argument in arguments:
        key = argument.partition("=")[0].lstrip("+~")
        if key != "trust" and not key.endswith("._target_"):
            continue
        for override in OverridesParser.create().parse_overrides([argument]):
            value = override.value()
            values: Sequence[Any] = getattr(value, "list", value if isinstance(value, list) else [value])
            for entry in values:
                found += map(str, entry if isinstance(entry, list) else [entry])
    return found


def trust(arguments: Iterable[str]) -> None:
    """Let this process, and those that it starts, trust what the command line says."""
    os.environ[VARIABLE] = ":".join(trusted_by(arguments))
    if _resolve is None or _configure_log is None:
        raise ValueError(
            f"lossselect does not know Hydra {hydra.__version__} and cannot tell it what a config may name: "
            "pip install 'hydra-core<1.4'."
        )
    logging_config.configure_logging = _checked_log
    _instantiate2._resolve_target = _resolved  # which Hydra uses for its own parts too, before a run begins


_resolve: Any = getattr(_instantiate2, "_resolve_target", None)


def _resolved(target: Any, full_key: str) -> Any:
    if isinstance(target, str):  # else it was made by what was checked
        check_target(target, full_key or "_target_")
    return _resolve(target, full_key)


_configure_log: Any = getattr(logging_config, "configure_logging", None)


def _checked_log(config: dict[str, Any]) -> None:
    """A log of handlers, formatters and filters of the standard library, or of what is trusted."""
    check_log(config)
    _configure_log(config)


def check_log(config: Any, place: str = "hydra.job_logging") -> None:
    """ValueError for a name in the config of a log that is none of its parts: logging calls what it finds."""
    entries: Iterable[tuple[Any, Any]] = ()
    if isinstance(config, Mapping):
        entries = config.items()
    elif isinstance(config, list | tuple):
        entries = enumerate(config)
    for key, value in entries:
        if key in ("()", "class", "factory") or (isinstance(value, str) and value.startswith("ext://")):
            name = str(value).removeprefix("ext://")
            if name not in STREAMS and not _is_trusted(name) and not _is_of_log(name):
                raise ValueError(
                    f"{place}.{key}={value}: a log is made of parts of the standard library's logging. If "
                    f"that is meant, the command line may say so: trust=[{name.partition('.')[0]}]."
                )
        check_log(value, f"{place}.{key}")


STREAMS = ("sys.stdout", "sys.stderr")
"""What a log may be written to."""


def _is_of_log(name: str) -> bool:
    """Whether it is a handler, formatter or filter of the standard library, or of Rich."""
    try:
        found = get_object(name)
    except Exception:  # there is no such name
        return False
    own = isinstance(found, type) and str(found.__module__).partition(".")[0] in ("logging", "rich")
    return own and issubclass(found, logging.Handler | logging.Formatter | logging.Filter)


def check_targets(config: DictConfig) -> None:
    """ValueError for the first `_target_` of a config, wherever it stands, that it may not name."""
    job = (config.get("hydra") or {}).get("job") or {}
    for name in map(str, job.get("env_set") or {}):
        if name not in VARIABLES and name not in _trusted():
            raise ValueError(
                f"hydra.job.env_set.{name}: some variables let a run's processes load other code. A config "
                f"may set {', '.join(VARIABLES)}; the command line may allow another one: trust=[{name}]."
            )
    given = config.get("trust") or []
    if not {*([given] if isinstance(given, str) else map(str, given))} <= {*_trusted()}:
        raise ValueError("trust=[...] is said on the command line; in a config it would trust itself.")
    for place, target in _targets(config):
        check_target(target, place)


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each `_target_`, resolved, and where it stands."""
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
        for key in node:
            place = f"{path}.{key!s}" if path else str(key)
            if key == "_target_":
                yield place, node[key]
            elif not path.startswith("hydra") or isinstance(node._get_node(key), DictConfig | ListConfig):
                yield from _targets(_value(node, key), place)
    elif isinstance(node, ListConfig) and not node._is_none() and not node._is_missing():
        for i in range(len(node)):
            yield from _targets(_value(node, i), f"{path}[{i}]")


def _value(node: Any, key: Any) -> Any:
    """A value, which may refer to a part of the config; None of what is not known before the run."""
    try:
        return node[key]
    except Exception:  # a folder that there is not yet, a variable that is not set: no part of a config
        return None


def _trusted() -> list[str]:
    return [name for name in os.environ.get(VARIABLE, "").split(":") if name]


def _is_trusted(target: str) -> bool:
    return any(target == name or target.startswith(f"{name}.") for name in _trusted())


def check_target(target: Any, place: str) -> None:
    """ValueError for a name that is neither trusted nor a class of the kinds that a run is made of.

    Args:
        target: What `_target_` is.
        place: Where it stands, for the message.
    """
    if not isinstance(target, str):
        raise ValueError(f"{place} must be the name of a class, got {type(target).__name__}.")
    if target in KNOWN or _is_trusted(target):
        return
    package = target.partition(".")[0]
    fix = f" If that is meant, the command line may say so: trust=[{package}]."
    if package in sys.stdlib_module_names:
        fix = ""  # Hydra has a list of its own for these
    if package not in PACKAGES:
        raise ValueError(f"{place}={target}: a config may name classes of {', '.join(PACKAGES)}.{fix}")
    if not _is_part(target, package):
        raise ValueError(
            f"{place}={target} is not there, or no class that a run is made of (a module, optimizer, "
            f"scheduler, callback, logger, data module or the like).{fix}"
        )


def _is_part(target: str, package: str) -> bool:
    if not package.startswith("hydra") and "._" in target:
        return False
    try:
        found = get_object(target)
    except Exception:  # there is no such name
        return False
    own = isinstance(found, type) and str(found.__module__).partition(".")[0] == package
    return own and issubclass(found, _kinds(package))


def _kinds(package: str) -> tuple[type, ...]:
    from hydra.experimental.callback import Callback as OfHydra
    from hydra.plugins.plugin import Plugin

    if package.startswith("hydra"):
        return Plugin, OfHydra
    import torch
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from lightning.pytorch import Callback, LightningDataModule
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.plugins.precision import Precision
    from lightning.pytorch.profilers import Profiler
    from lightning.pytorch.strategies import Strategy

    data = torch.utils.data
    steps = torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler
    ours = Callback, LightningDataModule, Logger, ClusterEnvironment, Precision, Profiler, Strategy
    return (torch.nn.Module, *steps, data.Dataset, data.DataLoader, data.Sampler, *ours)


def without_secrets(text: str, config: DictConfig) -> str:
    """A text in which what the config takes from the environment stands by its name."""
    for name in re.findall(r"\$\{oc\.env:(\w+)", OmegaConf.to_yaml(config)):
        if len(value := os.environ.get(name, "")) > 3:  # shorter ones are in any text
            text = text.replace(value, f"${{oc.env:{name}}}")
    return text
