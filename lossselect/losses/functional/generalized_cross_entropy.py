"""Generalised cross-entropy, which limits the cost of a wrong label to 1 / q.

Options:
    q: From 0.001 (nearly cross-entropy) to 1 (absolute error: robust to label noise, but learns slowly).

References:
    Zhang & Sabuncu, Generalized Cross Entropy Loss, NeurIPS 2018, arXiv:1805.07836.
"""

from lossselect.losses.functional._shared import Tensor, by_class, by_label, log_sigmoids
from lossselect.utils.checks import check_float

MIN_Q = 1e-3
"""Minimum of q, below which the difference from cross-entropy is lost in float32."""


def sigmoid_generalized_cross_entropy(logits: Tensor, target: Tensor, q: float = 0.7) -> Tensor:
    """Return the generalised BCE: y (1 - p^q) / q + (1 - y) (1 - (1 - p)^q) / q, p = sigmoid(logit).

    This equals the softmax form for two classes with logits 0 and x.
    """
    check_float("q", q, MIN_Q, 1)
    positive, negative = (-(q * log_p).expm1() / q for log_p in log_sigmoids(logits))
    return by_label(positive, negative, target)


def softmax_generalized_cross_entropy(logits: Tensor, target: Tensor, q: float = 0.7) -> Tensor:
    """Return the generalised CE: sum_c t_c (1 - p_c^q) / q, p = softmax(logits)."""
    check_float("q", q, MIN_Q, 1)
    return by_class(-(q * logits.log_softmax(1)).expm1() / q, target)


ROWS = {
    "generalized_cross_entropy": {
        "sigmoid": sigmoid_generalized_cross_entropy,
        "softmax": softmax_generalized_cross_entropy,
    }
}
