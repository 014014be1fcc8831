"""What several processes know together."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def all_gather(value: T) -> list[T]:
    """What each process has, in their order; here alone without others."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def gather(value: T) -> list[T]:
    """The same for the first process alone, which writes it down; the others get nothing."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size() if dist.get_rank() == 0 else []
    dist.gather_object(value, values or None)
    return values


def interleave(parts: Sequence[Tensor]) -> Tensor:
    """Rows that were dealt to processes one by one, in the order before."""
    if len(parts) == 1:
        return parts[0]
    places = [torch.arange(len(part)) * len(parts) + rank for rank, part in enumerate(parts)]
    return torch.cat([*parts])[torch.cat(places).argsort()]
