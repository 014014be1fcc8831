"""Scalars that a GPU computes, read without waiting for it."""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor


class Readback:
    """Copies scalars of a GPU to the CPU, and handles each of them when it has arrived.

    `tensor.item()` makes the host wait until the device has done everything that it was asked for, and then
    the device waits for the host. Here a scalar is copied into pinned memory, and read some steps later.
    """

    def __init__(self) -> None:
        self._pending: deque[tuple[Tensor, torch.cuda.Event, Callable[[float], None]]] = deque()

    def start(self, scalar: Tensor, handle: Callable[[float], None]) -> None:
        """Start to copy `scalar`, which `handle` is called with later."""
        copy = torch.empty((), dtype=scalar.dtype, pin_memory=True)
        copy.copy_(scalar, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending.append((copy, event, handle))

    def handle_arrived(self, max_pending: int = 0) -> None:
        """Handle the scalars that have arrived, in their order.

        While more than `max_pending` have not, wait for the oldest one and for no later one, so that the
        device keeps its queue of work.
        """
        while self._pending and (len(self._pending) > max_pending or self._pending[0][1].query()):
            copy, event, handle = self._pending.popleft()
            event.synchronize()
            handle(copy.item())

    def clear(self) -> None:
        """Drop the scalars that have not been handled."""
        self._pending.clear()
