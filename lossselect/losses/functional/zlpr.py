"""ZLPR: the positives of a row are ranked above its negatives, with 0 between."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


NOTHING = -1e30
"""log 0, of which a log-sum-exp still has a gradient."""


def sigmoid_zlpr(logits: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """ZLPR of each row: log(1 + sum_l (1 - y_l) exp(x_l)) + log(1 + sum_l y_l exp(-x_l)).

    Ranks each label that is there above 0, and each that is not below. Decided by the sign of the logit,
    which is the threshold .5 of its sigmoid; that sigmoid is no probability before it is calibrated.
    With a single label, there or not, this is binary cross-entropy.

    Args:
        logits: Shape (N, L, ...).
        target: y in [0, 1], of the same shape.
        known: Which elements have a label, of the same shape.

    Returns:
        The losses and which rows count, those with a label that is known: (N, ...).

    References:
        Su et al., ZLPR: A Novel Loss for Multi-label Classification, 2022, arXiv:2208.02955.
    """
    import torch
    from torch.nn.functional import logsigmoid

    def pooled(values: Tensor, share: Tensor) -> Tensor:
        counted = torch.where(known & (share > 0), values + share.log(), NOTHING)
        # log(1 + e^z), which does not round for small e^z
        return -logsigmoid(-counted.logsumexp(1))

    return pooled(logits, 1 - target) + pooled(-logits, target), known.any(1)


ROWS: dict[str, dict[str, Callable[..., Any]]] = {"zlpr": {"sigmoid": sigmoid_zlpr}}
