"""Functions shared by several formulas."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor as Tensor
else:
    Tensor = Any  # torch is imported when a formula is called


def log_sigmoids(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p and log(1 - p), p = sigmoid(logits), without rounding p or 1 - p to 0."""
    from torch.nn.functional import logsigmoid

    return logsigmoid(logits), logsigmoid(-logits)


def by_label(positive: Tensor, negative: Tensor, target: Tensor) -> Tensor:
    """Return y v_1 + (1 - y) v_0, with the losses v_1 of positive and v_0 of negative elements."""
    return target * positive + (1 - target) * negative


def by_class(values: Tensor, target: Tensor) -> Tensor:
    """Return sum_c t_c v_c of each sample, or v_y for a class index y."""
    if target.is_floating_point():
        return (target * values).sum(1)
    return values.gather(1, target.unsqueeze(1)).squeeze(1)
