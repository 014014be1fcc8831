"""The metrics of each task: what is taken in of an epoch, and what is read from that."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torchmetrics
from torch import Tensor
from torchmetrics import Metric
from torchmetrics import classification as tm

from .calibration_error import CalibrationError
from .ranking import Ranking, RowMean
from .stat_scores import StatScores
from .targets import positions_as_rows
from .tasks import IGNORE_INDEX, Task

RANKING = ("auroc", "map")
"""Of how log-odds rank the samples of each class."""
ROWS = ("ranking_loss", "coverage_error", "precision_at_1", "precision_at_3", "precision_at_5")
"""Of how log-odds rank the labels of each row."""


class Seen(NamedTuple):
    """What a metric may look at."""

    probabilities: Tensor
    decisions: Tensor
    log_odds: Tensor | None
    """None where the probabilities are all that is known."""
    truth: Tensor
    """As `task.harden` returns it."""


def _nans(seen: Seen) -> tuple[Tensor]:
    return (seen.probabilities.isnan().sum(),)


def _decisions(seen: Seen) -> tuple[Tensor, Tensor]:
    return seen.decisions, seen.truth


def decided_alone(decisions: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return both for torchmetrics, which ignores entries by the truth: those without a decision as well."""
    return decisions.clamp(min=0), truth.masked_fill(decisions == IGNORE_INDEX, IGNORE_INDEX)


def _known_decisions(seen: Seen) -> tuple[Tensor, Tensor]:
    decisions, truth = decided_alone(seen.decisions, seen.truth)
    known = truth != IGNORE_INDEX
    return decisions[known], truth[known]


def _decisions_alone(seen: Seen) -> tuple[Tensor, Tensor]:
    return decided_alone(seen.decisions, seen.truth)


def _rows_of_decisions(seen: Seen) -> tuple[Tensor, Tensor]:
    """Those of which something is known: torchmetrics takes any other row for right."""
    truth = positions_as_rows(seen.truth)
    known = (truth != IGNORE_INDEX).any(1)
    return positions_as_rows(seen.decisions)[known], truth[known]


def _log_odds(seen: Seen) -> tuple[Tensor, Tensor]:
    """In rows, minus infinity being a large number."""
    log_odds = seen.probabilities.double().logit() if seen.log_odds is None else seen.log_odds
    by_class = seen.truth.ndim == log_odds.ndim
    truth = positions_as_rows(seen.truth) if by_class else seen.truth.flatten()
    return positions_as_rows(log_odds.clamp(-1e30, 1e30)), truth


def _chances(seen: Seen) -> tuple[Tensor, Tensor]:
    """Probabilities, and whether they came true: of each known label, or of each decided class."""
    if seen.truth.ndim == seen.probabilities.ndim:
        known = seen.truth != IGNORE_INDEX
        return seen.probabilities[known], seen.truth[known].to(seen.probabilities)
    rows, truth = _known_rows(seen)
    highest, index = rows.max(1)
    return highest, (index == truth).to(highest)


def _square_distances(seen: Seen) -> tuple[Tensor]:
    """Of each row of probabilities from that of its class."""
    rows, truth = _known_rows(seen)
    target = torch.zeros_like(rows).scatter_(1, truth.unsqueeze(1), 1)
    return ((rows - target).square().sum(1),)


def _known_rows(seen: Seen) -> tuple[Tensor, Tensor]:
    known = (seen.truth != IGNORE_INDEX).flatten()
    return positions_as_rows(seen.probabilities)[known], seen.truth.flatten()[known]


class Source(NamedTuple):
    """What adds up an epoch, and what it takes in of each batch."""

    make: Callable[[Task], Metric]
    take: Callable[[Seen], tuple[Tensor, ...]]


def _alike(make: Callable[..., Metric], *arguments: Any, **options: Any) -> Callable[[Task], Metric]:
    """One that is the same for each task; with sums in float64, which do not depend on how rows are dealt."""
    return lambda task: make(*arguments, **options).set_dtype(torch.double)


def _of_torchmetrics(kind: Callable[..., Metric], **options: Any) -> Callable[[Task], Metric]:
    """One that takes the task's width. Arguments are not validated: it would sync with the device."""

    def made(task: Task) -> Metric:
        width = {task.width_field: task.num_probabilities} if task.width_field else {}
        return kind(**options, **width, ignore_index=IGNORE_INDEX, validate_args=False)

    return made


SOURCES: dict[str, Source] = {
    "stat_scores": Source(StatScores, _decisions),
    "nans": Source(_alike(torchmetrics.SumMetric, nan_strategy="disable"), _nans),
    "ranking": Source(Ranking, _log_odds),
    "mean_square": Source(_alike(torchmetrics.MeanSquaredError), _chances),
    "mean_distance": Source(_alike(torchmetrics.MeanMetric, nan_strategy="disable"), _square_distances),
    "calibration_error": Source(_alike(CalibrationError), _chances),
    "mean_absolute_error": Source(_alike(torchmetrics.MeanAbsoluteError), _known_decisions),
    "kappa": Source(_of_torchmetrics(tm.MulticlassCohenKappa, weights="quadratic"), _decisions_alone),
    "exact_match": Source(_of_torchmetrics(tm.MultilabelExactMatch), _rows_of_decisions),
    **{name: Source(_alike(RowMean, name), _log_odds) for name in ROWS},
}
"""By name; each is made once for the metrics of a task that read it."""


class Row(NamedTuple):
    """A metric: what it is read from, and how; of each class, or a scalar of all together."""

    source: str
    read: Callable[[Tensor], Tensor]


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
    return _ratio(scores[:, [0, 2]].sum(), scores.sum())


def _wrong_of_labels(scores: Tensor) -> Tensor:
    return _ratio(scores[:, [1, 3]].sum(), scores.sum())


def _right_of_rows(scores: Tensor) -> Tensor:
    """Each row is the positive of one class."""
    return _ratio(scores[:, 0].sum(), scores[:, [0, 3]].sum())


def _f1_of_classes(scores: Tensor) -> Tensor:
    """The mean over the classes that are there or predicted."""
    return torch.where(scores[:, [0, 1, 3]].any(1), f1(scores), torch.nan).nanmean()


def _f1_of_both(scores: Tensor) -> Tensor:
    """Over the positive and the negative class."""
    return _f1_of_classes(torch.cat([scores, scores[:, [2, 3, 0, 1]]]))


def _recalls(scores: Tensor) -> Tensor:
    """TP / (TP + FN), NaN where there is none."""
    return scores[:, 0].double() / scores[:, [0, 3]].sum(1)


def _mean_recalls(scores: Tensor) -> Tensor:
    """Of each label's positives and negatives; NaN where one is not there."""
    return (_recalls(scores) + _recalls(scores[:, [2, 3, 0, 1]])) / 2


def _f1_of_labels(scores: Tensor) -> Tensor:
    return torch.where(scores[:, [0, 3]].any(1), f1(scores), torch.nan)


_RANKED = {name: Row("ranking", partial(torch.select, dim=0, index=i)) for i, name in enumerate(RANKING)}
_CALIBRATED = {"calibration_error": Row("calibration_error", _as_it_is)}

METRICS: dict[str, dict[str, Row]] = {
    "binary": {
        "accuracy": Row("stat_scores", _right_of_labels),
        "balanced_accuracy": Row("stat_scores", _mean_recalls),
        "f1": Row("stat_scores", lambda scores: f1(scores).squeeze(0)),
        "f1_micro": Row("stat_scores", _right_of_labels),
        "f1_macro": Row("stat_scores", _f1_of_both),
        "brier": Row("mean_square", _as_it_is),
        **_RANKED,
        **_CALIBRATED,
    },
    "multiclass": {
        "accuracy": Row("stat_scores", _right_of_rows),
        "balanced_accuracy": Row("stat_scores", _recalls),
        "f1_micro": Row("stat_scores", _right_of_rows),
        "f1_macro": Row("stat_scores", _f1_of_classes),
        "kappa": Row("kappa", _as_it_is),
        "mean_absolute_error": Row("mean_absolute_error", _as_it_is),
        "brier": Row("mean_distance", _as_it_is),
        **_RANKED,
        **_CALIBRATED,
    },
    "multilabel": {
        "accuracy": Row("stat_scores", _right_of_labels),
        "balanced_accuracy": Row("stat_scores", _mean_recalls),
        "hamming": Row("stat_scores", _wrong_of_labels),
        "f1_micro": Row("stat_scores", lambda scores: f1(scores.sum(0))),
        "f1_macro": Row("stat_scores", _f1_of_labels),
        "exact_match": Row("exact_match", _as_it_is),
        "brier": Row("mean_square", _as_it_is),
        **{name: Row(name, _as_it_is) for name in ROWS},
        **_RANKED,
        **_CALIBRATED,
    },
}
"""By task and name."""
