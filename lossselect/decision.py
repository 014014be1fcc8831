"""From probabilities to decisions: thresholds, calibration and class factors, fitted on validation rows.

Nothing here looks at the train split (which the net knows by heart) or at the test split.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .calibration import sigmoid_line, sigmoid_temperature, softmax_temperature
from .counts import LabelCounts
from .criterion import Loss
from .guards import warn
from .names import lookup, number, some
from .tasks import Multiclass, Task, as_task
from .tasks.sigmoid import _Sigmoid
from .weights import prior_of

SHRINKAGE = 10.0
"""So many validation positives weigh a label's own threshold as much as the threshold of all labels."""

OWN_SHARE = 0.2
"""Of expected F1, how far a label's threshold goes from that of all labels (micro) to its own (macro)."""

MOST_CUTS = 2000
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

CLASS_GOALS = ("accuracy", "balanced_accuracy", "f1_macro")
"""What a multiclass decision can be tuned for; for accuracy the most probable class is the best already."""

CALIBRATIONS = ("temperature", "per_label", "none")
"""One temperature for all outputs, one for each label, or none."""


def fit_decision(
    task: Task,
    logits: Tensor,
    target: Any,
    *,
    metric: str | None = "auto",
    per_label: bool = True,
    recall: float = 0.9,
    calibration: str = "temperature",
    shrinkage: float = SHRINKAGE,
    loss: Loss | None = None,
    counts: LabelCounts | None = None,
) -> Task:
    """The task with temperature, and thresholds or class factors, that suit the validation rows best.

    A temperature T minimises the cross-entropy of logits / T (see `calibration`): probabilities mean what
    they say, and their order stays. Thresholds then maximise the metric; a label's own one t_l is shrunk
    towards the one for all labels, t, between logits, by the number n_l of its positives:
    (n_l t_l + k t) / (n_l + k), k = `shrinkage`. A label without positives takes t.

    For "expected_f1" labels are not counted but expected: with probabilities p, the largest expected F1 is
    F = max_n 2 (sum of the n largest p) / (n + sum p), and F / 2 the threshold that reaches it. F is that of
    all outputs together, and t_l lies a fifth of the way (`OWN_SHARE`, between logits) towards the label's
    own. p is sigmoid(a x + b) with a, b of least cross-entropy, so that a loss that has moved all logits is
    no harm. Rare labels' thresholds are not fitted to a handful of rows: on small data the better one.

    Multiclass: class factors r_c^-s, r_c the classes' shares and s the best of a grid from -1.5 to 1.5; of
    equals the nearest to where theory has it: 1 for balanced accuracy (Menon et al., 2021), half of that for
    macro-F1, 0 where the loss has done it already.

    Args:
        task: Whose threshold, temperature and factors are replaced.
        logits: Raw, of the validation rows: (N, num_outputs, ...).
        target: Their labels, of any form that `task.encode` takes.
        metric: A key of `GOALS` (binary and multilabel) or of `CLASS_GOALS` (multiclass); "auto" is
            expected_f1 (f1 or f1_macro, where the loss has moved the labels' logits apart by `pos_weight` or
            `prior`) and, for multiclass, accuracy, which changes nothing. None leaves the thresholds.
        per_label: Whether each label of a multilabel task has a threshold of its own.
        recall: For precision_at_recall: the least recall on the validation rows, before shrinkage.
        calibration: "temperature", "per_label" (one for each label) or "none".
        shrinkage: k >= 0.
        loss: That the logits were trained with, where it is one of ours.
        counts: Of the train labels, for the classes' shares; by default those of the validation rows.

    Returns:
        A task of the same kind; thresholds are probabilities after the temperature.

    Raises:
        ValueError: a metric or a calibration that there is not for the task, logits that do not fit it, no
            label that is known.

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv:1706.04599 (temperature);
        Lipton et al., Optimal Thresholding of Classifiers to Maximize F1 Measure, ECML 2014,
        arXiv:1402.1892 (F / 2).

    Example:
        >>> from lossselect import Binary
        >>> logits = torch.tensor([[-3.0], [-2.0], [-1.0], [0.5]])
        >>> fitted = fit_decision(Binary(), logits, [0, 1, 1, 1], metric="f1", calibration="none")
        >>> round(fitted.threshold, 3)
        0.076
    """
    task = as_task(task)
    goal = check_decision(
        task,
        metric=metric,
        per_label=per_label,
        recall=recall,
        calibration=calibration,
        shrinkage=shrinkage,
        loss=loss,
    )
    logits, encoded = logits.detach().cpu(), task.encode(target).cpu()
    task.check_logits(logits)
    task.check_target(encoded, logits)
    neutral = replace(task, temperature=1.0)
    scores = _rows(neutral.calibrated(logits.double()))
    truth = _rows(encoded) if encoded.is_floating_point() else encoded.flatten().cpu().numpy()
    if isinstance(task, Multiclass):
        shares = None if counts is None else prior_of(task, counts)
        return _fit_classes(task, scores, truth, goal, calibration, shares, _strength_in_theory(goal, loss))
    assert isinstance(task, _Sigmoid)
    known = ~np.isnan(truth)
    if not known.any():
        raise ValueError("No validation label is known: there is nothing to fit a decision to.")
    temperature = np.ones(1)
    if calibration != "none":
        temperature = sigmoid_temperature(scores, truth, known, per_label=calibration == "per_label")
    scores = scores / temperature
    task = replace(task, temperature=_number_or_tuple(temperature))
    if goal is None or getattr(task, "top_k", None) is not None:
        return task
    if goal == EXPECTED:
        return replace(task, threshold=_expected_thresholds(scores, truth, known, per_label))
    labels = [_Label(scores[known[:, i], i], truth[known[:, i], i] >= 0.5) for i in range(scores.shape[1])]
    if lacking := [name for name, it in zip(task.output_names, labels, strict=True) if not it.positives]:
        warn(
            "untuned_threshold",
            f"{len(lacking)} of {len(labels)} labels have no positive in the validation split, and their "
            f"thresholds are not tuned to them: {some(lacking)}.",
        )
    if len(lacking) == len(labels):
        return task
    return replace(task, threshold=_thresholds(labels, goal, per_label, recall, shrinkage))


def check_decision(
    task: Task,
    *,
    metric: str | None = "auto",
    per_label: bool = True,
    recall: float = 0.9,
    calibration: str = "temperature",
    shrinkage: float = SHRINKAGE,
    loss: Loss | None = None,
) -> str | None:
    """The metric that decisions of the task are tuned for; ValueError for a setting that cannot be."""
    lookup(dict.fromkeys(CALIBRATIONS), calibration, "calibration")
    if not isinstance(per_label, bool):
        raise TypeError(f"per_label must be true or false, got {per_label!r}.")
    if calibration == "per_label" and task.width_field != "num_labels":
        raise ValueError(
            f"calibration=per_label is for multilabel; task={task.name}: calibration=temperature."
        )
    number("recall", recall, 0, 1)
    number("shrinkage", shrinkage, 0)
    several = task.activation == "softmax"
    if metric == "auto":
        moved = loss is not None and (loss.pos_weight is not None or loss.prior is not None)
        counted = "f1" if task.width_field is None else "f1_macro"
        metric = "accuracy" if several else counted if moved else EXPECTED
    if metric is None or (several and metric == "accuracy"):
        return None
    lookup(dict.fromkeys(CLASS_GOALS if several else GOALS), metric, f"decision.metric for task={task.name}")
    return metric


def _rows(values: Tensor) -> np.ndarray:
    """(N, C, ...) as rows (N ..., C) of float64."""
    return values.movedim(1, -1).flatten(0, -2).double().cpu().numpy()


def _number_or_tuple(values: np.ndarray) -> Any:
    flat = values.ravel().tolist()
    return flat[0] if len(flat) == 1 else tuple(flat)


class _Label:
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
        return Counts(self.hits[cuts], cuts, np.array(self.positives), np.array(self.rows))

    def counts_at(self, thresholds: np.ndarray) -> Counts:
        return self.counts(np.searchsorted(-self.scores, -thresholds, side="right"))


def _thresholds(
    labels: list[_Label], goal: str, per_label: bool, recall: float, shrinkage: float
) -> float | tuple[float, ...]:
    """Probabilities."""
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


def _expected_thresholds(
    scores: np.ndarray, truth: np.ndarray, known: np.ndarray, per_label: bool
) -> float | tuple[float, ...]:
    """Probabilities."""
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


def _best_cut(label: _Label, score: Callable[[Counts], np.ndarray]) -> int:
    return int(label.cuts[np.argmax(score(label.counts(label.cuts)))])


def _common_threshold(labels: list[_Label], score: Callable[[Counts], np.ndarray], pooled: bool) -> float:
    values = np.unique(np.concatenate([label.scores for label in labels]))
    if len(values) > MOST_CUTS:
        values = np.unique(np.quantile(values, np.linspace(0, 1, MOST_CUTS)))
    cuts = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1] + 1]])
    counts = [label.counts_at(cuts) for label in labels]
    scores = score(_sum(counts)) if pooled else np.mean([score(count) for count in counts], axis=0)
    return float(cuts[np.argmax(scores)])


def _pooled_cuts(labels: list[_Label], score: Callable[[Counts], np.ndarray]) -> list[int]:
    """Each label's cut for the largest score of the labels' counts together.

    F1 is a ratio: 2 hits - F (called + positives) is 0 at its value F and below it elsewhere, so each
    label's best cut at the F so far gives a larger F (Dinkelbach, 1967). Accuracy needs one step.
    """
    value, cuts = 0.0, [0] * len(labels)
    for _ in range(100):
        if score is _accuracy:
            return [_best_cut(label, score) for label in labels]
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


def _fit_classes(
    task: Multiclass,
    scores: np.ndarray,
    truth: np.ndarray,
    goal: str | None,
    calibration: str,
    shares: np.ndarray | None,
    theory: float,
) -> Task:
    if truth.ndim == 2:
        known = ~np.isnan(truth).any(1)
        target = truth
    else:
        known = truth >= 0
        target = np.eye(task.num_classes)[np.maximum(truth, 0)]
    if not known.any():
        raise ValueError("No validation label is known: there is nothing to fit a decision to.")
    x, target = scores[known], target[known]
    if calibration != "none":
        task = replace(task, temperature=softmax_temperature(x, target))
    if goal is None:
        return task
    labels = target.argmax(1)
    counts = np.bincount(labels, minlength=task.num_classes)
    if shares is None:
        shares = np.maximum(counts, 0.5) / len(labels)
    probabilities = torch.from_numpy(x / task.temperature).softmax(1)
    strengths = np.linspace(-1.5, 1.5, 61)
    best, chosen = -1.0, 0.0
    for strength in strengths[np.argsort(np.abs(strengths - theory), kind="stable")]:
        decided = replace(task, decision_weight=tuple(shares**-strength)).decide(probabilities).numpy()
        value = _class_score(goal, decided, labels, counts)
        if value > best + 1e-12:
            best, chosen = value, float(strength)
    return replace(task, decision_weight=tuple((shares**-chosen).tolist()))


def _strength_in_theory(goal: str | None, loss: Loss | None) -> float:
    done = 0.0 if loss is None else 1.0 if loss.weight is not None else loss.tau
    return (1 - min(done, 1.0)) * (1.0 if goal == "balanced_accuracy" else 0.5)


def _class_score(goal: str, decided: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> float:
    hits = np.bincount(labels[decided == labels], minlength=len(counts))
    called = np.bincount(decided, minlength=len(counts))
    there = counts > 0
    each = (
        hits / np.maximum(counts, 1)
        if goal == "balanced_accuracy"
        else 2 * hits / np.maximum(called + counts, 1)
    )
    return float(each[there].mean())
