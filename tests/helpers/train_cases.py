"""Helpers for test_train.py, test_train_errors.py, test_own_parts.py, test_resume.py and test_sweeps.py."""

import csv
import sys
from pathlib import Path

import pytest

SHORT = ["trainer.max_epochs=2", "trainer.accelerator=cpu"]


def train_in(folder, *settings):
    """Run the command in a folder, within this process; for module fixtures.

    It trains model=mlp, which is faster, unless there is a setting of the model, and reports have no figures.
    """
    from quick_hydra import compose_quickly

    from lossselect.cli import train

    compose_quickly()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("lossselect.reporting.page._draw_pictures", lambda *_: {})
        patch.setattr("lossselect.reporting.page._draw_outcome", lambda *_: {})
        if not any(setting.startswith(("model", "module.")) for setting in settings):
            settings = (*settings, "model=mlp")
        patch.setattr(sys, "argv", ["train.py", *settings])
        train.main()


def read_csv(path):
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


OWN_DATA = """
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

class Data(LightningDataModule):
    class_names = ("low", "high")
    num_features = 4
    def __init__(self, rows=64, drop_last=False):
        super().__init__()
        self.rows, self.drop_last = rows, drop_last
    def loader(self):
        x = torch.randn(self.rows, 4)
        return DataLoader(TensorDataset(x, (x[:, 0] > 0).int()), batch_size=16, drop_last=self.drop_last)
    def train_dataloader(self):
        return self.loader()
    def val_dataloader(self):
        return self.loader()

class NoTrain(LightningDataModule):
    class_names, num_features = ("low", "high"), 4

class Empty(Data):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.zeros(0, 4)), shuffle=True)

class Several(Data):
    def predict_dataloader(self):
        return [self.loader(), self.loader()]

class NoVal(Data):
    val_dataloader = LightningDataModule.val_dataloader

class Images(Data):
    def loader(self):
        x = torch.randn(6, 3, 4, 4)
        return DataLoader(TensorDataset(x, (x[:, 0] > 0).int()), batch_size=4)
    test_dataloader = Data.val_dataloader

def conv(num_outputs):
    return torch.nn.Conv2d(3, num_outputs, 1)

def number(num_outputs):
    return num_outputs
"""
