"""The loss of several tasks: the weighted sum of the mean losses of the tasks."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lossselect.exceptions import ConfigError
from lossselect.losses.auto import AutoLoss
from lossselect.losses.batch_loss import BatchLoss, compute_loss
from lossselect.losses.loss import Loss, safe_divide, select_loss
from lossselect.tasks.label_counts import MultiCounts
from lossselect.tasks.multitask import MultiTask
from lossselect.tasks.registry import AnyTask, Task
from lossselect.tasks.task_names import naming_task, spread

LossFunction = Callable[[Tensor, Tensor], Tensor]


class MultiLoss(nn.Module):
    """The loss of several tasks, sum_t w_t S_t / D_t + r_t over the tasks t with labels in the batch.

    S_t and D_t are the numerator and the denominator of the loss of task t (see `Loss`). The weights w_t are
    those of the `MultiTask`, and r_t = 0; or they are learned: w_t = exp(-s_t) and r_t = s_t / 2 (Kendall,
    Gal and Cipolla, 2018, arXiv:1705.07115), with parameters s_t = `log_variances`, which start at 0.

    Args:
        task: The tasks.
        losses: The loss of each task: a `Loss`, an `AutoLoss` or another callable.
    """

    def __init__(self, task: MultiTask, losses: Mapping[str, LossFunction]) -> None:
        super().__init__()
        self._task = task
        self.losses = dict(losses)
        # modules, so that their class weights are moved to the device of the logits
        modules = {str(i): m for i, m in enumerate(losses.values()) if isinstance(m, nn.Module)}
        self.parts = nn.ModuleDict(modules)  # by number, as a module does not accept all names of tasks
        self.log_variances: nn.Parameter | None = None
        if task.learns_weights:
            self.log_variances = nn.Parameter(torch.zeros(len(task.tasks)))
        self.task_weights: Tensor
        self.register_buffer("task_weights", _list_weights(task), persistent=False)

    @property
    def task(self) -> MultiTask:
        """The tasks; may be replaced by tasks with the same outputs."""
        return self._task

    @task.setter
    def task(self, task: MultiTask) -> None:
        if task.learns_weights != (self.log_variances is not None):
            raise ConfigError(
                "The weights of tasks cannot be changed to or from 'uncertainty' in a module. Create another "
                "module."
            )
        self._task = task
        self.task_weights = _list_weights(task).to(self.task_weights.device)
        for name, loss in self.losses.items():
            if isinstance(loss, Loss | AutoLoss):
                loss.task = task.tasks[name]

    @property
    def waiting(self) -> bool:
        """True if the loss of a task needs the label counts of the training rows."""
        return any(getattr(loss, "waiting", False) for loss in self.losses.values())

    def with_counts(self, counts: MultiCounts) -> "MultiLoss":
        """Return the loss with the options that `counts` determine."""
        losses = {
            name: loss.with_counts(counts[name]) if isinstance(loss, Loss | AutoLoss) else loss
            for name, loss in self.losses.items()
        }
        completed = MultiLoss(self.task, losses)
        completed.log_variances = self.log_variances
        return completed

    def first_logits(self, counts: MultiCounts) -> Tensor:
        """Return the constant logits (num_outputs,) that training starts from; see `Loss.first_logits`."""
        tasks = self.task.tasks.items()
        return torch.cat([first_logits(self.losses[name], task, counts[name]) for name, task in tasks])

    def compute(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> BatchLoss:
        """Return the loss for the joined logits and the target of `MultiTask.encode_tensor`."""
        targets = self.task.split_target(target)
        totals, counts = [], []
        for name, part in self.task.split_logits(logits).items():
            task = self.task.tasks[name]
            _, total, count, _ = compute_loss(self.losses[name], task, part, targets[name], weight)
            totals.append(total.to(torch.promote_types(total.dtype, torch.float32)))
            counts.append(count.to(totals[-1]) if isinstance(count, Tensor) else total.new_full((), count))
        total, count = torch.stack(totals), torch.stack(counts)
        weighted = self._weight(total, count)
        recorded = torch.stack([weighted, total]).detach()
        return BatchLoss(safe_divide(weighted, count).sum(), weighted, count, recorded)

    def _weight(self, total: Tensor, count: Tensor) -> Tensor:
        """Return w_t S_t + r_t D_t, whose quotient with D_t is the contribution of each task."""
        if self.log_variances is not None:
            return (-self.log_variances).exp() * total + self.log_variances / 2 * count
        return self.task_weights * total

    @torch.jit.unused
    def forward(self, logits: Any, target: Any, sample_weight: Tensor | None = None) -> Tensor:
        """Return the loss for mappings of logits and canonical targets, or for both as single tensors."""
        encoded = self.task.join_target(target) if isinstance(target, Mapping) else target
        return self.compute(self.task.join_logits(logits), encoded, sample_weight).loss

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint: those of each `Loss`, by task."""
        return {name: loss.to_dict() for name, loss in self.losses.items() if isinstance(loss, Loss)}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={type(loss).__name__}" for name, loss in self.losses.items())


def _list_weights(task: MultiTask) -> Tensor:
    """Return the set weight of each task (T,), 1 by default."""
    return torch.tensor([*task.task_weights.values()], dtype=torch.float32)


NamedLoss = Loss | AutoLoss | MultiLoss
"""The losses that are chosen by name; others are the user's."""


def restore_loss(task: AnyTask, criterion: Any, values: Mapping[str, Any]) -> Loss | MultiLoss:
    """Return the loss of a checkpoint; custom losses of several tasks are those of `criterion`."""
    if not isinstance(task, MultiTask):
        return Loss(task, **values)
    stored = {name: Loss(task.tasks[name], **options) for name, options in values.items()}
    return MultiLoss(task, {**criterion.losses, **stored})


def list_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return what differs between the plain values of two losses: the name, or names of options."""
    if "name" not in new:  # of several tasks
        return [
            f"{task}: {change}"
            for task in new
            for change in list_changes(old.get(task, {"name": "custom"}), new[task])
        ]
    if old["name"] != new["name"]:
        return [f"{old['name']} is now {new['name']}"]
    return [name for name in old | new if old.get(name) != new.get(name)]


def losses_by_task(criterion: Any) -> Mapping[str, Any]:
    """Return the loss of each of several tasks; the loss itself under the name "" for one task."""
    return criterion.losses if isinstance(criterion, MultiLoss) else {"": criterion}


def all_named(criterion: Any) -> bool:
    """Return whether the loss, or that of each of several tasks, is chosen by name."""
    return all(isinstance(loss, NamedLoss) for loss in losses_by_task(criterion).values())


def learned_weights(criterion: Any) -> dict[str, Tensor]:
    """Return the learned weight exp(-s_t) of each task as "train/species/weight"; {} if none is learned."""
    if not isinstance(criterion, MultiLoss) or criterion.log_variances is None:
        return {}
    weights = (-criterion.log_variances.detach()).exp()
    return {f"train/{name}/weight": w for name, w in zip(criterion.task.tasks, weights, strict=True)}


def first_logits(criterion: Any, task: Task, counts: Any) -> Tensor:
    """Return the logits that training starts from; a custom loss is assumed to be cross-entropy."""
    if isinstance(criterion, MultiLoss | Loss):
        return criterion.first_logits(counts)
    return select_loss(task).first_logits(counts)


def select_losses(task: MultiTask, loss: Any, make: Callable[[Any, Task], LossFunction]) -> MultiLoss:
    """Return the loss of several tasks.

    Args:
        task: The tasks.
        loss: The loss of each task, by name of the task; cross-entropy for tasks that are left out. Or one
            loss for all tasks.
        make: Makes the loss of one task from a name, a mapping with the key "name", or a callable.

    Raises:
        ConfigError: an unknown task, or a loss that does not fit its task.
    """
    by_task = isinstance(loss, Mapping) and "name" not in loss
    each = spread(task, loss, "loss", "cross_entropy") if by_task else dict.fromkeys(task.tasks, loss)
    losses = {}
    for name, part in task.tasks.items():
        with naming_task(name):
            losses[name] = make(each[name], part)
    return MultiLoss(task, losses)
