"""Which rows each batch has, in one process or in one of several."""

from collections.abc import Iterator, Sized

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from lossselect.exceptions import DataError


class RowBatches(DistributedSampler[Tensor]):
    """Batches of row numbers, in an order that seed and epoch tell; for a DataLoader with batch_size=None.

    Of W processes the r-th takes the rows at r, r + W, r + 2 W, ... of that order: each row once, where
    torch's own sampler takes some twice so that all processes have as many. Batch by batch W processes take
    together what one takes with W times the batch size. All take the same number of batches, for which a last
    one may have a row more than the others.

    Args:
        data: How many rows there are is its length.
        batch_size: Rows a batch, of one process.
        shuffle: Whether each epoch has another order; else it is that of the rows.
        seed: Of the orders; None takes torch's.
        ranks, rank: How many processes, and which one this is; None asks torch.distributed when it is time.

    Raises:
        ValueError: fewer rows than processes.
    """

    def __init__(
        self,
        data: Sized,
        batch_size: int,
        shuffle: bool = False,
        seed: int | None = None,
        ranks: int | None = None,
        rank: int | None = None,
    ) -> None:
        # a DistributedSampler, so that Lightning does not put one in its place
        seed = torch.initial_seed() if seed is None else seed
        super().__init__(data, ranks or 1, rank or 0, shuffle, seed)  # type: ignore[arg-type]
        self.rows, self.batch_size, self.asks = len(data), batch_size, ranks is None
        self.skip = 0
        """How many batches the next epoch leaves out, where a run goes on."""

    def _place(self) -> tuple[int, int]:
        """How many processes there are, and which one this is."""
        if self.asks and dist.is_available() and dist.is_initialized():
            return dist.get_world_size(), dist.get_rank()
        return self.num_replicas, self.rank

    def __len__(self) -> int:
        """The number of batches; of the epoch as a whole, whatever is skipped."""
        ranks, _ = self._place()
        if self.rows < ranks:
            raise DataError(
                f"There are {self.rows} rows for {ranks} processes, and each needs one at least: fewer "
                "processes (trainer.devices), or more rows."
            )
        return -(-(self.rows // ranks) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(self.rows)
        if self.shuffle:
            generator = torch.Generator().manual_seed((self.seed + self.epoch) % 2**63)
            order = torch.randperm(self.rows, generator=generator)
        ranks, rank = self._place()
        own = order[rank::ranks]
        first, self.skip = self.skip, 0
        self.epoch += 1  # in a loop of one's own nobody else may say so
        last = len(self) - 1
        for i in range(first, last):
            yield own[i * self.batch_size : (i + 1) * self.batch_size]
        if first <= last:
            yield own[last * self.batch_size :]
