"""Batches of whole tensors: one indexing operation each, no collating of samples."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lossselect.data.sampler import RowBatches
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.targets import EncodedBatch
from lossselect.tasks.infer import encode_checked
from lossselect.tasks.registry import Task


class LabelRows:
    """Sparse labels as a target; if `dense`, the rows taken are float32 (n, num_labels), else sparse."""

    def __init__(self, labels: SparseLabels, dense: bool = True) -> None:
        self.labels, self.dense = labels, dense

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Any) -> Tensor | SparseLabels:
        labels = self.labels.select(rows)
        if not self.dense:
            return labels
        return labels.to_dense() if np.ndim(rows) else labels.to_dense()[0]


def encode_labels(task: Task, labels: Any, dense: bool = True) -> Any:
    """Return labels of `Splits` as batches take them; sparse ones remain sparse unless `dense`."""
    return LabelRows(labels, dense) if isinstance(labels, SparseLabels) else encode_checked(task, labels)


ALIGNED = 64
"""Bytes: where torch's allocator lets a tensor begin. Elsewhere a matrix product may round otherwise."""


class Block:
    """Several batches as one; if `rows` were taken at once, `batches` are the sizes."""

    def __init__(self, batches: list[Any], rows: EncodedBatch | None = None) -> None:
        self.batches, self.rows = batches, rows

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        if self.rows is None:
            return iter(self.batches)
        parts = [_split(values, self.batches) for values in self.rows]
        return (EncodedBatch(*values) for values in zip(*parts, strict=True))

    def moved(self, move: Callable[[Any], Any]) -> "Block":
        """Apply `move` to the batches, at once if possible."""
        if self.rows is None:
            return Block([move(batch) for batch in self.batches])
        return Block(self.batches, move(self.rows))


def _split(values: Tensor | None, sizes: list[int]) -> list[Any]:
    """Return views of each batch's rows; copies where a view would not begin where a tensor does."""
    if values is None:
        return [None] * len(sizes)
    return [part if part.data_ptr() % ALIGNED == 0 else part.clone() for part in values.split(sizes)]


class TensorBatches(Dataset[Any]):
    """Rows in memory, taken a batch at a time.

    Args:
        inputs: A tensor, or anything that is indexed by rows like one.
        target: The same.
        rows: Which rows these are; all by default.
        weights: Weights of all rows in the loss, (N,).
    """

    def __init__(
        self, inputs: Any, target: Any, rows: Tensor | None = None, weights: Tensor | None = None
    ) -> None:
        self.inputs, self.target, self.weights = inputs, target, weights
        self.rows = torch.arange(len(inputs)) if rows is None else rows
        self.device = torch.device("cpu")  # of inputs, target and weights
        self.pins = False  # whether batches are pinned in memory, so that copying to a GPU is asynchronous

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | Tensor) -> EncodedBatch:
        if not isinstance(index, Tensor):
            return self._take(int(self.rows[index]))
        rows = self.rows[index]
        if self.device.type != "cpu":
            rows = rows.pin_memory().to(self.device, non_blocking=True)  # else the device would be waited for
        batch = self._take(rows)
        if not self.pins:
            return batch
        return EncodedBatch(*(part if part is None else part.pin_memory() for part in batch))

    def __getitems__(self, indices: Sequence[int]) -> EncodedBatch:
        """Return the whole batch at once: a DataLoader calls this method if a data set has it."""
        return self[torch.as_tensor(indices)]

    def block(self, batches: list[Tensor]) -> Block:
        """Return the batches of these indices; all of their rows are taken at once."""
        if isinstance(self.target, LabelRows) and not self.target.dense:
            return Block([self[indices] for indices in batches])
        rows = self[torch.cat(batches) if batches else torch.empty(0, dtype=torch.long)]
        return Block([len(indices) for indices in batches], rows)

    def _take(self, rows: Any) -> EncodedBatch:
        weights = None if self.weights is None else self.weights[rows]
        return EncodedBatch(self.inputs[rows], self.target[rows], weights)

    def loader(
        self, batch_size: int, shuffle: bool = False, seed: int | None = None, **ranks: int
    ) -> DataLoader[Any]:
        """Return a DataLoader whose batches are each taken at once; see `RowBatches`."""
        batches = RowBatches(self, batch_size, shuffle, seed, **ranks)
        return DataLoader(self, batch_size=None, sampler=batches, collate_fn=identity)  # type: ignore[arg-type]


def identity(batch: EncodedBatch) -> EncodedBatch:
    """Collate what is a batch already."""
    return batch
