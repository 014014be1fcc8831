"""A StopIteration in the user's code raises an error instead of ending the epoch early."""

import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from trainers import quiet_trainer

import lossselect as ls

ROWS, BATCH = 40, 4

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create",
    "ignore:.*does not have many",
    "ignore:Your `IterableDataset` has `__len__` defined",
)


class Stops(Dataset):
    """Raises StopIteration at an item, as `next()` on an exhausted iterator does."""

    def __init__(self, at=None, rows=ROWS):
        self.at, self.rows = at, rows
        self.inputs = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return self.rows

    def __getitem__(self, row):
        if row == self.at:
            next(iter(()))
        return self.inputs[row], (self.inputs[row, :1] > 0).float()


def module(**hooks):
    subclass = type("Module", (ls.TaskModule,), hooks)
    return subclass(ls.Binary(), nn.Linear(3, 1), optimizer={"name": "SGD", "lr": 0.1})


def loader(at=None, **options):
    return DataLoader(Stops(at), **{"batch_size": BATCH, **options})


def trainer(**options):
    return quiet_trainer(**{"max_epochs": 1, "enable_checkpointing": False, **options})


WORKERS = [{}, {"num_workers": 1, "persistent_workers": True}]


FITS = {
    "train": lambda one, stops: one.fit(module(), stops, loader()),
    "val": lambda one, stops: one.fit(module(), loader(), stops),
    "validate": lambda one, stops: one.validate(module(), stops, verbose=False),
    "test": lambda one, stops: one.test(module(), stops, verbose=False),
    "predict": lambda one, stops: one.predict(module(), stops),
}


@pytest.mark.parametrize("options", WORKERS, ids=str)
@pytest.mark.parametrize("how", FITS)
def test_a_data_set_that_raises_stop_iteration(how, options):
    stage = {"train": "training", "val": "validation", "validate": "validation"}.get(how, how)
    message = (
        f"Expected 10 {stage} batches (the length of the loader), got 6. Stops[26] raises StopIteration."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        FITS[how](trainer(num_sanity_val_steps=0), loader(26, **options))


@pytest.mark.parametrize("at", [0, ROWS - 1])
def test_at_the_first_and_the_last_item(at):
    with pytest.raises(ValueError, match=rf"got {at // BATCH}\. Stops\[{at}\] raises StopIteration"):
        trainer().fit(module(), loader(at))
    with pytest.raises(ValueError, match=rf"got {at // BATCH}\. Stops\[{at}\] raises StopIteration"):
        trainer().validate(module(), loader(at), verbose=False)


def test_in_the_sanity_check():
    with pytest.raises(ValueError, match=r"Expected 2 validation batches .* got 1\. Stops\[5\]"):
        trainer().fit(module(), loader(), loader(5))


def test_shuffled_rows():
    with pytest.raises(
        ValueError,
        match=r"Expected 10 training batches .*, got \d\. Probably the data set raises StopIteration",
    ):
        trainer().fit(module(), loader(26, shuffle=True))


@pytest.mark.parametrize("stage", ["train", "val"])
def test_in_blocks_of_steps(stage):
    data = {"train": loader(), "val": loader(), stage: loader(26)}
    one = trainer(callbacks=[ls.StepsPerExecution(4)], num_sanity_val_steps=0)
    with pytest.raises(ValueError, match=r"Expected 10 (training|validation) batches .* got 6\. Stops\[26\]"):
        one.fit(module(), data["train"], data["val"])


def test_no_checkpoint_of_an_epoch_that_ended_early_is_saved(tmp_path):
    one = trainer(enable_checkpointing=True, default_root_dir=tmp_path, callbacks=[ls.StepsPerExecution(1)])
    with pytest.raises(ValueError, match="got 6"):
        one.fit(module(), loader(26), loader())
    assert not [*tmp_path.rglob("*.ckpt")]


@pytest.mark.parametrize(
    ("hook", "stage"),
    [("training_step", "training"), ("validation_step", "validation"), ("on_train_batch_start", "training")],
)
def test_a_step_that_raises_stop_iteration(hook, stage):
    def raising(self, batch, batch_idx, *_):
        if batch_idx == 9:  # the last one
            next(iter(()))
        return getattr(ls.TaskModule, hook)(self, batch, batch_idx)

    with pytest.raises(ValueError, match=rf"StopIteration was raised in the step of {stage} batch 9\."):
        trainer().fit(module(**{hook: raising}), loader(), loader())


@pytest.mark.parametrize(
    "options",
    [
        {"limit_train_batches": 3, "limit_val_batches": 2},
        {"max_steps": 3, "max_epochs": -1},
        {"max_steps": 13, "max_epochs": -1, "accumulate_grad_batches": 3},
        {"val_check_interval": 0.25},
        {"val_check_interval": 3, "check_val_every_n_epoch": None, "max_epochs": 2},
        {"overfit_batches": 2},
        {"fast_dev_run": 2},
        {"callbacks": [ls.StepsPerExecution(3)], "max_steps": 5},
    ],
    ids=lambda options: " ".join(options),
)
def test_limits_of_the_trainer(options):
    trainer(**options).fit(module(), loader(), loader())


def test_an_epoch_that_a_hook_ends():
    def skip(self, batch, batch_idx):
        return -1 if batch_idx == 3 else None

    def stop(self, outputs, batch, batch_idx):
        self.trainer.should_stop = batch_idx == 3

    trainer().fit(module(on_train_batch_start=skip), loader(), loader())
    trainer().fit(module(on_train_batch_end=stop), loader(), loader())


class Stream(IterableDataset):
    """A data set with 10 rows, fewer than the length of its subclass."""

    def __iter__(self):
        return iter(TensorDataset(torch.randn(10, 3), torch.arange(10).reshape(-1, 1) % 2.0))


class Estimated(Stream):
    def __len__(self):
        return 30


@pytest.mark.parametrize("kind", [Stream, Estimated])
def test_the_length_of_an_iterable_data_set_is_an_estimate(kind):
    data = DataLoader(kind(), BATCH)
    trainer(max_epochs=2).fit(module(), data, data)
    trainer().predict(module(), data)


def test_several_loaders():
    pairs = [loader(), loader(26)]
    with pytest.raises(ValueError, match=r"Expected 20 predict batches .* got 16"):
        trainer().predict(module(), pairs)


def test_a_loader_that_is_not_a_data_loader():
    class Own:
        def __len__(self):
            return 5

        def __iter__(self):
            return iter([(torch.randn(4, 3), torch.ones(4, 1))] * 3)

    with pytest.raises(ValueError, match=r"Expected 5 training batches .* got 3"):
        trainer().fit(module(), Own())
