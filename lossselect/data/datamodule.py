"""Lightning's view of data held in memory."""

import os
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lossselect.data.batches import LabelRows, TensorBatches, encode_labels, identity
from lossselect.data.checks import check_splits
from lossselect.data.splits import Splits
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import Task
from lossselect.utils.devices import free_memory

MAX_DEVICE_SHARE = 8
"""Rows are held on a GPU up to one of so many parts of its free memory: the rest is for training."""


class TensorData(LightningDataModule):
    """Loaders over splits held in memory; labels are checked and encoded once.

    On a GPU that has room for them, rows and labels are held there, and batches taken there: none is
    copied. Rows of a mapped file and lists of labels stay where they are.

    Args:
        splits: The data.
        task: Encodes the labels.
        batch_size: Rows a step.
        counts: What `check_splits` returned, if the splits have been checked.

    Raises:
        ValueError, TypeError: labels that do not fit the task; see `check_task` and `check_splits`.
    """

    def __init__(
        self, splits: Splits, task: Task, batch_size: int = 64, counts: dict[str, LabelCounts] | None = None
    ) -> None:
        super().__init__()
        self.splits, self.task, self.batch_size = splits, task, batch_size
        # each process must shuffle alike
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed()))
        """Of the order of the train rows in each epoch."""
        target = encode_labels(task, splits.labels)
        self.counts = check_splits(task, splits) if counts is None else counts
        self._held: tuple[Any, Any, Tensor | None] = (splits.features, target, splits.weights)
        self.batches = {
            split: TensorBatches(splits.features, target, rows, splits.weights)
            for split, rows in splits.rows.items()
        }

    def setup(self, stage: str) -> None:
        """Hold the rows where they are trained on, if there is room."""
        if self.trainer:
            self.seed = self.trainer.strategy.broadcast(self.seed)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        held = _has_room(device, *self._held)
        self._hold_on(device if held else torch.device("cpu"))
        for batches in self.batches.values():
            batches.pins = device.type == "cuda" and not held

    def teardown(self, stage: str) -> None:
        """Back to the CPU, as the module goes."""
        self._hold_on(torch.device("cpu"))
        for batches in self.batches.values():
            batches.pins = False

    def _hold_on(self, device: torch.device) -> None:
        if device == next(iter(self.batches.values())).device:
            return
        moved = [part if part is None else part.to(device) for part in self._held]
        for batches in self.batches.values():
            batches.inputs, batches.target, batches.weights = moved
            batches.device = device

    def _loader(self, split: str, shuffle: bool = False) -> DataLoader[Any]:
        batches, trainer = self.batches[split], self.trainer
        # then Lightning takes a sampler of its own, which shuffles nothing
        if trainer is not None and trainer.overfit_batches:  # type: ignore[attr-defined]
            return DataLoader(batches, self.batch_size, collate_fn=identity)  # type: ignore[arg-type]
        ranks = {}
        if trainer is not None and (told := trainer.distributed_sampler_kwargs):
            ranks = {"ranks": told["num_replicas"], "rank": told["rank"]}
        return batches.loader(self.batch_size, shuffle, self.seed, **ranks)

    def use_sparse_targets(self) -> None:
        """Give batches of lists of labels as `SparseLabels`, for a chunked head."""
        for batches in self.batches.values():
            if isinstance(batches.target, LabelRows):
                batches.target = LabelRows(batches.target.labels, dense=False)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the classes or labels."""
        return self.task.names

    @property
    def num_features(self) -> int:
        """What the width of a net's inputs is."""
        return self.splits.features.shape[1]

    def train_dataloader(self) -> DataLoader[Any]:
        """The train split, shuffled."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation split."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """The test split."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test split."""
        return self.test_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """What features and labels went through, for the checkpoint."""
        return {**self.splits.preparation, "shuffle_seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Shuffle as before; the same train split gives the same preparation."""
        self.seed = state_dict.get("shuffle_seed", self.seed)


def _has_room(device: torch.device, inputs: Any, target: Any, weights: Tensor | None) -> bool:
    numbers = getattr(inputs, "numbers", inputs)  # of the rows of a table
    if device.type != "cuda" or not (isinstance(numbers, Tensor) and isinstance(target, Tensor)):
        return False
    room = free_memory(device)
    size = inputs.nbytes + target.nbytes + (0 if weights is None else weights.nbytes)
    return room is not None and size <= room / MAX_DEVICE_SHARE
