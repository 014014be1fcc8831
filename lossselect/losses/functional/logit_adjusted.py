"""Logit-adjusted cross-entropy, which corrects the logits for the class frequencies.

`prior`, in (0, 1) and broadcast over the logits, is the frequency r of each class, or of each label's
positives, in the training rows.

Options:
    tau: Strength of the correction, >= 0; 0 gives cross-entropy.

References:
    Menon et al., Long-tail learning via logit adjustment, ICLR 2021, arXiv:2007.07314.
"""

from lossselect.losses.functional._shared import Tensor
from lossselect.losses.functional.cross_entropy import sigmoid_cross_entropy, softmax_cross_entropy
from lossselect.utils.checks import check_float


def sigmoid_logit_adjusted(logits: Tensor, target: Tensor, prior: Tensor, tau: float = 1.0) -> Tensor:
    """Return the logit-adjusted BCE: BCE of logit + tau log(r / (1 - r)), r the label's frequency.

    This equals the softmax form for two classes with logits 0 and x. At tau = 1 the logit assumes equally
    many positives and negatives, and the threshold 0.5 minimises the balanced error.
    """
    check_float("tau", tau, 0)
    return sigmoid_cross_entropy(logits + (tau * prior.logit()).to(logits.dtype), target)


def softmax_logit_adjusted(logits: Tensor, target: Tensor, prior: Tensor, tau: float = 1.0) -> Tensor:
    """Return the logit-adjusted CE: CE of logit_c + tau log r_c, r_c the class frequency.

    At tau = 1 this is balanced softmax (Ren et al., NeurIPS 2020, arXiv:2007.10740): the logits assume
    equally frequent classes, and predicting the largest one minimises the balanced error.
    """
    check_float("tau", tau, 0)
    # relative to the largest logit: added to a logit of 6e4, log r would be lost in float32
    relative = logits - logits.detach().amax(1, keepdim=True)
    return softmax_cross_entropy(relative + (tau * prior.log()).to(logits.dtype), target)


ROWS = {"logit_adjusted": {"sigmoid": sigmoid_logit_adjusted, "softmax": softmax_logit_adjusted}}
