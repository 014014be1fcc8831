"""The metrics of a task: the statistic that each accumulates, and the score that is computed from it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lossselect.exceptions import ConfigError
from lossselect.metrics import means, scores
from lossselect.metrics.calibration_error import CalibrationError
from lossselect.metrics.means import Kappa, Mean
from lossselect.metrics.names import MetricName, find_kept, list_outputs
from lossselect.metrics.ranking import Ranking
from lossselect.metrics.stat_scores import StatScores
from lossselect.metrics.task_metric import TaskMetric
from lossselect.tasks.registry import Task

STATISTICS: dict[str, Callable[..., TaskMetric]] = {
    "calibration_error": CalibrationError,
    "quadratic_kappa": Kappa,
    "brier_score": partial(Mean, values=means.squared_errors),
    "mean_absolute_error": partial(Mean, values=means.absolute_errors),
    "exact_match": partial(Mean, values=means.exact_matches),
    "ranking_loss": partial(Mean, values=means.ranking_losses),
    "coverage_error": partial(Mean, values=means.coverage_errors),
}
"""Metrics that are statistics themselves."""

OF_HIGHEST = {"precision_at_k": means.precisions_at, "accuracy_at_k": means.accuracies_at}
"""Metrics of the k highest outputs of each row."""

CLASS_RANKINGS = ("auroc", "average_precision")
"""Metrics that rank the rows for each class."""
RANKINGS = (*CLASS_RANKINGS, "ranking_loss", "coverage_error", *OF_HIGHEST)
"""Metrics that do not depend on the decision."""

# groups of counts, whose sum must be positive for a class to be included in an average
_POSITIVES, _NEGATIVES, _OCCURS, _KNOWN = (0, 2), (1, 3), (0, 1, 2), (0, 1, 2, 3)
_ONE_OF_TWO = {
    name: (getattr(scores, name), (_OCCURS,))
    for name in ("precision", "recall", "specificity", "f_beta", "jaccard")
}

SCORES: dict[str, dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]]] = {
    "binary": {
        **_ONE_OF_TWO,
        "accuracy": (scores.accuracy, ()),
        "balanced_accuracy": (scores.balanced_accuracy, (_POSITIVES, _NEGATIVES)),
        "mcc": (scores.mcc, ()),
    },
    "multiclass": {
        **_ONE_OF_TWO,
        # the pooled recall is the accuracy, because each row is a positive of exactly one class
        "accuracy": (scores.recall, (_OCCURS,)),
        "balanced_accuracy": (scores.recall, (_POSITIVES,)),
        "mcc": (scores.mcc_of_classes, ()),
    },
    "multilabel": {
        **{name: (score, (_POSITIVES,)) for name, (score, _) in _ONE_OF_TWO.items()},
        "specificity": (scores.specificity, (_NEGATIVES,)),
        "accuracy": (scores.accuracy, (_KNOWN,)),
        "hamming_distance": (scores.error_rate, (_KNOWN,)),
        "balanced_accuracy": (scores.balanced_accuracy, (_POSITIVES, _NEGATIVES)),
        "mcc": (scores.mcc, (_POSITIVES, _NEGATIVES)),
    },
}
"""Scores of the counts (tp, fp, fn, tn) of each class, and the counts that they require, by `Task.kind`."""

_CONDITIONS = {
    **dict.fromkeys(("quadratic_kappa", "mean_absolute_error"), "ordered classes (ordinal=True)"),
    **dict.fromkeys(("ranking_loss", "coverage_error"), "several labels"),
}


@dataclass(frozen=True)
class ClassScore:
    """A score of counts (4, C), averaged over classes; with "none" (C,), NaN for classes to leave out.

    Args:
        score: A function of the counts (tp, fp, fn, tn).
        average: "micro", "weighted", "macro", or "none"; None for a score of all classes at once.
        required: Groups of counts, each of which must have a positive sum for a class to be included.
        both: Whether to add the negative class, before the positive one, of a binary task.
        classes: Indices of the classes; None for all.
    """

    score: Callable[..., Tensor]
    average: str | None
    required: tuple[tuple[int, ...], ...] = ()
    both: bool = False
    classes: tuple[int, ...] | None = None

    def __call__(self, counts: Tensor) -> Tensor:
        if self.both:
            counts = torch.cat([counts.flip(0), counts], 1)
        counts = _select(counts, self.classes)
        if self.average == "micro":
            return self.score(*counts.sum(1))
        values = self.score(*counts)
        if self.average == "weighted":
            support = counts[0] + counts[2]
            return (values * support).sum() / support.sum()
        for group in self.required:
            values = values.masked_fill(counts[list(group)].sum(0) == 0, torch.nan)
        return values


@dataclass(frozen=True)
class ClassRanking:
    """AUROC or average precision of each class, from the statistic (2, C)."""

    index: int
    classes: tuple[int, ...] | None = None

    def __call__(self, areas: Tensor) -> Tensor:
        return _select(areas[self.index], self.classes)


def _select(values: Tensor, classes: tuple[int, ...] | None) -> Tensor:
    return values if classes is None else values[..., list(classes)]


f1_per_label = ClassScore(scores.f1, "none", (_POSITIVES,))
recall_per_class = ClassScore(scores.recall, "none", (_POSITIVES,))


def make_metric(task: Task, name: MetricName) -> TaskMetric:
    """Return a built-in metric of a task."""
    base, kept, outputs = name.base, find_kept(task, name), list_outputs(task, name)
    if base in _CONDITIONS and base not in task.metric_names:
        raise ConfigError(f"Metric {base!r} requires {_CONDITIONS[base]}, but the task is {task}. Remove it.")
    if base in CLASS_RANKINGS:
        score: Any = ClassRanking(CLASS_RANKINGS.index(base), kept)
        return Ranking(task, base, "ranking", score, outputs)
    if base in SCORES[task.kind]:
        function, required = SCORES[task.kind][base]
        if name.number is not None:
            function = partial(function, beta=name.number)
        required = () if name.average == "binary" else required
        score = ClassScore(function, name.average, required, name.both, kept)
        return StatScores(task, base, "stat_scores", score, outputs)
    if base in OF_HIGHEST:
        k = int(name.number)  # type: ignore[arg-type]  # the name contains k
        most = task.num_probabilities - task.exclusive  # all classes together always contain the true one
        if k > most:
            raise ConfigError(
                f"Metric {name.log!r} requires k from 1 to {most} for {task}. Choose a smaller k."
            )
        values = partial(OF_HIGHEST[base], k=k)
        return Mean(task, base, f"{base.removesuffix('k')}{k}", None, outputs, values=values)
    return STATISTICS[base](task, base, base, None, outputs)
