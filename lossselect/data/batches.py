"""Batches of whole tensors: one indexing operation each, no collating of samples."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..targets import EncodedBatch


class TensorBatches(Dataset[Any]):
    """Rows of tensors held in memory, taken a batch at a time."""

    def __init__(self, inputs: Tensor, target: Tensor) -> None:
        self.inputs, self.target = inputs, target

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> EncodedBatch:
        return EncodedBatch(self.inputs[index], self.target[index])

    def __getitems__(self, indices: Sequence[int]) -> EncodedBatch:
        """The whole batch at once: what a DataLoader asks for where a data set has this method."""
        rows = torch.as_tensor(indices)
        return EncodedBatch(self.inputs[rows], self.target[rows])

    def loader(self, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
        """A DataLoader whose batches come as `__getitems__` makes them."""
        return DataLoader(self, batch_size=batch_size, shuffle=shuffle, collate_fn=_as_it_is)  # type: ignore[arg-type]


def _as_it_is(batch: EncodedBatch) -> EncodedBatch:
    return batch
