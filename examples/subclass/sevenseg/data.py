"""The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn contains."""

import torch
from lightning.pytorch import LightningDataModule
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

SEGMENTS = ("top", "upper left", "upper right", "middle", "lower left", "lower right", "bottom")
LIT = (
    "1110111",
    "0010010",
    "1011101",
    "1011011",
    "0111010",
    "1101011",
    "1101111",
    "1010010",
    "1111111",
    "1111011",
)
"""The lit segments of each digit."""


class Digits(LightningDataModule):
    """Images with labels for the task: the digit, or the segments that are lit.

    Args:
        task: "multiclass" or "multilabel".
        batch_size: Number of rows in a batch.
    """

    def __init__(self, task, batch_size=32):
        super().__init__()
        self.batch_size = batch_size
        pixels, digits = load_digits(return_X_y=True)
        images, labels = torch.tensor(pixels / 16).float().view(-1, 1, 8, 8), torch.tensor(digits)
        self.class_names = tuple("0123456789")
        if task == "multilabel":
            self.class_names = SEGMENTS
            labels = torch.tensor([[int(lit) for lit in LIT[digit]] for digit in digits])
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        self.fit_rows, self.val_rows, self.test_rows = (
            TensorDataset(images[rows], labels[rows]) for rows in order.split([1097, 300, 400])
        )

    def train_dataloader(self):
        return DataLoader(self.fit_rows, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val_rows, batch_size=100)

    def test_dataloader(self):
        return DataLoader(self.test_rows, batch_size=100)

    predict_dataloader = test_dataloader
