"""Losses that make much of hard samples and little of easy ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lossselect.exceptions import ConfigError
from lossselect.losses.functional._reduce import of_true_class
from lossselect.utils.checks import number

if TYPE_CHECKING:
    from torch import Tensor


def sigmoid_focal(logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """Focal loss of each element: y alpha (1 - p)^gamma (-log p) + (1 - y) (1 - alpha) p^gamma (-log(1 - p)).

    The powers are taken in log space: finite, with finite gradients, for any gamma and logit.

    Args:
        logits: Shape (N, L, ...).
        target: y in [0, 1], of the same shape.
        gamma: Down-weighting of easy elements, >= 0; 0 gives binary cross-entropy.
        alpha: Weight of the positives in [0, 1], the negatives having 1 - alpha; None leaves both at 1.

    Returns:
        Shape (N, L, ...).

    Raises:
        ValueError: gamma < 0, alpha outside [0, 1].

    References:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002.
    """
    from torch.nn.functional import logsigmoid

    number("gamma", gamma, 0)
    log_p, log_not_p = logsigmoid(logits), logsigmoid(-logits)
    positive = -(gamma * log_not_p).exp() * log_p
    negative = -(gamma * log_p).exp() * log_not_p
    if alpha is not None:
        number("alpha", alpha, 0, 1)
        positive, negative = alpha * positive, (1 - alpha) * negative
    return target * positive + (1 - target) * negative


def softmax_focal(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss of each sample: sum_c t_c (1 - p_c)^gamma (-log p_c), p = softmax(logits).

    Powers are taken in log space, with log(1 - p) as the log-sum-exp of the other classes' log p:
    1 - p itself would round to 0, where the gradient is infinite for gamma < 1.

    Args:
        logits: Shape (N, C, ...).
        target: Class indices (N, ...), or t of shape (N, C, ...).
        gamma: Down-weighting of easy samples, >= 0; 0 gives cross-entropy.

    Returns:
        Shape (N, ...).

    Raises:
        ValueError: gamma < 0.

    References:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002.
    """
    import torch

    number("gamma", gamma, 0)
    log_p = logits.log_softmax(1)
    if not target.is_floating_point():
        index = target.unsqueeze(1)
        # not -inf: where the net rules all other classes out by that, a gradient would be NaN
        log_not_p = log_p.scatter(1, index, -1e30).logsumexp(1)
        return -(gamma * log_not_p).exp() * log_p.gather(1, index).squeeze(1)
    # of all classes at once: only the likeliest one's 1 - p is a sum that rounds
    top = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, logits.argmax(1, keepdim=True), True)
    rest = log_p.masked_fill(top, -math.inf)
    log_not_p = torch.where(top, rest.logsumexp(1, keepdim=True), (-rest.exp()).log1p())
    return -(target * (gamma * log_not_p).exp() * log_p).sum(1)


def sigmoid_asymmetric(
    logits: Tensor, target: Tensor, gamma_neg: float = 4.0, gamma_pos: float = 0.0, clip: float = 0.05
) -> Tensor:
    """Asymmetric loss of each element: y (1 - p)^g+ (-log p) + (1 - y) q^g- (-log(1 - q)), q = max(p - m, 0).

    A negative of a probability up to the margin m = clip costs nothing, and one that is far off (p near
    1) is let go as likely mislabelled. The gradient is the formula's: the authors' code keeps the powers
    out of it by default.

    Args:
        logits: Shape (N, L, ...).
        target: y in [0, 1], of the same shape.
        gamma_neg: Down-weighting g- of easy negatives, >= 0.
        gamma_pos: Down-weighting g+ of easy positives, >= 0; with gamma_neg = 0 and clip = 0 this is BCE.
        clip: The margin m, in [0, 1); 0 leaves the negatives of the focal loss.

    Returns:
        Shape (N, L, ...).

    Raises:
        ValueError: an option out of its range.

    References:
        Ridnik et al., Asymmetric Loss For Multi-Label Classification, ICCV 2021, arXiv:2009.14119.
    """
    import torch
    from torch.nn.functional import logsigmoid

    number("gamma_neg", gamma_neg, 0)
    number("gamma_pos", gamma_pos, 0)
    if number("clip", clip, 0, 1) == 1:
        raise ConfigError("clip must be below 1: at 1 no negative would count.")
    log_p, log_not_p = logsigmoid(logits), logsigmoid(-logits)
    positive = -(gamma_pos * log_not_p).exp() * log_p
    if not clip:
        negative = -(gamma_neg * log_p).exp() * log_not_p
        return target * positive + (1 - target) * negative
    shifted = (logits.sigmoid() - clip).clamp(min=0)
    # log(1 - q) without rounding: of a small q as log1p, of a large one as the log of the sum 1 - p + m
    small = shifted < 0.5
    log_margin = torch.full_like(logits, math.log(clip))
    log_not_q = torch.where(
        small, (-shifted.masked_fill(~small, 0)).log1p(), torch.logaddexp(log_not_p, log_margin)
    )
    # the power's gradient is infinite at 0 for an exponent below 1; the loss's own is 0 there
    negative = -shifted.clamp(min=1e-30).pow(gamma_neg) * log_not_q
    return target * positive + (1 - target) * negative


def sigmoid_poly1(logits: Tensor, target: Tensor, epsilon: float = 1.0) -> Tensor:
    """Poly-1 loss of each element: BCE + epsilon [y (1 - p) + (1 - y) p], p = sigmoid(logit).

    Args:
        logits: Shape (N, L, ...).
        target: y in [0, 1], of the same shape.
        epsilon: What is added to the first coefficient of cross-entropy's series in 1 - p, >= -1; 0 gives
            binary cross-entropy.

    Returns:
        Shape (N, L, ...).

    Raises:
        ValueError: epsilon < -1, where the gradient of easy elements would point the wrong way.

    References:
        Leng et al., PolyLoss, ICLR 2022, arXiv:2204.12511.
    """
    from torch.nn.functional import binary_cross_entropy_with_logits

    number("epsilon", epsilon, -1)
    wrong = target * (-logits).sigmoid() + (1 - target) * logits.sigmoid()
    return binary_cross_entropy_with_logits(logits, target, reduction="none") + epsilon * wrong


def softmax_poly1(logits: Tensor, target: Tensor, epsilon: float = 1.0) -> Tensor:
    """Poly-1 loss of each sample: sum_c t_c [-log p_c + epsilon (1 - p_c)], p = softmax(logits).

    Symmetric cross-entropy (Wang et al., 2019, arXiv:1908.06112) is this loss: alpha CE + beta RCE is
    alpha times Poly-1 with epsilon = -A beta / alpha, A being what log 0 is clipped to.

    Args:
        logits: Shape (N, C, ...).
        target: Class indices (N, ...), or t of shape (N, C, ...).
        epsilon: What is added to the first coefficient of cross-entropy's series in 1 - p, >= -1; 0 gives
            cross-entropy.

    Returns:
        Shape (N, ...).

    Raises:
        ValueError: epsilon < -1, where the gradient of easy samples would point the wrong way.

    References:
        Leng et al., PolyLoss, ICLR 2022, arXiv:2204.12511.
    """
    number("epsilon", epsilon, -1)
    log_p = logits.log_softmax(1)
    return of_true_class(-log_p - epsilon * log_p.expm1(), target)


ROWS: dict[str, dict[str, Callable[..., Any]]] = {
    "focal": {"sigmoid": sigmoid_focal, "softmax": softmax_focal},
    "asymmetric": {"sigmoid": sigmoid_asymmetric},
    "poly1": {"sigmoid": sigmoid_poly1, "softmax": softmax_poly1},
}
