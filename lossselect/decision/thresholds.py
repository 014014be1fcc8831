"""Thresholds that are best for a metric on the rows that they are fitted to."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from lossselect.decision.temperature import sigmoid_line

SHRINKAGE = 10.0
"""So many validation positives weigh a label's own threshold as much as the threshold of all labels."""

OWN_SHARE = 0.2
"""Of expected F1, how far a label's threshold goes from that of all labels (micro) to its own (macro)."""

MAX_CUTS = 2000
"""Of so many thresholds for all labels the best is taken: of all between neighbours, or of quantiles."""


class Counts(NamedTuple):
    """What thresholds lead to: arrays that broadcast, of a label or of several."""

    hits: np.ndarray
    """Positives that are called so."""
    called: np.ndarray
    """Rows that are called positive."""
    positives: np.ndarray
    rows: np.ndarray


def _f1(counts: Counts) -> np.ndarray:
    return 2 * counts.hits / np.maximum(counts.called + counts.positives, 1)


def _accuracy(counts: Counts) -> np.ndarray:
    wrong = counts.called + counts.positives - 2 * counts.hits
    return 1 - wrong / np.maximum(counts.rows, 1)


def _balanced_accuracy(counts: Counts) -> np.ndarray:
    negatives = counts.rows - counts.positives
    recall = counts.hits / np.maximum(counts.positives, 1)
    specificity = 1 - (counts.called - counts.hits) / np.maximum(negatives, 1)
    return (recall + specificity) / 2


class Goal(NamedTuple):
    """A metric that thresholds are tuned for."""

    score: Callable[[Counts], np.ndarray]
    pooled: bool
    """Whether the labels' counts are added up first (micro), or their scores averaged (macro)."""


EXPECTED = "expected_f1"
"""The F1 that the probabilities themselves expect: its thresholds need no counts of rare positives."""

GOALS = {
    EXPECTED: Goal(_f1, pooled=False),
    "f1": Goal(_f1, pooled=False),
    "f1_macro": Goal(_f1, pooled=False),
    "f1_micro": Goal(_f1, pooled=True),
    "accuracy": Goal(_accuracy, pooled=True),
    "balanced_accuracy": Goal(_balanced_accuracy, pooled=False),
    "precision_at_recall": Goal(_f1, pooled=False),
}
"""What thresholds can be tuned for; `expected_f1` and `precision_at_recall` have ways of their own."""


class Label:
    """A label's rows, sorted: the counts at each threshold between two neighbours."""

    def __init__(self, scores: np.ndarray, truth: np.ndarray) -> None:
        order = np.argsort(-scores, kind="stable")
        self.scores, truth = scores[order], truth[order]
        self.positives, self.rows = int(truth.sum()), len(truth)
        self.hits = np.concatenate([[0], truth.cumsum()])
        # a threshold stands between two different outputs, above all of them, or below
        apart = np.flatnonzero(np.diff(self.scores) < 0) + 1
        self.cuts = np.concatenate([[0], apart, [self.rows]]) if self.rows else np.array([0])

    def threshold(self, cut: int) -> float:
        """Half-way between the outputs beside the cut."""
        if not self.rows:
            return 0.0
        if cut == 0:
            return float(self.scores[0]) + 1
        if cut == self.rows:
            return float(self.scores[-1]) - 1
        return float(self.scores[cut - 1] + self.scores[cut]) / 2

    def counts(self, cuts: np.ndarray) -> Counts:
        """Of calling so many rows positive, the first of them."""
        return Counts(self.hits[cuts], cuts, np.array(self.positives), np.array(self.rows))

    def counts_at(self, thresholds: np.ndarray) -> Counts:
        """Of calling the rows positive that reach the thresholds."""
        return self.counts(np.searchsorted(-self.scores, -thresholds, side="right"))


def counted_thresholds(
    labels: list[Label], goal: str, per_label: bool, recall: float, shrinkage: float
) -> float | tuple[float, ...]:
    """The thresholds, as probabilities, that are best for a goal on the labels' rows.

    Args:
        labels: Of which one has positives at least.
        goal: A key of `GOALS` but `EXPECTED`.
        per_label: Whether each has its own.
        recall: For "precision_at_recall".
        shrinkage: So many positives weigh a label's own threshold as much as that of all.
    """
    score, pooled = GOALS[goal]
    if goal == "precision_at_recall":
        score = _precision_at(recall)
    there = [label for label in labels if label.positives]
    common = _common_threshold(there, score, pooled)
    if not per_label or len(labels) == 1:
        return _sigmoid(common)
    own = _pooled_cuts(there, score) if pooled else [_best_cut(label, score) for label in there]
    thresholds = iter(
        (label.positives * label.threshold(cut) + shrinkage * common) / (label.positives + shrinkage)
        for label, cut in zip(there, own, strict=True)
    )
    return tuple(_sigmoid(next(thresholds) if label.positives else common) for label in labels)


def expected_thresholds(
    scores: np.ndarray, truth: np.ndarray, known: np.ndarray, per_label: bool
) -> float | tuple[float, ...]:
    """The thresholds, as probabilities, that reach the largest F1 that the outputs expect.

    Args:
        scores: Logits, (N, L).
        truth: In [0, 1], of the same shape; tells how logits and log-odds differ.
        known: Which elements have a label.
        per_label: Whether each has its own.
    """
    slope, shift = sigmoid_line(scores, truth, known)
    p = torch.from_numpy(slope * scores + shift).sigmoid().numpy()
    common = _half_of_expected_f1(p[known])
    if not per_label or scores.shape[1] == 1:
        return _sigmoid((common - shift) / slope)
    own = [
        _half_of_expected_f1(p[known[:, i], i]) if known[:, i].any() else common for i in range(p.shape[1])
    ]
    return tuple(_sigmoid(((1 - OWN_SHARE) * common + OWN_SHARE * it - shift) / slope) for it in own)


def _half_of_expected_f1(p: np.ndarray) -> float:
    """The logit of F / 2."""
    p = -np.sort(-p)
    expected = 2 * p.cumsum() / (np.arange(1, len(p) + 1) + p.sum())
    half = float(np.clip(expected.max() / 2, 1e-12, 0.5))
    return float(np.log(half / (1 - half)))


def _best_cut(label: Label, score: Callable[[Counts], np.ndarray]) -> int:
    return int(label.cuts[np.argmax(score(label.counts(label.cuts)))])


def _common_threshold(labels: list[Label], score: Callable[[Counts], np.ndarray], pooled: bool) -> float:
    values = np.unique(np.concatenate([label.scores for label in labels]))
    if len(values) > MAX_CUTS:
        values = np.unique(np.quantile(values, np.linspace(0, 1, MAX_CUTS)))
    cuts = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1] + 1]])
    counts = [label.counts_at(cuts) for label in labels]
    scores = score(_sum(counts)) if pooled else np.mean([score(count) for count in counts], axis=0)
    return float(cuts[np.argmax(scores)])


def _pooled_cuts(labels: list[Label], score: Callable[[Counts], np.ndarray]) -> list[int]:
    """Each label's cut for the largest score of the labels' counts together.

    F1 is a ratio: 2 hits - F (called + positives) is 0 at its value F and below it elsewhere, so each
    label's best cut at the F so far gives a larger F (Dinkelbach, 1967). Accuracy needs one step.
    """
    if score is _accuracy:
        return [_best_cut(label, score) for label in labels]
    value, cuts = 0.0, [0] * len(labels)
    for _ in range(100):
        for i, label in enumerate(labels):
            counts = label.counts(label.cuts)
            cuts[i] = int(label.cuts[np.argmax(2 * counts.hits - value * counts.called)])
        chosen = [label.counts(np.array(cut)) for label, cut in zip(labels, cuts, strict=True)]
        better = float(_f1(_sum(chosen)))
        if better <= value + 1e-12:
            break
        value = better
    return cuts


def _sum(counts: list[Counts]) -> Counts:
    return Counts(*(np.sum(parts, axis=0) for parts in zip(*counts, strict=True)))


def _precision_at(recall: float) -> Callable[[Counts], np.ndarray]:
    """Precision where the recall is reached, the negative shortfall elsewhere."""

    def score(counts: Counts) -> np.ndarray:
        reached = counts.hits / np.maximum(counts.positives, 1)
        precision = counts.hits / np.maximum(counts.called, 1)
        return np.where(reached >= recall, precision, reached - recall - 1)

    return score


def _sigmoid(score: float) -> float:
    return float(torch.tensor(score, dtype=torch.float64).sigmoid())
