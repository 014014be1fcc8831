"""Outputs of an epoch that predictions are fitted to, in bounded memory."""

import torch
from torch import Tensor

from lossselect.utils.distributed import all_gather, interleave

MAX_BUFFERED_OUTPUTS = 10_000_000  # rows x classes


class OutputBuffer:
    """Raw logits (N, num_outputs) and target of an epoch's rows, on the CPU.

    Of more than `max_outputs`, by default `MAX_BUFFERED_OUTPUTS`, all rows are equally likely to be retained.
    """

    def __init__(self, max_outputs: int | None = None) -> None:
        self._parts: list[tuple[Tensor, Tensor]] = []
        self._size = 0
        self.share = 1.0  # of the rows that are retained; final after `rows`
        self._random = torch.Generator().manual_seed(0)
        self._max_outputs = (max_outputs or MAX_BUFFERED_OUTPUTS) // len(all_gather(None))

    def add(self, logits: Tensor, target: Tensor) -> None:
        """Add rows."""
        self._append(logits.cpu(), target.cpu(), self.share)
        while self._size > self._max_outputs:
            self._thin_out(self.share / 2)

    def _append(self, logits: Tensor, target: Tensor, share: float) -> None:
        if share < 1:
            mask = torch.rand(len(logits), generator=self._random) < share
            logits, target = logits[mask], target[mask]
        self._parts.append((logits, target))
        self._size += logits.numel()

    def _thin_out(self, share: float) -> None:
        parts, self._parts, self._size = self._parts, [], 0
        for part in parts:
            self._append(*part, share / self.share)
        self.share = share

    def rows(self) -> tuple[Tensor, Tensor] | None:
        """Return logits and target of all processes' rows; None where there were no rows."""
        lowest = min(all_gather(self.share))
        if self.share > lowest:
            self._thin_out(lowest)
        rows = [torch.cat(part) for part in zip(*self._parts, strict=True)]
        gathered = [part for part in all_gather(rows) if part]
        if not gathered:
            return None
        logits, target = (interleave(part) for part in zip(*gathered, strict=True))
        return logits, target
