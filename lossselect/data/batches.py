"""Batches of rows in memory: their order, and the single indexing operation that creates each batch."""

from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from lossselect.exceptions import DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.targets import Encoded, EncodedBatch, EncodedPair

ALIGNED = 64
"""Alignment of torch's allocator in bytes. With another alignment, a matrix product may round differently."""

CHUNK_ROWS = 256
"""Number of consecutive rows in a chunk: 20 KB of 20 features, read from a disk as quickly as one row."""
WINDOW_ROWS = 1 << 18
"""Number of rows that are shuffled together, 1,024 chunks from random places."""


class Block:
    """Several batches as one object.

    Args:
        batches: The batches or, with `rows`, their sizes.
        rows: The rows of all batches, indexed in one operation.
    """

    def __init__(self, batches: list[Any], rows: Encoded | None = None) -> None:
        self.batches, self.rows = batches, rows

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        if self.rows is None:
            return iter(self.batches)
        parts = [_split(values, self.batches) for values in self.rows]  # type: ignore[arg-type]
        return (type(self.rows)(*values) for values in zip(*parts, strict=True))

    def moved(self, move: Callable[[Any], Any]) -> "Block":
        """Return the block after `move`, applied to all rows at once if possible, else to each batch."""
        if self.rows is None:
            return Block([move(batch) for batch in self.batches])
        return Block(self.batches, move(self.rows))


def _split(values: Tensor, sizes: list[int]) -> list[Any]:
    """Return each batch's rows as a view, or as a copy if the view is not aligned."""
    return [part if part.data_ptr() % ALIGNED == 0 else part.clone() for part in values.split(sizes)]


def check_enough_rows(owner: str, num_rows: int, processes: int) -> None:
    """Raise a DataError for fewer rows than processes."""
    if num_rows < processes:
        raise DataError(
            f"Each of the {processes} processes requires at least one row, but the {owner} has {num_rows}. "
            "Use fewer processes (trainer.devices), or add rows."
        )


def shuffle_in_chunks(num_rows: int, generator: torch.Generator) -> Tensor:
    """Return the rows in a random order in which nearby rows are read from the disk at nearby times.

    The chunks of consecutive rows are shuffled, and then the rows within each window of several chunks.
    """
    chunks = torch.randperm(-(-num_rows // CHUNK_ROWS), generator=generator)
    rows = (chunks[:, None] * CHUNK_ROWS + torch.arange(CHUNK_ROWS)).flatten()
    windows = rows[rows < num_rows].split(WINDOW_ROWS)
    return torch.cat([window[torch.randperm(len(window), generator=generator)] for window in windows])


class RowBatches(DistributedSampler[Tensor]):  # a DistributedSampler, so that Lightning does not replace it
    """Sampler of batches of row indices for a DataLoader with batch_size=None; seed and epoch set the order.

    With W processes, the process of rank r takes the positions r, r + W, r + 2 W, ... of the order. Each row
    is used once, whereas torch's own sampler repeats some. Together, the W processes take the same batches as
    one process with W times the batch size. All processes have the same number of batches; the last batch may
    have one more row in some processes.

    Args:
        data: The rows; only their number is used.
        batch_size: The number of rows per batch and process.
        shuffle: Whether the order is random; else the rows keep their order.
        seed: Seed of the order, by default torch's initial seed.
        num_replicas: The number of processes, by default the world size of torch.distributed.
        rank: The rank of this process, used with `num_replicas`.
        in_chunks: Whether the random order is one of `shuffle_in_chunks`, for rows in a large file.
    """

    def __init__(
        self,
        data: Sized,
        batch_size: int,
        shuffle: bool = False,
        seed: int | None = None,
        num_replicas: int | None = None,
        rank: int | None = None,
        in_chunks: bool = False,
    ) -> None:
        seed = torch.initial_seed() if seed is None else seed
        super().__init__(data, num_replicas or 1, rank or 0, shuffle, seed)  # type: ignore[arg-type]
        self.num_rows, self.batch_size, self.has_fixed_rank = len(data), batch_size, num_replicas is not None
        self.in_chunks = in_chunks
        self.skip = 0  # batches that the next epoch skips after a run is resumed

    def _replicas_and_rank(self) -> tuple[int, int]:
        if self.has_fixed_rank or not (dist.is_available() and dist.is_initialized()):
            return self.num_replicas, self.rank
        return dist.get_world_size(), dist.get_rank()

    def __len__(self) -> int:
        """Return the number of batches of an epoch, including skipped ones."""
        replicas, _ = self._replicas_and_rank()
        check_enough_rows("loader", self.num_rows, replicas)
        return -(-(self.num_rows // replicas) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(self.num_rows)
        if self.shuffle:
            generator = torch.Generator().manual_seed((self.seed + self.epoch) % 2**63)
            permute = shuffle_in_chunks if self.in_chunks else torch.randperm
            order = permute(self.num_rows, generator=generator)
        replicas, rank = self._replicas_and_rank()
        rows = order[rank::replicas]
        first, self.skip = self.skip, 0
        self.epoch += 1  # a loop in plain torch may not call set_epoch
        last = len(self) - 1
        for i in range(first, last + 1):
            yield rows[i * self.batch_size : (i + 1) * self.batch_size if i < last else None]


class TensorBatches(Dataset[Any]):
    """Data set of rows in memory, indexed one batch at a time.

    A batch is a pair (inputs, target), or (inputs, target, weights) if there are sample weights.

    Args:
        inputs: A tensor (N, ...), or any object that is indexed by rows like a tensor.
        target: The canonical target, as `task.encode` returns it, or `SparseLabels`.
        rows: Integer tensor (n,) with the indices of the rows of this data set; all N rows by default.
        weights: Sample weights (N,) in the loss, >= 0; None for no weights.

    Example:
        >>> loader = TensorBatches(torch.zeros(5, 3), torch.zeros(5, 1)).loader(batch_size=2)
        >>> [tuple(batch.inputs.shape) for batch in loader]
        [(2, 3), (2, 3), (1, 3)]
    """

    def __init__(
        self, inputs: Any, target: Any, rows: Tensor | None = None, weights: Tensor | None = None
    ) -> None:
        self.inputs, self.target, self.weights = inputs, target, weights
        self.rows = torch.arange(len(inputs)) if rows is None else rows
        self.device = torch.device("cpu")  # device of inputs, target and weights
        self.dense = True  # whether batches of sparse labels are converted to float32 (n, num_labels)
        self.pins = False  # whether batches are pinned in memory, so that copying to a GPU is asynchronous

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | Tensor) -> Encoded:
        if not isinstance(index, Tensor):
            return self._take(int(self.rows[index]))
        rows = self.rows[index]
        if self.device.type != "cpu":
            rows = rows.pin_memory().to(self.device, non_blocking=True)  # does not wait for the device
        batch = self._take(rows)
        if not self.pins:
            return batch
        return type(batch)(*(part.pin_memory() for part in batch))  # type: ignore[union-attr]

    def __getitems__(self, indices: Sequence[int]) -> Encoded:
        """Return the whole batch at once; a DataLoader calls this method if a data set has it."""
        return self[torch.as_tensor(indices)]

    def block(self, batches: list[Tensor]) -> Block:
        """Return the batches of these indices; all of their rows are indexed at once if possible."""
        if isinstance(self.target, SparseLabels) and not self.dense:
            return Block([self[indices] for indices in batches])
        rows = self[torch.cat(batches) if batches else torch.empty(0, dtype=torch.long)]
        return Block([len(indices) for indices in batches], rows)

    def _take(self, rows: Any) -> Encoded:
        target = self.target
        if not isinstance(target, SparseLabels):
            target = target[rows]
        else:
            labels = target.select(rows)
            dense = self.dense
            target = labels if not dense else labels.to_dense() if np.ndim(rows) else labels.to_dense()[0]
        if self.weights is None:
            return EncodedPair(self.inputs[rows], target)
        return EncodedBatch(self.inputs[rows], target, self.weights[rows])

    def loader(
        self, batch_size: int, shuffle: bool = False, seed: int | None = None, **options: Any
    ) -> DataLoader[Any]:
        """Return a DataLoader that indexes each batch at once; see `RowBatches` for the arguments."""
        batches = RowBatches(self, batch_size, shuffle, seed, **options)
        return DataLoader(self, batch_size=None, sampler=batches, collate_fn=identity)  # type: ignore[arg-type]


def identity(batch: Encoded) -> Encoded:
    """Return the batch, which needs no collation."""
    return batch
