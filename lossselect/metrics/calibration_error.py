"""The expected calibration error, computed from sums over bins."""

import torch
from torch import Tensor

from lossselect.metrics.task_metric import MetricInput, SumMetric

CALIBRATION_BINS = 15
"""Number of bins of equal width, as in Guo et al., 2017."""


class CalibrationError(SumMetric):
    """Expected calibration error (Guo et al., ICML 2017, arXiv:1706.04599).

    This is the mean of |mean label - mean probability| over 15 bins, weighted by their size. Binary and
    multilabel tasks count each probability and its (possibly soft) label; multiclass tasks count the largest
    probability of each row and the label of that class.
    """

    shape = (3, CALIBRATION_BINS)

    def batch_sums(self, batch: MetricInput) -> Tensor:
        probabilities, target, known = batch.rows
        if self.task.activation == "softmax":
            probabilities, classes = probabilities.max(1)
            soft = target.ndim > 1
            target = target.gather(1, classes.unsqueeze(1)).squeeze(1) if soft else classes == target
        return sum_in_bins(probabilities, target.double(), known)

    def summarize(self) -> Tensor:
        return calibration_error(self.sums)


def sum_in_bins(probabilities: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return the number of known labels, and the sums of probabilities and labels, per bin: (3, 15)."""
    index = (probabilities * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
    values = torch.stack([torch.ones_like(probabilities), probabilities, target])
    values = torch.where(known, values, 0).flatten(1)
    return values.new_zeros(3, CALIBRATION_BINS).index_add(1, index.flatten(), values)


def calibration_error(sums: Tensor) -> Tensor:
    """Compute the error from the result of `sum_in_bins`."""
    count, confidence, positives = sums
    return (confidence - positives).abs().sum() / count.sum()
