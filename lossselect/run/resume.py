"""The start of a run: its folder, plan and checkpoint, and the rows of the log that a resumed run keeps."""

import csv
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn.parameter import is_lazy

from lossselect.compat.lightning import reopen_tensorboard
from lossselect.data.datamodule import TensorData
from lossselect.exceptions import CheckpointError, ConfigError
from lossselect.reporting.plan import Line, Plan, print_renderable
from lossselect.run.results.files import RESULTS, remove_results, save_overview, save_plan
from lossselect.run.settings import is_member
from lossselect.training.checkpoints.content import check_same_task, read_checkpoint
from lossselect.training.checkpoints.validation import check_resumable, check_states
from lossselect.training.module import TaskModule
from lossselect.utils.terminal import print_safely
from lossselect.utils.warnings import warn


def resume_path(setting: str | None, folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the checkpoint that `resume=...` names, and its content; None to start from scratch.

    "auto" is the checkpoint in the run folder with the most steps, if there is any.
    """
    if setting is None:
        return None
    if setting != "auto":
        return Path(setting), read_checkpoint(setting)
    candidates: list[tuple[tuple[int, ...], Path, dict[str, Any]]] = []
    damaged: list[str] = []
    for path in (folder / "checkpoints").glob("*.ckpt"):
        try:
            content = read_checkpoint(path)
            check_resumable(content, path)
        except ValueError as error:
            damaged.append(str(error))
            continue
        batches = content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"]
        progress = (content["global_step"], batches, content["epoch"], path.stat().st_mtime_ns)
        candidates.append((progress, path, content))
    if damaged and not candidates:
        raise CheckpointError(f"resume=auto found no usable checkpoint. {' '.join(damaged)}")
    for message in damaged:
        warn("damaged_checkpoint", f"resume=auto skips a checkpoint. {message}")
    return max(candidates, key=lambda candidate: candidate[0])[1:] if candidates else None


def check_start(
    path: Path, checkpoint: Mapping[str, Any], module: TaskModule, data: Any, trainer: Trainer
) -> None:
    """Raise an error, before the run folder is changed, for states that the run's parts cannot restore."""
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    if trainer.max_epochs not in (None, -1) and epochs > trainer.max_epochs:
        raise ConfigError(
            f"The checkpoint is from epoch {epochs}, but trainer.max_epochs={trainer.max_epochs} ends before "
            "that. Increase trainer.max_epochs, or start a new run without resume."
        )
    check_same_task(checkpoint, module.task)
    _check_shapes(checkpoint, module)
    digest = (checkpoint.get("TensorData") or {}).get("train_rows")
    if isinstance(data, TensorData) and digest not in (None, data.train_digest):
        raise ConfigError(
            f"The training rows are not those of {path}, so validation and test rows could be among the rows "
            "that it was trained on. Set the same data, seed and folds, or start a new run without resume."
        )
    configured: Any = module.configure_optimizers()
    parts = configured if isinstance(configured, dict) else {"optimizer": configured}
    optimizers = [parts["optimizer"]]
    schedulers = [parts["lr_scheduler"]["scheduler"]] if isinstance(parts.get("lr_scheduler"), dict) else []
    names = [type(part).__name__ for part in (*optimizers, *schedulers)]
    if names != checkpoint["run_state"][0]["made"]:  # fit raises an error for other classes
        optimizers, schedulers = [], []
    check_states(checkpoint, path, optimizers, schedulers, trainer.callbacks)  # type: ignore[attr-defined]


def _check_shapes(checkpoint: Mapping[str, Any], module: TaskModule) -> None:
    """Raise a ConfigError if the data's number of features, or the shape of a weight, has changed."""
    nets = [arguments.get("net") for arguments in (checkpoint["arguments"], module._arguments)]
    names = [net.get("name") if isinstance(net, Mapping) else "" for net in nets]
    if all(names) and names[0] != names[1]:
        old, new = ("auto" if name == "ensemble" else name for name in names)
        raise ConfigError(
            f"The checkpoint does not fit the net: it was trained with model={old}, and this run has "
            f"model={new}. Set model={old}, or start a new run without resume."
        )
    before, now = (net.get("num_features") if isinstance(net, Mapping) else None for net in nets)
    if before != now and isinstance(before, int) and isinstance(now, int):
        raise ConfigError(
            f"The data have changed: they had {before} features when the checkpoint was saved, and now have "
            f"{now}. Resume with the same data, or start a new run without resume."
        )
    for name, weight in module.state_dict().items():
        stored = checkpoint["state_dict"].get(name)
        if not isinstance(weight, Tensor) or not isinstance(stored, Tensor) or is_lazy(weight):
            continue  # the shape of a lazy layer depends on the first batch
        if stored.shape != weight.shape:
            raise ConfigError(
                f"The checkpoint does not fit the net: size mismatch for {name}, whose shape is "
                f"{tuple(stored.shape)} in the checkpoint and {tuple(weight.shape)} in the net. Use "
                "the same settings of model, module and head as the run that saved it."
            )


def settings_lines(folder: Path) -> list[Line]:
    """Return the plan's lines about the settings of the command line and the run folder."""
    # a previous_run.N has its settings only in its plan; unresolved, as ${oc.env:NAME} may be a secret
    overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return [
        Line("settings", " ".join(overrides), "from the command line"),
        Line("outputs", str(folder), "", "hydra.run.dir=FOLDER"),
    ]


def prepare_folder(
    folder: Path,
    start: tuple[Path, Mapping[str, Any]] | None,
    writes: bool,
    resumes: bool,
) -> list[Line]:
    """Move the files of an earlier run out of the way; return the plan's lines about that and resuming.

    Args:
        folder: The run folder.
        start: The checkpoint to start from and its content, or None.
        writes: Whether this process writes the files of the run.
        resumes: Whether the run resumes if it can.
    """
    lines = settings_lines(folder)
    started_here = start is not None and start[0].resolve().parent.parent == folder.resolve()
    if start is not None:
        why = "optimizer and scheduler keep the settings in the checkpoint"
        if not started_here:
            why += "; the best checkpoint is chosen among the epochs from here on"
        text = f"from {start[0]}, after {start[1]['global_step']} steps"
        lines.append(Line("resumed", text, why, "resume=null"))
    elif resumes:
        lines.append(Line("resumed", f"no: there is no checkpoint in {folder / 'checkpoints'} yet"))
    if writes:
        if not started_here and (moved := keep_previous_run(folder)):
            lines.append(
                Line("previous_run", f"the files of an earlier run in this folder were moved to {moved.name}")
            )
        remove_results(folder)
    return lines


def show_plan(plan: Plan, data: Any, folder: Path, writes: bool, has_overview: bool) -> None:
    """Print the summary of a run's plan, and write plan.json, and data.json with `has_overview`."""
    print_renderable(plan.summary())
    if inferred := getattr(getattr(data, "splits", None), "reason", None):
        is_single = "" in data.task.tasks
        print_safely(f"task=auto: {data.task} ({inferred})." if is_single else f"Inferred: {inferred}.")
    print("explain=true shows all choices, their reasons, and the settings that change them.")
    if writes:
        save_plan(plan, folder)
        if has_overview:
            save_overview(data, folder)


def keep_previous_run(folder: Path) -> Path | None:
    """Move the files of an earlier run with checkpoints to a subfolder, and return it.

    Otherwise a run without resume=auto would overwrite them.
    """
    trainings = [path.parent.name for path in folder.glob("*/checkpoints") if is_member(path.parent.name)]
    if not trainings and not any(folder.glob("checkpoints/*.ckpt")):
        return None
    target = next(path for i in count(1) if not (path := folder / f"previous_run.{i}").exists())
    target.mkdir()
    for name in ("checkpoints", "logs", *RESULTS, *trainings):
        if (folder / name).exists():
            (folder / name).rename(target / name)
    return target


def continue_log(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Keep the rows logged before the checkpoint, which Lightning would drop, and remove later rows."""
    step = checkpoint["global_step"]
    num_before = checkpoint["run_state"][0]["rows"] or 0
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            reopen_tensorboard(logger, purge_step=step, filename_suffix=f".{step}")
        if not isinstance(logger, CSVLogger) or not trainer.is_global_zero:
            continue
        path = Path(logger.log_dir) / "metrics.csv"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        writer = logger.experiment  # removes the file
        writer.metrics = [
            row
            for number, row in enumerate(csv.DictReader(lines))
            if (row.get("step") or "").lstrip("-").isdigit()  # a line may have been cut short
            and None not in row.values()
            and (number < num_before or _is_user_row(row, step))
        ]
        logger.save()


def _is_user_row(row: Mapping[str, str], step: int) -> bool:
    """Return whether a row that follows the checkpoint was logged by the user, and is not logged again."""
    # Lightning writes the values that a `training_step` logs per epoch after the checkpoint is saved; rows of
    # this package are written before it, or are logged again
    return int(row["step"]) < step and not (row.get("train/loss") or row.get("val/loss"))
