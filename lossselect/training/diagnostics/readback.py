"""Scalars that a GPU computes, read without waiting for it."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class Readback:
    """Copies scalars of a GPU to the CPU, and returns each of them when it has arrived.

    `tensor.item()` makes the host wait until the device has done everything that was asked of it, and then
    the device waits for the host. Here a scalar is copied into pinned memory, and read some steps later.
    """

    def __init__(self) -> None:
        self._pending: deque[tuple[Tensor, torch.cuda.Event, Any]] = deque()

    def __len__(self) -> int:
        return len(self._pending)

    def ask(self, scalar: Tensor, note: Any = None) -> None:
        """Start to copy `scalar`, which is returned together with `note`."""
        copy = torch.empty((), dtype=scalar.dtype, pin_memory=True)
        copy.copy_(scalar, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending.append((copy, event, note))

    def arrived(self, most_pending: int) -> Iterator[tuple[float, Any]]:
        """Yield the scalars that are there, in the order in which they were asked for.

        While more than `most_pending` are not, the oldest one is waited for, and no later one, so that the
        device keeps its queue of work. With 0 all are waited for.
        """
        while self._pending and (len(self._pending) > most_pending or self._pending[0][1].query()):
            copy, event, note = self._pending.popleft()
            event.synchronize()
            yield copy.item(), note

    def clear(self) -> None:
        """Forget the scalars that were not returned."""
        self._pending.clear()
