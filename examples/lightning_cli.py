"""LightningCLI instead of Hydra; requires jsonargparse (pip install 'lossselect[examples]').

    cd examples
    python lightning_cli.py fit --config lightning_cli.yaml --model.loss=focal
    python lightning_cli.py test --config lightning_cli.yaml --ckpt_path checkpoints/best.ckpt

The data are 178 wines of three growers with 13 measurements each, from scikit-learn. Always predicting the
largest class of the 50 test rows has an accuracy of 0.42.
"""

import logging
import warnings
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningCLI
from sklearn.datasets import load_wine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lossselect as ls


class WineModel(ls.TaskModule):
    """A model whose task is given as plain values, so that LightningCLI can read it from a checkpoint."""

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
    """98 training, 30 validation and 50 test rows."""

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
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no advertisements
    warnings.filterwarnings("ignore", module="lightning")  # for example about loaders without workers
    LightningCLI(WineModel, Wines)
