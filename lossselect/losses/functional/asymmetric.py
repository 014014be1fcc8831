"""Asymmetric loss: focal loss with different focusing of positives and negatives.

Options:
    gamma_neg: Down-weighting g- of easy negatives, >= 0.
    gamma_pos: Down-weighting g+ of easy positives, >= 0; with gamma_neg = 0 and clip = 0 this is BCE.
    clip: The margin m, in [0, 1); 0 gives the focal loss for negatives.

References:
    Ridnik et al., Asymmetric Loss For Multi-Label Classification, ICCV 2021, arXiv:2009.14119.
"""

import math

from lossselect.exceptions import ConfigError
from lossselect.losses.functional._shared import Tensor, by_label, log_sigmoids
from lossselect.utils.checks import check_float


def sigmoid_asymmetric(
    logits: Tensor, target: Tensor, gamma_neg: float = 4.0, gamma_pos: float = 0.0, clip: float = 0.05
) -> Tensor:
    """Return the asymmetric loss: y (1 - p)^g+ (-log p) + (1 - y) q^g- (-log(1 - q)), q = max(p - m, 0).

    p = sigmoid(logit). A negative with a probability up to the margin m = clip costs nothing, and the loss of
    a negative with p near 1, which is likely mislabelled, is limited. The gradient is exact, whereas the
    authors' code by default treats the powers as constants.
    """
    import torch

    check_float("gamma_neg", gamma_neg, 0)
    check_float("gamma_pos", gamma_pos, 0)
    if check_float("clip", clip, 0, 1) == 1:
        raise ConfigError("clip must be < 1, got 1: at 1 negatives would have no loss.")
    log_p, log_not_p = log_sigmoids(logits)
    positive = -(gamma_pos * log_not_p).exp() * log_p
    if not clip:
        return by_label(positive, -(gamma_neg * log_p).exp() * log_not_p, target)
    q = (logits.sigmoid() - clip).clamp(min=0)
    # log(1 - q) without rounding: log1p for a small q, the log of the sum 1 - p + m for a large one
    small = q < 0.5
    log_margin = torch.full_like(logits, math.log(clip))
    log_not_q = torch.where(
        small, (-q.masked_fill(~small, 0)).log1p(), torch.logaddexp(log_not_p, log_margin)
    )
    # clamped: at q = 0 the gradient of the power is infinite for an exponent < 1, but that of the loss is 0
    return by_label(positive, -q.clamp(min=1e-30).pow(gamma_neg) * log_not_q, target)


ROWS = {"asymmetric": {"sigmoid": sigmoid_asymmetric}}
