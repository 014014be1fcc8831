"""Tests of the private parts of Lightning: with an incompatible version these fail first."""

import signal
from types import SimpleNamespace

import lightning
import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from trainers import quiet_trainer

import lossselect as ls
from lossselect.compat import lightning as compat

ROWS = TensorDataset(torch.randn(24, 4), torch.arange(24) % 3)


def loader():
    return DataLoader(ROWS, 4)


ONCE = {"max_epochs": 1, "enable_checkpointing": False}


class Recorder(Callback):
    """Calls a function with the trainer in each training batch, and records the results."""

    def __init__(self, function):
        self.function, self.results = function, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.results.append(self.function(trainer))


def fit(function, **options):
    recorder = Recorder(function)
    trainer = quiet_trainer(**ONCE, callbacks=[recorder], **options)
    trainer.fit(ls.TaskModule(ls.Multiclass(3), nn.Linear(4, 3)), loader(), loader())
    return recorder.results


def test_the_installed_version_is_a_tested_one():
    assert compat.is_tested()


def test_without_fit_there_are_no_loaders():
    trainer = quiet_trainer(**ONCE)
    assert compat.data_fetcher(trainer.fit_loop) is None
    assert compat.train_loaders(trainer) == []
    assert compat.logged_results(trainer) is None


def test_the_fetcher_counts_batches_and_has_its_loaders():
    def inspect(trainer):
        fetcher = compat.data_fetcher(trainer.fit_loop)
        assert isinstance(fetcher, compat.DataFetcher)
        assert not isinstance(fetcher, compat.IteratorFetcher)
        assert fetcher.combined_loader.flattened == compat.train_loaders(trainer)
        return fetcher.fetched, fetcher.length

    assert [fetched for fetched, _ in fit(inspect)] == [1, 2, 3, 4, 5, 6]
    assert {length for _, length in fit(inspect)} == {6}


def test_batches_before_a_step_or_a_validation():
    assert fit(compat.accumulates, accumulate_grad_batches=2) == [True, False] * 3
    assert fit(compat.validates_after_batch, val_check_interval=3) == [False, False, True] * 2
    assert fit(compat.is_last_batch) == [False] * 5 + [True]


def test_steps_are_counted_for_loggers():
    def count(trainer):
        before = trainer.fit_loop.epoch_loop._batches_that_stepped
        compat.count_optimizer_step(trainer)
        return trainer.fit_loop.epoch_loop._batches_that_stepped - before

    assert fit(count) == [1] * 6


def test_a_restored_loop_starts_from_the_beginning():
    trainer = quiet_trainer(**ONCE)
    compat._Loop.restarting.fset(trainer.fit_loop, True)  # as load_state_dict does
    assert trainer.fit_loop.epoch_loop.restarting
    compat.forget_restart(trainer)
    assert not trainer.fit_loop.restarting
    assert trainer.fit_loop.epoch_loop.restarting
    compat.stop_restarting(trainer)
    assert not trainer.fit_loop.epoch_loop.restarting


def test_the_epoch_of_a_sampler_is_set():
    sampler = DistributedSampler(ROWS, num_replicas=2, rank=0)
    compat.set_sampler_epoch(DataLoader(ROWS, 4, sampler=sampler), 7)
    assert sampler.epoch == 7


def test_logged_values_are_collected():
    def inspect(trainer):
        assert callable(compat.logger_connector(trainer).on_batch_start)
        assert callable(compat.logger_connector(trainer).on_batch_end)
        assert callable(compat.logger_connector(trainer).update_train_step_metrics)
        return compat.logged_results(trainer) is not None

    assert fit(inspect) == [True] * 6


def test_a_module_without_a_trainer():
    module = ls.TaskModule(ls.Multiclass(3), nn.Linear(4, 3))
    assert compat.get_trainer(module) is None
    compat.set_running_hook(module, "training_step")
    assert module._current_fx_name == "training_step"


def test_a_block_is_not_transferred_but_its_batches_are():
    received, moved = [], []

    class Blocks(compat.PrivateHooks, LightningModule):
        _block_type = SimpleNamespace

        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            moved.append(batch)
            return super().transfer_batch_to_device(batch, device, dataloader_idx)

        def validation_step(self, batch, batch_idx):
            received.append(batch)
            if isinstance(batch, SimpleNamespace):
                assert moved == []
                assert torch.equal(self._to_device(batch.first), batch.first)
            assert self._current_fx_name == "validation_step"

    block, batch = SimpleNamespace(first=torch.ones(2)), torch.zeros(2)
    quiet_trainer(**ONCE).validate(Blocks(), DataLoader([block, batch], batch_size=None), verbose=False)
    assert received[0] is block
    assert len(moved) == 2
    assert moved[0] is block.first


def test_steps_between_checkpoints(tmp_path):
    assert compat.steps_between_checkpoints(ModelCheckpoint(tmp_path, every_n_train_steps=5)) == 5
    assert compat.steps_between_checkpoints(ModelCheckpoint(tmp_path)) == 0


def test_wrapped_methods_are_called_and_restored():
    called = []
    trainer = quiet_trainer(**ONCE)
    before = signal.getsignal(signal.SIGTERM)
    compat.wrap(trainer, compat.SIGNAL_REGISTRATION, lambda method: called.append("signals"))
    compat.wrap(trainer, compat.SIGTERM_BROADCAST, lambda method: called.append("broadcast"))
    compat.wrap(
        trainer,
        compat.LOADER_PREPARATION,
        lambda method, loader, *arguments, **options: called.append("loader") or loader,
    )
    trainer.fit(ls.TaskModule(ls.Multiclass(3), nn.Linear(4, 3)), loader())
    assert {"signals", "loader"} <= {*called}
    assert callable(type(trainer.fit_loop.epoch_loop)._broadcast_sigterm_tensor)
    compat.unwrap(trainer, compat.SIGNAL_REGISTRATION)
    compat.unwrap(trainer, compat.SIGTERM_BROADCAST)
    assert "register_signal_handlers" not in vars(trainer._signal_connector)
    assert signal.getsignal(signal.SIGTERM) == before


def test_loaders_are_made_before_they_start():
    class Plain(LightningModule):
        def training_step(self, batch, batch_idx):
            return None

        def configure_optimizers(self):
            return None

    def record(method):
        made.append((len(compat.train_loaders(trainer)), compat.data_fetcher(trainer.fit_loop)))
        method()

    made, trainer = [], quiet_trainer(**ONCE)
    compat.wrap(trainer, compat.LOADERS_MADE, record)
    with pytest.warns(UserWarning, match="returned `None`|no optimizer"):
        trainer.fit(Plain(), loader())
    assert made == [(1, None)]


def test_tensorboard_opens_a_new_file(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"a": 1.0}, 0)
    compat.reopen_tensorboard(logger, filename_suffix=".more")
    logger.log_metrics({"a": 2.0}, 1)
    logger.finalize("success")
    assert len([*tmp_path.rglob("events*.more")]) == 1
    assert len([*tmp_path.rglob("events*")]) == 2


def test_with_an_untested_version_steps_are_single(monkeypatch):
    monkeypatch.setattr(lightning, "__version__", "2.7.0")
    block = ls.StepsPerExecution(4)
    trainer = quiet_trainer(**ONCE, callbacks=[block])
    module = ls.TaskModule(ls.Multiclass(3), nn.Linear(4, 3))
    with pytest.warns(ls.LossSelectWarning, match=r"Lightning 2\.6.* 2\.7\.0"):
        trainer.fit(module, loader())
    assert trainer.global_step == 6
    assert block.steps == 1
