"""Lightning data module of rows in memory."""

import os
import zlib
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lossselect.data.batches import TensorBatches, identity
from lossselect.data.checks import check_splits
from lossselect.data.preprocessing.table_rows import TableRows
from lossselect.data.splits import Splits
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.tasks.infer import encode_checked
from lossselect.tasks.registry import AnyTask
from lossselect.utils.devices import free_memory

MAX_DEVICE_SHARE = 8
"""Divisor of a GPU's free memory; the quotient is the maximum size of rows that are stored on the GPU."""


class TensorData(LightningDataModule):
    """Loaders over splits in memory; labels are encoded once, and checked unless `counts` is passed.

    If a GPU has enough memory, rows and labels are stored there, so that no batch is copied to it. Rows of a
    .npy file, free text, sparse features and sparse labels stay on the CPU.

    Args:
        splits: Features, labels and rows of each split.
        task: The task that encodes the labels.
        batch_size: The number of rows per batch and process.
        counts: Label counts of each split, as `check_splits` returns them; None to check the splits.

    Raises:
        DataError: the labels do not fit the task, or `check_splits` raises it.
    """

    def __init__(
        self, splits: Splits, task: AnyTask, batch_size: int = 64, counts: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.splits, self.task, self.batch_size = splits, task, batch_size
        # seed of the order of the training rows, the same in each process
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed()))
        self.in_chunks = splits.in_chunks
        labels = splits.labels
        target = labels if isinstance(labels, SparseLabels) else encode_checked(task, labels)
        self.counts = check_splits(task, splits) if counts is None else counts
        self._on_cpu: tuple[Any, Any, Tensor | None] = (splits.features, target, splits.weights)
        self.batches = {
            split: TensorBatches(splits.features, target, rows, splits.weights)
            for split, rows in splits.rows.items()
        }

    def setup(self, stage: str) -> None:
        """Move the rows to the training device if it has enough memory."""
        device = torch.device("cpu")
        if self.trainer:
            order = self.seed, self.in_chunks  # in_chunks depends on the memory of the machine
            self.seed, self.in_chunks = self.trainer.strategy.broadcast(order)
            device = self.trainer.strategy.root_device
        has_room = _has_room(device, *self._on_cpu)
        self._move(device if has_room else torch.device("cpu"), pins=device.type == "cuda" and not has_room)

    def teardown(self, stage: str) -> None:
        """Move the rows back to the CPU, as Lightning does with the module."""
        self._move(torch.device("cpu"), pins=False)

    def _move(self, device: torch.device, pins: bool) -> None:
        moved = None
        for batches in self.batches.values():
            batches.pins = pins
            if device != batches.device:
                moved = moved or [part if part is None else part.to(device) for part in self._on_cpu]
                batches.inputs, batches.target, batches.weights = moved
                batches.device = device

    def _loader(self, split: str, shuffle: bool = False) -> DataLoader[Any]:
        batches, trainer = self.batches[split], self.trainer
        # with overfit_batches, Lightning replaces the sampler by one that does not shuffle
        if trainer and trainer.overfit_batches:  # type: ignore[attr-defined]
            return DataLoader(batches, self.batch_size, collate_fn=identity)  # type: ignore[arg-type]
        ranks = trainer.distributed_sampler_kwargs if trainer else None
        return batches.loader(self.batch_size, shuffle, self.seed, in_chunks=self.in_chunks, **(ranks or {}))

    def use_sparse_targets(self) -> None:
        """Return the targets of batches as `SparseLabels`, for a chunked head."""
        for batches in self.batches.values():
            batches.dense = False

    @property
    def num_features(self) -> int:
        """Number of features of the net's inputs."""
        return self.splits.features.shape[1]

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the shuffled loader of the training split."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the validation split."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the test split."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the test split."""
        return self.test_dataloader()

    @property
    def train_digest(self) -> int:
        """Checksum of the indices of the training rows, by which other rows are recognised."""
        return zlib.crc32(self.splits.rows["train"].numpy().tobytes())

    def state_dict(self) -> dict[str, Any]:
        """Return the preparation, the batch size, and order and checksum of the rows, for the checkpoint."""
        order = {"shuffle_seed": self.seed, "shuffle_in_chunks": self.in_chunks}
        rows = {"train_rows": self.train_digest}
        return {**self.splits.preparation, "batch_size": self.batch_size, **order, **rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the order of the rows; the preparation is fitted again, to the same training split."""
        self.seed = state_dict.get("shuffle_seed", self.seed)
        self.in_chunks = state_dict.get("shuffle_in_chunks", self.in_chunks)


def _has_room(device: torch.device, inputs: Any, target: Any, weights: Tensor | None) -> bool:
    is_movable = inputs.is_movable if isinstance(inputs, TableRows) else isinstance(inputs, Tensor)
    if device.type != "cuda" or not (is_movable and isinstance(target, Tensor)):
        return False
    free = free_memory(device)
    size = inputs.nbytes + target.nbytes + (0 if weights is None else weights.nbytes)
    return free is not None and size <= free / MAX_DEVICE_SHARE
