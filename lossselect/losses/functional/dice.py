"""Soft Dice loss, also known as soft F1: the overlap of regions.

Sums are over the trailing dimensions (pixels, time steps), which are required (else ConfigError).

Options:
    smooth: The s of the formula, >= 0.001, with which an empty region predicted to be empty has the loss 0.

References:
    Milletari et al., V-Net, 3DV 2016, arXiv:1606.04797 (here with s, and without squares in the denominator).
"""

from lossselect.exceptions import ConfigError
from lossselect.losses.functional._shared import Tensor
from lossselect.utils.checks import check_float

REGIONS = ("dice",)
"""Losses that pool positions; the other losses with the argument `known` pool the labels of one position."""


def sigmoid_dice(logits: Tensor, target: Tensor, known: Tensor, smooth: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return the Dice loss of regions: 1 - (2 sum y p + s) / (sum y + sum p + s), p = sigmoid(logits).

    Returns:
        The losses (N, L), and a mask (N, L) of the regions that contain a `known` label (N, L, ...).
    """
    return _dice(logits.sigmoid(), (-logits).sigmoid(), target, known, smooth)


def softmax_dice(
    logits: Tensor, target: Tensor, known: Tensor, weight: Tensor | None, smooth: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the Dice loss: mean_c [1 - (2 sum t_c p_c + s) / (sum t_c + sum p_c + s)].

    p = softmax(logits); `weight` (C,) weights the classes in the mean.

    Returns:
        The losses (N,), and a mask (N,) of the samples that contain a `known` label (N, 1, ...).
    """
    import torch

    if not target.is_floating_point():
        target = torch.zeros_like(logits).scatter_(1, target.unsqueeze(1), 1)
    log_p = logits.log_softmax(1)
    losses, counted = _dice(log_p.exp(), -log_p.expm1(), target, known.expand_as(logits), smooth)
    if weight is None:
        return losses.mean(1), counted.any(1)
    # not a matrix product, which autocast would compute in half precision
    return (losses * weight.to(losses)).sum(1) / weight.sum().to(losses), counted.any(1)


def _dice(p: Tensor, not_p: Tensor, target: Tensor, known: Tensor, smooth: float) -> tuple[Tensor, Tensor]:
    check_float("smooth", smooth, 1e-3)
    if p.ndim < 3:
        raise ConfigError(
            "Loss 'dice' compares regions and requires logits of shape (N, C, ...) with trailing dimensions "
            f"such as pixels, got {tuple(p.shape)}. Without such dimensions, set loss=cross_entropy."
        )
    size = (p + target).masked_fill(~known, 0).flatten(2).sum(2)
    # 1 - 2 overlap / size, computed from the errors: it does not round to 0 if they are small
    wrong = (p * (1 - target) + not_p * target).masked_fill(~known, 0).flatten(2).sum(2)
    return wrong / (size + smooth), known.flatten(2).any(2)


ROWS = {"dice": {"sigmoid": sigmoid_dice, "softmax": softmax_dice}}
