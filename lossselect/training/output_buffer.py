"""Outputs of an epoch that predictions are fitted to, in bounded memory."""

import torch
from torch import Tensor

from lossselect.utils.distributed import all_gather, interleave

MAX_BUFFERED_OUTPUTS = 10_000_000
"""So many outputs (rows x classes) at most."""


class OutputBuffer:
    """Raw logits (N, num_outputs) and target of an epoch's rows, on the CPU.

    Args:
        most: So many outputs; of more, each row is kept with the same chance. None is `MAX_BUFFERED_OUTPUTS`.
    """

    def __init__(self, most: int | None = None) -> None:
        self._parts: list[tuple[Tensor, Tensor]] = []
        self._size = 0
        self._share = 1.0
        self._random = torch.Generator().manual_seed(0)
        self._most = (most or MAX_BUFFERED_OUTPUTS) // len(all_gather(None))

    def add(self, logits: Tensor, target: Tensor) -> None:
        """Take in rows."""
        self._append(logits.cpu(), target.cpu(), self._share)
        while self._size > self._most:
            parts, self._parts, self._size = self._parts, [], 0
            self._share /= 2
            for part in parts:
                self._append(*part, 0.5)

    def _append(self, logits: Tensor, target: Tensor, share: float) -> None:
        if share < 1:
            kept = torch.rand(len(logits), generator=self._random) < share
            logits, target = logits[kept], target[kept]
        self._parts.append((logits, target))
        self._size += logits.numel()

    @property
    def share(self) -> float:
        """Of the rows that were kept; known after `rows`."""
        return self._share

    def rows(self) -> tuple[Tensor, Tensor] | None:
        """Logits and target of all processes' rows; None where there were no rows."""
        shares = all_gather(self._share)
        if self._share > min(shares):  # another one has kept fewer
            parts, self._parts, self._size = self._parts, [], 0
            for part in parts:
                self._append(*part, min(shares) / self._share)
            self._share = min(shares)
        own = [torch.cat(part) for part in zip(*self._parts, strict=True)]
        those = [part for part in all_gather(own) if part]
        if not those:
            return None
        logits, target = (interleave(part) for part in zip(*those, strict=True))
        return logits, target
