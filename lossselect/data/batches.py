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
    """Sparse labels as a target, of which the rows of a batch are taken.

    Args:
        labels: Of all rows.
        dense: Whether rows are float32 (n, num_labels), for a single row (num_labels,); else `SparseLabels`.
    """

    def __init__(self, labels: SparseLabels, dense: bool = True) -> None:
        self.labels, self.dense = labels, dense

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Any) -> Tensor | SparseLabels:
        chosen = self.labels.select(rows)
        if not self.dense:
            return chosen
        target = chosen.to_dense()
        return target if np.ndim(rows) else target[0]


def encode_labels(task: Task, labels: Any, dense: bool = True) -> Any:
    """Labels as batches take them; lists of them have been checked as they were read.

    Args:
        task: Encodes them.
        labels: Of a whole data set, as `Splits` has them.
        dense: Whether rows of sparse labels are a matrix; False for a chunked head.

    Raises:
        ValueError, TypeError: labels that do not fit the task; see `encode_checked`.
    """
    if isinstance(labels, SparseLabels):
        return LabelRows(labels, dense)
    return encode_checked(task, labels)


ALIGNED = 64
"""Bytes: where torch's allocator lets a tensor begin. Elsewhere a matrix product may round otherwise."""


class Block:
    """Some batches that are passed on as one.

    Args:
        batches: The batches; of the rows of all of them, how many each has.
        rows: Of all batches, where they were taken at once.
    """

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
        """What `move` makes of the batches, at once where that can be."""
        if self.rows is None:
            return Block([move(batch) for batch in self.batches])
        return Block(self.batches, move(self.rows))


def _split(values: Tensor | None, sizes: list[int]) -> list[Any]:
    """Views of each batch's rows; copies where a view would not begin where a tensor does."""
    if values is None:
        return [None] * len(sizes)
    return [part if part.data_ptr() % ALIGNED == 0 else part.clone() for part in values.split(sizes)]


class TensorBatches(Dataset[Any]):
    """Some rows of what is held in memory, taken a batch at a time.

    Args:
        inputs: A tensor, or anything that rows can be taken of as of one.
        target: The same.
        rows: Which rows these are; all by default.
        weights: Of all rows in the loss, (N,); None where they weigh alike.
    """

    def __init__(
        self, inputs: Any, target: Any, rows: Tensor | None = None, weights: Tensor | None = None
    ) -> None:
        self.inputs, self.target, self.weights = inputs, target, weights
        self.rows = torch.arange(len(inputs)) if rows is None else rows
        self.device = torch.device("cpu")
        """Where they are held."""
        self.pins = False
        """Whether batches are put into pinned memory, so that a copy of them to a GPU is not waited for."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | Tensor) -> EncodedBatch:
        return self._taken(self.rows[index] if isinstance(index, Tensor) else int(self.rows[index]))

    def __getitems__(self, indices: Sequence[int]) -> EncodedBatch:
        """The whole batch at once: what a DataLoader asks for where a data set has this method."""
        return self[torch.as_tensor(indices)]

    def block(self, batches: list[Tensor]) -> Block:
        """The batches of these indices, with all of their rows taken at once."""
        if isinstance(self.target, LabelRows) and not self.target.dense:
            return Block([self[indices] for indices in batches])
        rows = self[torch.cat(batches) if batches else torch.empty(0, dtype=torch.long)]
        return Block([len(indices) for indices in batches], rows)

    def _taken(self, rows: Any) -> EncodedBatch:
        if self.device.type != "cpu" and isinstance(rows, Tensor):
            rows = rows.pin_memory().to(self.device, non_blocking=True)  # else the device would be waited for
        weights = None if self.weights is None else self.weights[rows]
        batch = self.inputs[rows], self.target[rows], weights
        if self.pins and isinstance(rows, Tensor):
            batch = tuple(part if part is None else part.pin_memory() for part in batch)  # type: ignore[assignment]
        return EncodedBatch(*batch)

    def loader(
        self, batch_size: int, shuffle: bool = False, seed: int | None = None, **ranks: int
    ) -> DataLoader[Any]:
        """A DataLoader whose batches are each taken at once; see `RowBatches`."""
        batches = RowBatches(self, batch_size, shuffle, seed, **ranks)
        return DataLoader(self, batch_size=None, sampler=batches, collate_fn=identity)  # type: ignore[arg-type]


def identity(batch: EncodedBatch) -> EncodedBatch:
    """No collating of what is a batch already."""
    return batch
