"""What an epoch adds up: the loss's numerator and denominator, and the outputs for the metrics."""

import torch
from torch import Tensor, nn
from torchmetrics import SumMetric

from .metrics import make_metrics
from .tasks import Task

HELD_BYTES = 1 << 28
"""Outputs are held on the device up to this size (256 MiB), then handed to the metrics."""


class Epoch(nn.Module):
    """Loss and metrics of a task over one epoch of one stage.

    A step only keeps copies, so it costs no sync and next to no time; metrics are computed over
    the whole epoch at once. The loss is sum / count over the epoch, not a mean of batch means.
    """

    def __init__(self, task: Task, prefix: str) -> None:
        super().__init__()
        self.task, self.prefix = task, prefix
        self.metrics = make_metrics(task, prefix)
        # "disable": a NaN loss shows as NaN, and looking for one would sync. Two sums, as MeanMetric of
        # torchmetrics 1.9 forgets its weights then.
        self.loss_sum = SumMetric(nan_strategy="disable")
        self.loss_count = SumMetric(nan_strategy="disable")
        self._held: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._held_bytes = 0

    def update(self, total: Tensor, count: Tensor, logits: Tensor, target: Tensor) -> None:
        """Take in a step: its loss's numerator and denominator, and what they were computed from."""
        # copies: a loader may fill the same buffer again, and a CUDA graph its output
        logits, target = logits.detach().clone(), target.detach().clone()
        if logits.ndim > 2:
            # trailing dimensions become rows: lengths and image sizes may differ between batches
            by_class = target.ndim == logits.ndim
            target = target.movedim(1, -1).flatten(0, -2) if by_class else target.flatten()
            logits = logits.movedim(1, -1).flatten(0, -2)
        self._held.append((total.detach(), count, logits, target))
        self._held_bytes += logits.nbytes + target.nbytes
        if self._held_bytes > HELD_BYTES:
            self._flush()

    def compute(self) -> dict[str, Tensor]:
        """Loss and metrics by name, with the prefix; an epoch without a step has none."""
        self._flush()
        if not self.loss_sum.update_called:
            return {}
        return {
            f"{self.prefix}loss": self.loss_sum.compute() / self.loss_count.compute(),
            **self.metrics.compute(),
        }

    def reset(self) -> None:
        """Forget the epoch."""
        self._held, self._held_bytes = [], 0
        self.loss_sum.reset()
        self.loss_count.reset()
        self.metrics.reset()

    def _flush(self) -> None:
        if not self._held:
            return
        total, count, logits, target = zip(*self._held, strict=True)
        self._held, self._held_bytes = [], 0
        self.loss_sum.update(torch.stack(total))
        self.loss_count.update(torch.stack(count))
        # a float32 sigmoid is 1 from a logit of 17 on, and ranks no further; float64's from 37
        width = torch.float32 if logits[0].device.type == "mps" else torch.float64
        probabilities = self.task.probabilities(torch.cat(logits).to(width))
        self.metrics.update(probabilities, torch.cat(target))
