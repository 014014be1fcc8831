"""What labels say of themselves: how many there are of each class, and how many are missing."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..label_lists import LabelLists
from ..tasks import IGNORE_INDEX, Task

if TYPE_CHECKING:
    from .splits import Splits


@dataclass(frozen=True)
class LabelCounts:
    """Counts of one split's labels.

    Args:
        rows: How many rows there are.
        positives: (len(task.names),) how many rows are of each class, or have each label.
        negatives: (len(task.names),) how many are known not to be, or not to have it.
        missing: How many entries are not known: of rows, or of rows times labels.
        single: Whether each row that is known has exactly one label.
    """

    rows: int
    positives: np.ndarray
    negatives: np.ndarray
    missing: int
    single: bool

    @property
    def cardinality(self) -> float:
        """Labels a row, where they are known."""
        known = self.rows - self.missing / len(self.positives)
        return float(self.positives.sum() / known) if known else float("nan")

    @property
    def imbalance(self) -> float:
        """The largest count over the smallest one that is not 0; NaN where there is none."""
        there = self.positives[self.positives > 0]
        return float(there.max() / there.min()) if len(there) else float("nan")


def count_labels(task: Task, splits: "Splits") -> dict[str, LabelCounts]:
    """The counts of each split."""
    if isinstance(splits.labels, LabelLists):
        return {split: _of_lists(splits.labels, rows.numpy()) for split, rows in splits.rows.items()}
    truth = task.harden(task.encode(splits.labels)).numpy()
    return {split: _of_truth(task, truth[rows.numpy()]) for split, rows in splits.rows.items()}


def _of_lists(labels: LabelLists, rows: np.ndarray) -> LabelCounts:
    positives, gone = labels.counts(rows), int(labels.missing[rows].sum())
    lengths = (labels.offsets[rows + 1] - labels.offsets[rows])[~labels.missing[rows]]
    single = bool((lengths == 1).all())
    return LabelCounts(len(rows), positives, len(rows) - gone - positives, gone * labels.num_labels, single)


def _of_truth(task: Task, truth: np.ndarray) -> LabelCounts:
    known = truth != IGNORE_INDEX
    missing = int((~known).sum())
    if task.width_field == "num_labels":
        positives = (truth == 1).sum(0)
        whole = known.all(1)
        single = bool(((truth[whole] == 1).sum(1) == 1).all())
        return LabelCounts(len(truth), positives, known.sum(0) - positives, missing, single)
    positives = np.bincount(truth[known].ravel(), minlength=len(task.names))
    return LabelCounts(len(truth), positives, positives.sum() - positives, missing, True)
