"""What an epoch with a chunked head accumulates."""

from typing import Any

from torch import Tensor
from torchmetrics import Metric

from lossselect.chunked.topk_metrics import TopKMetrics, TopKOutputs
from lossselect.metrics.collection import TaskMetrics
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import Task
from lossselect.training.epoch import MAX_HELD_STEPS, BaseEpoch


class TopKEpoch(BaseEpoch):
    """Loss and metrics of the highest outputs; of train the loss alone."""

    def __init__(self, task: Task, prefix: str, counts: LabelCounts | None = None) -> None:
        super().__init__(task, prefix)
        self.metrics = None if prefix == "train/" else TopKMetrics(task, counts)

    def update(self, total: Tensor, count: Tensor, outputs: TopKOutputs | None, target: Any) -> None:
        """Add a step: its loss's numerator and denominator, and its highest outputs."""
        self._held.append((total.detach(), count))
        if len(self._held) >= MAX_HELD_STEPS:
            self._flush()
        if self.metrics is not None and outputs is not None:
            if self.metrics.device != total.device:
                self.metrics.to(total.device)
            self.metrics.update(outputs, target)

    def _parts(self) -> list[Metric | TaskMetrics]:
        return [self.loss] if self.metrics is None else [self.loss, self.metrics]

    def _compute_metrics(self) -> dict[str, Tensor]:
        metrics = {} if self.metrics is None else self.metrics.compute()
        values = {"loss": self.loss.compute(), **metrics}
        return {f"{self.prefix}{name}": value for name, value in values.items()}

    def _add(self, totals: tuple[Tensor, ...], counts: tuple[Any, ...], *steps: tuple[Tensor, ...]) -> None:
        self.loss.to(totals[0].device).update(totals, counts)
