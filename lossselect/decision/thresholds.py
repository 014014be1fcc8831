"""Thresholds and class factors that maximise a metric on validation rows, to be applied by a `Task`."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from lossselect.decision.temperature import fit_sigmoid_line
from lossselect.losses.loss import Loss
from lossselect.metrics import scores
from lossselect.tasks.registry import Task

SHRINKAGE = 10.0
"""Number of positives for which a label's threshold and the common one have the same weight."""
OWN_SHARE = 0.5
"""Position of a label's threshold for expected F1, from 0 (the common one: micro) to 1 (its own: macro)."""
MAX_CUTS = 2000
"""Maximum number of common thresholds to try; if there are more outputs, quantiles are tried."""
EXPECTED = "expected_f1"
"""Name of the goal expected F1, which is computed from probabilities instead of labels."""

Score = Callable[..., np.ndarray]
"""A function that computes a score from tp, fp, fn and tn."""

GOALS: dict[str, Score] = {
    EXPECTED: scores.f1,
    "f1": scores.f1,
    "f1_macro": scores.f1,
    "f1_micro": scores.f1,
    "accuracy": scores.accuracy,
    "balanced_accuracy": scores.balanced_accuracy,
    "precision_at_recall": scores.precision,
}
"""Metrics that thresholds can be tuned for."""
CLASS_GOALS = ("accuracy", "balanced_accuracy", "f1_macro")
"""Metrics that multiclass predictions can be tuned for; for accuracy the most probable class is best."""
POOLED = ("f1_micro", "accuracy")
"""Goals that sum the counts of the labels (micro); the others average the scores (macro)."""


class Label:
    """The rows of a label sorted by logit, with the counts at each threshold between neighbours."""

    def __init__(self, logits: np.ndarray, positive: np.ndarray) -> None:
        order = np.argsort(-logits, kind="stable")
        self.logits = logits[order]
        self.positives, self.rows = int(positive.sum()), len(positive)
        self.tp = np.concatenate([[0], positive[order].cumsum()])
        # a cut is the number of rows above a threshold, which is never between equal outputs
        self.cuts = np.concatenate([[0], np.flatnonzero(np.diff(self.logits) < 0) + 1, [self.rows]])

    def threshold(self, cut: int) -> float:
        """Return the midpoint of the outputs on both sides of the cut."""
        above = self.logits[cut - 1] if cut > 0 else self.logits[0] + 2
        below = self.logits[cut] if cut < self.rows else self.logits[-1] - 2
        return float(above + below) / 2

    def counts(self, cuts: np.ndarray) -> np.ndarray:
        """Return tp, fp, fn and tn if the `cuts` highest rows are predicted as positive."""
        tp, negatives = self.tp[cuts], self.rows - self.positives
        return np.stack([tp, cuts - tp, self.positives - tp, negatives - cuts + tp])

    def best_cut(self, score: Score) -> int:
        """Return the cut with the highest score."""
        return int(self.cuts[np.argmax(score(*self.counts(self.cuts)))])


def counted_thresholds(
    labels: list[Label], goal: str, per_label: bool, recall: float, shrinkage: float
) -> float | tuple[float, ...]:
    """Return the best thresholds, as probabilities, for a goal of `GOALS` other than `EXPECTED`."""
    score = partial(_precision_at_recall, minimum=recall) if goal == "precision_at_recall" else GOALS[goal]
    tuned = [label for label in labels if label.positives]
    common = _common_threshold(tuned, score, goal in POOLED)
    if not per_label or len(labels) == 1:
        return float(sigmoid(common))
    cuts = _cuts_for_micro_f1(tuned) if goal == "f1_micro" else [label.best_cut(score) for label in tuned]
    own = {
        label: (label.positives * label.threshold(cut) + shrinkage * common) / (label.positives + shrinkage)
        for label, cut in zip(tuned, cuts, strict=True)
    }
    return tuple(float(sigmoid(own.get(label, common))) for label in labels)


def expected_thresholds(
    logits: np.ndarray, truth: np.ndarray, known: np.ndarray, per_label: bool
) -> float | tuple[float, ...]:
    """Return the thresholds, as probabilities, that maximise the expected F1; arrays are (N, L)."""
    slope, shift = fit_sigmoid_line(logits[known], truth[known])
    p = sigmoid(slope * logits + shift)
    common = _half_of_expected_f1(p[known])
    if not per_label or logits.shape[1] == 1:
        return float(sigmoid((common - shift) / slope))
    columns = zip(p.T, known.T, strict=True)
    own = np.array([_half_of_expected_f1(q[mask]) if mask.any() else common for q, mask in columns])
    return tuple(sigmoid(((1 - OWN_SHARE) * common + OWN_SHARE * own - shift) / slope).tolist())


def sigmoid(logits: np.ndarray | float) -> np.ndarray:
    """Return the probabilities of logits, in float64."""
    return np.asarray(torch.as_tensor(logits, dtype=torch.float64).sigmoid().numpy())


def _half_of_expected_f1(p: np.ndarray) -> float:
    """Return the logit of F / 2, F being the largest expected F1."""
    p = -np.sort(-p)
    expected = 2 * p.cumsum() / (np.arange(1, len(p) + 1) + p.sum())
    half = float(np.clip(expected.max() / 2, 1e-12, 0.5))
    return float(np.log(half / (1 - half)))


def _common_threshold(labels: list[Label], score: Score, pooled: bool) -> float:
    values = np.unique(np.concatenate([label.logits for label in labels]))
    if len(values) > MAX_CUTS:
        values = np.unique(np.quantile(values, np.linspace(0, 1, MAX_CUTS)))
    cuts = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1] + 1]])
    counts = [label.counts(np.searchsorted(-label.logits, -cuts, side="right")) for label in labels]
    values = score(*np.sum(counts, axis=0)) if pooled else np.mean([score(*each) for each in counts], axis=0)
    return float(cuts[np.argmax(values)])


def _cuts_for_micro_f1(labels: list[Label]) -> list[int]:
    """Return each label's cut for the largest F1 of the summed counts.

    Uses Dinkelbach's method (1967): the cuts that maximise 2 tp - F (predicted + positives) for the current
    F give a larger F, until F is the maximum.
    """
    value, cuts = 0.0, [0] * len(labels)
    for _ in range(100):
        cuts = [int(label.cuts[np.argmax(2 * label.tp[label.cuts] - value * label.cuts)]) for label in labels]
        counts = [label.counts(np.array(cut)) for label, cut in zip(labels, cuts, strict=True)]
        improved = float(scores.f1(*np.sum(counts, axis=0)))
        if improved <= value + 1e-12:
            break
        value = improved
    return cuts


def _precision_at_recall(*counts: np.ndarray, minimum: float) -> np.ndarray:
    """Return the precision where recall >= minimum, elsewhere a value below 0 that increases with recall."""
    recall = scores.recall(*counts)
    return np.where(recall >= minimum, scores.precision(*counts), recall - minimum - 1)


def fit_class_factors(
    task: Task,
    logits: np.ndarray,
    target: np.ndarray,
    goal: str,
    frequencies: np.ndarray | None,
    loss: Loss | None,
) -> tuple[float, ...]:
    """Return the factors r_c^-s described in `fit_decision`; by default r are the frequencies in `target`."""
    labels = target.argmax(1)
    positives = np.bincount(labels, minlength=task.num_probabilities)
    if frequencies is None:
        frequencies = np.maximum(positives, 0.5) / len(labels)
    corrected = 0.0 if loss is None else 1.0 if loss.weight is not None else min(loss.tau, 1.0)
    expected = (1 - corrected) * (1.0 if goal == "balanced_accuracy" else 0.5)
    strengths = np.linspace(-1.5, 1.5, 61)
    probabilities = torch.from_numpy(logits).softmax(1)
    best_value, best = -1.0, 0.0
    for strength in strengths[np.argsort(np.abs(strengths - expected), kind="stable")]:
        options: Any = {
            "prior_correction": tuple(frequencies**-strength)
        }  # a field that exclusive tasks have
        predictions = replace(task, **options).predict_from_probabilities(probabilities).numpy()
        value = _class_score(goal, predictions, labels, positives)
        if value > best_value + 1e-12:
            best_value, best = value, float(strength)
    return tuple((frequencies**-best).tolist())


def _class_score(goal: str, predictions: np.ndarray, labels: np.ndarray, positives: np.ndarray) -> float:
    tp, predicted = (
        np.bincount(values, minlength=len(positives))
        for values in (labels[predictions == labels], predictions)
    )
    counts = tp, predicted - tp, positives - tp, len(labels) - predicted - positives + tp
    if goal == "balanced_accuracy":
        return float(scores.recall(*counts)[positives > 0].mean())
    return float(scores.f1(*counts)[predicted + positives > 0].mean())
