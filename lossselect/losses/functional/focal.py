"""Focal loss: hard samples count more than easy ones.

Options:
    gamma: Down-weighting of easy elements or samples, >= 0; 0 gives cross-entropy.
    alpha: Weight of positives, in [0, 1]; negatives have 1 - alpha. None: both have the weight 1.

The powers are computed in log space, so that they and their gradients are finite for any gamma and logit.

References:
    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002.
"""

import math

from lossselect.losses.functional._shared import Tensor, by_label, log_sigmoids
from lossselect.utils.checks import check_float


def sigmoid_focal(logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """Return the focal loss: y alpha (1 - p)^gamma (-log p) + (1 - y) (1 - alpha) p^gamma (-log(1 - p)).

    p = sigmoid(logit).
    """
    check_float("gamma", gamma, 0)
    log_p, log_not_p = log_sigmoids(logits)
    positive = -(gamma * log_not_p).exp() * log_p
    negative = -(gamma * log_p).exp() * log_not_p
    if alpha is not None:
        check_float("alpha", alpha, 0, 1)
        positive, negative = alpha * positive, (1 - alpha) * negative
    return by_label(positive, negative, target)


def softmax_focal(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Return the focal loss: sum_c t_c (1 - p_c)^gamma (-log p_c), p = softmax(logits).

    log(1 - p) is computed as the log-sum-exp of log p of the other classes: 1 - p would round to 0, where
    the gradient is infinite for gamma < 1.
    """
    import torch

    check_float("gamma", gamma, 0)
    log_p = logits.log_softmax(1)
    if not target.is_floating_point():
        index = target.unsqueeze(1)
        # not -inf: if the logits of all other classes are -inf too, a gradient would be NaN
        log_not_p = log_p.scatter(1, index, -1e30).logsumexp(1)
        return -(gamma * log_not_p).exp() * log_p.gather(1, index).squeeze(1)
    # for all classes at once: 1 - p can round to 0 only for the most probable class
    top = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, logits.argmax(1, keepdim=True), True)
    rest = log_p.masked_fill(top, -math.inf)
    log_not_p = torch.where(top, rest.logsumexp(1, keepdim=True), (-rest.exp()).log1p())
    return -(target * (gamma * log_not_p).exp() * log_p).sum(1)


ROWS = {"focal": {"sigmoid": sigmoid_focal, "softmax": softmax_focal}}
