"""What a run leaves: metrics.json and the predictions, each written whole or not at all."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler

from lossselect.data.datamodule import TensorData
from lossselect.decision.advice import Advice
from lossselect.exceptions import ConfigError, DataError
from lossselect.export.formats import FORMATS, find_format
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.reporting.outcome import Outcome
from lossselect.reporting.prediction_table import (
    format_cells,
    prediction_columns,
    rows_without_prediction,
    top_columns,
)
from lossselect.tasks.registry import Task
from lossselect.training.checkpoints.content import read_checkpoint, save_decision
from lossselect.training.epoch import Epoch
from lossselect.training.module import TaskModule
from lossselect.training.output_buffer import OutputBuffer
from lossselect.training.topk_epoch import TopKEpoch
from lossselect.training.tune import tune_on_validation
from lossselect.utils.atomic_write import atomic_write
from lossselect.utils.distributed import all_gather
from lossselect.utils.warnings import warn

RESULTS = (
    *("plan.json", "metrics.json", "per_class.csv", "confusion_matrix.csv"),
    *("predictions.csv", "predictions.pt", "report.html", "figures"),
    *(f"model{form.suffix}" for form in FORMATS.values()),
)
"""What a run leaves beside its checkpoints and its log."""


def remove_results(folder: Path) -> None:
    """Remove the results of an earlier run in the same folder: this one may end without any."""
    for name in RESULTS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("checkpoints/*"):  # exports, of weights that are about to change
        if find_format(path):
            path.unlink()


class Evaluated(NamedTuple):
    """Results of evaluating a run's checkpoint."""

    results: dict[str, float]
    outcome: Outcome | None
    advice: Advice | None
    """Another threshold that would clearly raise F1 on the validation rows."""


def evaluate(
    trainer: Trainer,
    module: TaskModule,
    data: Any,
    checkpoint: str,
    folder: Path,
    decision: Mapping[str, Any] | None = None,
    report: bool = False,
) -> Evaluated:
    """Metrics of the checkpoint on the validation and the test split, and the same into metrics.json.

    Args:
        trainer: That has fitted the module.
        module: Gets the checkpoint's weights.
        data: With validation rows, test rows, both or neither.
        checkpoint: A file, to which the decision is added.
        folder: Gets metrics.json and, of the test split, per_class.csv and confusion_matrix.csv.
        decision: Options of `fit_decision`: between the two the decision is fitted. None leaves it.
        report: Whether to keep what a report shows of the test rows, or without these of the validation rows.

    Returns:
        The metrics by name; what the report shows, where that was asked for and there is such.
    """
    advice = None
    results: dict[str, float] = {}
    # the best epoch's values are no further row of the training's log
    trainer.loggers = []
    given: dict[str, Any] = {"datamodule": data, "ckpt_path": checkpoint}
    if is_overridden("val_dataloader", data, LightningDataModule):
        # a run that was complete when it was resumed (max_steps) has not counted its batches
        none_to_tune = trainer.num_val_batches != [] and not sum(trainer.num_val_batches)
        if decision is None or none_to_tune:
            for values in trainer.validate(module, **given, weights_only=True, verbose=False):
                results |= values
        else:
            found = tune_on_validation(trainer, module, **given, **decision)
            results, advice = {**results, **found.results}, found.advice
            if trainer.is_global_zero:
                save_decision(checkpoint, module)
                last = Path(checkpoint).with_name("last.ckpt")
                with suppress(FileNotFoundError, ValueError):  # there is none, or it was damaged before
                    if _step_of(last) == _step_of(checkpoint):  # the same weights
                        save_decision(last, module)
            trainer.strategy.barrier()  # the others read it next
    tests = is_overridden("test_dataloader", data, LightningDataModule)
    kept = OutputBuffer(MAX_SHOWN) if report else None
    if tests:
        module._test_epoch.kept = kept
        for values in trainer.test(module, **given, weights_only=True, verbose=False):
            results |= values
        if isinstance(module._test_epoch, Epoch) and module._test_epoch.per_class and trainer.is_global_zero:
            _save_tables(module._test_epoch, folder)  # a chunked head has none
    elif kept is not None and results:
        module._val_epoch.kept = kept
        trainer.validate(module, **given, weights_only=True, verbose=False)
    epoch = module._test_epoch if tests else module._val_epoch
    outcome = _outcome(module, epoch, data, "test" if tests else "val") if kept is not None else None
    # JSON has no NaN: a metric that is not defined on these labels is null
    metrics = {name: value if math.isfinite(value) else None for name, value in results.items()}
    if trainer.is_global_zero:
        with atomic_write(folder / "metrics.json") as path:
            path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return Evaluated(results, outcome, advice)


MAX_SHOWN = 2_000_000
"""Outputs (rows x classes) that a report's figures are drawn of, at most."""


def _outcome(module: TaskModule, epoch: Epoch | TopKEpoch, data: Any, split: str) -> Outcome | None:
    """What the epoch kept of the rows with a prediction; None if there are none, or of a chunked head."""
    kept, epoch.kept = epoch.kept, None
    rows = kept.rows() if kept is not None else None
    if kept is None or rows is None or isinstance(epoch, TopKEpoch):
        return None
    logits, target = rows
    predicted = ~logits.isnan().any(1)
    if not predicted.any():
        return None
    names: Any = None
    if kept.share == 1 and not epoch.positions:
        count = len(logits)  # trainer.limit_test_batches
        if isinstance(data, TensorData):
            names = data.splits.rows_in_file(split)[:count]
        elif _in_order(getattr(module.trainer, f"{split}_dataloaders")):
            names = range(count)
    counts = epoch.confusion_counts
    confusion = None if counts is None else counts.cpu().numpy()
    columns = _per_class(epoch)
    if not predicted.all():  # a NaN has no place in a figure
        logits, target = logits[predicted], target[predicted]
        names = None if names is None else np.asarray(names)[predicted.numpy()]
    return Outcome(
        module.task, module.base_task, logits, target, split, names, kept.share, columns, confusion
    )


def _in_order(loader: Any) -> bool:
    """Whether a loader of the user's own is known to give its rows in their order."""
    sampler = getattr(loader, "sampler", None)
    return isinstance(sampler, SequentialSampler) or (
        isinstance(sampler, DistributedSampler) and not sampler.shuffle
    )


def _loaders_of(data: Any) -> Callable[[], Any]:
    """What gives the test loaders to predict with.

    Of one that was made while it asks Lightning remembers the arguments, and repeats `batch_size` beside one
    that was given by its place.
    """
    made = data.test_dataloader()
    each = made if isinstance(made, list | tuple) else [made]
    if not all(type(loader) is DataLoader for loader in each):
        return data.test_dataloader
    for loader in each:  # of all that are made, once a hook for loaders has failed in this process
        loader.__dict__.pop("__pl_saved_args", None)
    return lambda: made


def _per_class(epoch: Epoch) -> dict[str, Any]:
    """The columns of per_class.csv."""
    task = epoch.task
    columns: dict[str, Any] = {"class": task.output_names}
    columns |= {name: values.cpu().numpy() for name, values in epoch.per_class.items()}
    if task.threshold is not None:
        columns["threshold"] = np.broadcast_to(np.array(task.threshold), len(task.output_names))
    return columns


def _step_of(checkpoint: Any) -> Any:
    return read_checkpoint(checkpoint)["global_step"]


def has_rows_to_tune(trainer: Trainer, data: Any) -> bool:
    """Whether there will be validation rows to fit a decision to."""
    return bool(trainer.limit_val_batches) and is_overridden("val_dataloader", data, LightningDataModule)


def _save_tables(epoch: Epoch, folder: Path) -> None:
    """per_class.csv, and confusion_matrix.csv where there is one."""
    from lossselect.utils.safe_csv import escape_formula

    task = epoch.task
    with atomic_write(folder / "per_class.csv") as path:
        escape_formula(_per_class(epoch)).fill_nan(None).write_csv(path)
    if epoch.confusion_counts is not None:
        counts = epoch.confusion_counts.cpu().numpy()
        corner = "true"
        while corner in task.names:  # a class of that name has a column of its own
            corner += " class"
        matrix = {corner: task.names, **dict(zip(task.names, counts.T, strict=True))}
        with atomic_write(folder / "confusion_matrix.csv") as path:
            escape_formula(matrix).write_csv(path)


def save_predictions(
    trainer: Trainer,
    module: TaskModule,
    data: Any,
    checkpoint: str,
    folder: Path,
) -> str:
    """predictions.csv: row, target (where known), decoded prediction, a probability per output.

    With trailing dimensions (pixels, time steps) predictions.pt: what `predict_step` gave, batch by batch.

    Returns:
        The name of the file that was written, or nothing for data without a test split.
    """
    from lossselect.utils.safe_csv import escape_formula

    task = module.task
    if not is_overridden("predict_dataloader", data, LightningDataModule):
        if not is_overridden("test_dataloader", data, LightningDataModule):
            return ""
        data.predict_dataloader = _loaders_of(data)  # within the data module, whose hooks apply
    batches: Any = trainer.predict(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if batches and isinstance(batches[0], list):  # of several loaders
        batches = [batch for loader in batches for batch in loader]
    batches = _of_all_ranks(batches)
    if not batches or not trainer.is_global_zero:
        return ""
    if batches[0]["probabilities"].ndim > 2:
        with atomic_write(folder / "predictions.pt") as path:
            torch.save(batches, path)
        return "predictions.pt"
    prediction = torch.cat([batch["prediction"] for batch in batches])
    if (missing := rows_without_prediction(prediction)).any():
        warn(
            "no_prediction",
            f"{missing.sum()} of {len(missing)} rows in predictions.csv have no prediction, because the net "
            "returned NaN for them: their cells are empty, and the metrics are NaN. Check these rows for "
            "extreme values.",
        )
    probabilities = torch.cat([batch["probabilities"] for batch in batches]).float()
    columns: dict[str, Any] = {"row": range(len(prediction))}
    if isinstance(data, TensorData):
        count = len(prediction)  # trainer.limit_predict_batches
        columns = {"row": data.splits.rows_in_file("test")[:count], "target": _truth(task, data, count)}
    if "top" in batches[0]:
        top = torch.cat([batch["top"] for batch in batches])
        columns |= top_columns(task, top, probabilities, prediction)
    else:
        columns |= prediction_columns(task, probabilities, prediction)
    with atomic_write(folder / "predictions.csv") as path:
        escape_formula(columns).write_csv(path)
    return "predictions.csv"


def _of_all_ranks(batches: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The batches of all processes; of several a row each, in the order of the data."""
    parts = all_gather(batches)
    if len(parts) == 1:
        return batches
    rows = [
        [{name: value[i : i + 1] for name, value in batch.items()} for batch in part for i in _rows(batch)]
        for part in parts
    ]
    return [row for turn in zip_longest(*rows) for row in turn if row is not None]


def _rows(batch: dict[str, Tensor]) -> range:
    return range(len(batch["prediction"]))


def _truth(task: Task, data: TensorData, count: int) -> list[str | None]:
    """The target of the first test rows, decoded."""
    labels = data.splits.labels
    if isinstance(labels, SparseLabels):  # names of what is there, not a matrix of what is not
        return format_cells(labels.select(data.splits.rows["test"][:count]).to_lists(task.names))
    return format_cells(task.decode(task.to_hard_labels(task.encode(data.splits.labels_of("test")[:count]))))


def best_checkpoint(trainer: Trainer, keeper: ModelCheckpoint, resumed: bool) -> str:
    """Return the path of the best checkpoint; raise an error that says why there is none."""
    if not trainer.global_step:
        raise DataError(
            "No step was taken: the train loader is empty (fewer rows than a batch, under drop_last?), or "
            "trainer.max_steps or trainer.limit_train_batches allow none."
        )
    # of a checkpoint of another folder there is a path, and no score
    best = keeper.best_model_path if keeper.best_model_score is not None else ""
    if not best and resumed:
        raise ConfigError(
            "No epoch was validated here, as the run of the checkpoint was complete or nearly so, and the "
            "best checkpoint of another folder is left alone: go on in its own folder (hydra.run.dir), or "
            "for longer (trainer.max_epochs)."
        )
    if not best:
        raise DataError(
            f"{keeper.monitor} was never computed in {trainer.current_epoch} epochs, so there is no best "
            "checkpoint: train for longer (trainer.max_steps ends within an epoch?), or validate more often "
            "(trainer.check_val_every_n_epoch)."
        )
    if keeper.best_model_score is not None and keeper.best_model_score.isnan():
        raise DataError(
            f"{keeper.monitor} was never a number, so there is no best checkpoint: the "
            "labels may lack positives or negatives. Choose by the loss: monitor=val/loss."
        )
    return best
