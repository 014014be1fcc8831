"""The epoch of several tasks: their total loss, and the loss and the metrics of each task."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lossselect.metrics.means import LossTotal
from lossselect.metrics.names import metrics_by_task
from lossselect.tasks.registry import AnyTask, MultiTask
from lossselect.training.epochs.epoch import DenseEpoch, Epoch


class MultiEpoch(DenseEpoch):
    """Loss and metrics of several tasks over one epoch of one stage.

    The total loss is the sum of the weighted means of the tasks, each over the whole epoch, without the tasks
    that have no labels.

    Args:
        task: The tasks.
        prefix: The prefix of the total loss; that of a task is followed by its name and "/".
        base_task: The tasks with their default decisions, as for `Epoch`.
        metrics: The choice of metrics of each task, as for `Epoch`.
    """

    def __init__(self, task: MultiTask, prefix: str, base_task: Any, metrics: Mapping[str, Any]) -> None:
        super().__init__(task, prefix)
        self._by_task = {
            name: Epoch(part, f"{prefix}{name}/", base_task and base_task.tasks[name], metrics[name], prefix)
            for name, part in task.tasks.items()
        }
        self.loss = LossTotal(len(task.tasks))  # of numerators with the weights of the tasks

    @property
    def by_task(self) -> Mapping[str, Epoch]:
        return self._by_task

    @property
    def directions(self) -> dict[str, str | None]:
        return {
            f"{name}/{metric}": direction
            for name, part in self._by_task.items()
            for metric, direction in part.directions.items()
        }

    def with_loss(self, loss: Tensor, total: Tensor, count: Tensor | int) -> Tensor:
        """Return numerators whose sum of means is `loss`; the difference is divided among the tasks."""
        assert isinstance(count, Tensor)
        has_labels = count > 0
        added = loss - torch.where(has_labels, total[0] / torch.where(has_labels, count, 1), 0).sum()
        weighted = total[0] + added / has_labels.sum().clamp(min=1) * count
        return torch.stack([weighted, total[1]])

    def _add(self, totals: tuple[Tensor, ...], counts: tuple[Any, ...], *outputs: tuple[Tensor, ...]) -> None:
        logits = [self.task.split_logits(part) for part in outputs[0]]
        targets = [self.task.split_target(part) for part in outputs[1]]
        for index, (name, part) in enumerate(self._by_task.items()):
            count = tuple(step[index] for step in counts)
            part._add(
                tuple(step[1, index] for step in totals),
                count,
                tuple(step[name] for step in logits),
                tuple(step[name] for step in targets),
            )
        self.loss.to(totals[0].device).update([step[0] for step in totals], counts)

    def _compute_metrics(self) -> dict[str, Tensor]:
        values = {f"{self.prefix}loss": self.loss.compute()}
        for part in self._by_task.values():
            values |= part._compute_metrics()
        return values

    def _parts(self) -> list[Any]:
        parts: Iterable[Any] = (inner for part in self._by_task.values() for inner in part._parts())
        return [self.loss, *parts]


def make_epoch(task: AnyTask, prefix: str, base_task: Any, metrics: Any) -> Epoch | MultiEpoch:
    """Return the epoch of one task or of several.

    Args:
        task: One task or several.
        prefix: The prefix of the names of loss and metrics.
        base_task: The same with the default decision, if its metrics are to be computed as well.
        metrics: A choice of metrics as in `make_metrics`; for several tasks one for all, or by task.

    Raises:
        ConfigError: metrics of an unknown task, or that a task does not have.
    """
    if not isinstance(task, MultiTask):
        return Epoch(task, prefix, base_task, metrics)
    return MultiEpoch(task, prefix, base_task, metrics_by_task(metrics, task))
