"""The mean of a loss over an epoch: the sum of its numerators over that of its denominators."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lossselect.exceptions import DataError
from lossselect.utils.distributed import all_gather

HELD_STEPS = 1024
"""Outputs of up to this many steps are held: a small tensor takes more than its bytes."""


class LossMean(Metric):
    """The sum of a loss's numerators over that of its denominators, in float64.

    Not MeanMetric, which looks for NaN at each update, and in torchmetrics 1.9 forgets its weights where it
    is told not to.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.sums: Tensor
        self.add_state("sums", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, totals: Sequence[Tensor], counts: Sequence[Tensor | int]) -> None:
        """Take in the numerators and the denominators of some steps."""
        whole = sum(count for count in counts if not isinstance(count, Tensor))
        parts = [count for count in counts if isinstance(count, Tensor)]
        total, part = (
            torch.stack([*values]).to(self.sums.device).double().sum() if values else self.sums.new_zeros(())
            for values in (totals, parts)
        )
        self.sums = self.sums + torch.stack([total, part + whole])

    def compute(self) -> Tensor:
        """The scalar."""
        return self.sums[0] / self.sums[1]


def has_steps(loss: LossMean, prefix: str) -> bool:
    """Whether there was a step, which all processes must agree about: they ask each other for the rest.

    Raises:
        ValueError: some of them had one, others had none.
    """
    had = all_gather(loss.update_called)
    if any(had) and not all(had):
        raise DataError(
            f"Process {had.index(False)} of {len(had)} had no {prefix.strip('/')} batch, and others had "
            "some: give each one at least."
        )
    return all(had)
