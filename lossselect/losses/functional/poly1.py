"""Poly-1 loss: cross-entropy with a different first coefficient in its series in 1 - p.

Options:
    epsilon: Added to that coefficient, >= -1; 0 gives cross-entropy. Below -1 the gradient of easy elements
        or samples would have the wrong sign.

References:
    Leng et al., PolyLoss, ICLR 2022, arXiv:2204.12511.
"""

from lossselect.losses.functional._shared import Tensor, by_class, by_label
from lossselect.losses.functional.cross_entropy import sigmoid_cross_entropy
from lossselect.utils.checks import check_float


def sigmoid_poly1(logits: Tensor, target: Tensor, epsilon: float = 1.0) -> Tensor:
    """Return the Poly-1 loss: BCE + epsilon [y (1 - p) + (1 - y) p], p = sigmoid(logit)."""
    check_float("epsilon", epsilon, -1)
    wrong = by_label((-logits).sigmoid(), logits.sigmoid(), target)
    return sigmoid_cross_entropy(logits, target) + epsilon * wrong


def softmax_poly1(logits: Tensor, target: Tensor, epsilon: float = 1.0) -> Tensor:
    """Return the Poly-1 loss: sum_c t_c [-log p_c + epsilon (1 - p_c)], p = softmax(logits).

    Symmetric cross-entropy (Wang et al., 2019, arXiv:1908.06112) is this loss up to a factor: alpha CE +
    beta RCE is alpha times Poly-1 with epsilon = -A beta / alpha, if log 0 is clipped to A.
    """
    check_float("epsilon", epsilon, -1)
    log_p = logits.log_softmax(1)
    return by_class(-log_p - epsilon * log_p.expm1(), target)


ROWS = {"poly1": {"sigmoid": sigmoid_poly1, "softmax": softmax_poly1}}
