"""A `TaskModule` sees the same rows, and ends with the same weights, as a LightningModule with the same seed."""

import random
from functools import partial

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, WeightedRandomSampler
from trainers import quiet_trainer

import lossselect as ls

ROWS, CLASSES = 50, 3


def make_net():
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, CLASSES))


class Rows(Dataset):
    """Rows whose first input is their number; all libraries' random numbers augment the others."""

    def __init__(self, augment):
        self.augment = augment

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        values = [row / ROWS, row % 7 / 7, row % 5 / 5]
        if self.augment:
            values = [values[0], values[1] + random.random(), values[2] + np.random.rand()]  # noqa: NPY002
        noise = torch.rand(()).item() if self.augment else 0.5
        return torch.tensor([*values, noise]), row % CLASSES


class Stream(IterableDataset):
    def __iter__(self):
        return iter([Rows(True)[int(row)] for row in torch.randperm(ROWS)])


def make_loader(kind, workers=0):
    options = {"batch_size": 8, "num_workers": workers}
    if kind == "stream":
        return DataLoader(Stream(), **options)
    rows = Rows(augment=kind == "augmented")
    if kind in ("shuffle", "augmented"):
        options |= {"shuffle": True, "drop_last": True}
    elif kind == "persistent":
        options |= {"shuffle": True, "persistent_workers": True}
    elif kind == "generator":
        options |= {"shuffle": True, "generator": torch.Generator().manual_seed(3)}
    elif kind == "sampler":
        options["sampler"] = RandomSampler(rows, replacement=True, num_samples=30)
    else:
        options["sampler"] = WeightedRandomSampler(torch.arange(ROWS) + 1.0, 30)
    return DataLoader(rows, **options)


class Records:
    """Records each training batch, and draws random numbers in hooks around Lightning's loops."""

    def on_fit_start(self):
        self.seen = [torch.rand(2)]

    def on_train_start(self):
        self.seen.append(torch.rand(2))

    def on_train_epoch_start(self):
        self.seen.append(torch.rand(2))

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if not self.trainer.training:
            return batch
        inputs, *rest = batch
        inputs = inputs + 0.1 * torch.rand_like(inputs)  # augmentation of the batch
        self.seen.append(inputs)
        return type(batch)(*(inputs, *rest)) if hasattr(batch, "_fields") else (inputs, *rest)


class Plain(Records, L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = make_net()
        self.loss = nn.CrossEntropyLoss()

    def training_step(self, batch, batch_idx):
        return self.loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Task(Records, ls.TaskModule):
    def __init__(self, **options):
        super().__init__(ls.Multiclass(CLASSES), **options)
        self.net = make_net()


def fit(module_class, kind="shuffle", workers=0, validates=True, callbacks=(), trainer=(), **options):
    L.seed_everything(0, verbose=False)
    module = module_class(**options)
    loader = make_loader(kind, workers)
    val = DataLoader(Rows(augment=False), 8) if validates else None
    options = {"max_epochs": 3, "enable_checkpointing": False, **dict(trainer)}
    quiet_trainer(**options, callbacks=[*callbacks]).fit(module, loader, val)
    return module


def assert_same(plain, task):
    assert len(plain.seen) == len(task.seen) > 7
    for i, (expected, got) in enumerate(zip(plain.seen, task.seen, strict=True)):
        assert torch.equal(expected, got), i
    for expected, got in zip(plain.net.parameters(), task.net.parameters(), strict=True):
        assert torch.equal(expected, got)


KINDS = ["shuffle", "augmented", "generator", "sampler", "weighted"]
TURNS_OFF = pytest.mark.filterwarnings("ignore:You requested to overfit but")


class TestSameRows:
    @pytest.mark.parametrize("kind", [*KINDS, "stream"])
    def test_of_loaders(self, kind):
        assert_same(fit(Plain, kind), fit(Task, kind))

    @pytest.mark.parametrize("kind", ["augmented", "generator", "weighted", "persistent"])
    def test_of_loaders_with_processes(self, kind):
        assert_same(fit(Plain, kind, 2), fit(Task, kind, 2))

    @pytest.mark.parametrize(
        "options",
        [
            {"num_sanity_val_steps": 0},
            {"val_check_interval": 0.5},
            {"reload_dataloaders_every_n_epochs": 1},
            {"accumulate_grad_batches": 2},
            {"gradient_clip_val": 0.1},
            {"limit_train_batches": 3, "check_val_every_n_epoch": 2},
            pytest.param({"overfit_batches": 2}, marks=TURNS_OFF),
            {"fast_dev_run": 12},
            {"max_steps": 10},
        ],
        ids=str,
    )
    def test_of_trainers(self, options):
        assert_same(*(fit(cls, "augmented", trainer=options) for cls in (Plain, Task)))

    def test_without_validation(self):
        assert_same(*(fit(cls, validates=False) for cls in (Plain, Task)))

    @pytest.mark.parametrize("schedule", [False, True], ids=["", "schedule"])
    @pytest.mark.parametrize(("kind", "workers"), [*((kind, 0) for kind in KINDS), ("persistent", 2)])
    def test_of_counted_labels(self, kind, workers, schedule):
        """The pass through the loader that counts its labels changes no random number."""
        options = {"loss": {"name": "cross_entropy", "weight": "balanced"}, "bias_init": "prior"}
        if schedule:  # its length requires that the loaders start early
            options["scheduler"] = {"name": "LinearLR", "interval": "step"}
        task = fit(Task, kind, workers, **options)

        class Weighted(Plain):
            def on_fit_start(self):
                super().on_fit_start()
                self.loss, bias = select(counts=task._label_counts), self.net[-1].bias
                bias.data = self.loss.first_logits(task._label_counts).to(bias)

            def configure_optimizers(self):
                optimizer = super().configure_optimizers()
                if not schedule:
                    return optimizer
                assert self.trainer.estimated_stepping_batches
                scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
                return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

        select = partial(ls.select_loss, ls.Multiclass(CLASSES), weight="balanced")
        assert_same(fit(Weighted, kind, workers), task)

    def test_of_a_run_with_blocks(self):
        callbacks = [ls.StepsPerExecution(4)]
        assert_same(fit(Plain), fit(Task, callbacks=callbacks))

    def test_of_a_second_fit(self):
        modules = []
        for cls in (Plain, Task):
            L.seed_everything(0, verbose=False)
            module, loader = cls(), make_loader("augmented")
            for epochs in (2, 4):
                quiet_trainer(max_epochs=epochs, enable_checkpointing=False).fit(module, loader)
            modules.append(module)
        assert_same(*modules)
