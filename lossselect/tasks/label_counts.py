"""Counts of the labels of each class, and of missing labels."""

import functools
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from lossselect.exceptions import DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.tasks.multitask import MultiTask
from lossselect.tasks.registry import IGNORE_INDEX, AnyTask, Task, as_any_task
from lossselect.tasks.task_names import naming_task
from lossselect.utils.checks import SPLIT_NAMES, shorten
from lossselect.utils.warnings import warn, warn_one_hot_integers


@dataclass(frozen=True)
class LabelCounts:
    """Counts of labels; with trailing dimensions, each pixel or time step counts.

    Args:
        rows: Number of rows.
        positives: (len(task.names),) number of positives of each class or label; soft labels are rounded.
        negatives: (len(task.names),) number of known negatives of each class or label.
        missing: Number of missing labels, over all rows and labels.
        single: True if each row without missing labels has exactly one class or label.
        mass: (len(task.names),) sums of the labels; equal to `positives` if no label is soft.
        soft: True if some labels are soft.
    """

    rows: int
    positives: np.ndarray
    negatives: np.ndarray
    missing: int
    single: bool
    mass: np.ndarray
    soft: bool = False

    @property
    def known(self) -> np.ndarray:
        """(len(task.names),) number of known labels of each class."""
        return self.positives + self.negatives

    @property
    def cardinality(self) -> float:
        """Mean number of known labels per row."""
        known = self.known.mean()
        return float(self.positives.sum() / known) if known else float("nan")

    @property
    def imbalance(self) -> float:
        """Ratio of the largest to the smallest positive count; NaN without positives."""
        present = self.positives[self.positives > 0]
        return float(present.max() / present.min()) if len(present) else float("nan")

    @property
    def by_task(self) -> "dict[str, LabelCounts]":
        """The counts under the name ""; see `Task.tasks`."""
        return {"": self}

    def check_task(self, task: AnyTask) -> None:
        """Raise a DataError if the counts and the task differ in the number of classes."""
        if isinstance(task, MultiTask) or len(self.positives) != len(task.names):
            raise DataError(
                f"The counts have {len(self.positives)} classes, but the task is {task}. "
                "Call lossselect.count_labels(task, labels)."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint; see `from_dict`."""
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LabelCounts":
        """Recreate counts from the values of `to_dict`."""
        arrays: dict[str, Any] = {k: np.array(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**arrays)

    def __add__(self, other: "LabelCounts") -> "LabelCounts":
        sums = {key: value + getattr(other, key) for key, value in vars(self).items()}
        flags = {"single": self.single and other.single, "soft": self.soft or other.soft}
        return LabelCounts(**{**sums, **flags})


class MultiCounts(dict[str, LabelCounts]):
    """The label counts of several tasks, by task."""

    @property
    def by_task(self) -> dict[str, LabelCounts]:
        """The counts of each task."""
        return self

    @property
    def rows(self) -> int:
        """Number of rows."""
        return next(iter(self.values())).rows

    @property
    def missing(self) -> int:
        """Number of missing labels of all tasks."""
        return sum(counts.missing for counts in self.values())

    def check_task(self, task: AnyTask) -> None:
        """Raise a DataError if the counts are of other tasks, or of other numbers of classes."""
        if self.keys() != task.tasks.keys():
            raise DataError(
                f"The counts are of the tasks {shorten([*self])}, expected {shorten([*task.tasks])}. Call "
                "lossselect.count_labels(task, labels)."
            )
        for name, counts in self.items():
            with naming_task(name):
                counts.check_task(task.tasks[name])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        return {name: counts.to_dict() for name, counts in self.items()}

    def __add__(self, other: "MultiCounts") -> "MultiCounts":
        return MultiCounts({name: counts + other[name] for name, counts in self.items()})


AnyCounts = LabelCounts | MultiCounts
"""The label counts of one task or of several."""


def restore_counts(values: Mapping[str, Any], task: AnyTask) -> Any:
    """Return the counts of a checkpoint for a task."""
    if isinstance(task, MultiTask):
        return MultiCounts({name: LabelCounts.from_dict(counts) for name, counts in values.items()})
    return LabelCounts.from_dict(values)


def count_labels(task: AnyTask, labels: Any) -> Any:
    """Count the labels of a split, for class weights, priors and the initial bias.

    Args:
        task: Task of the labels.
        labels: Labels in any form that `task.encode` accepts or returns, or `SparseLabels`.

    Returns:
        `LabelCounts`; for a `MultiTask` those of each task, by task.

    Raises:
        DataError: labels that do not fit the task.
        DataTypeError: labels that are not numbers.
        OptionTypeError: `task` is not a task.

    Example:
        >>> from lossselect import Multilabel
        >>> count_labels(Multilabel(2), [[1, 0], [1, 1], [1, float("nan")]]).positives.tolist()
        [3, 1]
    """
    task = as_any_task(task)
    if isinstance(task, MultiTask):
        return count_target(task, task.encode_tensor(labels))
    if not isinstance(labels, SparseLabels):
        return count_target(task, to_canonical(task, labels))
    if not task.several_labels or labels.num_labels != task.num_outputs:
        raise DataError(f"Sparse labels of shape {tuple(labels.shape)} do not fit {task}.")
    return count_target(task, labels)


def to_canonical(task: Task, labels: Any, trailing_dims: int | None = None) -> Tensor:
    """Return the canonical target of labels in any form; a canonical target may contain -100."""
    if isinstance(labels, Tensor) and task.activation == "softmax" and not labels.is_floating_point():
        missing = labels == IGNORE_INDEX  # `encode` raises for -100 unless the task declares a missing value
        valid = missing | ((labels >= 0) & (labels < task.num_probabilities))
        if bool(missing.any()) and bool(valid.all()):
            return labels.long()
    return task.encode(labels, trailing_dims)


def count_batches(task: AnyTask, targets: Iterable[Any]) -> Any:
    """Count the labels of targets from `task.encode_tensor`; None without batches.

    Integers (N, C) count as one-hot rows, with a warning, if all batches can be one-hot rows. Otherwise they
    count as class indices of C positions.
    """
    if isinstance(task, MultiTask):
        counted = [count_target(task, target) for target in targets]
        return functools.reduce(operator.add, counted) if counted else None
    zeros = np.zeros(len(task.names), dtype=np.int64)
    counts = row_counts = LabelCounts(0, zeros, zeros, 0, True, zeros.astype(float))
    can_be_rows, shape, target = True, None, None
    for target in targets:
        added = count_target(task, target)
        counts += added
        if can_be_rows and isinstance(target, Tensor):
            try:
                rows = task.settle(target, trailing_dims=0)
            except ValueError:
                can_be_rows = False
                continue
            can_be_rows = rows.is_floating_point() or rows.ndim == 1
            if rows is not target:
                shape, added = target.shape, count_target(task, rows)
        row_counts += added
    if not can_be_rows or shape is None:
        return None if target is None else counts
    if shape[1] > 1:
        warn_one_hot_integers(shape)
    return row_counts


def count_sparse(labels: SparseLabels) -> LabelCounts:
    """Count sparse labels."""
    known = labels.known_rows()
    positives = labels.count_per_label().numpy()
    known_per_label = np.full(labels.num_labels, int(known.sum()))
    if labels.unknown is not None:
        known_per_label -= labels.unknown.count_per_label().numpy()
    missing = len(labels) * labels.num_labels - int(known_per_label.sum())
    single = bool((labels.count_per_row()[known] == 1).all())
    negatives = known_per_label - positives
    return LabelCounts(len(labels), positives, negatives, missing, single, positives.astype(float))


def count_target(task: AnyTask, target: Tensor | SparseLabels) -> Any:
    """Count the labels of a target of `task.encode_tensor`, or sparse labels."""
    if isinstance(task, MultiTask):
        assert isinstance(target, Tensor)  # `SparseLabels` are for chunked heads
        parts = task.split_target(target).items()
        return MultiCounts({name: count_target(task.tasks[name], part) for name, part in parts})
    if isinstance(target, SparseLabels):
        return count_sparse(target)
    truth = task.to_hard_labels(target).cpu().numpy()
    known = truth != IGNORE_INDEX
    if task.several_labels:
        positives = _per_label(truth == 1)
        negatives = _per_label(known) - positives
        single = truth.ndim == 2 and bool(((truth[known.all(1)] == 1).sum(1) == 1).all())
    else:
        positives = np.bincount(truth[known].ravel(), minlength=len(task.names))
        negatives, single = positives.sum() - positives, True
    mass, soft = positives * 1.0, False
    if target.is_floating_point():
        values = target.double().cpu().numpy()
        soft = bool(((values > 0) & (values < 1)).any())
        mass = _per_label(np.nan_to_num(values))
        if len(mass) < len(positives):  # binary has no output for its negative class
            mass = np.concatenate([known.sum() - mass, mass])
    return LabelCounts(len(truth), positives, negatives, int((~known).sum()), single, mass, soft)


def _per_label(values: np.ndarray) -> np.ndarray:
    return values.sum(axis=tuple(i for i in range(values.ndim) if i != 1))


def warn_no_positives(positives: Any, task: Task, split: str) -> None:
    """Warn about labels or classes without positives in a split, which macro averages exclude."""
    if task.positive_name:
        return
    names = [name for name, count in zip(task.names, positives.tolist(), strict=True) if not count]
    if names:
        kind, averages = ("labels", "f1_macro, ") if task.several_labels else ("classes", "")
        warn(
            "no_positives",
            f"{len(names)} of {len(task.output_names)} {kind} have no positive in the {SPLIT_NAMES[split]} "
            f"split, so macro averages ({averages}auroc, average_precision) exclude them: {shorten(names)}.",
        )
