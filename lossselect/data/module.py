"""Lightning's view of data held in memory."""

from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from ..infer import check_task
from ..tasks import Task
from .batches import TensorBatches
from .splits import Splits


class TensorData(LightningDataModule):
    """Loaders over splits held as whole tensors; labels are checked and encoded once.

    Args:
        splits: The data.
        task: Encodes the labels.
        batch_size: Rows a step.

    Raises:
        ValueError, TypeError: labels that do not fit the task; see `check_task`.
    """

    def __init__(self, splits: Splits, task: Task, batch_size: int = 64) -> None:
        super().__init__()
        self.splits, self.batch_size = splits, batch_size
        target = check_task(task, splits.labels)
        self.batches = {
            split: TensorBatches(splits.features[rows], target[rows]) for split, rows in splits.rows.items()
        }

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

    def state_dict(self) -> dict[str, Tensor]:
        """What a feature went through, for the checkpoint: (x - mean) / std."""
        return {"mean": self.splits.mean, "std": self.splits.std}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Nothing to take over: the same train split gives the same numbers."""
