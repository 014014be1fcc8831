"""Helpers for the tests of TaskModule: test_module.py, test_module_errors.py, test_optimizers.py, test_hooks.py, test_load.py, test_train_labels.py, test_tune.py."""

import lightning.pytorch as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lossselect as ls

TASKS = {"binary": ls.Binary(), "multiclass": ls.Multiclass(3), "multilabel": ls.Multilabel(3)}


def labels_of(task, inputs):
    """Return labels that a linear net can learn, in a form that users have."""
    if task.name == "multiclass":
        return inputs[:, : task.num_outputs].argmax(1)
    return (inputs[:, : task.num_outputs] > 0).int()


def loader(task, rows=40, batch_size=16, labels=None):
    inputs = torch.randn(rows, 8)
    labels = labels_of(task, inputs) if labels is None else labels
    return DataLoader(TensorDataset(inputs, labels), batch_size=batch_size)


def trainer(tmp_path, **options):
    options = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False} | options
    return L.Trainer(
        default_root_dir=tmp_path, enable_checkpointing=False, enable_model_summary=False, **options
    )


class MyModel(ls.TaskModule):
    """A custom module, as in a project of a user."""

    def __init__(self, task, hidden=64, **kwargs):
        super().__init__(task=task, **kwargs)
        self.net = nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, task.num_outputs))

    def forward(self, x):
        return self.net(x)


def long_tailed(task, rows=400):
    """Return inputs, and labels of which the last ones are rare."""
    inputs = torch.randn(rows, 8)
    if task.name == "multiclass":
        return inputs, torch.multinomial(torch.tensor([0.7, 0.25, 0.05]), rows, replacement=True)
    frequency = torch.tensor([0.5, 0.2, 0.05])[-task.num_outputs :]
    return inputs, torch.bernoulli(frequency.expand(rows, -1))
