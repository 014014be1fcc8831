"""The loggers of a run: its CSV log, which the report and `resume` read, and the config's other loggers."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.run.settings import check_has_target
from lossselect.run.trust import make_part
from lossselect.utils.checks import is_installed

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
"""The packages that Lightning's loggers need; one of several is enough."""

NOT_LOGGED = {
    *("ignore_warnings", "check_only", "experiment", "explain", "export", "export_raw"),
    *("hydra", "logger", "report", "resume", "trust"),
}
"""Parts of a config that do not affect training."""


def _named_loggers(config: DictConfig) -> dict[str, Any]:
    """Return the loggers of a config except its CSV log, by their positions."""
    entry = config.get("logger") or {}
    if "_target_" in entry:
        return {"logger": entry}
    # entries stay unresolved: they may refer to the run folder, which does not exist yet
    return {f"logger.{name!s}": entry[name] for name in entry if name != "csv" and entry[name] is not None}


def check_loggers(config: DictConfig) -> None:
    """Raise ConfigError for a logger that names no class, or whose package is not installed."""
    chosen = config.get("logger") or {}
    if not isinstance(chosen, Mapping):
        check_has_target("logger", chosen)
    if not isinstance(has_csv := chosen.get("csv", True), bool):
        raise OptionTypeError(f"logger.csv must be true or false, got {has_csv!r}.")
    for place, entry in _named_loggers(config).items():
        check_has_target(place, entry)
        name = str(entry["_target_"]).rpartition(".")[2]
        packages = PACKAGES.get(name, ())
        if packages and not any(map(is_installed, packages)):
            raise ConfigError(
                f"{name} requires a package that is not installed. Run pip install "
                f"{' (or '.join(packages)}{')' * (len(packages) - 1)}, or set logger=csv."
            )
        if name == "MLFlowLogger" and not is_installed("sqlalchemy"):
            uri = str(entry.get("tracking_uri") or "")
            if "://" in uri and not uri.startswith(("http", "databricks", "uc", "file")):
                raise ConfigError(
                    f"{place}.tracking_uri={uri.split(':')[0]}:... is a database, which mlflow-skinny does "
                    f"not support. Run pip install mlflow, or set {place}.tracking_uri=https://... for a "
                    f"server, or {place}.tracking_uri=file:mlruns for a folder (together with "
                    "MLFLOW_ALLOW_FILE_STORE=true)."
                )


def make_loggers(config: DictConfig, folder: Path) -> "list[Logger]":
    """Create the CSV log and the other loggers of the config."""
    from lightning.pytorch.loggers import CSVLogger, Logger

    # MLflow would announce a new experiment twice
    logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)
    has_csv = config.get("logger") and config.logger.get("csv", True)
    others = [make_part(entry, place, Logger) for place, entry in _named_loggers(config).items()]
    return [CSVLogger(folder, "logs", ""), *others] if has_csv else others


def unresolved_settings(config: DictConfig) -> dict[str, Any]:
    """Return the settings by their names on the command line, unresolved: ${oc.env:NAME} may be a secret.

    Only a reference to another setting, such as ${seed}, is replaced by that setting's value.
    """
    plain: Any = OmegaConf.to_container(config, resolve=False)
    settings = dict(_flatten(plain))
    for name, value in settings.items():
        for _ in settings:  # references may form a cycle
            match = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
            value = settings.get(match[1], value) if match else value
        settings[name] = value
    return {name: value for name, value in settings.items() if name.partition(".")[0] not in NOT_LOGGED}


def _flatten(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if not isinstance(value, Mapping):
            yield f"{prefix}{name}", value
        elif all(str(key).isidentifier() for key in value):
            yield from _flatten(value, f"{prefix}{name}.")
        else:  # the keys are class names, which may contain any character
            yield f"{prefix}{name}", str(value)


def log_settings(trainer: "Trainer", config: DictConfig) -> None:
    """Log a run's settings, except to the CSV log, whose folder already contains the config."""
    from lightning.pytorch.loggers import CSVLogger, MLFlowLogger

    if not trainer.is_global_zero:
        return
    settings = unresolved_settings(config)
    for logger in trainer.loggers:
        try:
            getattr(logger, "experiment", None)  # where many loggers are set up
        except TypeError as error:
            raise ConfigError(
                f"{type(logger).__name__} does not accept its settings logger.*: {error}"
            ) from None
        if isinstance(logger, CSVLogger):
            continue
        fixed: Mapping[str, Any] = {}
        if isinstance(logger, MLFlowLogger):  # MLflow does not let a resumed run change a value
            fixed = logger.experiment.get_run(logger.run_id).data.params
        logger.log_hyperparams({name: value for name, value in settings.items() if name not in fixed})


def log_results(loggers: "Sequence[Logger]", results: Mapping[str, float], step: int) -> None:
    """Log the test metrics of a run, except to the CSV log, which contains only the epochs."""
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    from lossselect.compat.lightning import reopen_tensorboard

    tested = {name: value for name, value in results.items() if name.startswith("test/")}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            # fit has closed its file, and tensorboardX would reuse the name within the same second
            reopen_tensorboard(logger, filename_suffix=".test", purge_step=None)
        if tested and not isinstance(logger, CSVLogger):
            logger.log_metrics(tested, step)
            logger.finalize("success")


@contextmanager
def finish_loggers(loggers: "Sequence[Logger]") -> Iterator[None]:
    """End W&B's run together with this one; the process may continue with the next job of a sweep."""
    from lightning.pytorch.loggers import WandbLogger

    failed = True
    try:
        yield
        failed = False
    finally:
        if any(isinstance(logger, WandbLogger) for logger in loggers):
            import wandb

            wandb.finish(exit_code=int(failed))
