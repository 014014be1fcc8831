"""Evaluation of the best checkpoint on validation and test rows."""

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DistributedSampler, SequentialSampler

from lossselect.data.datamodule import TensorData
from lossselect.data.overview import describe_rows
from lossselect.exceptions import ConfigError, DataError
from lossselect.reporting.outcome import Outcome
from lossselect.reporting.run_files import HIGH, LOW
from lossselect.run.build import has_loader
from lossselect.run.results.files import per_class_columns, save_metrics, save_tables
from lossselect.training.checkpoints.content import read_checkpoint, save_decision
from lossselect.training.epochs.epoch import OutputBuffer, TopKEpoch
from lossselect.training.module import TaskModule
from lossselect.training.tune import Tuned, tune_on_validation

MAX_SHOWN = 2_000_000  # outputs (rows x classes) in a report's figures


class Evaluation(NamedTuple):
    """The result of evaluating a run.

    Args:
        results: The metrics.
        numbers: The metrics and the bounds of their intervals, as in metrics.json.
        outcomes: The predictions on the test rows by task; empty without rows or for a chunked head.
        tuned: The tuning of the decision, if it was tuned.
    """

    results: dict[str, float]
    numbers: dict[str, float]
    outcomes: dict[str, Outcome]
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
        tested, outcomes = evaluate_test(trainer, module, data, folder, **quietly)
        results |= tested
    else:
        outcomes = {}
        if report and results:
            module._epochs["val"].first.set_output_buffers(partial(OutputBuffer, MAX_SHOWN))
            trainer.validate(module, **quietly)
            outcomes = _take_outcomes(module, data, "val")
    numbers = add_intervals(results, outcomes) if trainer.is_global_zero else results
    if trainer.is_global_zero:
        save_metrics(numbers, folder)
    return Evaluation(results, numbers, outcomes, tuned)


def evaluate_test(
    trainer: Trainer, module: TaskModule, data: Any, folder: Path, **arguments: Any
) -> tuple[dict[str, float], dict[str, Outcome]]:
    """Evaluate the test rows, and write the tables of classes; `arguments` are those of `Trainer.test`."""
    results: dict[str, float] = {}
    module._epochs["test"].first.set_output_buffers(partial(OutputBuffer, MAX_SHOWN))
    for values in trainer.test(module, **arguments):
        results |= values
    epoch = module._epochs["test"].first
    if not isinstance(epoch, TopKEpoch) and results and trainer.is_global_zero:
        save_tables(epoch.by_task, folder)
    return results, _take_outcomes(module, data, "test")


def _take_outcomes(module: TaskModule, data: Any, split: str) -> dict[str, Outcome]:
    # only now, as loading the checkpoint's decision replaces the module's epochs
    epoch, outcomes = module._epochs[split].first, {}
    for name, part in epoch.by_task.items():
        buffer, part.output_buffer = part.output_buffer, None
        found = None if buffer is None else _make_outcome(module, name, part, buffer, data, split)
        if found is not None:
            outcomes[name] = found
    return outcomes


def add_intervals(results: Mapping[str, float], outcomes: Mapping[str, Outcome]) -> dict[str, float]:
    """Return the metrics, with the bounds of 95 % intervals of each outcome."""
    numbers = {**results}
    for name, outcome in outcomes.items():
        for metric, interval in outcome.intervals(results, name).items():
            numbers |= {metric + LOW: interval.low, metric + HIGH: interval.high}
    return numbers


def _make_outcome(
    module: TaskModule, name: str, epoch: Any, buffer: OutputBuffer, data: Any, split: str
) -> Outcome | None:
    """Return the outcome of a task on the rows with a prediction; None without rows or for a chunked head."""
    rows = buffer.rows()
    if rows is None or isinstance(epoch, TopKEpoch):
        return None
    logits, target = rows
    predicted = ~logits.isnan().any(1)
    if not predicted.any() or bool(target.isnan().all()):
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
    groups = _find_groups(data, split)
    if groups is not None:
        groups = groups[: len(predicted)][predicted.numpy()]
    base_task: Any = module._base_task
    return Outcome(
        module.task.tasks[name],
        base_task and base_task.tasks[name],
        logits,
        target,
        split,
        names,
        buffer.share,
        per_class_columns(epoch),
        confusion,
        groups,
        bool(module._trailing_dims),
        describe,
    )


def _find_groups(data: Any, split: str) -> np.ndarray | None:
    """Return the group of each row of a split, if there are groups."""
    if not isinstance(data, TensorData) or data.splits.groups is None:
        return None
    return data.splits.groups[data.splits.rows[split].numpy()]


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
