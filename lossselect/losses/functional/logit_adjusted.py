"""Losses that undo the shares of the classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lossselect.utils.checks import check_float

if TYPE_CHECKING:
    from torch import Tensor


def sigmoid_logit_adjusted(logits: Tensor, target: Tensor, prior: Tensor, tau: float = 1.0) -> Tensor:
    """Logit-adjusted BCE of each element: BCE of logit + tau log(r / (1 - r)), r the label's share in train.

    What softmax's form is for two classes of logits 0 and x. At tau = 1 the logit itself is that of a
    sample drawn from positives and negatives alike, and the threshold .5 minimises the balanced error.

    Args:
        logits: Shape (N, L, ...).
        target: y in [0, 1], of the same shape.
        prior: r of each label, in (0, 1), broadcast over the logits.
        tau: How much of the shares is undone, >= 0; 0 gives binary cross-entropy.

    Returns:
        Shape (N, L, ...).

    Raises:
        ValueError: tau < 0.

    References:
        Menon et al., Long-tail learning via logit adjustment, ICLR 2021, arXiv:2007.07314 (two classes).
    """
    from torch.nn.functional import binary_cross_entropy_with_logits

    check_float("tau", tau, 0)
    adjusted = logits + (tau * prior.logit()).to(logits.dtype)
    return binary_cross_entropy_with_logits(adjusted, target, reduction="none")


def softmax_logit_adjusted(logits: Tensor, target: Tensor, prior: Tensor, tau: float = 1.0) -> Tensor:
    """Logit-adjusted CE of each sample: CE of logit_c + tau log r_c, r_c the class's share in train.

    At tau = 1 this is balanced softmax: the logits themselves are those of a sample drawn from all classes
    alike, and their largest minimises the balanced error.

    Args:
        logits: Shape (N, C, ...).
        target: Class indices (N, ...), or t of shape (N, C, ...).
        prior: r of each class, in (0, 1), broadcast over the logits.
        tau: How much of the shares is undone, >= 0; 0 gives cross-entropy.

    Returns:
        Shape (N, ...).

    Raises:
        ValueError: tau < 0.

    References:
        Menon et al., Long-tail learning via logit adjustment, ICLR 2021, arXiv:2007.07314;
        Ren et al., Balanced Meta-Softmax, NeurIPS 2020, arXiv:2007.10740.
    """
    from torch.nn.functional import cross_entropy

    check_float("tau", tau, 0)
    # from the largest one on: beside a logit of 6e4 float32 has no digits left for log r
    relative = logits - logits.detach().amax(1, keepdim=True)
    return cross_entropy(relative + (tau * prior.log()).to(logits.dtype), target, reduction="none")


ROWS: dict[str, dict[str, Callable[..., Any]]] = {
    "logit_adjusted": {"sigmoid": sigmoid_logit_adjusted, "softmax": softmax_logit_adjusted}
}
