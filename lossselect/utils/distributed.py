"""Values and rows of all processes."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_gather(value: T) -> list[T]:
    """Return `value` of all processes, in the order of their ranks; `[value]` outside a process group."""
    values: list[Any] = [value] * _world_size()
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


def gather(value: T) -> list[T]:
    """Return in the first process what `all_gather` does, and an empty list in the others."""
    values: list[Any] = [value] * _world_size()
    if len(values) > 1:
        values = values if dist.get_rank() == 0 else []
        dist.gather_object(value, values or None)
    return values


def interleave(parts: Sequence[Tensor]) -> Tensor:
    """Return rows that were dealt to processes one by one, in their original order."""
    if len(parts) == 1:
        return parts[0]
    indices = [torch.arange(len(part)) * len(parts) + rank for rank, part in enumerate(parts)]
    return torch.cat([*parts])[torch.cat(indices).argsort()]


def is_sharded(value: Tensor) -> bool:
    """Return whether a tensor is a `torch.distributed.tensor.DTensor`, which takes long to import."""
    return hasattr(value, "to_local")
