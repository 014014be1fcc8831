"""Operations of torch for GPUs: the host does not wait, or the result is deterministic."""

from itertools import accumulate

import torch
from torch import Tensor


def count_occurrences(values: Tensor, count: int) -> Tensor:
    """Return how often each of 0, 1, ..., `count` - 1 occurs in `values` (long), as a long tensor (count,).

    `torch.bincount(values, minlength=count)` would read the largest value back from a GPU.
    """
    values = values.flatten()
    zeros = torch.zeros(count, dtype=torch.long, device=values.device)
    return zeros.index_add_(0, values, torch.ones_like(values))


def cumulative_sum(values: Tensor, dim: int) -> Tensor:
    """Return `values.cumsum(dim)`, also of floats on a GPU under `torch.use_deterministic_algorithms(True)`.

    There torch raises, because its parallel sum is not deterministic. This one adds one entry after the
    other, which suits short dimensions.
    """
    if values.is_cuda and values.is_floating_point() and torch.are_deterministic_algorithms_enabled():
        return torch.stack([*accumulate(values.unbind(dim))], dim)
    return values.cumsum(dim)
