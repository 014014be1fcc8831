"""A net that returns probabilities only in evaluation mode, which would silently make its metrics wrong."""

import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.data import DataLoader
from trainers import quiet_trainer

import lossselect as ls
from lossselect.training.diagnostics.last_operation import LastOperations

FLEX = torch.compile(flex_attention, backend="eager")
TASKS = {"binary": ls.Binary(), "multiclass": ls.Multiclass(3), "multilabel": ls.Multilabel(3)}


class TwoModes(nn.Module):
    """Returns logits in training, and a function of them in evaluation."""

    def __init__(self, task, function):
        super().__init__()
        self.head, self.function = nn.Linear(8, task.num_outputs), function

    def forward(self, inputs):
        logits = self.head(inputs)
        return logits if self.training else self.function(logits)


def fit(task, net, **options):
    target = task.encode(task.predict(torch.randn(16, task.num_outputs)))
    loader = DataLoader([(torch.randn(16, 8), target)] * 4, batch_size=None)
    options = {"max_epochs": 1, "enable_checkpointing": False, **options}
    module = ls.TaskModule(task, net)
    trainer = quiet_trainer(**options)
    with ls.ignore_warnings("class_without_rows", "outputs_look_like_probabilities"):
        trainer.fit(module, loader, loader)
    return trainer, module, loader


ENDS = {
    "softmax": lambda z: z.softmax(1),
    "softmax, detached": lambda z: z.softmax(1).detach().clone(),
    "exp of log_softmax": lambda z: z.log_softmax(1).exp(),
    "written out": lambda z: z.exp() / z.exp().sum(1, keepdim=True),
    "sigmoid": lambda z: z.sigmoid(),
    "sigmoid in place": lambda z: z.sigmoid_(),
    "sigmoid, shaped": lambda z: torch.cat([part.unsqueeze(1) for part in z.sigmoid().unbind(1)], 1),
    "hardsigmoid": nn.functional.hardsigmoid,
}


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("task", TASKS)
def test_probabilities_in_evaluation_mode_are_rejected(task, end, sanity):
    task = TASKS[task]
    if end == "written out" and task.num_outputs == 1:
        pytest.skip("for one output it is always 1")
    with pytest.raises(ValueError, match=r"in evaluation mode.*but the loss takes raw logits"):
        fit(task, TwoModes(task, ENDS[end]), num_sanity_val_steps=sanity)


RAW = {
    "logits": lambda z: z,
    "a sigmoid within": lambda z: z + z.sigmoid(),
    "a sigmoid that is scaled in place": lambda z: z.sigmoid().mul_(20).sub_(10),
    "a sigmoid whose memory is used again": lambda z: (z.sigmoid().sum() * 0 + z).clone(),
    "attention": lambda z: (z @ z.T).softmax(1) @ z,
}


@pytest.mark.parametrize("end", RAW)
@pytest.mark.parametrize("task", TASKS)
def test_logits_in_evaluation_mode_are_accepted(task, end):
    fit(TASKS[task], TwoModes(TASKS[task], RAW[end]), num_sanity_val_steps=0)


@pytest.mark.parametrize("task", TASKS)
def test_predicting_without_a_validation(task):
    task = TASKS[task]
    trainer, module, loader = fit(task, TwoModes(task, lambda z: z.sigmoid()), limit_val_batches=0)
    with pytest.raises(ValueError, match="in evaluation mode"):
        trainer.predict(module, loader)


SHAPED = {
    "softmax": lambda z: z.softmax(1),
    "log_sigmoid": nn.functional.logsigmoid,
    "expit": torch.special.expit,
    "exp of log_softmax": lambda z: z.log_softmax(1).exp(),
    "dropout": lambda z: nn.functional.dropout(z.sigmoid(), 0.1, training=False),
    "flatten": lambda z: z.sigmoid().unsqueeze(-1).flatten(1),
    "half": lambda z: z.sigmoid().half().float(),
    "movedim": lambda z: z.sigmoid().movedim(0, 1).movedim(0, 1).contiguous(),
    "chunk": lambda z: torch.cat(z.sigmoid().chunk(2)),
}


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
@pytest.mark.parametrize("end", SHAPED)
def test_in_inference_mode(end, stage):
    """Inference mode dispatches composite operations instead of their parts."""
    task = TASKS["binary"]
    module = ls.TaskModule(task, TwoModes(task, SHAPED[end]))
    loader = DataLoader([(torch.randn(16, 8), torch.ones(16, 1))], batch_size=None)
    with pytest.raises(ValueError, match="in evaluation mode"):
        getattr(quiet_trainer(), stage)(module, loader)


OPERATORS = {
    "cond": lambda z: torch.cond(z.sum() > 0, lambda z: z + 1, lambda z: z - 1, (z,)),
    "flex_attention": lambda z: FLEX(*[z.view(1, 1, 16, 1)] * 3).view(16, 1),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_higher_order_operators(operator):
    """They are not ATen operations, and raise errors in a dispatch mode that does not support them."""
    loader = DataLoader([(torch.randn(16, 8), torch.ones(16, 1))], batch_size=None)
    task, end = TASKS["binary"], OPERATORS[operator]
    module = ls.TaskModule(task, TwoModes(task, end))
    assert len(quiet_trainer().predict(module, loader)) == 1
    module = ls.TaskModule(task, TwoModes(task, lambda z: end(z).sigmoid()))
    with pytest.raises(ValueError, match="in evaluation mode"):
        quiet_trainer().predict(module, loader)


def test_a_compiled_net_is_checked_by_its_values():
    task = TASKS["multiclass"]
    fit(task, torch.compile(TwoModes(task, lambda z: z), backend="eager"), num_sanity_val_steps=0)
    net = torch.compile(TwoModes(task, lambda z: z.softmax(1)), backend="eager")
    with pytest.raises(ValueError, match="in evaluation mode"):
        fit(task, net, num_sanity_val_steps=0)


@pytest.fixture
def entered(monkeypatch):
    """Return the list of entered contexts that record operations."""
    entered = []
    enter = LastOperations.__enter__
    monkeypatch.setattr(LastOperations, "__enter__", lambda self: entered.append(self) or enter(self))
    return entered


@pytest.mark.parametrize("in_place", [False, True])
def test_operations_of_a_compiled_net_are_not_recorded(in_place, entered):
    """Dispatch does not see its kernels, which may reuse the address of a freed tensor."""
    net = TwoModes(TASKS["binary"], lambda z: z)
    net.compile(backend="eager") if in_place else (net := torch.compile(net, backend="eager"))
    fit(TASKS["binary"], net)
    assert not entered


def test_outputs_are_checked_once(entered):
    fit(TASKS["binary"], TwoModes(TASKS["binary"], lambda z: z), max_epochs=3)
    assert len(entered) == 1
