"""One mean over all processes and micro-batches of an optimizer step."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .criterion import divide

Count = Tensor | float


class StepMean:
    """Makes what each process returns for each micro-batch come to sum S / sum D over all of them.

    With S_rk and D_rk the numerator and the denominator of process r's micro-batch k, DDP averages gradients
    over W processes, and Lightning divides by the number K of micro-batches that it means to add up. A mean
    of each by itself would weigh them alike, whatever counts in them: labels are missing, classes have
    weights, the last batch and the last group are short. So each returns W S_rk / D with D = sum_r D_rk of
    the group's first micro-batch in which anything counts, and before the optimizer takes them the gradients
    are multiplied by K D / sum_rk D_rk, where that is not 1.
    """

    def __init__(self) -> None:
        self.alike = False
        """Whether all processes are known to have the same denominator, but in an epoch's last batch."""
        self._counts: dict[int, Count] = {}
        self._first: Count = 0

    def __call__(
        self, trainer: Any, batch_idx: int, loss: Tensor, total: Tensor, count: Tensor | int
    ) -> Tensor:
        """What to return for a micro-batch.

        Args:
            trainer: Lightning's.
            batch_idx: Of the micro-batch in its epoch.
            loss: Its mean by itself.
            total: Its numerator.
            count: Its denominator.
        """
        ranks, group = trainer.world_size, trainer.accumulate_grad_batches
        if ranks == group == 1:
            return loss
        if batch_idx % group == 0:
            self._counts, self._first = {}, 0
        whole = self._over_ranks(trainer, count, total.device)
        self._counts[batch_idx] = whole  # an optimizer may ask for the same batch again
        self._first = _first_that_counts(self._first, whole)
        if not total.requires_grad:  # of a chunked head the mean alone has a gradient
            total = loss * count
        first = self._first.to(total.dtype) if isinstance(self._first, Tensor) else self._first
        return divide(ranks * total, first)

    def _over_ranks(self, trainer: Any, count: Tensor | int, device: torch.device) -> Count:
        """Its sum over all processes; without asking them where that is known."""
        if trainer.world_size == 1:
            return count.double() if isinstance(count, Tensor) and device.type != "mps" else count
        if self.alike and not trainer.is_last_batch:
            return trainer.world_size * count
        counts = torch.as_tensor(count, dtype=torch.float64, device=device).clone()  # summed in place
        summed: Tensor = trainer.strategy.reduce(counts, reduce_op="sum")
        return summed

    def state(self) -> dict[str, Any]:
        """Of a group that has begun, for a checkpoint."""
        return {"counts": dict(self._counts), "first": self._first}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Go on with the group of `state`."""
        self._counts, self._first = dict(state["counts"]), state["first"]

    def finish(self, module: nn.Module, group: int) -> None:
        """Give the gradients of a group their denominator, before the optimizer takes them.

        Args:
            module: Whose gradients.
            group: By how many micro-batches Lightning has divided.
        """
        counts = sum(self._counts.values())
        first, self._counts = self._first, {}
        factor: Count = 1.0
        if isinstance(counts, Tensor):
            factor = torch.where(counts > 0, group * first / torch.where(counts > 0, counts, 1), 1)
            if factor.device.type == "cpu" and factor == 1:
                return
        elif counts:
            factor = group * first / counts
        if isinstance(factor, Tensor) or factor != 1:
            scale_gradients(module, factor)


def scale_gradients(module: nn.Module, factor: Count) -> None:
    """Multiply all gradients, in place."""
    for weight in module.parameters():
        if weight.grad is not None:
            weight.grad.mul_(factor.to(weight.grad.device) if isinstance(factor, Tensor) else factor)


def _first_that_counts(first: Count, count: Count) -> Count:
    return torch.where(first > 0, first, count) if isinstance(first, Tensor) else first or count
