"""ZLPR, which ranks the positives of a row above its negatives, with 0 between them."""

from lossselect.losses.functional._shared import Tensor

LOG_0 = -1e30
"""Finite replacement of log 0, for which a log-sum-exp has a finite gradient."""


def sigmoid_zlpr(logits: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ZLPR loss: log(1 + sum_l (1 - y_l) exp(x_l)) + log(1 + sum_l y_l exp(-x_l)).

    Ranks positive labels above 0 and negative labels below 0. A label is predicted if its logit is positive,
    that is, if sigmoid(logit) is above 0.5; this sigmoid is not a probability before it is calibrated.
    With a single hard label the loss is binary cross-entropy.

    Returns:
        The losses (N, ...), and a mask (N, ...) of the rows that contain a `known` label (N, L, ...).

    References:
        Su et al., ZLPR: A Novel Loss for Multi-label Classification, 2022, arXiv:2208.02955.
    """
    import torch
    from torch.nn.functional import logsigmoid

    def pooled(values: Tensor, weight: Tensor) -> Tensor:
        counted = torch.where(known & (weight > 0), values + weight.log(), LOG_0)
        # log(1 + e^z), without rounding a small e^z to 0
        return -logsigmoid(-counted.logsumexp(1))

    return pooled(logits, 1 - target) + pooled(-logits, target), known.any(1)


ROWS = {"zlpr": {"sigmoid": sigmoid_zlpr}}
