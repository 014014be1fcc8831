"""The metrics of each task: what is accumulated over an epoch, and what is read from that."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lossselect.metrics import means
from lossselect.metrics.calibration_error import CalibrationError
from lossselect.metrics.means import Kappa, Mean
from lossselect.metrics.ranking import Ranking
from lossselect.metrics.stat_scores import StatScores
from lossselect.metrics.task_metric import TaskMetric
from lossselect.tasks.registry import Task

RANKING = ("auroc", "average_precision")
"""Of how log-odds rank the samples of each class."""

STATISTICS: dict[str, Callable[..., TaskMetric]] = {
    "stat_scores": StatScores,
    "ranking": Ranking,
    "calibration_error": CalibrationError,
    "quadratic_kappa": Kappa,
    "brier_score": partial(Mean, values=means.square_errors),
    "mean_absolute_error": partial(Mean, values=means.absolute_errors),
    "exact_match": partial(Mean, values=means.exact_matches),
    "ranking_loss": partial(Mean, values=means.ranking_losses),
    "coverage_error": partial(Mean, values=means.coverage_errors),
    **{f"precision_at_{k}": partial(Mean, values=partial(means.precisions_at, k=k)) for k in (1, 3, 5)},
}
"""What metrics accumulate, by name."""

ROWS = ("ranking_loss", "coverage_error", "precision_at_1", "precision_at_3", "precision_at_5")
"""Of how log-odds rank the labels of each row."""


class Row(NamedTuple):
    """A metric: what it is read from, and how; of each class, or a scalar of all together."""

    statistic: str
    """A name of `STATISTICS`."""
    read: Callable[[Tensor], Tensor]
    higher_is_better: bool = True


def _as_it_is(value: Tensor) -> Tensor:
    return value


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """As scikit-learn has it 0 / 0 = 0."""
    return part.double() / whole.clamp(min=1)


def f1(scores: Tensor) -> Tensor:
    """2 TP / (2 TP + FP + FN) of counts (..., 4); 0 where nothing is there or predicted."""
    hits, false_alarms, _, misses = scores.unbind(-1)
    return _ratio(2 * hits, 2 * hits + false_alarms + misses)


def _right_of_labels(scores: Tensor) -> Tensor:
    return _ratio((scores[:, 0] + scores[:, 2]).sum(), scores.sum())


def _wrong_of_labels(scores: Tensor) -> Tensor:
    return _ratio((scores[:, 1] + scores[:, 3]).sum(), scores.sum())


def _right_of_rows(scores: Tensor) -> Tensor:
    """Each row is the positive of one class."""
    return _ratio(scores[:, 0].sum(), (scores[:, 0] + scores[:, 3]).sum())


def _f1_of_classes(scores: Tensor) -> Tensor:
    """The mean over the classes that are there or predicted."""
    return torch.where(scores[:, 0] + scores[:, 1] + scores[:, 3] > 0, f1(scores), torch.nan).nanmean()


def _f1_of_both(scores: Tensor) -> Tensor:
    """Over the positive and the negative class."""
    return _f1_of_classes(torch.cat([scores, scores.roll(2, 1)]))


def _recalls(scores: Tensor) -> Tensor:
    """TP / (TP + FN), NaN where there is none."""
    return scores[:, 0].double() / (scores[:, 0] + scores[:, 3])


def _mean_recalls(scores: Tensor) -> Tensor:
    """Of each label's positives and negatives; NaN where one is not there."""
    return (_recalls(scores) + _recalls(scores.roll(2, 1))) / 2


def _f1_of_labels(scores: Tensor) -> Tensor:
    return torch.where(scores[:, 0] + scores[:, 3] > 0, f1(scores), torch.nan)


# functions rather than lambdas: a metric that holds one can be pickled


def _f1_of_positive(scores: Tensor) -> Tensor:
    return f1(scores).squeeze(0)


def _f1_of_pooled(scores: Tensor) -> Tensor:
    return f1(scores.sum(0))


def _auroc(areas: Tensor) -> Tensor:
    return areas[0]


def _average_precision(areas: Tensor) -> Tensor:
    return areas[1]


_OF_PROBABILITIES = {
    "auroc": Row("ranking", _auroc),
    "average_precision": Row("ranking", _average_precision),
    "brier_score": Row("brier_score", _as_it_is, higher_is_better=False),
    "calibration_error": Row("calibration_error", _as_it_is, higher_is_better=False),
}

METRICS: dict[str, dict[str, Row]] = {
    "binary": {
        "accuracy": Row("stat_scores", _right_of_labels),
        "balanced_accuracy": Row("stat_scores", _mean_recalls),
        "f1": Row("stat_scores", _f1_of_positive),
        "f1_micro": Row("stat_scores", _right_of_labels),
        "f1_macro": Row("stat_scores", _f1_of_both),
        **_OF_PROBABILITIES,
    },
    "multiclass": {
        "accuracy": Row("stat_scores", _right_of_rows),
        "balanced_accuracy": Row("stat_scores", _recalls),
        "f1_micro": Row("stat_scores", _right_of_rows),
        "f1_macro": Row("stat_scores", _f1_of_classes),
        "quadratic_kappa": Row("quadratic_kappa", _as_it_is),
        "mean_absolute_error": Row("mean_absolute_error", _as_it_is, higher_is_better=False),
        **_OF_PROBABILITIES,
    },
    "multilabel": {
        "accuracy": Row("stat_scores", _right_of_labels),
        "balanced_accuracy": Row("stat_scores", _mean_recalls),
        "hamming_distance": Row("stat_scores", _wrong_of_labels, higher_is_better=False),
        "f1_micro": Row("stat_scores", _f1_of_pooled),
        "f1_macro": Row("stat_scores", _f1_of_labels),
        "exact_match": Row("exact_match", _as_it_is),
        **{name: Row(name, _as_it_is, higher_is_better="precision" in name) for name in ROWS},
        **_OF_PROBABILITIES,
    },
}
"""By `Task.kind` and name."""


def make_metric(task: Task, name: str) -> TaskMetric:
    """Return a metric of a task by its name in `METRICS`."""
    row = METRICS[task.kind][name]
    return STATISTICS[row.statistic](task, name, row.statistic, row.read, row.higher_is_better)
