"""Losses that give in where labels are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lossselect.losses.functional._reduce import of_true_class
from lossselect.utils.checks import check_float

if TYPE_CHECKING:
    from torch import Tensor

MIN_Q = 1e-3
"""Below, the difference to cross-entropy is lost in float32."""


def sigmoid_generalized_cross_entropy(logits: Tensor, target: Tensor, q: float = 0.7) -> Tensor:
    """Generalised BCE of each element: y (1 - p^q) / q + (1 - y) (1 - (1 - p)^q) / q, p = sigmoid(logit).

    What softmax's form is for two classes of logits 0 and x.

    Args:
        logits: Shape (N, L, ...).
        target: y in [0, 1], of the same shape.
        q: From near 0 (binary cross-entropy) to 1 (the absolute error, which noise of the labels does
            not mislead but which learns slowly).

    Returns:
        Shape (N, L, ...), at most 1 / q.

    Raises:
        ValueError: q outside [0.001, 1].

    References:
        Zhang & Sabuncu, Generalized Cross Entropy Loss, NeurIPS 2018, arXiv:1805.07836.
    """
    from torch.nn.functional import logsigmoid

    check_float("q", q, MIN_Q, 1)
    positive = -(q * logsigmoid(logits)).expm1() / q
    negative = -(q * logsigmoid(-logits)).expm1() / q
    return target * positive + (1 - target) * negative


def softmax_generalized_cross_entropy(logits: Tensor, target: Tensor, q: float = 0.7) -> Tensor:
    """Generalised CE of each sample: sum_c t_c (1 - p_c^q) / q, p = softmax(logits).

    Args:
        logits: Shape (N, C, ...).
        target: Class indices (N, ...), or t of shape (N, C, ...).
        q: From near 0 (cross-entropy) to 1 (the absolute error, which noise of the labels does not
            mislead but which learns slowly).

    Returns:
        Shape (N, ...), at most 1 / q.

    Raises:
        ValueError: q outside [0.001, 1].

    References:
        Zhang & Sabuncu, Generalized Cross Entropy Loss, NeurIPS 2018, arXiv:1805.07836.
    """
    check_float("q", q, MIN_Q, 1)
    return of_true_class(-(q * logits.log_softmax(1)).expm1() / q, target)


ROWS: dict[str, dict[str, Callable[..., Any]]] = {
    "generalized_cross_entropy": {
        "sigmoid": sigmoid_generalized_cross_entropy,
        "softmax": softmax_generalized_cross_entropy,
    }
}
