"""Cross-entropy: the negative log-likelihood of the labels."""

from lossselect.losses.functional._shared import Tensor


def sigmoid_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the binary cross-entropy: -[y log p + (1 - y) log(1 - p)], p = sigmoid(logit)."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    return binary_cross_entropy_with_logits(logits, target, reduction="none")


def softmax_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy: -sum_c t_c log p_c, p = softmax(logits); -log p_y for an index y."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits, target, reduction="none")


ROWS = {"cross_entropy": {"sigmoid": sigmoid_cross_entropy, "softmax": softmax_cross_entropy}}
