"""A user's own data module, module and callback, which examples at the command line name."""

import torch
from lightning.pytorch import Callback, LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lossselect import TaskModule


class MyData(LightningDataModule):
    """Random features and binary labels, without a validation split."""

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(16, 8), torch.arange(16) % 2), 8)


class MySizedData(MyData):
    """The same, which states the width of its features."""

    num_features = 8


class OneClassData(MySizedData):
    """The same with a validation split in which all rows are of class 0."""

    def val_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(16, 8), torch.zeros(16)), 8)


class MyModule(TaskModule):
    """A module that builds its net itself."""

    def __init__(self, task, num_features, hidden, **kwargs):
        super().__init__(task, **kwargs)
        self.net = nn.Sequential(
            nn.Linear(num_features, hidden), nn.ReLU(), nn.Linear(hidden, task.num_outputs)
        )


class StopsAfterOneEpoch(Callback):
    """Ends the training after the first epoch."""

    def on_validation_end(self, trainer, pl_module):
        trainer.should_stop = not trainer.sanity_checking
