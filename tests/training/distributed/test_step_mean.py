"""The gradient of an accumulated step, against plain torch. tests/processes/gradients.py tests all losses."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from trainers import quiet_trainer

import lossselect as ls
from lossselect.exceptions import ConfigError

BATCHES = [(torch.randn(4, 5), target) for target in (
    torch.tensor([0, 1, 2, 1]),
    torch.tensor([-100, -100, 2, -100]),
    torch.tensor([-100, 1, 0, -100]),
)]  # fmt: skip


class Recorded(ls.TaskModule):
    """A module that records the gradients that the optimizer gets."""

    def __init__(self, **options):
        torch.manual_seed(0)
        super().__init__(ls.Multiclass(3, missing=-100), nn.Linear(5, 3), **options)
        self.gradients = []

    def on_before_optimizer_step(self, optimizer):
        self.gradients.append(self.net.weight.grad.clone())


def fit(module, batches=BATCHES, **options):
    loader = DataLoader(batches, batch_size=None)
    options = {"max_epochs": 1, "accumulate_grad_batches": 3, "enable_checkpointing": False, **options}
    trainer = quiet_trainer(**options)
    trainer.fit(module, loader)
    return module.gradients


def gradient(loss):
    net = Recorded().net
    (found,) = torch.autograd.grad(loss(net), [net.weight])
    return found


def mean_of_all_rows(net):
    inputs, target = (torch.cat(parts) for parts in zip(*BATCHES, strict=True))
    return F.cross_entropy(net(inputs), target)


def plain_mean(term):
    return lambda net: sum(term(net, *batch) for batch in BATCHES) / 3


def test_a_term_is_a_plain_mean_and_the_criterion_one_mean_of_all_rows():
    class WithTerm(Recorded):
        def training_step(self, batch, batch_idx):
            loss = self.step(batch).loss
            torch.testing.assert_close(loss.detach(), F.cross_entropy(self(batch[0]), batch[1]).detach())
            return {"loss": loss + self.net(batch[0]).square().mean()}

    term = plain_mean(lambda net, inputs, _: net(inputs).square().mean())
    wanted = gradient(lambda net: mean_of_all_rows(net) + term(net))
    torch.testing.assert_close(fit(WithTerm()), [wanted])


def test_a_step_without_the_criterion_does_not_count():
    class WithoutCriterion(Recorded):
        def training_step(self, batch, batch_idx):
            loss = self.step(batch).loss  # only for the log
            self.log("criterion", loss)
            return self.net(batch[0]).square().mean()

    term = plain_mean(lambda net, inputs, _: net(inputs).square().mean())
    torch.testing.assert_close(fit(WithoutCriterion()), [gradient(term)])


def test_a_second_criterion_in_one_step_is_a_term():
    class Twice(Recorded):
        def training_step(self, batch, batch_idx):
            inputs, target = batch[:2]
            return self.step(batch).loss + self.step((inputs + 1, target)).loss

    term = plain_mean(lambda net, inputs, target: F.cross_entropy(net(inputs + 1), target))
    wanted = gradient(lambda net: mean_of_all_rows(net) + term(net))
    torch.testing.assert_close(fit(Twice()), [wanted])


class StepInHook(Recorded):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.step(batch)


class StepInHookWithoutGradient(Recorded):
    def on_train_batch_start(self, batch, batch_idx):
        with torch.no_grad():
            self.step(batch)


class StepWithoutGradient(Recorded):
    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            self.step(batch)
        return self.step(batch)


@pytest.mark.parametrize("cls", [StepInHook, StepInHookWithoutGradient, StepWithoutGradient])
@pytest.mark.parametrize("group", [1, 3, 4])
def test_a_step_that_is_not_trained_changes_no_gradient(cls, group):
    options = {"accumulate_grad_batches": group, "max_epochs": 2}
    torch.testing.assert_close(fit(cls(), **options), fit(Recorded(), **options))
    one_batch = {"batches": BATCHES[:1], **options}
    torch.testing.assert_close(fit(cls(), **one_batch), fit(Recorded(), **one_batch))


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("skipped", [0, 1, 2])
def test_a_step_that_returns_none_does_not_count(skipped):
    class Skipping(Recorded):
        def training_step(self, batch, batch_idx):
            loss = self.step(batch).loss
            return None if batch_idx == skipped else loss

    rest = [batch for i, batch in enumerate(BATCHES) if i != skipped]
    inputs, target = (torch.cat(parts) for parts in zip(*rest, strict=True))
    wanted = gradient(lambda net: F.cross_entropy(net(inputs), target))
    torch.testing.assert_close(fit(Skipping()), [wanted])


def test_a_term_with_a_criterion_without_gradient():
    class Constant(Recorded):
        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                loss = self.step(batch).loss
            return loss + self.net(batch[0]).square().mean()

    term = plain_mean(lambda net, inputs, _: net(inputs).square().mean())
    torch.testing.assert_close(fit(Constant()), [gradient(term)])


def test_an_epoch_of_equal_batches_needs_no_rescaling(monkeypatch):
    batches = [(inputs, torch.tensor([0, 1, 2, 1])) for inputs, _ in BATCHES]
    monkeypatch.setattr(torch.Tensor, "mul_", lambda *_: pytest.fail("a gradient was rescaled"))
    fit(Recorded(optimizer="SGD"), batches)


def test_a_term_with_a_chunked_head_is_rejected():
    class WithTerm(ls.TaskModule):
        def training_step(self, batch, batch_idx):
            return self.step(batch).loss + self.net.weight.square().sum()

    task = ls.Multilabel(6)
    batches = [(inputs, torch.ones(4, 6)) for inputs, _ in BATCHES]
    loader = DataLoader(batches, batch_size=None)
    options = {"max_epochs": 1, "enable_checkpointing": False}
    module = WithTerm(task, nn.Linear(5, 6), head={"name": "chunked", "chunk": 4})
    quiet_trainer(**options).fit(module, loader)
    with pytest.raises(ConfigError, match="accumulate_grad_batches=1 or head=dense"):
        quiet_trainer(**options, accumulate_grad_batches=3).fit(module, loader)
