"""From which checkpoint a run goes on, and what stays of its log."""

import csv
import warnings
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor
from torch.nn.parameter import is_lazy

from lossselect.compat.lightning import reopen_tensorboard
from lossselect.exceptions import CheckpointError, ConfigError
from lossselect.run.results import RESULTS
from lossselect.training.checkpoints.content import read_checkpoint
from lossselect.training.checkpoints.resume_validation import check_resumable, check_states
from lossselect.training.module import TaskModule
from lossselect.utils.warnings import warn


def resume_path(setting: str | None, folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that `resume=...` means, and its content; None where the run begins.

    Args:
        setting: A file, or "auto": the newest whole one in the run's folder, if there is any.
        folder: The run's.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or "auto" finds some and can read none.
    """
    if setting is None:
        return None
    if setting != "auto":
        return Path(setting), read_checkpoint(setting)
    newest: tuple[Path, dict[str, Any]] | None = None
    farthest: tuple[Any, ...] = ()
    damaged: list[str] = []
    for path in (folder / "checkpoints").glob("*.ckpt"):
        try:
            content = read_checkpoint(path)
            check_resumable(content, path)
        except ValueError as error:
            damaged.append(str(error))
            continue
        if (progress := (*_progress(content), path.stat().st_mtime_ns)) > farthest:
            newest, farthest = (path, content), progress
    if damaged and not newest:
        raise CheckpointError(f"resume=auto finds no checkpoint to go on from. {' '.join(damaged)}")
    for said in damaged:
        warn("damaged_checkpoint", f"{said} It is passed over.")
    return newest


def check_start(path: Path, checkpoint: Mapping[str, Any], module: TaskModule, trainer: Trainer) -> None:
    """Raise a ValueError for states that the run's own optimizer, scheduler and callbacks cannot take up.

    Before the run's folder is touched: fit compares them again, with the parts that it has made.
    """
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    if trainer.max_epochs not in (None, -1) and epochs > trainer.max_epochs:
        raise ConfigError(
            f"The checkpoint is of epoch {epochs}, and trainer.max_epochs={trainer.max_epochs} ends before "
            "that: say more epochs, or begin anew without resume."
        )
    _check_shapes(checkpoint["state_dict"], module)
    made: Any = None
    if (
        type(module).configure_optimizers is TaskModule.configure_optimizers
    ):  # another one may need the trainer
        made = module.configure_optimizers()
    parts = made if isinstance(made, dict) else {"optimizer": made}
    optimizers = [parts["optimizer"]] if made else []
    scheduler = parts.get("lr_scheduler")  # itself, or with how often it steps
    schedulers = [scheduler["scheduler"] if isinstance(scheduler, dict) else scheduler] if scheduler else []
    names = [type(part).__name__ for part in (*optimizers, *schedulers)]
    if names != checkpoint["run_state"][0]["made"]:  # others than in the checkpoint, as fit will say
        optimizers, schedulers = [], []
    check_states(checkpoint, path, optimizers, schedulers, trainer.callbacks)  # type: ignore[attr-defined]


def _check_shapes(weights: Mapping[str, Any], module: TaskModule) -> None:
    """Raise a ConfigError if a weight in a checkpoint has another shape than the module's."""
    for name, own in module.state_dict().items():
        found = weights.get(name)
        if not isinstance(own, Tensor) or not isinstance(found, Tensor) or is_lazy(own):
            continue  # of a lazy layer the first batch decides the shape
        if found.shape != own.shape:
            raise ConfigError(
                f"The checkpoint does not fit the net: size mismatch for {name}, whose shape is "
                f"{tuple(found.shape)} in the checkpoint and {tuple(own.shape)} in the net. The settings of "
                "model= and head= must be those of the run that it is of."
            )


def _progress(checkpoint: Mapping[str, Any]) -> tuple[int, int, int]:
    """How far the run had come: steps, batches, epochs."""
    loops = checkpoint.get("loops", {}).get("fit_loop", {})
    batches = loops.get("epoch_loop.batch_progress", {}).get("total", {}).get("completed", 0)
    return checkpoint.get("global_step", 0), batches, checkpoint.get("epoch", 0)


def keep_previous_run(folder: Path) -> Path | None:
    """Move what an earlier run left in the folder into one beside, if there are checkpoints; return that.

    Whoever forgets resume=auto has them still.
    """
    if not any(folder.glob("checkpoints/*.ckpt")):
        return None
    place = next(place for i in count(1) if not (place := folder / f"previous_run.{i}").exists())
    place.mkdir()
    for name in ("checkpoints", "logs", *RESULTS):
        if (folder / name).exists():
            (folder / name).rename(place / name)
    return place


def continue_log(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Keep the rows of metrics.csv from before the checkpoint: Lightning's logger begins with an empty file.

    TensorBoard is told to show nothing of what an earlier run has logged after it.

    Args:
        trainer: With its loggers.
        checkpoint: That the run goes on from.
    """
    step = checkpoint["global_step"]
    before = ((checkpoint.get("run_state") or [{}])[0].get("rows")) or 0
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            reopen_tensorboard(logger, purge_step=step, filename_suffix=f".{step}")
        if not isinstance(logger, CSVLogger) or not trainer.is_global_zero:
            continue
        path = Path(logger.log_dir) / "metrics.csv"
        rows: list[dict[str, Any]] = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [*csv.DictReader(file)]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Experiment logs directory")
            writer = logger.experiment
        writer.metrics = [
            row
            for number, row in enumerate(rows)
            if (row.get("step") or "").lstrip("-").isdigit()  # of a line that was cut short
            and None not in row.values()
            and (number < before or _of_the_user(row, step))
        ]
        logger.save()


def _of_the_user(row: Mapping[str, str], step: int) -> bool:
    """Return whether a row that was logged after the checkpoint will not be logged again.

    Lightning logs what a user's `training_step` has logged for the epoch after the checkpoint is saved. Rows
    of this package are logged before it, or belong to what is repeated.
    """
    return int(row["step"]) < step and not (row.get("train/loss") or row.get("val/loss"))
