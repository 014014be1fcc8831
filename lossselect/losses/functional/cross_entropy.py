"""Losses that are the negative log-likelihood of the labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def sigmoid_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of each element: -[y log p + (1 - y) log(1 - p)], p = sigmoid(logit).

    Args:
        logits: Shape (N, L, ...).
        target: y in [0, 1], of the same shape.

    Returns:
        Shape (N, L, ...).
    """
    from torch.nn.functional import binary_cross_entropy_with_logits

    return binary_cross_entropy_with_logits(logits, target, reduction="none")


def softmax_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each sample: -sum_c t_c log p_c, p = softmax(logits); -log p_y for an index y.

    Args:
        logits: Shape (N, C, ...).
        target: Class indices (N, ...), or t of shape (N, C, ...).

    Returns:
        Shape (N, ...).
    """
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits, target, reduction="none")


def softmax_one_vs_rest(logits: Tensor, target: Tensor) -> Tensor:
    """One-vs-rest BCE of each sample: sum_c t_c [-log q_c - sum_{k != c} log(1 - q_k)], q = sigmoid(logits).

    A binary cross-entropy for each class against all others, under the decision and the probabilities
    of softmax: the class with the largest logit. Softmax of such logits is no likelihood, so calibrate
    the probabilities before they are used as such.

    Args:
        logits: Shape (N, C, ...).
        target: Class indices (N, ...), or t of shape (N, C, ...).

    Returns:
        Shape (N, ...), the sum over the classes (timm's BinaryCrossEntropy is their mean).

    References:
        Wightman et al., ResNet strikes back, 2021, arXiv:2110.00476.
    """
    from torch.nn.functional import logsigmoid

    if not target.is_floating_point():
        index = target.unsqueeze(1)
        # log q_c is log(1 - q) of the negated logit
        return -logsigmoid(-logits.scatter(1, index, -logits.gather(1, index))).sum(1)
    others = target.sum(1, keepdim=True) - target
    return -(target * logsigmoid(logits) + others * logsigmoid(-logits)).sum(1)


ROWS: dict[str, dict[str, Callable[..., Any]]] = {
    "cross_entropy": {"sigmoid": sigmoid_cross_entropy, "softmax": softmax_cross_entropy},
    "one_vs_rest": {"softmax": softmax_one_vs_rest},
}
