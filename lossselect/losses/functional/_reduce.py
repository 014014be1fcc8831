"""The one thing that softmax formulas share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def of_true_class(values: Tensor, target: Tensor) -> Tensor:
    """sum_c t_c v_c of each sample; v_y for an index y.

    Args:
        values: v, (N, C, ...).
        target: Class indices (N, ...), or t of shape (N, C, ...).
    """
    if target.is_floating_point():
        return (target * values).sum(1)
    return values.gather(1, target.unsqueeze(1)).squeeze(1)
