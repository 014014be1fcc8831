"""The loss of a module: from a name or a callable, and its value for a batch."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.losses.auto import AutoLoss, loss_by_name
from lossselect.losses.loss import Loss, safe_divide
from lossselect.losses.torch_compat import check_torch_loss
from lossselect.tasks.registry import IGNORE_INDEX, Task
from lossselect.utils.checks import split_name


def make_criterion(loss: Any, task: Task) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss for a name, a dict with a name, or a callable.

    Raises:
        ConfigError: the name or an option is unknown, or the loss does not fit the task.
        OptionTypeError: the loss has another type.
    """
    if isinstance(loss, str | Mapping):
        name, options = split_name({"name": loss} if isinstance(loss, str) else loss, "loss")
        loss = loss_by_name(task, name, **options)
    if not callable(loss) or isinstance(loss, type):
        raise OptionTypeError(f"loss must be a name, a dict with a name, or a callable, got {loss!r}.")
    check_fits(loss, task)
    return loss


def check_fits(loss: Any, task: Task) -> None:
    """Raise ConfigError for a loss of another task, or a torch loss with other outputs or targets."""
    if isinstance(loss, Loss | AutoLoss):
        expected, got = ((t.activation, t.num_outputs, t.num_probabilities) for t in (loss.task, task))
        if expected != got:
            raise ConfigError(
                f"The loss is for {loss.task}, but the task is {task}. Call select_loss with the same task."
            )
    check_torch_loss(loss, task)


def compute_loss(
    criterion: Any, task: Task, logits: Tensor, target: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | int]:
    """Return the loss of a batch, its numerator and its denominator.

    Raises:
        ConfigError: a custom loss does not return a scalar, or there are sample weights, which it ignores.
    """
    if isinstance(criterion, Loss):
        total, count = criterion.sum_and_count(logits, target, weight)
        return safe_divide(total, count), total, count
    if weight is not None:
        raise ConfigError(
            "A custom loss does not support sample weights. Choose a loss by its name, or return "
            "(inputs, target) from unpack_batch."
        )
    loss = criterion(logits, target)
    if not isinstance(loss, Tensor) or loss.ndim > 0:
        is_tensor = isinstance(loss, Tensor)
        got = f"a tensor of shape {tuple(loss.shape)}" if is_tensor else type(loss).__name__
        raise ConfigError(f"The loss must return a scalar tensor, got {got}. Average it over the batch.")
    # the denominator of a custom loss is unknown: assume that it is a mean over the known labels
    count = (task.to_hard_labels(target) != IGNORE_INDEX).sum()
    wide = loss.to(torch.promote_types(loss.dtype, torch.float32))
    return loss, (wide * count).masked_fill(count == 0, 0), count
