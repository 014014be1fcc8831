"""Mixup and CutMix: the mixed inputs, the mixed target of each task, and the loss."""

import math
import re

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

import lossselect as ls
from lossselect.exceptions import ConfigError
from lossselect.labels.targets import EncodedBatch
from lossselect.training.batches.mixup import cutmix, make_mix, mixup

TASKS = [ls.Binary(), ls.Multiclass(3), ls.Multilabel(3)]


def batch_of(task, rows=8, shape=(5,)):
    target = task.predict(torch.randn(rows, task.num_outputs))
    return EncodedBatch(
        torch.arange(rows * 1.0).reshape(-1, *[1] * len(shape)).expand(rows, *shape), task.encode(target)
    )


def factor_of(mixed, inputs, order):
    """Return the mixing factor, for inputs that are the number of their row."""
    i = int((order != torch.arange(len(order))).nonzero()[0])
    x, other = inputs[i].flatten()[0], inputs[order[i]].flatten()[0]
    return ((mixed[i].flatten()[0] - other) / (x - other)).item()


@pytest.fixture
def order(monkeypatch):
    order = torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])
    monkeypatch.setattr(torch, "randperm", lambda n, device=None: order)
    return order


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
class TestMixup:
    def test_the_loss_is_the_mix_of_both_labels_losses(self, task, order):
        batch = batch_of(task)
        mixed = mixup(batch, task, alpha=1.0)
        f = factor_of(mixed.inputs, batch.inputs, order)
        assert 0 < f < 1
        logits = torch.randn(8, task.num_outputs, dtype=torch.float64)
        for name, forms in ls.LOSSES.items():
            if task.activation not in forms or name in ("dice", "zlpr"):
                continue  # these two are not linear in the target
            options = (
                {
                    "prior": [1 / len(task.output_names) - 0.1 * (task.name == "binary")]
                    * len(task.output_names)
                }
                if name == "logit_adjusted"
                else {}
            )
            loss = ls.select_loss(task, name, reduction="none", **options)
            both = f * loss(logits, batch.target) + (1 - f) * loss(logits, batch.target[order])
            torch.testing.assert_close(loss(logits, mixed.target), both, rtol=1e-5, atol=1e-6)

    def test_a_missing_label_is_missing_in_the_mix(self, task, order):
        batch = batch_of(task)
        target = batch.target.clone()
        target[0] = -100 if task.activation == "softmax" else math.nan
        mixed = mixup(EncodedBatch(batch.inputs, target), task)
        missing = mixed.target.isnan().all(1)
        assert missing.tolist() == [True, True, *[False] * 6]
        assert ls.select_loss(task)(torch.zeros(8, task.num_outputs), mixed.target).isfinite()

    def test_sample_weights_are_mixed(self, task, order):
        batch = batch_of(task)._replace(weight=torch.arange(8.0))
        mixed = mixup(batch, task, alpha=1.0)
        torch.testing.assert_close(mixed.weight, mixed.inputs[:, 0])

    def test_positions_are_mixed_one_by_one(self, task, order):
        logits = torch.randn(8, task.num_outputs, 4, 4)
        batch = EncodedBatch(torch.randn(8, 3, 4, 4), task.encode(task.predict(logits)))
        mixed = mixup(batch, task)
        assert mixed.target.shape == (8, task.num_probabilities, 4, 4)
        assert ls.select_loss(task)(logits, mixed.target).isfinite()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
class TestCutmix:
    def test_targets_are_mixed_by_the_area(self, task, order):
        batch = batch_of(task, shape=(2, 6, 8))
        for _ in range(20):
            mixed = cutmix(batch, task)
            own = (mixed.inputs == batch.inputs).flatten(1).float().mean(1)
            target = batch.target if batch.target.is_floating_point() else one_hot(batch.target, 3).float()
            want = own[:, None] * target + (1 - own[:, None]) * target[order]
            torch.testing.assert_close(mixed.target, want)

    def test_a_target_of_positions_is_pasted_with_its_box(self, task, order):
        task = ls.make_task(**task.to_dict())
        positions = torch.arange(8).reshape(-1, 1, 1, 1).expand(8, task.num_outputs, 6, 8) % 2
        target = positions[:, 0] if task.activation == "softmax" else positions.float()
        batch = EncodedBatch(
            torch.arange(8.0).reshape(-1, 1, 1, 1).expand(8, 2, 6, 8) % 2, task.encode(target)
        )
        mixed = cutmix(batch, task)
        cut = mixed.target if task.activation == "softmax" else mixed.target[:, 0]
        assert torch.equal(cut.float(), mixed.inputs[:, 0])

    def test_sequences_and_flat_rows(self, task, order):
        assert cutmix(batch_of(task, shape=(2, 6)), task).inputs.shape == (8, 2, 6)
        with pytest.raises(ConfigError, match=r"cutmix requires images.*got inputs of shape \(8, 5\)"):
            cutmix(batch_of(task), task)


def test_a_target_of_other_positions():
    batch = EncodedBatch(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 4, 4))
    with pytest.raises(ConfigError, match=r"and the target \(2, 3, 4, 4\)"):
        cutmix(batch, ls.Multilabel(3))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mixp", "Unknown mix 'mixp'. Did you mean 'mixup'?"),
        ({"name": "mixup", "alpha": 0}, "alpha must be a number > 0, got 0."),
        ({"name": "mixup", "alpha": -1}, "alpha must be a number >= 0, got -1."),
        ({"name": "mixup", "beta": 1}, "Mix 'mixup' has no option 'beta'."),
        ({"alpha": 1}, "has no 'name'"),
    ],
)
def test_invalid_specs(spec, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_mix(spec)


def test_inputs_of_another_kind():
    for inputs, got in (({"x": torch.zeros(2)}, "dict"), (torch.zeros(2, 3).long(), "torch.int64")):
        with pytest.raises(ConfigError, match=f"mixup requires inputs in one tensor of floats, got {got}"):
            mixup(EncodedBatch(inputs, torch.zeros(2, 1)), ls.Binary())


@pytest.mark.parametrize("loss", [nn.MultiMarginLoss(), nn.functional.multi_margin_loss])
def test_a_loss_without_soft_labels_raises_at_construction(loss):
    with pytest.raises(ValueError, match=r"mix creates soft labels, which torch's \w+ does not support"):
        ls.TaskModule(ls.Multiclass(3), nn.Linear(8, 3), loss=loss, mix="mixup")


def test_weights_of_positions_are_pasted_with_their_box(order):
    inputs = torch.arange(8.0).reshape(-1, 1, 1, 1).expand(8, 2, 6, 8)
    target = torch.zeros(8, 3, 6, 8)
    for weight in (inputs[:, 0], torch.arange(8.0)):  # weights of positions, and of samples
        mixed = cutmix(EncodedBatch(inputs, target, weight), ls.Multilabel(3))
        assert torch.equal(mixed.weight, mixed.inputs[:, 0])
