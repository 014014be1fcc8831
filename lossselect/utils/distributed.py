"""Collection of values and rows from all processes."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_gather(value: T) -> list[T]:
    """Gather `value` from all ranks, in rank order; return `[value]` outside a process group."""
    values: list[Any] = [value] * _world_size()
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


def gather(value: T) -> list[T]:
    """Gather `value` from all ranks on rank 0; return an empty list on the other ranks."""
    values: list[Any] = [value] * _world_size()
    if len(values) > 1:
        values = values if dist.get_rank() == 0 else []
        dist.gather_object(value, values or None)
    return values


def interleave(parts: Sequence[Tensor]) -> Tensor:
    """Restore the original order of rows that were assigned to ranks in turn."""
    if len(parts) == 1:
        return parts[0]
    indices = [torch.arange(len(part)) * len(parts) + rank for rank, part in enumerate(parts)]
    return torch.cat([*parts])[torch.cat(indices).argsort()]


def is_sharded(value: Tensor) -> bool:
    """Return whether a tensor is a `torch.distributed.tensor.DTensor`, without importing that slow module."""
    return hasattr(value, "to_local")
