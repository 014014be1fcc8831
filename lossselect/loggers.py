"""Where a run's metrics go beside its CSV log: TensorBoard, W&B, MLflow or a logger of the user's own.

The CSV log stays beside any of them, as the report and `resume` read it.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import Logger

PACKAGES = {
    "TensorBoardLogger": ("tensorboard", "tensorboardX"),
    "WandbLogger": ("wandb",),
    "MLFlowLogger": ("mlflow",),
    "CometLogger": ("comet_ml",),
    "NeptuneLogger": ("neptune",),
}
"""Of which Lightning's loggers need one."""

NO_SETTING = ("hydra", "logger", "trust", "resume", "explain", "check_only", "report", "allow", "experiment")
"""What is not logged of a config: it changes nothing of what is trained."""


def _chosen(config: DictConfig) -> dict[str, DictConfig]:
    """The loggers by where they stand: one, or several with a name each."""
    entry = config.get("logger")
    if not entry or (isinstance(entry, DictConfig) and "_target_" in entry):
        return {"logger": entry} if entry else {}
    if not isinstance(entry, DictConfig):
        raise ValueError(f"logger must have a _target_, or be none; it is {entry!r}.")
    nodes = {f"logger.{name!s}": entry._get_node(name) for name in entry}  # which need not resolve yet
    return {place: node for place, node in nodes.items() if not node._is_none()}  # type: ignore[union-attr,misc]


def check_loggers(config: DictConfig) -> None:
    """ValueError for a logger that cannot be made, or whose package is not installed."""
    for place, entry in _chosen(config).items():
        if not isinstance(entry, DictConfig) or "_target_" not in entry:
            raise ValueError(f"{place} must have a _target_, or be null; it is {entry!r}.")
        name = str(entry["_target_"]).rpartition(".")[2]
        packages = PACKAGES.get(name, ())
        if packages and not any(map(_is_installed, packages)):
            raise ValueError(
                f"{name} needs a package that is not installed: pip install {' (or '.join(packages)}"
                f"{')' * (len(packages) - 1)}. logger=csv needs none."
            )
        if name == "MLFlowLogger" and not _is_installed("sqlalchemy"):
            uri = str(entry.get("tracking_uri") or "")
            if "://" in uri and not uri.startswith(("http", "databricks", "uc", "file")):
                raise ValueError(
                    f"MLflow's runs are in a database ({place}.tracking_uri={uri.split(':')[0]}:...), for "
                    "which mlflow-skinny is too little: pip install mlflow, or name a server by "
                    f"{place}.tracking_uri=https://..."
                )


def _is_installed(package: str) -> bool:
    """Without importing it; a folder of that name, as W&B makes one, is none."""
    found = find_spec(package)
    return found is not None and found.origin is not None


def loggers_of(config: DictConfig, folder: Path) -> "list[Logger]":
    """The CSV log first, then the others; none where the config has none."""
    from lightning.pytorch.loggers import CSVLogger, Logger

    # that MLflow has a new experiment is said twice, and nothing to warn of
    logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)
    made: list[Logger] = []
    for place, entry in _chosen(config).items():
        logger = hydra.utils.instantiate(entry)
        if not isinstance(logger, Logger):
            raise TypeError(f"{place}._target_ must make a logger of Lightning, got {type(logger).__name__}.")
        made.append(logger)
    if made and not any(isinstance(logger, CSVLogger) for logger in made):
        made.insert(0, CSVLogger(folder, "logs", ""))
    return made


def settings_as_written(config: DictConfig) -> dict[str, Any]:
    """By their names on the command line; nothing is resolved, as it may be a secret."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return dict(_flat({name: value for name, value in plain.items() if name not in NO_SETTING}))


def _flat(values: Mapping[Any, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if not isinstance(value, Mapping):
            yield f"{place}{name}", value
        elif all(str(key).isidentifier() for key in value):
            yield from _flat(value, f"{place}{name}.")
        else:  # by class names, in which there may be anything
            yield f"{place}{name}", str(value)


def log_settings(trainer: "Trainer", config: DictConfig) -> None:
    """Tell the loggers a run's settings; the CSV log stands beside the config itself."""
    from lightning.pytorch.loggers import CSVLogger, MLFlowLogger

    settings = settings_as_written(config)
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger) or not trainer.is_global_zero:
            continue
        known: Mapping[str, Any] = {}
        if isinstance(logger, MLFlowLogger):  # which lets none change, of a run that goes on
            known = logger.experiment.get_run(logger.run_id).data.params
        logger.log_hyperparams({name: value for name, value in settings.items() if name not in known})


def log_results(loggers: "Sequence[Logger]", results: Mapping[str, float], step: int) -> None:
    """Tell the loggers the test metrics of a run; in its CSV log are the epochs alone."""
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    tested = {name: value for name, value in results.items() if name.startswith("test/")}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            # fit has closed its file, and tensorboardX would name another one of the same second alike
            logger._experiment = None
            logger._kwargs |= {"filename_suffix": ".test", "purge_step": None}
        if tested and not isinstance(logger, CSVLogger):
            logger.log_metrics(tested, step)
            logger.finalize("success")


@contextmanager
def ended(loggers: "Sequence[Logger]") -> Iterator[None]:
    """Ends W&B's run with this one, whose process may go on with the next job of a sweep."""
    from lightning.pytorch.loggers import WandbLogger

    failed = True
    try:
        yield
        failed = False
    finally:
        if any(isinstance(logger, WandbLogger) for logger in loggers):
            import wandb

            wandb.finish(exit_code=int(failed))
