"""The loss of a batch: its mean, numerator and denominator."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossselect.exceptions import ConfigError
from lossselect.losses.loss import Loss, safe_divide
from lossselect.tasks.registry import IGNORE_INDEX, Task


class BatchLoss(NamedTuple):
    """The loss of a batch.

    Attributes:
        loss: The mean, a scalar.
        numerator: Its numerator; for several tasks one for each, (T,), with the weights of the tasks.
        denominator: Its denominator; for several tasks one for each, (T,).
        recorded: The numerators for the means of an epoch: `numerator`, for several tasks also without the
            weights of the tasks, (2, T).
    """

    loss: Tensor
    numerator: Tensor
    denominator: Tensor | int
    recorded: Tensor


def compute_loss(
    criterion: Any, task: Task, logits: Tensor, target: Tensor, weight: Tensor | None
) -> BatchLoss:
    """Return the loss of a batch for a `Loss` or another callable.

    Raises:
        ConfigError: a custom loss does not return a scalar, or there are sample weights, which it ignores.
    """
    if isinstance(criterion, Loss):
        total, count = criterion.sum_and_count(logits, target, weight)
        return BatchLoss(safe_divide(total, count), total, count, total)
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
    known = (task.to_hard_labels(target) != IGNORE_INDEX).sum()
    wide = loss.to(torch.promote_types(loss.dtype, torch.float32))
    total = (wide * known).masked_fill(known == 0, 0)
    return BatchLoss(loss, total, known, total)
