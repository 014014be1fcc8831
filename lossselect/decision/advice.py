"""Advice about a threshold that would clearly increase the F1 of a binary task."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from lossselect.decision.thresholds import Label, counted_thresholds, sigmoid
from lossselect.labels.targets import flatten_positions
from lossselect.tasks.registry import Task

MIN_POSITIVES = 10
MIN_GAIN = 0.02


class Advice(NamedTuple):
    """A threshold that increases F1 on the validation rows, and the current threshold of the task."""

    threshold: float
    f1: float
    f1_now: float
    threshold_now: float

    def __str__(self) -> str:
        return (
            f"On the validation rows, f1 is {self.f1:.2f} at threshold {self.threshold:.2g}, but "
            f"{self.f1_now:.2f} at the current {self.threshold_now:.2g}. Set decision.metric=f1 to tune it."
        )


def suggest_threshold(task: Task, logits: Tensor, target: Tensor) -> Advice | None:
    """Return the threshold with the largest F1 on the validation rows, if F1 would clearly increase.

    The maximum over many thresholds is biased, so the gain is estimated by cross-validation: thresholds are
    chosen on four fifths of the rows and scored on the rest. The gain must be >= 0.02 and >= its standard
    error, with at least 10 positives. None for tasks other than binary.
    """
    if not task.positive_name:
        return None
    scores = flatten_positions(task.calibrated_logits(logits.double())).squeeze(1)
    labels = flatten_positions(target).squeeze(1)
    known = ~labels.isnan() & ~scores.isnan()
    z, positive = scores[known].numpy(), labels[known].numpy() >= 0.5
    if positive.sum() < MIN_POSITIVES or positive.all():
        return None
    p, current = sigmoid(z), float(task.threshold)  # type: ignore[arg-type]  # one number: the task is binary
    order = np.random.default_rng(0).permutation(len(positive))
    # sorted by class, so that every fifth row is a fold with the same class frequencies
    order = order[np.argsort(positive[order], kind="stable")]
    held_out = np.zeros_like(positive)
    for fold in (order[k::5] for k in range(5)):
        others = np.delete(np.arange(len(z)), fold)
        held_out[fold] = p[fold] >= _best_threshold(z[others], positive[others])
    (f1, terms), (f1_now, terms_now) = _f1(held_out, positive), _f1(p >= current, positive)
    error = float((terms - terms_now).std() / np.sqrt(len(positive)))
    if f1 - f1_now < max(MIN_GAIN, error):
        return None
    best = _best_threshold(z, positive)
    return Advice(best, _f1(p >= best, positive)[0], f1_now, current)


def _best_threshold(z: np.ndarray, positive: np.ndarray) -> float:
    thresholds = counted_thresholds([Label(z, positive)], "f1", per_label=False, recall=0.9, shrinkage=0)
    return float(thresholds)  # type: ignore[arg-type]  # a single number without per_label


def _f1(predicted: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray]:
    """Return F1 and each row's term of its error: (2 tp - F1 t) / mean t with t = predicted + positive."""
    twice_tp, total = 2.0 * (predicted & positive), predicted + positive.astype(float)
    f1 = twice_tp.sum() / total.sum()
    return float(f1), (twice_tp - f1 * total) / total.mean()
