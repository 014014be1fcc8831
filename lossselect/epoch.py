"""What an epoch adds up: the loss's numerator and denominator, and the outputs for the metrics."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchmetrics import SumMetric

from .criterion import device_only
from .metrics import make_metrics
from .tasks import Task
from .watch import FirstEpoch

HELD_BYTES = 1 << 28
"""Outputs are held on the device up to this size (256 MiB), then handed to the metrics."""
HELD_STEPS = 1024
"""The same in steps, as a tensor of a few bytes takes more than that."""


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
        self.loss_sum = SumMetric(nan_strategy="disable").set_dtype(torch.float32)
        self.loss_count = SumMetric(nan_strategy="disable").set_dtype(torch.float32)
        self._held: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._held_bytes = 0
        self.first: FirstEpoch | None = FirstEpoch() if prefix == "train/" else None
        """What the first epoch of training was like; None once that has been said."""
        self.counts: tuple[Tensor, Tensor] | None = None
        """How many positives and negatives of each output the last epoch had; known after `compute`."""

    def update(self, total: Tensor, count: Tensor, logits: Tensor, target: Tensor) -> None:
        """Take in a step: its loss's numerator and denominator, and what they were computed from."""
        if self.task.activation == "softmax":
            # one form, whichever a batch came in; metrics know no soft labels
            target = self.task.harden(target)
        # copies: a loader may fill the same buffer again, and a CUDA graph its output
        logits, target = logits.detach().clone(), target.detach().clone()
        if logits.ndim > 2:
            # trailing dimensions become rows: lengths and image sizes may differ between batches
            by_class = target.ndim == logits.ndim
            target = target.movedim(1, -1).flatten(0, -2) if by_class else target.flatten()
            logits = logits.movedim(1, -1).flatten(0, -2)
        self._held.append((total.detach(), count, logits, target))
        self._held_bytes += logits.nbytes + target.nbytes
        if self._held_bytes > HELD_BYTES or len(self._held) >= HELD_STEPS:
            self._flush()

    def compute(self) -> dict[str, Tensor]:
        """Loss and metrics by name, with the prefix; an epoch without a step has none."""
        self._flush()
        if not self.loss_sum.update_called:
            return {}
        self.counts = next(iter(self.metrics.values())).counts()  # type: ignore[operator]
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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Epoch":
        # a sum of losses in float16 is soon inf
        return super()._apply(device_only(fn), recurse)

    def _flush(self) -> None:
        if not self._held:
            return
        total, count, logits, target = zip(*self._held, strict=True)
        self._held, self._held_bytes = [], 0
        self.loss_sum.update(torch.stack(total))
        self.loss_count.update(torch.stack(count))
        outputs = torch.cat(logits)
        # a float32 sigmoid is 1 from a logit of 17 on, and ranks no further; float64's from 37
        width = torch.float32 if outputs.device.type == "mps" else torch.float64
        if self.first is not None:
            self.first.update(outputs, self.task.harden(torch.cat(target)))
        decisions = self.task.predict(outputs)  # in float32, as predictions are made
        self.metrics.update(
            self.task.probabilities(outputs.to(width)), torch.cat(target), decisions=decisions
        )
