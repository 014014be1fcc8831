"""What an epoch with a chunked head adds up."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lossselect.chunked.topk_metrics import TopKMetrics, TopKOutputs
from lossselect.metrics.loss_mean import HELD_STEPS, LossMean, has_steps
from lossselect.metrics.state import as_numbers, as_scalars, metric_state, set_metric_state
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import Task
from lossselect.training.diagnostics.outputs import FirstEpochChecks
from lossselect.training.output_buffer import OutputBuffer


class TopKEpoch:
    """Loss and metrics of the highest outputs over one epoch of one stage; of train the loss alone.

    In place of an `Epoch`, of which it has what others look at.

    Args:
        task: Whose they are.
        prefix: "train/", "val/" or "test/".
        counts: Of the train labels, where they have been counted.
    """

    def __init__(self, task: Task, prefix: str, counts: LabelCounts | None = None) -> None:
        self.task, self.prefix = task, prefix
        self.loss = LossMean()
        self.metrics = None if prefix == "train/" else TopKMetrics(task, counts)
        self._held: list[tuple[Tensor, Tensor]] = []
        self._known: dict[str, Tensor] | None = None  # as an `Epoch` has it
        # nothing of each class, no outputs kept, none to be looked at
        self.per_class: dict[str, Tensor] = {}
        self.confusion_counts: Tensor | None = None
        self.counts: tuple[Tensor, Tensor] | None = None
        self.kept: OutputBuffer | None = None
        self.first: FirstEpochChecks | None = None

    def update(self, total: Tensor, count: Tensor, outputs: TopKOutputs | None, target: Any) -> None:
        """Take in a step: its loss's numerator and denominator, and what was seen of its outputs."""
        self._held.append((total.detach(), count))
        if len(self._held) >= HELD_STEPS:
            self._flush()
        if self.metrics is not None and outputs is not None:
            if self.metrics.device != total.device:
                self.metrics.to(total.device)
            self.metrics.update(outputs, target)

    def compute(self) -> dict[str, Tensor]:
        """Loss and metrics by name, with the prefix; an epoch without a step has none."""
        self._flush()
        if self._known is not None:
            return self._known
        if not has_steps(self.loss, self.prefix):
            return {}
        values = {} if self.metrics is None else self.metrics.compute()
        return {
            f"{self.prefix}{name}": value for name, value in ({"loss": self.loss.compute()} | values).items()
        }

    def state(self, complete: bool) -> dict[str, Any]:
        """What has been taken in so far, for a checkpoint: of training the loss."""
        if complete:
            self._known = self.compute()
            return {"values": as_numbers(self._known)}
        self._flush()
        return {"sums": [metric_state(self.loss)]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._known = as_scalars(state["values"]) if "values" in state else None
        if "sums" in state:
            set_metric_state(self.loss, state["sums"][0])

    def reset(self) -> None:
        """Forget the epoch."""
        self._held, self._known = [], None
        with torch.inference_mode(False):
            self.loss.reset()
            if self.metrics is not None:
                self.metrics.reset()

    def _flush(self) -> None:
        if self._held:
            totals, counts = zip(*self._held, strict=True)
            self._held = []
            self.loss.to(totals[0].device).update(totals, counts)
