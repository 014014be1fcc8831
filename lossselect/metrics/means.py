"""Metrics that are means over labels or rows, and kappa, which is a ratio of means."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lossselect.labels.targets import flatten_positions
from lossselect.metrics.task_metric import MetricInput, TaskMetric
from lossselect.tasks.registry import IGNORE_INDEX

Values = Callable[[MetricInput], tuple[Tensor, Tensor]]
"""What a mean is taken of in a batch, and which of these values count."""


class Mean(TaskMetric):
    """The mean of a value per label or row, in float64.

    Args:
        arguments: Of `TaskMetric`.
        values: What the mean is taken of.
    """

    def __init__(self, *arguments: Any, values: Values) -> None:
        super().__init__(*arguments)
        self.values = values
        # named after the statistic: torchmetrics takes metrics whose states have the same names, and the same
        # values after one batch, for the same where a collection is part of another one
        self._total, self._count = f"{self.statistic}_total", f"{self.statistic}_count"
        self.add_state(self._total, torch.zeros((), dtype=torch.double), dist_reduce_fx="sum")
        self.add_state(self._count, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def accumulate(self, seen: MetricInput) -> None:
        """Add the values of a batch."""
        values, known = self.values(seen)
        total = torch.where(known, values, 0).sum(dtype=torch.double)
        setattr(self, self._total, getattr(self, self._total) + total)
        setattr(self, self._count, getattr(self, self._count) + known.sum())

    def summarize(self) -> Tensor:
        """Return the mean."""
        mean: Tensor = getattr(self, self._total) / getattr(self, self._count)
        return mean


def square_errors(seen: MetricInput) -> tuple[Tensor, Tensor]:
    """(p - y)^2 of each label y, soft labels as they are; for multiclass summed over the classes of a row."""
    probabilities, target, known = seen.rows
    if seen.task.activation == "sigmoid":
        return (probabilities - target).square(), known
    if target.ndim == 1:
        one_hot = torch.zeros_like(probabilities)
        target = one_hot.scatter_(1, target.clamp(min=0).unsqueeze(1), 1)
    return (probabilities - target).square().sum(1), known


def absolute_errors(seen: MetricInput) -> tuple[Tensor, Tensor]:
    """By how many classes the predictions are wrong."""
    return (seen.predictions - seen.truth).abs(), seen.known


def exact_matches(seen: MetricInput) -> tuple[Tensor, Tensor]:
    """Whether the known labels of a row, at least one, are all decided correctly."""
    predictions, truth = flatten_positions(seen.predictions), flatten_positions(seen.truth)
    known = truth != IGNORE_INDEX
    return ((predictions == truth) | ~known).all(1), known.any(1)


# The ranking of the known labels of each row, as scikit-learn defines it. torchmetrics 1.9 takes a missing
# label for a low one, and the denominator of its ranking loss depends on the batch size.


def ranking_losses(seen: MetricInput) -> tuple[Tensor, Tensor]:
    """The share of pairs of a label that is there and one that is not in the wrong order, or level.

    0 where there is no pair.
    """
    scores, truth = seen.ranks
    there, absent = truth == 1, truth == 0
    # the highest first, and of equals those that are not there
    order = truth.argsort(1)
    order = order.gather(1, scores.gather(1, order).argsort(dim=1, descending=True, stable=True))
    above = absent.gather(1, order).cumsum(1)
    wrong = above.masked_fill(~there.gather(1, order), 0).sum(1)
    return wrong / (there.sum(1) * absent.sum(1)).clamp(min=1), (there | absent).any(1)


def coverage_errors(seen: MetricInput) -> tuple[Tensor, Tensor]:
    """How far down the ranking all labels that are there are found."""
    scores, truth = seen.ranks
    known = truth != IGNORE_INDEX
    lowest = scores.masked_fill(truth != 1, torch.inf).amin(1, keepdim=True)
    return ((scores >= lowest) & known).sum(1), known.any(1)


def precisions_at(seen: MetricInput, k: int) -> tuple[Tensor, Tensor]:
    """The share of the k highest labels that are there."""
    scores, truth = seen.ranks
    known = truth != IGNORE_INDEX
    highest = scores.masked_fill(~known, -torch.inf).topk(k, 1).indices
    return (truth == 1).gather(1, highest).sum(1) / k, known.any(1)


class Kappa(TaskMetric):
    """Cohen's kappa with quadratic weights, of ordered classes.

    With d the decision and t the class: 1 - mean (d - t)^2 / (mean d^2 + mean t^2 - 2 mean d mean t).

    References:
        Cohen, Weighted kappa, Psychological Bulletin 70(4), 1968.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.moments: Tensor
        self.add_state("moments", torch.zeros(5, dtype=torch.double), dist_reduce_fx="sum")

    def accumulate(self, seen: MetricInput) -> None:
        """Add the moments of a batch."""
        decided, true = seen.predictions.double(), seen.truth.double()
        squares = decided.square() + true.square()
        moments = torch.stack([torch.ones_like(true), decided, true, (decided - true).square(), squares])
        self.moments = self.moments + torch.where(seen.known, moments, 0).flatten(1).sum(1)

    def summarize(self) -> Tensor:
        """Return the scalar."""
        count, decided, true, observed, squares = self.moments
        return 1 - observed / (squares - 2 * decided * true / count)
