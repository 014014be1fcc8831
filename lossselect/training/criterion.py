"""The loss of a module, from a name or a callable."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.losses.auto import AutoLoss, loss_by_name
from lossselect.losses.loss import Loss
from lossselect.losses.multi_loss import MultiLoss, losses_by_task, select_losses
from lossselect.losses.torch_compat import check_torch_loss
from lossselect.tasks.multitask import MultiTask
from lossselect.tasks.registry import AnyTask, Task
from lossselect.tasks.task_names import naming_task
from lossselect.utils.checks import shorten, split_name


def make_criterion(loss: Any, task: AnyTask) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss for a name, a dict with a name, or a callable.

    Raises:
        ConfigError: the name or an option is unknown, or the loss does not fit the task.
        OptionTypeError: the loss has another type.
    """
    if isinstance(task, MultiTask):
        criterion = loss if isinstance(loss, MultiLoss) else select_losses(task, loss, make_criterion)
        check_fits(criterion, task)
        criterion.task = task  # with the weights of the tasks
        return criterion
    if isinstance(loss, str | Mapping):
        name, options = split_name({"name": loss} if isinstance(loss, str) else loss, "loss")
        loss = loss_by_name(task, name, **options)
    if not callable(loss) or isinstance(loss, type):
        raise OptionTypeError(f"loss must be a name, a dict with a name, or a callable, got {loss!r}.")
    check_fits(loss, task)
    return loss


def check_fits(loss: Any, task: AnyTask) -> None:
    """Raise ConfigError for a loss of another task, or a torch loss with other outputs or targets."""
    losses = losses_by_task(loss)
    if [*losses] != [*task.tasks]:  # their order is that of the outputs
        raise ConfigError(
            f"The loss is for {_list_tasks(losses)}, but the task is {task}. Pass a loss of the same tasks."
        )
    for name, part in task.tasks.items():
        with naming_task(name):
            _check_fits(losses[name], part)


def _list_tasks(losses: Mapping[str, Any]) -> str:
    return "one task" if "" in losses else f"the tasks {shorten([*losses])}"


def _check_fits(loss: Any, task: Task) -> None:
    if isinstance(loss, Loss | AutoLoss):
        expected, got = ((t.activation, t.num_outputs, t.num_probabilities) for t in (loss.task, task))
        if expected != got:
            raise ConfigError(
                f"The loss is for {loss.task}, but the task is {task}. Call select_loss with the same task."
            )
    check_torch_loss(loss, task)
