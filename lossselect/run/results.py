"""The results of a run: metrics.json, tables and predictions, each written atomically."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler

from lossselect.data.batches import identity
from lossselect.data.datamodule import TensorData
from lossselect.data.overview import describe_rows, make_overview
from lossselect.data.splits import Splits
from lossselect.exceptions import ConfigError, DataError
from lossselect.export.formats import FORMATS, find_format
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.targets import EncodedPair
from lossselect.reporting.formulas import escape_formula
from lossselect.reporting.outcome import Outcome
from lossselect.reporting.plan import Plan
from lossselect.reporting.run_files import HIGH, LOW
from lossselect.reporting.tables import (
    format_cells,
    prediction_columns,
    rows_without_prediction,
)
from lossselect.run.build import has_loader
from lossselect.run.trainer import trainer_on
from lossselect.tasks.registry import Task
from lossselect.training.checkpoints.content import read_checkpoint, save_decision
from lossselect.training.checkpoints.net_selection import NetSelection
from lossselect.training.epoch import Epoch, OutputBuffer, TopKEpoch
from lossselect.training.forward import describe
from lossselect.training.module import TaskModule
from lossselect.training.tune import Tuned, tune_on_validation
from lossselect.utils.atomic_write import atomic_write
from lossselect.utils.distributed import all_gather
from lossselect.utils.warnings import warn

RESULTS = (
    *("run.json", "plan.json", "data.json", "nets.csv", "members.csv", "metrics.json", "per_class.csv"),
    *("confusion_matrix.csv", "importance.csv", "out_of_fold.csv", "predictions.csv", "predictions.pt"),
    *("report.html", "figures", *(f"model{form.suffix}" for form in FORMATS.values())),
)
"""The files of a run except its checkpoints and its log."""

MAX_SHOWN = 2_000_000  # outputs (rows x classes) in a report's figures


WRITTEN_ROWS = 1 << 17
"""Number of rows of predictions.csv that are written at once."""


def remove_results(folder: Path) -> None:
    """Remove the results of an earlier run in the same folder, as this run may end without any."""
    for name in RESULTS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("checkpoints/*"):  # exports become outdated
        if find_format(path):
            path.unlink()


def save_plan(plan: Plan, folder: Path) -> None:
    """Write plan.json."""
    with atomic_write(folder / "plan.json") as path:
        path.write_text(plan.to_json(), encoding="utf-8")


def save_overview(data: Any, folder: Path) -> None:
    """Write data.json, the overview of built-in data or of a file, for the report."""
    if isinstance(data, TensorData):
        overview = make_overview(data.splits, data.task, data.counts)
        with atomic_write(folder / "data.json") as path:
            path.write_text(overview.to_json(), encoding="utf-8")


def save_nets(trainer: Trainer, folder: Path) -> dict[str, list[Any]]:
    """Write nets.csv, the table of `NetSelection`, and return it; empty unless several nets were trained."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    table = next((part.table() for part in callbacks if isinstance(part, NetSelection)), {})
    if table and trainer.is_global_zero:
        with atomic_write(folder / "nets.csv") as path:
            pl.DataFrame(table).write_csv(path)
    return table


class Evaluation(NamedTuple):
    """The result of evaluating a run.

    Args:
        results: The metrics.
        numbers: The metrics and the bounds of their intervals, as in metrics.json.
        outcome: The predictions on the test rows; None without rows or for a chunked head.
        tuned: The tuning of the decision, if it was tuned.
    """

    results: dict[str, float]
    numbers: dict[str, float]
    outcome: Outcome | None
    tuned: Tuned | None


def evaluate(
    trainer: Trainer, module: TaskModule, data: Any, best: str, folder: Path, decision: Any, report: bool
) -> Evaluation:
    """Evaluate the best checkpoint on validation and test rows, if any, and write tables and metrics.json.

    `decision` contains the options of `fit_decision`, or is None. The decision is fitted on the validation
    rows before the test, and saved in the checkpoint. The outcome for a `report` is on the test rows, or on
    the validation rows if there are no test rows.
    """
    tuned = None
    results: dict[str, float] = {}
    trainer.loggers = []  # evaluation must not add rows to the log of the training
    source: dict[str, Any] = {"datamodule": data, "ckpt_path": best}
    quietly: dict[str, Any] = {**source, "weights_only": True, "verbose": False}
    # a run that was complete when it was resumed (max_steps) has an empty num_val_batches
    has_no_rows = trainer.num_val_batches != [] and not sum(trainer.num_val_batches)
    if has_loader(data, "val") and (decision is None or has_no_rows):
        for values in trainer.validate(module, **quietly):
            results |= values
    elif decision is not None:
        tuned = tune_on_validation(trainer, module, decision, **source)
        results |= tuned.metrics
        if trainer.is_global_zero:
            content = read_checkpoint(best)
            save_decision(best, content, module)
            last = Path(best).with_name("last.ckpt")
            with suppress(FileNotFoundError, ValueError):  # it does not exist, or it is damaged
                latest = read_checkpoint(last)
                if latest["global_step"] == content["global_step"]:  # it has the same weights
                    save_decision(last, latest, module)
        trainer.strategy.barrier()  # the other processes read it next
    if has_loader(data, "test"):
        tested, outcome = evaluate_test(trainer, module, data, folder, **quietly)
        results |= tested
    else:
        buffer = OutputBuffer(MAX_SHOWN) if report and results else None
        if buffer is not None:
            module._epochs["val"].first.output_buffer = buffer
            trainer.validate(module, **quietly)
        outcome = _take_outcome(module, buffer, data, "val")
    numbers = add_intervals(results, outcome) if trainer.is_global_zero else results
    if trainer.is_global_zero:
        save_metrics(numbers, folder)
    return Evaluation(results, numbers, outcome, tuned)


def evaluate_test(
    trainer: Trainer, module: TaskModule, data: Any, folder: Path, **arguments: Any
) -> tuple[dict[str, float], Outcome | None]:
    """Evaluate the test rows, and write the tables of classes; `arguments` are those of `Trainer.test`."""
    results: dict[str, float] = {}
    buffer = module._epochs["test"].first.output_buffer = OutputBuffer(MAX_SHOWN)
    for values in trainer.test(module, **arguments):
        results |= values
    epoch = module._epochs["test"].first
    if isinstance(epoch, Epoch) and epoch.per_class and trainer.is_global_zero:
        _save_tables(epoch, folder)
    return results, _take_outcome(module, buffer, data, "test")


def _take_outcome(module: TaskModule, buffer: OutputBuffer | None, data: Any, split: str) -> Outcome | None:
    # only now, as loading the checkpoint's decision replaces the module's epochs
    epoch = module._epochs[split].first
    epoch.output_buffer = None
    return None if buffer is None else _make_outcome(module, epoch, buffer, data, split)


def add_intervals(results: Mapping[str, float], outcome: Outcome | None) -> dict[str, float]:
    """Return the metrics, with the bounds of 95 % intervals if there is an outcome."""
    numbers = {**results}
    for name, interval in outcome.intervals(results).items() if outcome else ():
        numbers |= {name + LOW: interval.low, name + HIGH: interval.high}
    return numbers


def save_metrics(numbers: Mapping[str, float], folder: Path) -> None:
    """Write metrics.json; a metric that is undefined for these labels is null, as JSON has no NaN."""
    metrics = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    with atomic_write(folder / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def _make_outcome(
    module: TaskModule, epoch: Epoch | TopKEpoch, buffer: OutputBuffer, data: Any, split: str
) -> Outcome | None:
    """Return the outcome on the rows with a prediction; None without such rows or for a chunked head."""
    rows = buffer.rows()
    if rows is None or isinstance(epoch, TopKEpoch):
        return None
    logits, target = rows
    predicted = ~logits.isnan().any(1)
    if not predicted.any():
        return None
    names: Any = None
    describe: Any = None
    # with trailing dimensions a "row" is a position, such as a pixel
    if buffer.share == 1 and not module._trailing_dims:
        count = len(logits)  # trainer.limit_test_batches
        if isinstance(data, TensorData):
            names = data.splits.rows_in_file(split)[:count].tolist()
            describe = partial(describe_rows, data.splits, split)
        else:  # the user's loaders may shuffle
            sampler = getattr(getattr(module.trainer, f"{split}_dataloaders"), "sampler", None)
            in_shards = isinstance(sampler, DistributedSampler) and not sampler.shuffle
            names = range(count) if in_shards or isinstance(sampler, SequentialSampler) else None
    counts = epoch.confusion_counts
    confusion = None if counts is None else counts.cpu().numpy()
    if not predicted.all():  # figures cannot show NaN
        logits, target = logits[predicted], target[predicted]
        names = None if names is None else np.asarray(names)[predicted.numpy()].tolist()
    tasks, columns = (module.task, module._base_task), _per_class_columns(epoch)
    groups = _find_groups(data, split)
    if groups is not None:
        groups = groups[: len(predicted)][predicted.numpy()]
    has_positions = bool(module._trailing_dims)
    arguments = (*tasks, logits, target, split, names, buffer.share, columns, confusion)
    return Outcome(*arguments, describe=describe, groups=groups, has_positions=has_positions)


def _find_groups(data: Any, split: str) -> np.ndarray | None:
    """Return the group of each row of a split, if there are groups."""
    if not isinstance(data, TensorData) or data.splits.groups is None:
        return None
    return data.splits.groups[data.splits.rows[split].numpy()]


def _predict_loaders(data: Any) -> Callable[[], Any]:
    # Lightning records the arguments of a loader that is created within its hooks, and would pass a
    # positional `batch_size` twice
    loaders = data.test_dataloader()
    as_list = loaders if isinstance(loaders, list | tuple) else [loaders]
    if not all(type(loader) is DataLoader for loader in as_list):
        return data.test_dataloader
    for loader in as_list:  # recorded for all loaders after a hook for loaders has failed in this process
        loader.__dict__.pop("__pl_saved_args", None)
    return lambda: loaders


def _per_class_columns(epoch: Epoch) -> dict[str, Any]:
    task = epoch.task
    columns: dict[str, Any] = {"class": task.output_names}
    columns |= {name: values.cpu().numpy() for name, values in epoch.per_class.items()}
    if task.threshold is not None:
        columns["threshold"] = np.broadcast_to(np.array(task.threshold), len(task.output_names))
    return columns


def _save_tables(epoch: Epoch, folder: Path) -> None:
    task = epoch.task
    with atomic_write(folder / "per_class.csv") as path:
        escape_formula(_per_class_columns(epoch)).fill_nan(None).write_csv(path)
    if epoch.confusion_counts is not None:
        counts = epoch.confusion_counts.cpu().numpy()
        corner = "true"
        while corner in task.names:  # if a class has that name
            corner += " class"
        matrix = {corner: task.names, **dict(zip(task.names, counts.T, strict=True))}
        with atomic_write(folder / "confusion_matrix.csv") as path:
            escape_formula(matrix).write_csv(path)


def save_predictions(
    trainer: Trainer, module: TaskModule, data: Any, checkpoint: str | None, folder: Path
) -> str:
    """Write predictions.csv, or predictions.pt with trailing dimensions; return its name, "" without rows.

    The weights are those of the `checkpoint`, or those of the module if it is None.
    """
    task = module.task
    if not has_loader(data, "predict"):
        if not has_loader(data, "test"):
            return ""
        data.predict_dataloader = _predict_loaders(data)  # so that the data module's hooks apply
    batches: Any = trainer.predict(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if batches and isinstance(batches[0], list):  # there are several loaders
        batches = [batch for loader in batches for batch in loader]
    _check_outputs(module, batches)
    batches = _gather_batches(batches, getattr(data, "in_blocks", False))
    if not batches or not trainer.is_global_zero:
        return ""
    if batches[0]["probabilities"].ndim > 2:
        with atomic_write(folder / "predictions.pt") as path:
            torch.save(batches, path)
        return "predictions.pt"
    names = ("prediction", "probabilities", *(["top"] if "top" in batches[0] else []))
    outputs = {name: torch.cat([batch[name] for batch in batches]) for name in names}
    outputs["probabilities"] = outputs["probabilities"].float()
    if (missing := rows_without_prediction(outputs["prediction"])).any():
        warn(
            "no_prediction",
            f"{missing.sum()} of {len(missing)} rows in predictions.csv have no prediction, because the net "
            "returned NaN for them. Their cells are empty, and the metrics are NaN. Check these rows for "
            "extreme values.",
        )
    with atomic_write(folder / "predictions.csv") as path, path.open("wb") as file:
        # in parts, as text takes much more memory than numbers; trainer.limit_predict_batches may leave out
        # the last rows
        for start in range(0, len(missing), WRITTEN_ROWS):
            part = slice(start, min(start + WRITTEN_ROWS, len(missing)))
            columns: dict[str, Any] = {"row": range(part.start, part.stop)}
            if isinstance(data, TensorData):
                columns["row"] = data.splits.rows_in_file("test")[part]
                columns["target"] = decode_targets(task, data.splits, data.splits.rows["test"][part])
            columns |= prediction_columns(task, **{name: output[part] for name, output in outputs.items()})
            escape_formula(columns).write_csv(file, include_header=start == 0)
    return "predictions.csv"


def make_predictor(module: Any, device: torch.device) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return a function that predicts rows with the hooks and the `predict_step` of a custom module."""
    trainer = trainer_on(device)

    def predict(rows: Tensor) -> dict[str, Tensor]:
        collate: Any = identity
        batch: Any = [EncodedPair(rows, None)]
        outputs: Any = trainer.predict(module, DataLoader(batch, batch_size=None, collate_fn=collate))
        _check_outputs(module, outputs)
        return {**outputs[0]}

    return predict


def _check_outputs(module: TaskModule, batches: list[Any]) -> None:
    """Raise ConfigError if an override of `predict_step` does not return probabilities and predictions."""
    for batch in batches:
        if not isinstance(batch, Mapping) or not {"probabilities", "prediction"} <= batch.keys():
            raise ConfigError(
                f"{type(module).__name__}.predict_step must return a mapping with 'probabilities' and "
                f"'prediction', got {describe(batch)}. Call super().predict_step, and change its result."
            )


def _gather_batches(batches: list[dict[str, Tensor]], in_blocks: bool) -> list[dict[str, Tensor]]:
    """Gather the batches of all processes in the order of the data.

    Each process predicted consecutive rows if they are `in_blocks`, else every n-th row of n processes.
    """
    parts = all_gather(batches)
    if len(parts) == 1 or in_blocks:
        return [batch for part in parts for batch in part]
    rows = [
        [
            {name: value[i : i + 1] for name, value in batch.items()}
            for batch in part
            for i in range(len(batch["prediction"]))
        ]
        for part in parts
    ]
    return [row for turn in zip_longest(*rows) for row in turn if row is not None]


def decode_targets(task: Task, splits: Splits, rows: Tensor) -> list[str | None]:
    """Return the decoded targets of rows as cells of a table."""
    labels = splits.labels
    if isinstance(labels, SparseLabels):  # without creating a dense matrix
        return format_cells(labels.select(rows).to_lists(task.names))
    return format_cells(task.decode(task.to_hard_labels(task.encode(labels[rows.numpy()]))))


def best_checkpoint(trainer: Trainer, callback: ModelCheckpoint, resumed: bool) -> str:
    """Return the path of the best checkpoint; raise an error if there is none."""
    if not trainer.global_step:
        raise DataError(
            "No step was taken, because trainer.max_steps or trainer.limit_train_batches allow none. "
            "Increase them."
        )
    score = callback.best_model_score  # None after resuming from another folder, even if there is a path
    if score is None and resumed:
        raise ConfigError(
            "No epoch was validated after resuming, because the run of the checkpoint was (nearly) complete, "
            "and the best checkpoint of another folder is not used. Resume in that folder (hydra.run.dir), "
            "or train for longer (trainer.max_epochs)."
        )
    if score is None:
        raise DataError(
            f"{callback.monitor} was never computed in {trainer.current_epoch} epochs, so there is no best "
            "checkpoint. Train for longer (does trainer.max_steps end within an epoch?), or validate more "
            "often (trainer.check_val_every_n_epoch)."
        )
    if not score.isfinite():  # Lightning stores an infinity for NaN
        raise DataError(
            f"{callback.monitor} was NaN or infinite in each epoch, so there is no best checkpoint. The "
            "labels may have no positives or no negatives. Set another monitor, such as monitor=val/loss."
        )
    return callback.best_model_path
