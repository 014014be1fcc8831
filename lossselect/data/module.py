"""Lightning's view of data held in memory."""

from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from ..counts import LabelCounts
from ..infer import check_task
from ..label_lists import LabelLists
from ..tasks import Task
from .batches import LabelRows, PositiveRows, TensorBatches
from .checks import check_splits
from .splits import Splits


class TensorData(LightningDataModule):
    """Loaders over splits held in memory; labels are checked and encoded once.

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
        # lists of labels have been checked as they were read; they become rows of 0 and 1 batch by batch
        labels = splits.labels
        target = LabelRows(labels) if isinstance(labels, LabelLists) else check_task(task, labels)
        self.counts = check_splits(task, splits) if counts is None else counts
        self.batches = {
            split: TensorBatches(splits.features, target, rows, splits.weights)
            for split, rows in splits.rows.items()
        }

    def take_positives(self) -> None:
        """Give batches of lists of labels as `Positives`, for a chunked head."""
        for batches in self.batches.values():
            if isinstance(batches.target, LabelRows):
                batches.target = PositiveRows(batches.target.lists)

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
        return self.batches["train"].loader(self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation split."""
        return self.batches["val"].loader(self.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """The test split."""
        return self.batches["test"].loader(self.batch_size)

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test split."""
        return self.test_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """What features and labels went through, for the checkpoint."""
        return self.splits.preparation

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to take over: the same train split gives the same numbers."""
