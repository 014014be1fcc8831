"""Predictions and true labels of the rows of a split."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lossselect.metrics.calibration_error import calibration_error, sum_in_bins
from lossselect.reporting.statistics import Interval, Predictions, metric_intervals
from lossselect.tasks.registry import IGNORE_INDEX, Task

MAX_ALIKE = 3
"""Number of wrong predictions of the same true class or label in a table, if there are many of these."""


@dataclass(frozen=True)
class Outcome:
    """Logits (N, num_outputs) and target (N, num_probabilities) of a split's rows.

    Args:
        base_task: The task with its default decision; None if no decision was fitted.
        split: "test" or "val".
        rows: The row numbers in the file, in order; None if unknown.
        fraction: The fraction of the split's rows that is included.
        per_class: The columns of the table of classes.
        confusion: Counts of shape (C, C), a row per true class.
        groups: The group of each row, or None.
        has_positions: Whether rows are positions of trailing dimensions, such as pixels.
        describe: Function of row numbers in the file that returns the cells of these rows, by column.
    """

    task: Task
    base_task: Task | None
    logits: Tensor
    target: Tensor
    split: str = "test"
    rows: Sequence[int] | None = None
    fraction: float = 1.0
    per_class: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    confusion: np.ndarray | None = None
    groups: np.ndarray | None = None
    has_positions: bool = False
    describe: Callable[[Sequence[int]], Mapping[str, Sequence[Any]]] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return self.task.output_names

    @property
    def thresholds(self) -> np.ndarray | None:
        """Thresholds of the outputs, shape (K,); None if predictions do not use thresholds."""
        if self.task.top_k or self.task.threshold is None:
            return None
        return np.broadcast_to(self.task.threshold, len(self.names))

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Probabilities of shape (N, K), calibrated if the task is."""
        return self.task.probabilities(self.logits.double()).numpy()

    @cached_property
    def log_odds(self) -> np.ndarray:
        """Log-odds of shape (N, K); they rank rows even if probabilities round to 1."""
        return self.task.log_odds(self.logits.double()).numpy()

    @cached_property
    def truth(self) -> np.ndarray:
        """True labels of shape (N, K): 0 or 1, NaN if missing; soft labels are rounded."""
        return self._to_columns(self.task.to_hard_labels(self.target.double()))

    @cached_property
    def predicted(self) -> np.ndarray:
        """Predictions of shape (N, K): 0 or 1."""
        return self._to_columns(
            self.task.predict(self.logits)
        )  # with the float32 logits that predictions use

    def _to_columns(self, labels: Tensor) -> np.ndarray:
        if self.task.exclusive:
            return self.task.to_one_hot(labels).numpy()
        return labels.double().masked_fill(labels == IGNORE_INDEX, torch.nan).numpy()

    def labelled(self, output: int | slice = slice(None)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return true labels, log-odds and predictions of known labels, of one output or of all pooled."""
        known = ~np.isnan(self.truth[:, output])
        truth, log_odds, predicted = (
            v[:, output][known] for v in (self.truth, self.log_odds, self.predicted)
        )
        return truth, log_odds, predicted

    def reliability(self, task: Task) -> tuple[np.ndarray, float]:
        """Return counts, sums of probabilities and of labels in 15 bins, and the calibration error."""
        probabilities = task.probabilities(self.logits.double())
        truth = torch.from_numpy(self.truth).double()
        known = ~truth.isnan()
        if task.exclusive:
            probabilities, classes = probabilities.max(1)
            truth, known = truth.gather(1, classes[:, None])[:, 0], known.all(1)
        # not CalibrationError.compute(), which would wait for other processes; only one writes a report
        bins = sum_in_bins(probabilities, truth, known)
        return bins.numpy(), float(calibration_error(bins))

    def counts(self) -> dict[str, np.ndarray]:
        """Return the confusion matrix of each output if there is none of the classes."""
        if self.task.exclusive or self.confusion is not None or self.fraction < 1:
            return {}
        names = ("true positives", "false positives", "false negatives", "true negatives")
        cells, predicted = ((1, True), (0, True), (1, False), (0, False)), self.predicted == 1
        counts = (((self.truth == truth) & (predicted == positive)).sum(0) for truth, positive in cells)
        return dict(zip(names, counts, strict=True))

    def intervals(self, metrics: Mapping[str, float | None], name: str = "") -> dict[str, Interval]:
        """Return 95 % intervals of the split's metrics ("test/accuracy"); see `metric_intervals`.

        `name` is that of the task if there are several ("test/species/accuracy").

        There are none if only a sample of the rows is included, or if rows are positions such as pixels.
        """
        if self.fraction < 1 or self.has_positions:
            return {}
        rows, several = np.arange(len(self.truth)), self.task.several_labels
        predictions = Predictions(
            *(rows, self.names, self.truth, self.predicted, self.probabilities, several),
            log_odds=self.log_odds,
            groups=self.groups,
        )
        return metric_intervals(predictions, metrics, f"{self.split}/{name}".rstrip("/"))

    def find_errors(self, count: int) -> list[tuple[int, str, str, float]]:
        """Return the most confident wrong predictions: row, true, predicted, probability.

        At most `MAX_ALIKE` have the same true class or label, or more if there are few of these.
        """
        if self.rows is None:
            return []
        rows, true, predicted = self.rows, self.truth, self.predicted
        known = ~np.isnan(true)
        probability = np.where(predicted == 1, self.probabilities, 1 - self.probabilities)
        if self.task.exclusive:
            true, predicted = (values.argmax(1)[:, None] for values in (np.nan_to_num(true), predicted))
            probability = np.take_along_axis(self.probabilities, predicted, 1)
            known = known.all(1, keepdims=True)

        def name(output: int, value: float) -> str:
            if self.task.exclusive:
                return self.names[int(value)]
            other = self.task.names[0] if self.task.positive_name else f"not {self.names[output]}"
            return self.names[output] if value else other

        wrong = np.flatnonzero((true != predicted) & known)
        wrong = wrong[np.argsort(-probability.ravel()[wrong], kind="stable")]
        alike = pl.DataFrame({"true": (true + 2 * np.arange(true.shape[1])).ravel()[wrong]})
        before = alike.select(pl.int_range(pl.len()).over("true")).to_series().to_numpy()
        limit = max(MAX_ALIKE, -(-count // max(alike.n_unique(), 1)))
        places = zip(*np.unravel_index(wrong[before < limit][:count], true.shape), strict=True)
        return [
            (rows[i], name(j, true[i, j]), name(j, predicted[i, j]), float(probability[i, j]))
            for i, j in places
        ]

    def find_confusions(self, count: int) -> list[tuple[str, str, int, float]]:
        """Return the most frequent confusions: true, predicted, rows, fraction of the true class.

        Of two classes, the confusion matrix shows them all.
        """
        if self.confusion is None or len(self.confusion) < 3:
            return []
        counts, names = self.confusion, self.task.names
        wrong = (counts > 0) & ~np.eye(len(counts), dtype=bool)
        return [
            (names[i], names[j], int(counts[i, j]), float(counts[i, j] / counts[i].sum()))
            for i, j in _find_largest(counts, wrong, count)
        ]


def _find_largest(values: np.ndarray, mask: np.ndarray, count: int) -> Iterator[tuple[int, int]]:
    """Return the positions (row, column) of the largest values within a mask, in decreasing order."""
    order = np.argsort(np.where(mask, -values, np.inf), axis=None, kind="stable")[: min(count, mask.sum())]
    return zip(*np.unravel_index(order, values.shape), strict=True)
