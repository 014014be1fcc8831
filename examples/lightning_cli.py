"""LightningCLI in place of Hydra; needs jsonargparse (pip install 'lossselect[examples]'):

    cd examples
    python lightning_cli.py fit --config lightning_cli.yaml --model.loss=focal
    python lightning_cli.py test --config lightning_cli.yaml --ckpt_path checkpoints/best.ckpt

The data are 178 wines of three growers, 13 measurements each (scikit-learn's). Of the 50 test rows the
largest class has 21, which is an accuracy of .42 without looking.
"""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningCLI
from sklearn.datasets import load_wine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lossselect as ls


class WineModel(ls.TaskModule):
    """Takes the task as plain values: LightningCLI reads them again from a checkpoint, which holds such."""

    def __init__(
        self,
        task: dict[str, Any],
        loss: str | dict[str, Any] = "cross_entropy",
        hidden: int = 32,
        lr: float = 0.01,
    ):
        super().__init__(task, loss=loss, optimizer={"name": "AdamW", "lr": lr}, bias_init="prior")
        self.net = nn.Sequential(nn.Linear(13, hidden), nn.ReLU(), nn.Linear(hidden, self.task.num_outputs))


class Wines(LightningDataModule):
    """98 rows to train on, 30 to validate, 50 to test."""

    def __init__(self, batch_size: int = 16):
        super().__init__()
        self.batch_size = batch_size
        x, y = load_wine(return_X_y=True)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        parts = order.split([98, 30, 50])
        x = (x - x[parts[0]].mean(0)) / x[parts[0]].std(0)
        rows = [TensorDataset(torch.tensor(x[part]).float(), torch.tensor(y[part])) for part in parts]
        self.fit_rows, self.val_rows, self.test_rows = rows

    def train_dataloader(self):
        return DataLoader(self.fit_rows, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val_rows, batch_size=self.batch_size)

    def test_dataloader(self):
        return DataLoader(self.test_rows, batch_size=self.batch_size)


if __name__ == "__main__":
    LightningCLI(WineModel, Wines)
