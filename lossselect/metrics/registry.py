"""Metrics of each task, with the statistic that is accumulated and the score that is computed from it."""

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from lossselect.metrics import means, scores
from lossselect.metrics.calibration_error import CalibrationError
from lossselect.metrics.means import Kappa, Mean
from lossselect.metrics.ranking import Ranking
from lossselect.metrics.stat_scores import StatScores
from lossselect.metrics.task_metric import TaskMetric
from lossselect.tasks.registry import Task

STATISTICS: dict[str, Callable[..., TaskMetric]] = {
    "stat_scores": StatScores,
    "ranking": Ranking,
    "calibration_error": CalibrationError,
    "quadratic_kappa": Kappa,
    "brier_score": partial(Mean, values=means.squared_errors),
    "mean_absolute_error": partial(Mean, values=means.absolute_errors),
    "exact_match": partial(Mean, values=means.exact_matches),
    "ranking_loss": partial(Mean, values=means.ranking_losses),
    "coverage_error": partial(Mean, values=means.coverage_errors),
    **{f"precision_at_{k}": partial(Mean, values=partial(means.precisions_at, k=k)) for k in (1, 3, 5)},
}

CLASS_RANKINGS = ("auroc", "average_precision")
"""Metrics that rank the rows for each class."""
LABEL_RANKINGS = ("ranking_loss", "coverage_error", "precision_at_1", "precision_at_3", "precision_at_5")
"""Metrics that rank the labels of each row."""


class Row(NamedTuple):
    """A metric: the name of its statistic, and its score, or None if the statistic itself is the score."""

    statistic: str
    score: Callable[[Tensor], Tensor] | None = None


# Scores of the counts (tp, fp, fn, tn) of each class, (4, C); partials, because lambdas cannot be pickled.


def _pool(score: Callable[..., Tensor], counts: Tensor) -> Tensor:
    """Return the score of the counts summed over all classes."""
    return score(*counts.sum(1))


def _per_class(score: Callable[..., Tensor], required: list[int], counts: Tensor) -> Tensor:
    """Return the score of each class; NaN where the sum of the required counts is 0."""
    return score(*counts).masked_fill(counts[required].sum(0) == 0, torch.nan)


f1_per_label = partial(_per_class, scores.f1, [0, 2])
recall_per_class = partial(_per_class, scores.recall, [0, 2])
_f1_per_class = partial(_per_class, scores.f1, [0, 1, 2])


def _f1_of_both(counts: Tensor) -> Tensor:
    """Return the F1 of the positive and of the negative class."""
    return torch.cat([_f1_per_class(counts), _f1_per_class(counts.flip(0))])


def _balanced_accuracy_per_label(counts: Tensor) -> Tensor:
    """Return the balanced accuracy of each label; NaN without positives or without negatives."""
    return (recall_per_class(counts) + recall_per_class(counts.flip(0))) / 2


_POOLED_ACCURACY = Row("stat_scores", partial(_pool, scores.accuracy))
_POOLED_F1 = Row("stat_scores", partial(_pool, scores.f1))
_POOLED_RECALL = Row("stat_scores", partial(_pool, scores.recall))
_OF_PROBABILITIES = {
    **{name: Row("ranking", itemgetter(i)) for i, name in enumerate(CLASS_RANKINGS)},
    **{name: Row(name) for name in ("brier_score", "calibration_error")},
}

METRICS: dict[str, dict[str, Row]] = {
    "binary": {
        "accuracy": _POOLED_ACCURACY,
        "balanced_accuracy": Row("stat_scores", _balanced_accuracy_per_label),
        "f1": _POOLED_F1,
        "f1_micro": _POOLED_ACCURACY,
        "f1_macro": Row("stat_scores", _f1_of_both),
        **_OF_PROBABILITIES,
    },
    "multiclass": {
        # the pooled recall is the accuracy, because each row is a positive of exactly one class
        "accuracy": _POOLED_RECALL,
        "balanced_accuracy": Row("stat_scores", recall_per_class),
        "f1_micro": _POOLED_RECALL,
        "f1_macro": Row("stat_scores", _f1_per_class),
        **{name: Row(name) for name in ("quadratic_kappa", "mean_absolute_error")},
        **_OF_PROBABILITIES,
    },
    "multilabel": {
        "accuracy": _POOLED_ACCURACY,
        "balanced_accuracy": Row("stat_scores", _balanced_accuracy_per_label),
        "hamming_distance": Row("stat_scores", partial(_pool, scores.error_rate)),
        "f1_micro": _POOLED_F1,
        "f1_macro": Row("stat_scores", f1_per_label),
        **{name: Row(name) for name in ("exact_match", *LABEL_RANKINGS)},
        **_OF_PROBABILITIES,
    },
}
"""Metrics by `Task.kind` and name; `lossselect.metrics.direction` has their directions."""


def make_metric(task: Task, name: str) -> TaskMetric:
    """Return a metric of a task by its name in `METRICS`."""
    row = METRICS[task.kind][name]
    return STATISTICS[row.statistic](task, name, row.statistic, row.score)
