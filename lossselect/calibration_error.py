"""The expected calibration error, in sums of bins."""

import torch
from torch import Tensor
from torchmetrics import Metric

CALIBRATION_BINS = 15
"""Of equal width, as in Guo et al., 2017."""


class CalibrationError(Metric):
    """Expected calibration error: the mean of |share of positives - mean probability| over 15 bins.

    In sums of each bin, where torchmetrics' keeps every output. For multiclass of the decision: |share of
    right ones - mean of the largest probability|.

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv:1706.04599.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.sums: Tensor
        self.add_state("sums", torch.zeros(3, CALIBRATION_BINS, dtype=torch.double), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, right: Tensor) -> None:
        """Take in probabilities (N,) and whether each came true."""
        bins = (probabilities * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
        # in float64: float32 counts to 16,777,216
        probabilities = probabilities.to(self.sums.dtype)
        values = torch.stack([torch.ones_like(probabilities), probabilities, right.to(probabilities)])
        self.sums = self.sums.index_add(1, bins, values)

    def compute(self) -> Tensor:
        """The scalar."""
        return calibration_error(self.sums)


def calibration_error(sums: Tensor) -> Tensor:
    """The error that follows from the count, the sum of probabilities and of what came true in each bin."""
    count, confidence, right = sums
    return (confidence - right).abs().sum() / count.sum()
