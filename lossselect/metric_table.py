"""The metrics of each task: which class of torchmetrics, or of ours, and what of an epoch it takes in."""

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


def _decisions(seen: Seen) -> tuple[Tensor, Tensor]:
    return seen.decisions, seen.truth


def _known_decisions(seen: Seen) -> tuple[Tensor, Tensor]:
    known = seen.truth != IGNORE_INDEX
    return seen.decisions[known], seen.truth[known]


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


class Row(NamedTuple):
    """A metric of a task, and what of an epoch it takes in."""

    make: Callable[[Task], Metric]
    take: Callable[[Seen], tuple[Tensor, ...]]


def _of_torchmetrics(kind: Callable[..., Metric], **options: Any) -> Callable[[Task], Metric]:
    """One that takes the task's width. Arguments are not validated: it would sync with the device."""

    def made(task: Task) -> Metric:
        width = {task.width_field: task.num_probabilities} if task.width_field else {}
        return kind(**options, **width, ignore_index=IGNORE_INDEX, validate_args=False)

    return made


def _alike(make: Callable[..., Metric], *arguments: Any, **options: Any) -> Callable[[Task], Metric]:
    """One that is the same for each task."""
    return lambda task: make(*arguments, **options)


def _counted(name: str, kind: Callable[..., Metric], **options: Any) -> dict[str, Row]:
    return {name: Row(_of_torchmetrics(kind, **options), _decisions)}


_RANKED = {name: Row(partial(Ranking, name=name), _log_odds) for name in RANKING}
_CALIBRATED = {"calibration_error": Row(_alike(CalibrationError), _chances)}

METRICS: dict[str, dict[str, Row]] = {
    "binary": {
        **_counted("support", tm.BinaryStatScores),
        **_counted("accuracy", tm.BinaryAccuracy),
        **_counted("f1", tm.BinaryF1Score),
        **_counted("f1_micro", tm.MulticlassF1Score, num_classes=2, average="micro"),
        **_counted("f1_macro", tm.MulticlassF1Score, num_classes=2, average="macro"),
        "brier": Row(_alike(torchmetrics.MeanSquaredError), _chances),
        **_RANKED,
        **_CALIBRATED,
    },
    "multiclass": {
        **_counted("support", tm.MulticlassStatScores, average="none"),
        **_counted("accuracy", tm.MulticlassAccuracy, average="micro"),
        **_counted("f1_micro", tm.MulticlassF1Score, average="micro"),
        **_counted("f1_macro", tm.MulticlassF1Score, average="macro"),
        **_counted("kappa", tm.MulticlassCohenKappa, weights="quadratic"),
        "mean_absolute_error": Row(_alike(torchmetrics.MeanAbsoluteError), _known_decisions),
        "brier": Row(_alike(torchmetrics.MeanMetric, nan_strategy="disable"), _square_distances),
        **_RANKED,
        **_CALIBRATED,
    },
    "multilabel": {
        **_counted("support", tm.MultilabelStatScores, average="none"),
        **_counted("accuracy", tm.MultilabelAccuracy, average="micro"),
        **_counted("hamming", tm.MultilabelHammingDistance, average="micro"),
        **_counted("f1_micro", tm.MultilabelF1Score, average="micro"),
        **_counted("f1_macro", tm.MultilabelF1Score, average="none"),
        "exact_match": Row(_of_torchmetrics(tm.MultilabelExactMatch), _rows_of_decisions),
        "brier": Row(_alike(torchmetrics.MeanSquaredError), _chances),
        **{name: Row(_alike(RowMean, name), _log_odds) for name in ROWS},
        **_RANKED,
        **_CALIBRATED,
    },
}
"""By task and name. `support` counts what there is of each class; `balanced_accuracy` is made of it."""
