"""Count labels: how many there are of each class, and how many are missing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from lossselect.exceptions import DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.tasks.registry import IGNORE_INDEX, Task, as_task
from lossselect.utils.warnings import warn_one_hot_integers


@dataclass(frozen=True)
class LabelCounts:
    """Counts of labels; of rows, and with trailing dimensions of pixels or time steps.

    Args:
        rows: How many rows there are.
        positives: (len(task.names),) how many are of each class, or have each label. A soft label counts
            as its likelier value.
        negatives: (len(task.names),) how many are known not to be, or not to have it.
        missing: How many entries are not known: of rows, or of rows times labels.
        single: Whether each row that is known has exactly one label.
        mass: (len(task.names),) the sums of the labels; `positives` where none is soft.
        soft: Whether some are soft.
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
        """(len(task.names),) how many are known to be or not to be of each class."""
        return self.positives + self.negatives

    @property
    def cardinality(self) -> float:
        """Labels a row, where they are known."""
        known = self.known.mean()
        return float(self.positives.sum() / known) if known else float("nan")

    @property
    def imbalance(self) -> float:
        """The largest count over the smallest one that is not 0; NaN where there is none."""
        present = self.positives[self.positives > 0]
        return float(present.max() / present.min()) if len(present) else float("nan")

    def check_task(self, task: Task) -> None:
        """Raise ValueError unless they have as many classes as the task."""
        if len(self.positives) != len(task.names):
            raise DataError(
                f"The counts are of {len(self.positives)} classes, but the task is {task}: "
                "lossselect.count_labels(task, labels)."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint, which `from_dict` reads."""
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LabelCounts":
        """Return the counts that `to_dict` wrote."""
        arrays: dict[str, Any] = {k: np.array(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**arrays)

    def __add__(self, other: "LabelCounts") -> "LabelCounts":
        return LabelCounts(
            self.rows + other.rows,
            self.positives + other.positives,
            self.negatives + other.negatives,
            self.missing + other.missing,
            self.single and other.single,
            self.mass + other.mass,
            self.soft or other.soft,
        )


def count_labels(task: Task, labels: Any) -> LabelCounts:
    """Count a split's labels, for weights, priors and the first bias.

    Args:
        task: Whose labels they are.
        labels: Of any form that `task.encode` takes or returns, or `SparseLabels`.

    Raises:
        ValueError, TypeError: labels that do not fit the task.

    Example:
        >>> from lossselect import Multilabel
        >>> count_labels(Multilabel(2), [[1, 0], [1, 1], [1, float("nan")]]).positives.tolist()
        [3, 1]
    """
    task = as_task(task)
    if isinstance(labels, SparseLabels):
        return count_sparse(labels)
    return count_target(task, to_canonical(task, labels))


def to_canonical(task: Task, labels: Any, trailing_dims: int | None = None) -> Tensor:
    """Return the canonical target of labels in any form, also of one that `task.encode` has returned.

    `task.encode` itself takes the -100 in it for a mistake unless the task declares a missing value.
    """
    if isinstance(labels, Tensor) and task.activation == "softmax" and not labels.is_floating_point():
        marked = labels == IGNORE_INDEX
        if bool(marked.any()) and bool((marked | ((labels >= 0) & (labels < task.num_probabilities))).all()):
            return labels.long()
    return task.encode(labels, trailing_dims)


def count_batches(task: Task, targets: Iterable[Any]) -> LabelCounts | None:
    """Return the counts of targets as `task.encode_first` returns them; None where there is no batch.

    Integers (N, C) are one-hot rows if all batches can be read so, which a warning reports, and class indices
    of C positions otherwise.
    """
    counts: LabelCounts | None = None
    of_rows: LabelCounts | None = None
    all_rows, settled = True, None
    for target in targets:
        own = count_sparse(target) if isinstance(target, SparseLabels) else count_target(task, target)
        counts = own if counts is None else counts + own
        if all_rows and not isinstance(target, SparseLabels):
            try:
                rows = task.settle(target, trailing_dims=0)
            except ValueError:
                all_rows = False
                continue
            all_rows = rows.is_floating_point() or rows.ndim == 1
            if rows is not target:
                settled, own = target.shape, count_target(task, rows)
        of_rows = own if of_rows is None else of_rows + own
    if not all_rows or settled is None:
        return counts
    if settled[1] > 1:
        warn_one_hot_integers(settled)
    return of_rows


def count_sparse(labels: SparseLabels) -> LabelCounts:
    """Return the counts of sparse labels."""
    known = labels.known_rows()
    positives = labels.count_per_label().numpy()
    of_each = np.full(labels.num_labels, int(known.sum()))
    if labels.unknown is not None:
        of_each = of_each - labels.unknown.count_per_label().numpy()
    missing = len(labels) * labels.num_labels - int(of_each.sum())
    single = bool((labels.count_per_row()[known] == 1).all())
    return LabelCounts(len(labels), positives, of_each - positives, missing, single, positives.astype(float))


def count_target(task: Task, target: Tensor) -> LabelCounts:
    """Return the counts of a canonical target."""
    truth = task.to_hard_labels(target).cpu().numpy()
    known = truth != IGNORE_INDEX
    missing, rows = int((~known).sum()), len(truth)
    if task._width_field == "num_labels":
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
        if len(mass) < len(positives):  # of binary's two classes the first one has no output
            mass = np.concatenate([known.sum() - mass, mass])
    return LabelCounts(rows, positives, negatives, missing, single, mass, soft)


def _per_label(values: np.ndarray) -> np.ndarray:
    return values.sum(axis=tuple(i for i in range(values.ndim) if i != 1))
