"""The trainer's metrics in each hook, compared with plain Lightning and `self.log` in the steps."""

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from trainers import quiet_trainer

import lossselect as ls
from lossselect.training.lifecycle import FirstHooks

HOOKS = [
    "on_fit_start",
    "on_sanity_check_start",
    "on_sanity_check_end",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_validation_start",
    "on_validation_epoch_start",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_validation_epoch_end",
    "on_validation_end",
    "on_test_start",
    "on_test_epoch_start",
    "on_test_batch_end",
    "on_test_epoch_end",
    "on_test_end",
    "on_train_end",
    "on_fit_end",
]
KEYS = ("train/loss", "val/loss", "val/accuracy", "test/loss", "test/accuracy")
SHOWN = ("train/loss", "val/loss", "test/loss")


def record(seen, who, hook, trainer):
    for kind, keys in (("callback", KEYS), ("logged", KEYS), ("progress_bar", SHOWN)):
        metrics = getattr(trainer, f"{kind}_metrics")
        values = {key: float(metrics[key]) for key in keys if key in metrics}
        seen.append(((who, hook, trainer.sanity_checking, kind), values))


def recorder(parent, who, seen):
    """A callback that records the trainer's metrics in each of its hooks."""

    def hook_of(name):
        def hook(self, trainer, *_):
            record(seen, who, name, trainer)

        return hook

    return type(who, (parent,), {name: hook_of(name) for name in HOOKS})()


def watched(module, seen):
    """The module with hooks that record the trainer's metrics."""

    def hook_of(name):
        def hook(self, *_):
            record(seen, "module", name, self.trainer)

        return hook

    # on a subclass, because Lightning looks for overridden hooks in the class
    own = {name: hook_of(name) for name in HOOKS if "sanity" not in name}
    module.__class__ = type(type(module).__name__, (type(module),), own)
    return module


class Plain(L.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def step(self, batch, stage):
        inputs, target = batch
        logits = self.net(inputs)
        loss = nn.functional.cross_entropy(logits, target)
        options = {"on_epoch": True, "on_step": False, "batch_size": len(target)}
        self.log(f"{stage}/loss", loss, prog_bar=True, **options)
        if stage != "train":
            self.log(f"{stage}/accuracy", (logits.argmax(1) == target).float().mean(), **options)
        return loss

    def training_step(self, batch, batch_idx):
        return self.step(batch, "train")

    def validation_step(self, batch, batch_idx):
        self.step(batch, "val")

    def test_step(self, batch, batch_idx):
        self.step(batch, "test")

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.5)


def net():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def task_module():
    return ls.TaskModule(ls.Multiclass(3), net(), optimizer={"name": "SGD", "lr": 0.5})


def loader(seed, rows):
    inputs = torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), 8)


def seen_by(module, **options):
    seen = []
    callbacks = [
        recorder(Callback, "first", seen),
        EarlyStopping("val/loss", patience=2),
        recorder(Callback, "second", seen),
        recorder(Checkpoint, "checkpoint", seen),
    ]
    trainer = quiet_trainer(callbacks=callbacks, **{"max_epochs": 3, **options})
    watched(module, seen)
    trainer.fit(module, loader(0, 48), loader(1, 29))
    returned = trainer.validate(module, loader(1, 29), verbose=False)
    returned += trainer.test(module, loader(2, 21), verbose=False)
    return seen, returned


OPTIONS = [
    {},
    {"val_check_interval": 2},
    {"check_val_every_n_epoch": 2},
    {"num_sanity_val_steps": 0},
    {"accumulate_grad_batches": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_each_hook_sees_the_values_of_plain_lightning(options):
    wanted, returned = seen_by(Plain(net()), **options)
    seen, own = seen_by(task_module(), **options)
    assert [place for place, _ in seen] == [place for place, _ in wanted]
    for (place, values), (_, plain) in zip(seen, wanted, strict=True):
        assert values == pytest.approx(plain, abs=1e-5), place
    for values, plain in zip(own, returned, strict=True):
        assert {key: values[key] for key in plain} == pytest.approx(plain, abs=1e-5)
    ends = [
        values for (who, hook, _, kind), values in seen if hook == "on_test_epoch_end" and kind == "callback"
    ]
    assert len(ends) == 4
    assert all("test/loss" in values for values in ends)


def test_a_module_can_be_fitted_twice():
    """FirstHooks is added only once, as the first callback."""
    module = task_module()
    for _ in range(2):
        trainer = quiet_trainer(max_epochs=1, enable_checkpointing=False, callbacks=[Callback()])
        for _ in range(2):
            trainer.validate(module, loader(1, 29), verbose=False)
            trainer.fit(module, loader(0, 48), loader(1, 29))
        assert [isinstance(callback, FirstHooks) for callback in trainer.callbacks].count(True) == 1
        assert isinstance(trainer.callbacks[0], FirstHooks)
