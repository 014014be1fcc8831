"""Searches for a learning rate or a batch size leave a module as it was, except for the value found."""

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from trainers import quiet_trainer

import lossselect as ls

pytestmark = pytest.mark.filterwarnings("ignore:The .* does not have many workers")

COUNTED = {"loss": {"name": "cross_entropy", "pos_weight": "auto"}, "bias_init": "prior"}
SETTINGS = pytest.mark.parametrize("settings", [{}, COUNTED], ids=["", "counted"])


class Data(L.LightningDataModule):
    def __init__(self, batch_size):
        super().__init__()
        self.batch_size = batch_size
        inputs = torch.randn(160, 8, generator=torch.Generator().manual_seed(0))
        self.rows = TensorDataset(inputs, (inputs[:, 0] > 0.7).long())

    def train_dataloader(self):
        return DataLoader(self.rows, self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.rows, 64)


def make_module(**settings):
    torch.manual_seed(0)
    return ls.TaskModule(
        ls.Binary(), nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.2), nn.Linear(8, 1)), **settings
    )


def make_trainer(tmp_path, *callbacks):
    return quiet_trainer(
        max_epochs=2, enable_checkpointing=False, callbacks=[*callbacks], default_root_dir=tmp_path
    )


def fit(tmp_path, module, batch_size, *callbacks, trainer=None):
    data, trainer = Data(batch_size), trainer or make_trainer(tmp_path, *callbacks)
    torch.manual_seed(1)
    trainer.fit(module, data)
    return data.batch_size, {name: value.item() for name, value in trainer.callback_metrics.items()}


def assert_same(tmp_path, module, batch_size, values, **settings):
    """Compare a fit after a search with a fit that had its result from the start."""
    other = make_module(**settings)
    other.lr = module.lr
    assert fit(tmp_path, other, batch_size)[1] == values
    for weight, expected in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(weight, expected)


@SETTINGS
@pytest.mark.parametrize("same_trainer", [False, True], ids=["", "same_trainer"])
def test_a_tuner(tmp_path, settings, same_trainer):
    module, trainer = make_module(**settings), make_trainer(tmp_path)
    found = Tuner(trainer).lr_find(module, Data(16), num_training=30).suggestion()
    assert module.lr == found != 1e-3
    data = Data(16)
    Tuner(trainer).scale_batch_size(module, datamodule=data, max_trials=3)
    assert data.batch_size == 8
    _, values = fit(tmp_path, module, 8, trainer=trainer if same_trainer else None)
    assert_same(tmp_path, module, 8, values, **settings)


@SETTINGS
def test_callbacks(tmp_path, settings):
    finders = LearningRateFinder(num_training_steps=30), BatchSizeFinder(max_trials=3)
    for finder in finders:
        module = make_module(**settings)
        batch_size, values = fit(tmp_path, module, 16, finder)
        assert (module.lr == 1e-3) is (batch_size == 8) is (finder is finders[1])
        assert_same(tmp_path, module, batch_size, values, **settings)


def test_an_optimizer_without_lr(tmp_path):
    module = make_module(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    with pytest.raises(AttributeError, match="should have one of these fields"):
        Tuner(make_trainer(tmp_path)).lr_find(module, Data(16), num_training=30)


def test_a_subclass_with_its_own_name_and_optimizer(tmp_path):
    class Own(ls.TaskModule):
        def __init__(self, learning_rate=1e-3):
            super().__init__(ls.Binary(), nn.Linear(8, 1))
            self.learning_rate = learning_rate

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.learning_rate)

    module, trainer = Own(), make_trainer(tmp_path)
    found = Tuner(trainer).lr_find(module, Data(16), num_training=30).suggestion()
    assert module.learning_rate == found != 1e-3
    trainer.fit(module, Data(16))
    assert trainer.optimizers[0].param_groups[0]["lr"] == found


def test_a_subclass_that_changes_the_optimizer(tmp_path):
    class Own(ls.TaskModule):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            optimizer.param_groups[0]["weight_decay"] = 0.0
            return optimizer

    module, trainer = Own(ls.Binary(), nn.Linear(8, 1)), make_trainer(tmp_path)
    found = Tuner(trainer).lr_find(module, Data(16), num_training=30).suggestion()
    assert module.lr == found != 1e-3
    trainer.fit(module, Data(16))
    assert trainer.optimizers[0].param_groups[0]["lr"] == found
