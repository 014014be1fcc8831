"""Means over labels, rows or the steps of an epoch, and kappa, a ratio of means."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lossselect.labels.targets import flatten_positions
from lossselect.losses.loss import safe_divide
from lossselect.metrics.task_metric import MetricInput, SumMetric
from lossselect.tasks.registry import IGNORE_INDEX


class Mean(SumMetric):
    """The mean of a value per label or row; `values` returns a batch's values, and a mask of known ones."""

    shape = (2,)

    def __init__(self, *arguments: Any, values: Callable[[MetricInput], tuple[Tensor, Tensor]]) -> None:
        super().__init__(*arguments)
        self.values = values

    def batch_sums(self, batch: MetricInput) -> Tensor:
        values, known = self.values(batch)
        return torch.stack([torch.where(known, values, 0).sum(dtype=torch.double), known.sum()])

    def summarize(self) -> Tensor:
        return self.sums[0] / self.sums[1]


def squared_errors(batch: MetricInput) -> tuple[Tensor, Tensor]:
    """Return (p - y)^2 for each (possibly soft) label y; for multiclass summed over the classes."""
    probabilities, target, known = batch.rows
    if batch.task.activation == "sigmoid":
        return (probabilities - target).square(), known
    if target.ndim == 1:
        target = torch.zeros_like(probabilities).scatter_(1, target.clamp(min=0).unsqueeze(1), 1)
    return (probabilities - target).square().sum(1), known


def absolute_errors(batch: MetricInput) -> tuple[Tensor, Tensor]:
    """Return the distance between the predicted and the true class."""
    return (batch.predictions - batch.labels).abs(), batch.known


def exact_matches(batch: MetricInput) -> tuple[Tensor, Tensor]:
    """Return 1 for rows whose known labels are all predicted correctly, else 0."""
    predictions, labels = flatten_positions(batch.predictions), flatten_positions(batch.labels)
    known = labels != IGNORE_INDEX
    return ((predictions == labels) | ~known).all(1), known.any(1)


# The rankings below rank the known labels of each row, as in scikit-learn. torchmetrics 1.9 ranks missing
# labels lowest, and the denominator of its ranking loss depends on the batch size.


def ranking_losses(batch: MetricInput) -> tuple[Tensor, Tensor]:
    """Return the fraction of positive-negative pairs that are tied or in the wrong order; 0 without pairs."""
    scores, labels = batch.ranking_rows
    positive, negative = labels == 1, labels == 0
    # the highest score first; in ties, negatives before positives
    order = labels.argsort(1)
    order = order.gather(1, scores.gather(1, order).argsort(dim=1, descending=True, stable=True))
    negatives_above = negative.gather(1, order).cumsum(1)
    wrong = negatives_above.masked_fill(~positive.gather(1, order), 0).sum(1)
    return wrong / (positive.sum(1) * negative.sum(1)).clamp(min=1), (positive | negative).any(1)


def coverage_errors(batch: MetricInput) -> tuple[Tensor, Tensor]:
    """Return the rank of the lowest positive label."""
    scores, labels = batch.ranking_rows
    known = labels != IGNORE_INDEX
    lowest = scores.masked_fill(labels != 1, torch.inf).amin(1, keepdim=True)
    return ((scores >= lowest) & known).sum(1), known.any(1)


def precisions_at(batch: MetricInput, k: int) -> tuple[Tensor, Tensor]:
    """Return the fraction of positives among the k highest labels."""
    scores, labels = batch.ranking_rows
    known = labels != IGNORE_INDEX
    highest = scores.masked_fill(~known, -torch.inf).topk(k, 1).indices
    return (labels == 1).gather(1, highest).sum(1) / k, known.any(1)


def accuracies_at(batch: MetricInput, k: int) -> tuple[Tensor, Tensor]:
    """Return 1 for rows whose class is among the k highest, else 0."""
    scores, labels = batch.ranking_rows
    return (scores.topk(k, 1).indices == labels.unsqueeze(1)).any(1), labels != IGNORE_INDEX


class Kappa(SumMetric):
    """Quadratic weighted kappa of ordered classes (Cohen, Psychological Bulletin 70(4), 1968).

    With predictions p and classes t: 1 - mean (p - t)^2 / (mean p^2 + mean t^2 - 2 mean p mean t).
    """

    shape = (5,)

    def batch_sums(self, batch: MetricInput) -> Tensor:
        predicted, true = batch.predictions.double(), batch.labels.double()
        squares = predicted.square() + true.square()
        terms = torch.stack([torch.ones_like(true), predicted, true, (predicted - true).square(), squares])
        return torch.where(batch.known, terms, 0).flatten(1).sum(1)

    def summarize(self) -> Tensor:
        count, predicted, true, squared_errors, squares = self.sums
        return 1 - squared_errors / (squares - 2 * predicted * true / count)


class LossMean(Metric):
    """The sum of the numerators of a loss divided by the sum of its denominators, in float64.

    torchmetrics' MeanMetric is not used: it checks for NaN at each update, and in version 1.9 ignores the
    weights if that check is switched off.
    """

    full_state_update = False

    shape: tuple[int, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.sums: Tensor
        self.add_state("sums", torch.zeros(2, *self.shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, totals: Sequence[Tensor], counts: Sequence[Tensor | int]) -> None:
        """Add the numerators and denominators of one or more steps."""
        integers = sum(count for count in counts if not isinstance(count, Tensor))
        tensors = [count for count in counts if isinstance(count, Tensor)]
        total, count = (
            torch.stack([*values]).to(self.sums.device).double().sum(0) if values else self.sums.new_zeros(())
            for values in (totals, tensors)
        )
        self.sums = self.sums + torch.stack([total, count + integers])

    def compute(self) -> Tensor:
        """Return the mean, a scalar."""
        return self.sums[0] / self.sums[1]


class LossTotal(LossMean):
    """The sum over tasks of the means of their losses, each as `LossMean` computes it.

    Tasks without labels, whose denominators are 0, are left out; without any label the result is NaN. The
    numerators and denominators of a step have shape (num_tasks,).
    """

    def __init__(self, num_tasks: int) -> None:
        self.shape = (num_tasks,)
        super().__init__()

    def compute(self) -> Tensor:
        """Return the sum of the means, a scalar."""
        return sum_of_means(*self.sums)


def sum_of_means(totals: Tensor, counts: Tensor) -> Tensor:
    """Return the sum of totals / counts (T,), without those with a count of 0; NaN if all counts are 0."""
    return torch.where(counts.any(), safe_divide(totals, counts).sum(), torch.nan)
