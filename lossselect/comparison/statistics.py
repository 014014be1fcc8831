"""Bootstrap intervals of metrics, and a paired test of two runs on the same rows.

All metrics are functions of sums over rows, so a resampled metric follows from a weighted sum.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lossselect.comparison.predictions import Predictions

MANY_ROWS, SAMPLES, FEW_SAMPLES = 10_000, 1000, 200
"""Numbers of resamples up to and above MANY_ROWS; with many rows, intervals are narrow."""
MAX_VALUES = 1 << 24
"""Maximum number of weights in a block."""
MAX_CLASSES = 200
"""Maximum number of outputs for which F1 is resampled."""
MIN_PROBABILITY = 1e-7
"""Lower bound of probabilities in the log loss, as they are stored with about seven digits."""


class Interval(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """The difference of a metric between two runs on the same rows, its 95 % interval, and the p value."""

    value: float
    low: float
    high: float
    p: float


class RowSums(NamedTuple):
    """The columns (N, M) whose sums over rows determine the metrics.

    Args:
        columns: The numbers of labels and of correct ones, the log loss, and unless there are very many
            outputs the true positives and the errors of each.
        has_f1: Whether the latter are there.
        several: Whether a row may have several labels.
    """

    columns: np.ndarray
    has_f1: bool
    several: bool

    def metrics(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """Return metrics from sums (..., M)."""
        known, correct, loss = (sums[..., i] for i in range(3))
        with np.errstate(invalid="ignore", divide="ignore"):
            metrics = {"accuracy": correct / known}
            if self.has_f1:
                hits, wrong = np.split(sums[..., 3:], 2, axis=-1)
                # classes without labels and predictions are left out of the mean
                f1 = 2 * hits / (2 * hits + wrong)
                has_rows = 2 * hits + wrong > 0
                metrics["f1_macro"] = np.where(has_rows, f1, 0).sum(-1) / has_rows.sum(-1)
                if self.several:  # otherwise it is the accuracy
                    metrics["f1_micro"] = 2 * hits.sum(-1) / (2 * hits.sum(-1) + wrong.sum(-1))
            return {**metrics, "log_loss": loss / known}


def row_sums(predictions: Predictions) -> RowSums:
    """Return the columns that determine accuracy, F1 and log loss.

    With two classes, F1 is that of both. Labels and rows that are missing or have no prediction are
    left out.
    """
    truth, predicted, p = predictions.truth, predictions.predicted, predictions.probabilities
    known = ~(np.isnan(truth) | np.isnan(predicted) | np.isnan(p))
    if predictions.exclusive:
        known = np.repeat(known.all(1, keepdims=True), truth.shape[1], axis=1)
    truth, predicted, p = (np.where(known, values, 0) for values in (truth, predicted, p))
    log = np.log(np.maximum(np.where(truth == 1, p, 1 - p), MIN_PROBABILITY))
    if predictions.exclusive:
        labels, correct = known[:, 0], (truth == predicted).all(1) & known[:, 0]
        loss = -(log * (truth == 1)).sum(1)
    else:
        labels, correct = known.sum(1), ((truth == predicted) & known).sum(1)
        loss = -(log * known).sum(1)
    totals = np.stack([labels, correct, loss], 1).astype(float)
    if truth.shape[1] > MAX_CLASSES:
        return RowSums(totals, False, predictions.several)
    if truth.shape[1] == 1 and not predictions.several:  # F1 is that of both classes
        truth, predicted = np.hstack([truth, 1 - truth]), np.hstack([predicted, 1 - predicted])
        known = np.repeat(known, 2, axis=1)
    hits = (truth == 1) & (predicted == 1) & known
    wrong = (truth != predicted) & known  # false positives and false negatives
    return RowSums(np.hstack([totals, hits, wrong]), True, predictions.several)


def _blocks(rows: int) -> list[int]:
    """Return the sizes of the blocks of resamples that fit into memory."""
    samples = SAMPLES if rows <= MANY_ROWS else FEW_SAMPLES
    size = max(1, MAX_VALUES // rows)
    return [min(size, samples - start) for start in range(0, samples, size)]


def _draw(rows: int) -> Iterator[np.ndarray]:
    """Yield the numbers of times that each row is drawn, (n, rows), in blocks."""
    generator, shares = np.random.default_rng(0), np.full(rows, 1 / rows)
    for count in _blocks(rows):
        yield generator.multinomial(rows, shares, size=count).astype(float)


@lru_cache(maxsize=1)
def _draw_once(rows: int) -> list[np.ndarray]:
    return [*_draw(rows)]


def _weights(rows: int) -> Iterable[np.ndarray]:
    """Return the blocks of `_draw`, which are kept for the next run if they are small."""
    return _draw_once(rows) if rows <= MANY_ROWS else _draw(rows)


def intervals(predictions: Predictions) -> dict[str, Interval]:
    """Return each metric with a 95 % percentile interval of the bootstrap over rows (Efron, 1979)."""
    sums = row_sums(predictions)
    values = sums.metrics(sums.columns.sum(0))
    drawn = [sums.metrics(weights @ sums.columns) for weights in _weights(len(sums.columns))]
    return {
        name: Interval(float(value), *_bounds(np.concatenate([block[name] for block in drawn])))
        for name, value in values.items()
    }


def _bounds(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def differences(first: Predictions, second: Predictions) -> dict[str, Difference]:
    """Compare two runs on the same rows: first - second for each metric.

    The interval is that of the bootstrap over rows. The p value is that of a two-sided randomisation test,
    which exchanges the predictions of both in random rows (Noreen, Computer-intensive methods for testing
    hypotheses, 1989).
    """
    a, b = row_sums(first), row_sums(second)
    observed = _subtract(a, a.columns.sum(0), b.columns.sum(0))
    drawn = [_subtract(a, w @ a.columns, w @ b.columns) for w in _weights(len(a.columns))]
    exchanged = []
    generator = np.random.default_rng(1)
    for count in _blocks(len(a.columns)):
        swap = generator.integers(0, 2, size=(count, len(a.columns))).astype(float)
        moved = swap @ (b.columns - a.columns)
        exchanged.append(_subtract(a, a.columns.sum(0) + moved, b.columns.sum(0) - moved))
    result = {}
    for name, value in observed.items():
        others = np.abs(np.concatenate([block[name] for block in exchanged]))
        extreme = (others >= abs(value) - 1e-12).sum()
        bounds = _bounds(np.concatenate([block[name] for block in drawn]))
        result[name] = Difference(float(value), *bounds, float((1 + extreme) / (1 + len(others))))
    return result


def _subtract(sums: RowSums, first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    left, right = sums.metrics(first), sums.metrics(second)
    return {name: left[name] - right[name] for name in left}
