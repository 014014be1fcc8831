"""ZLPR: the positives of a row are ranked above its negatives, with 0 between."""

from lossselect.losses.functional._shared import Tensor

LOG_0 = -1e30
"""log 0, of which a log-sum-exp still has a gradient."""


def sigmoid_zlpr(logits: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """ZLPR of each row: log(1 + sum_l (1 - y_l) exp(x_l)) + log(1 + sum_l y_l exp(-x_l)).

    Ranks each label that is present above 0, and each that is absent below. Decided by the sign of the logit,
    which is the threshold 0.5 of its sigmoid; that sigmoid is no probability before it is calibrated.
    With a single hard label this is binary cross-entropy.

    Returns:
        The losses and which rows count, those with a label that is `known` (N, L, ...): (N, ...).

    References:
        Su et al., ZLPR: A Novel Loss for Multi-label Classification, 2022, arXiv:2208.02955.
    """
    import torch
    from torch.nn.functional import logsigmoid

    def pooled(values: Tensor, share: Tensor) -> Tensor:
        counted = torch.where(known & (share > 0), values + share.log(), LOG_0)
        # log(1 + e^z), which does not round for small e^z
        return -logsigmoid(-counted.logsumexp(1))

    return pooled(logits, 1 - target) + pooled(-logits, target), known.any(1)


ROWS = {"zlpr": {"sigmoid": sigmoid_zlpr}}
