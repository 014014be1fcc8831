"""The expected calibration error, in sums of bins."""

from typing import Any

import torch
from torch import Tensor

from lossselect.metrics.task_metric import MetricInput, TaskMetric

CALIBRATION_BINS = 15
"""Of equal width, as in Guo et al., 2017."""


class CalibrationError(TaskMetric):
    """Expected calibration error: the mean of |mean label - mean probability| over 15 bins.

    Binary and multilabel: of each probability and its label, soft labels as they are. Multiclass: of the
    largest probability and the label of that class, 0 or 1 unless the labels are soft. In sums of each bin,
    where torchmetrics' keeps every output.

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv:1706.04599.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.bins: Tensor
        # in float64: float32 counts to 16,777,216
        self.add_state("bins", torch.zeros(3, CALIBRATION_BINS, dtype=torch.double), dist_reduce_fx="sum")

    def accumulate(self, seen: MetricInput) -> None:
        """Add probabilities and labels to their bins."""
        probabilities, target, known = seen.rows
        if self.task.activation == "softmax":
            probabilities, classes = probabilities.max(1)
            soft = target.ndim > 1
            target = target.gather(1, classes.unsqueeze(1)).squeeze(1) if soft else classes == target
        self.bins = in_bins(self.bins, probabilities, target.double(), known)

    def summarize(self) -> Tensor:
        """Return the scalar."""
        return calibration_error(self.bins)


def calibration_error(sums: Tensor) -> Tensor:
    """The error that follows from the count, the sum of probabilities and of what came true in each bin."""
    count, confidence, right = sums
    return (confidence - right).abs().sum() / count.sum()


def in_bins(bins: Tensor, probabilities: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Add probabilities and labels that are known to the count and the sums of both in each bin."""
    index = (probabilities * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
    values = torch.stack([torch.ones_like(probabilities), probabilities, target])
    return bins.index_add(1, index.flatten(), torch.where(known, values, 0).flatten(1))
