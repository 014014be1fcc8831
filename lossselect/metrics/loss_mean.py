"""The mean of a loss over an epoch: the sum of its numerators over that of its denominators."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class LossMean(Metric):
    """The sum of the numerators of a loss over that of its denominators, in float64.

    MeanMetric checks for NaN at each update; torchmetrics 1.9 ignores the weights without that check.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.sums: Tensor
        self.add_state("sums", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, totals: Sequence[Tensor], counts: Sequence[Tensor | int]) -> None:
        """Add the numerators and the denominators of some steps."""
        integers = sum(count for count in counts if not isinstance(count, Tensor))
        tensors = [count for count in counts if isinstance(count, Tensor)]
        total, count = (
            torch.stack([*values]).to(self.sums.device).double().sum() if values else self.sums.new_zeros(())
            for values in (totals, tensors)
        )
        self.sums = self.sums + torch.stack([total, count + integers])

    def compute(self) -> Tensor:
        """Return the scalar."""
        return self.sums[0] / self.sums[1]
