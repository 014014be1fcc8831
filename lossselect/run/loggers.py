"""Where a run's metrics go beside its CSV log: TensorBoard, W&B, MLflow or a logger of the user's own.

The CSV log stays beside any of them, and where it is, as the report and `resume` read it.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.run.trust import make_part
from lossselect.utils.imports import is_installed

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

NO_SETTING = {
    "ignore_warnings",
    "check_only",
    "experiment",
    "explain",
    "export",
    "hydra",
    "logger",
    "report",
    "resume",
    "trust",
}
"""What is not logged of a config: it changes nothing of what is trained."""


def _chosen(config: DictConfig) -> dict[str, Any]:
    """The loggers beside the CSV log, by where they stand: one, or several with a name each."""
    entry = config.get("logger")
    if not entry:
        return {}
    if not isinstance(entry, DictConfig):
        raise ConfigError(f"logger must have a _target_, or be none; it is {entry!r}.")
    if "_target_" in entry:
        return {"logger": entry}
    plain: Any = OmegaConf.to_container(entry, resolve=False)  # where a run's folder is, is not known yet
    return {f"logger.{name!s}": entry[name] for name in plain if name != "csv" and plain[name] is not None}


def check_loggers(config: DictConfig) -> None:
    """ValueError for a logger that cannot be made, or whose package is not installed."""
    _keeps_csv(config)
    for place, entry in _chosen(config).items():
        if not isinstance(entry, DictConfig) or "_target_" not in entry:
            raise ConfigError(f"{place} must have a _target_, or be null; it is {entry!r}.")
        name = str(entry["_target_"]).rpartition(".")[2]
        packages = PACKAGES.get(name, ())
        if packages and not any(map(is_installed, packages)):
            raise ConfigError(
                f"{name} needs a package that is not installed: pip install {' (or '.join(packages)}"
                f"{')' * (len(packages) - 1)}. logger=csv needs none."
            )
        if name == "MLFlowLogger" and not is_installed("sqlalchemy"):
            uri = str(entry.get("tracking_uri") or "")
            if "://" in uri and not uri.startswith(("http", "databricks", "uc", "file")):
                raise ConfigError(
                    f"MLflow's runs are in a database ({place}.tracking_uri={uri.split(':')[0]}:...), for "
                    "which mlflow-skinny is too little: pip install mlflow, or name a server by "
                    f"{place}.tracking_uri=https://..., or a folder by {place}.tracking_uri=file:mlruns "
                    "(and set MLFLOW_ALLOW_FILE_STORE=true)."
                )


def _keeps_csv(config: DictConfig) -> bool:
    """Whether the run has its CSV log."""
    if not (entry := config.get("logger")):
        return False
    keeps = entry.get("csv", True) if isinstance(entry, DictConfig) else True
    if not isinstance(keeps, bool):
        raise OptionTypeError(f"logger.csv must be true or false, got {keeps!r}.")
    return keeps


def make_loggers(config: DictConfig, folder: Path) -> "list[Logger]":
    """The CSV log, and the others that the config names; none where it has none."""
    from lightning.pytorch.loggers import CSVLogger, Logger

    # that MLflow has a new experiment is said twice, and nothing to warn of
    logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)
    made: list[Logger] = [CSVLogger(folder, "logs", "")] if _keeps_csv(config) else []
    for place, entry in _chosen(config).items():
        logger = make_part(entry, place)
        if not isinstance(logger, Logger):
            raise OptionTypeError(
                f"{place}._target_ must make a logger of Lightning, got {type(logger).__name__}."
            )
        made.append(logger)
    return made


def settings_as_written(config: DictConfig) -> dict[str, Any]:
    """By their names on the command line. What the environment tells is not looked up: it may be a secret."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    every = dict(_flat(plain))
    return {
        name: _referred_to(value, every)
        for name, value in every.items()
        if name.partition(".")[0] not in NO_SETTING
    }


def _referred_to(value: Any, every: Mapping[str, Any]) -> Any:
    """Of a text such as ${seed} that setting's value, if it is given as one."""
    for _ in every:
        reference = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
        if reference is None or reference[1] not in every:
            break
        value = every[reference[1]]
    return value


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

    if not trainer.is_global_zero:
        return
    settings = settings_as_written(config)
    for logger in trainer.loggers:
        try:
            getattr(logger, "experiment", None)  # which many make as late as this, in their order
        except TypeError as error:
            raise ConfigError(
                f"{type(logger).__name__} cannot be set up as it is asked to: {error}"
            ) from None
        if isinstance(logger, CSVLogger):
            continue
        known: Mapping[str, Any] = {}
        if isinstance(logger, MLFlowLogger):  # which lets none change, of a run that goes on
            known = logger.experiment.get_run(logger.run_id).data.params
        logger.log_hyperparams({name: value for name, value in settings.items() if name not in known})


def log_results(loggers: "Sequence[Logger]", results: Mapping[str, float], step: int) -> None:
    """Tell the loggers the test metrics of a run; in its CSV log are the epochs alone."""
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    from lossselect.compat.lightning import reopen_tensorboard

    tested = {name: value for name, value in results.items() if name.startswith("test/")}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            # fit has closed its file, and tensorboardX would name another one of the same second alike
            reopen_tensorboard(logger, filename_suffix=".test", purge_step=None)
        if tested and not isinstance(logger, CSVLogger):
            logger.log_metrics(tested, step)
            logger.finalize("success")


@contextmanager
def finish_loggers(loggers: "Sequence[Logger]") -> Iterator[None]:
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
