"""Bootstrap intervals of metrics, and a paired test of two runs on the same rows. Needs no torch.

Most metrics are functions of sums over rows, so a resampled metric follows from a weighted sum.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

MANY_ROWS, SAMPLES, FEW_SAMPLES = 2000, 1000, 200
"""Numbers of resamples up to and above MANY_ROWS; with many rows, intervals are narrow."""
MAX_VALUES = 1 << 17
"""Maximum number of weights in a block, which then fits into the cache of a CPU core."""
MAX_CLASSES = 200
"""Maximum number of outputs for which F1 is resampled."""
MIN_PROBABILITY = 1e-7
"""Lower bound of probabilities in the log loss, as they are stored with about seven digits."""
MAX_RANKED = 100_000
"""Maximum number of probabilities of which AUROC and average precision are resampled."""
TOLERANCE = 1e-4
"""Maximum difference of a metric from that of a run: metrics of other averages or classes differ by more."""
MIN_UNITS = 10
"""Minimum number of rows, or of groups of rows, for intervals."""


@dataclass(frozen=True)
class Predictions:
    """True labels, predictions and probabilities of rows, each (N, K), for K outputs or classes.

    Args:
        rows: The row numbers in the data (N,).
        names: The names of the outputs.
        truth: 1 or 0; NaN where the label is missing.
        predicted: 1 or 0; NaN where there is no prediction.
        probabilities: The probabilities.
        several: Whether a row may have several labels; otherwise it has one of two or more classes.
        log_odds: Scores that rank the rows; None if they are unknown.
        groups: The group of each row (N,), whose rows belong together; None if each row is independent.
    """

    rows: np.ndarray
    names: tuple[str, ...]
    truth: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    several: bool
    log_odds: np.ndarray | None = None
    groups: np.ndarray | None = None

    @property
    def exclusive(self) -> bool:
        """True if exactly one output is 1 in each row."""
        return not self.several and len(self.names) > 1

    def select(self, places: np.ndarray) -> "Predictions":
        """Return the rows at some places."""
        names = ("rows", "truth", "predicted", "probabilities", "log_odds", "groups")
        parts = {name: getattr(self, name) for name in names}
        return replace(self, **{name: part[places] for name, part in parts.items() if part is not None})


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
        is_binary: Whether the first F1 is that of the positive class, and the second that of the other one.
    """

    columns: np.ndarray
    has_f1: bool
    several: bool
    is_binary: bool = False

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
                if self.is_binary:
                    metrics["f1"] = f1[..., 0]
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
    is_binary = truth.shape[1] == 1 and not predictions.several
    if is_binary:  # F1 is that of both classes
        truth, predicted = np.hstack([truth, 1 - truth]), np.hstack([predicted, 1 - predicted])
        known = np.repeat(known, 2, axis=1)
    hits = (truth == 1) & (predicted == 1) & known
    wrong = (truth != predicted) & known  # false positives and false negatives
    return RowSums(np.hstack([totals, hits, wrong]), True, predictions.several, is_binary)


def _blocks(rows: int) -> list[int]:
    """Return the sizes of the blocks of resamples that fit into memory."""
    samples = SAMPLES if rows <= MANY_ROWS else FEW_SAMPLES
    size = max(1, MAX_VALUES // rows)
    return [min(size, samples - start) for start in range(0, samples, size)]


def _draw(rows: int, groups: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Yield the numbers of times that each row, or the group of each row, is drawn, (n, rows), in blocks."""
    generator = np.random.default_rng(0)
    codes = None if groups is None else np.unique(groups, return_inverse=True)[1]
    units = rows if codes is None else int(codes.max()) + 1
    for count in _blocks(rows):
        # much faster than generator.multinomial
        drawn = (np.bincount(generator.integers(units, size=units), minlength=units) for _ in range(count))
        weights = np.stack([*drawn]).astype(float)
        yield weights if codes is None else weights[:, codes]


@lru_cache(maxsize=1)
def _draw_once(rows: int) -> list[np.ndarray]:
    return [*_draw(rows)]


def _weights(rows: int, groups: np.ndarray | None = None) -> Iterable[np.ndarray]:
    """Return the blocks of `_draw`, which are kept for the next run if they are small."""
    return _draw_once(rows) if rows <= MANY_ROWS and groups is None else _draw(rows, groups)


def intervals(predictions: Predictions) -> dict[str, Interval]:
    """Return each metric with a 95 % percentile interval of the bootstrap over rows (Efron, 1979).

    If the rows have groups, whole groups are resampled. AUROC and average precision, macro averages, require
    `log_odds`.
    """
    predictions = predictions.select(np.flatnonzero(~np.isnan(predictions.truth).all(1)))
    count = len(predictions.rows)
    if not count:
        return {}
    sums = row_sums(predictions)
    values = sums.metrics(sums.columns.sum(0)[None])
    ranks = predictions.log_odds is not None and predictions.probabilities.size <= MAX_RANKED
    ranked = _Ranking(predictions) if ranks else None
    if ranked is not None:
        values |= ranked.metrics(np.ones((1, count)))
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in values}
    for weights in _weights(count, predictions.groups):
        block = sums.metrics(weights @ sums.columns)
        if ranked is not None:
            block |= ranked.metrics(weights)
        for name, part in block.items():
            drawn[name].append(part)
    return {
        name: Interval(float(value[0]), *_bounds(np.concatenate(drawn[name])))
        for name, value in values.items()
    }


class _Ranking:
    """AUROC and average precision of weighted rows, from the order of the log-odds of each output."""

    def __init__(self, predictions: Predictions) -> None:
        self.outputs: list[tuple[np.ndarray, ...]] = []
        log_odds: Any = predictions.log_odds
        for truth, scores in zip(predictions.truth.T, log_odds.T, strict=True):
            known = np.flatnonzero(~np.isnan(truth))
            order = known[np.argsort(-scores[known], kind="stable")]
            ordered = scores[order]
            bounds = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
            positive = np.flatnonzero(truth[order] == 1)
            # among rows with equal scores, which are between two bounds
            group, first = np.unique(np.searchsorted(bounds, positive, "right"), return_index=True)
            self.outputs.append((order, order[positive], first, bounds[group - 1], bounds[group]))

    def metrics(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return macro averages for weights (n, rows), over the outputs that have both labels."""
        columns = np.ascontiguousarray(weights.T)  # faster to select rows from, and to accumulate
        pairs = [self._of_output(columns, *output) for output in self.outputs if len(output[0])]
        if not pairs:
            return {}
        stacked = (np.stack(part, 1) for part in zip(*pairs, strict=True))
        return dict(zip(("auroc", "average_precision"), map(_mean_of_known, stacked), strict=True))

    @staticmethod
    def _of_output(
        weights: np.ndarray,
        order: np.ndarray,
        positive: np.ndarray,
        first: np.ndarray,
        starts: np.ndarray,
        ends: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return both metrics for weights (rows, n); the arrays describe each score of a positive row."""
        total = np.zeros((len(order) + 1, weights.shape[1]))
        weights[order].cumsum(0, out=total[1:])
        hits = np.add.reduceat(weights[positive], first)
        above = hits.cumsum(0)  # positive rows with at least this score
        higher, at_least = total[starts], total[ends]
        with np.errstate(invalid="ignore", divide="ignore"):
            labels = hits.sum(0)
            # negative rows with a higher score, and half of those with an equal one
            misplaced = (higher + at_least + hits) / 2 - above
            auroc = 1 - (misplaced * hits).sum(0) / (labels * (total[-1] - labels))
            precision = np.nan_to_num(above / at_least)
            return auroc, (precision * hits).sum(0) / labels


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Return the mean of each row (n, K) without NaN; NaN if all are."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(1) / known.sum(1)


def metric_intervals(
    predictions: Predictions, metrics: Mapping[str, float | None], split: str
) -> dict[str, Interval]:
    """Return the intervals of the `metrics` of a run ("test/accuracy") that the predictions reproduce.

    There are none for fewer than `MIN_UNITS` rows or groups.
    """
    units = predictions.rows if predictions.groups is None else np.unique(predictions.groups)
    if len(units) < MIN_UNITS:
        return {}
    found = {f"{split}/{name}": interval for name, interval in intervals(predictions).items()}
    if not predictions.several:
        found[f"{split}/f1_micro"] = found[f"{split}/accuracy"]
    return {
        name: interval
        for name, interval in found.items()
        if (value := metrics.get(name)) is not None
        and abs(interval.value - value) < TOLERANCE
        and not np.isnan(interval.low)
    }


def _bounds(drawn: np.ndarray) -> tuple[float, float]:
    if np.isnan(drawn).all():
        return np.nan, np.nan
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
