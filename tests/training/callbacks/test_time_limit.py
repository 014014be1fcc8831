"""Tests of the time limit, with a clock that advances by one second in each batch."""

import pytest
import torch

import lossselect as ls
from lossselect.exceptions import ConfigError
from lossselect.training.callbacks import time_limit
from lossselect.training.callbacks.time_limit import TimeLimit
from tests.helpers.module_cases import loader
from tests.helpers.trainers import quiet_trainer

TASK = ls.Binary()
NET = {"name": "linear", "num_features": 8}


class Clock(ls.TaskModule):
    """Advances the time by a second in each step, and records the learning rates."""

    now, seconds, rates = 0.0, 1.0, ()

    def training_step(self, batch, batch_idx):
        Clock.now += self.seconds
        return super().training_step(batch, batch_idx)

    def on_train_epoch_start(self):
        self.rates = [*self.rates, self.optimizers().param_groups[0]["lr"]]


@pytest.fixture
def module(monkeypatch):
    monkeypatch.setattr(Clock, "now", 0.0)
    monkeypatch.setattr(time_limit.time, "monotonic", lambda: Clock.now)
    torch.manual_seed(0)
    scheduler = {"name": "CosineAnnealingLR", "T_max": 50}
    return Clock(TASK, NET, optimizer={"name": "SGD", "lr": 1.0}, scheduler=scheduler)


def fit(module, callback, **options):
    trainer = quiet_trainer(max_epochs=50, callbacks=[callback], enable_checkpointing=False, **options)
    trainer.fit(module, loader(TASK, rows=64, batch_size=16))
    return trainer


def test_the_epochs_and_the_schedule_fit_into_the_time(module):
    trainer = fit(module, TimeLimit(21))  # four seconds for each epoch
    assert trainer.current_epoch == trainer.max_epochs == 5
    assert trainer.lr_scheduler_configs[0].scheduler.T_max == 5
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-6)
    assert sorted(module.rates, reverse=True) == module.rates


def test_enough_time_changes_nothing(module):
    trainer = fit(module, TimeLimit(1000))
    assert trainer.current_epoch == 50
    assert trainer.lr_scheduler_configs[0].scheduler.T_max == 50


def test_training_stops_within_the_first_epoch(module):
    message = r"within the first epoch, after 2 steps.*\[short_time_limit\]"
    with pytest.warns(ls.LossSelectWarning, match=message):
        trainer = fit(module, TimeLimit(1.5))
    assert trainer.global_step == 2


def test_training_stops_if_later_epochs_take_longer(module):
    class Slower(TimeLimit):
        def on_train_epoch_end(self, trainer, pl_module):
            super().on_train_epoch_end(trainer, pl_module)
            pl_module.seconds = 3.0

    assert fit(module, Slower(20)).global_step < 4 + 8


@pytest.mark.parametrize(("seconds", "epochs"), [(21, 5), (41, 10)])
def test_the_number_of_epochs_is_restored_unless_the_limit_changes(module, seconds, epochs):
    first, second = TimeLimit(21), TimeLimit(seconds)
    fit(module, first)
    second.load_state_dict(first.state_dict())
    assert fit(module, second).max_epochs == epochs


@pytest.mark.parametrize("seconds", [-1, 0, float("inf")])
def test_invalid_times(seconds):
    with pytest.raises(ConfigError, match=r"time_limit must be"):
        TimeLimit(seconds)
