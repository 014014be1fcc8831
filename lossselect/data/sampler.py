"""Which rows each batch has, in one process or in one of several."""

from collections.abc import Iterator, Sized

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from lossselect.exceptions import DataError


class RowBatches(DistributedSampler[Tensor]):  # a DistributedSampler, so that Lightning does not replace it
    """Batches of row numbers, in an order given by seed and epoch; for a DataLoader with batch_size=None.

    Of W processes the r-th takes the rows at r, r + W, r + 2 W, ... of that order: each row once, where
    torch's own sampler takes some twice to give all processes the same number. Batch by batch W processes
    together take what a single process takes with W times the batch size. All take the same number of
    batches; the last one may have a row more in some processes. `batch_size` is that of one process; the
    processes are by default those of torch.distributed.
    """

    def __init__(
        self,
        data: Sized,
        batch_size: int,
        shuffle: bool = False,
        seed: int | None = None,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        seed = torch.initial_seed() if seed is None else seed
        super().__init__(data, num_replicas or 1, rank or 0, shuffle, seed)  # type: ignore[arg-type]
        self.num_rows, self.batch_size, self.has_fixed_rank = len(data), batch_size, num_replicas is not None
        self.skip = 0  # batches that the next epoch leaves out, if a run is resumed

    def _replicas_and_rank(self) -> tuple[int, int]:
        if self.has_fixed_rank or not (dist.is_available() and dist.is_initialized()):
            return self.num_replicas, self.rank
        return dist.get_world_size(), dist.get_rank()

    def __len__(self) -> int:
        """Return the number of batches of an epoch, those that are skipped included."""
        replicas, _ = self._replicas_and_rank()
        if self.num_rows < replicas:
            raise DataError(
                f"There are {self.num_rows} rows for {replicas} processes, and each needs one at least: "
                "fewer processes (trainer.devices), or more rows."
            )
        return -(-(self.num_rows // replicas) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(self.num_rows)
        if self.shuffle:
            generator = torch.Generator().manual_seed((self.seed + self.epoch) % 2**63)
            order = torch.randperm(self.num_rows, generator=generator)
        replicas, rank = self._replicas_and_rank()
        rows = order[rank::replicas]
        first, self.skip = self.skip, 0
        self.epoch += 1  # a loop in plain torch may not call set_epoch
        last = len(self) - 1
        for i in range(first, last + 1):
            yield rows[i * self.batch_size : (i + 1) * self.batch_size if i < last else None]
