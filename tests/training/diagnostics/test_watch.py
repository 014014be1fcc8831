import re
import warnings

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lossselect as ls
from lossselect.exceptions import DataError

TASKS = {"binary": ls.Binary(), "multiclass": ls.Multiclass(3), "multilabel": ls.Multilabel(3)}
RAW = "but the loss takes raw logits and applies {} itself. Remove that layer; use task.probabilities(logits) to predict."


class Ending(nn.Module):
    """A linear layer, and a function after it."""

    def __init__(self, task, function):
        super().__init__()
        self.head, self.function = nn.Linear(8, task.num_outputs), function

    def forward(self, inputs):
        return self.function(self.head(inputs))


def loader(task, inputs=None, target=None):
    inputs = torch.randn(64, 8) if inputs is None else inputs
    if target is None:
        target = task.encode(task.predict(torch.randn(len(inputs), task.num_outputs)))
    return DataLoader(TensorDataset(inputs, target), batch_size=16)


def fit(task, net, folder, **data):
    return fit_module(ls.TaskModule(task, net), folder, **data)


def fit_module(module, folder, **data):
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader(module.task, **data))
    return trainer


def sequence(task, *ends):
    return nn.Sequential(nn.Linear(8, task.num_outputs), *ends)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("end", [nn.Softmax(1), nn.Sigmoid(), nn.LogSigmoid(), nn.Hardsigmoid()], ids=str)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_sequence_that_ends_in_probabilities_raises_before_training(name, end, compiled, tmp_path):
    task = TASKS[name]
    net = sequence(task, end, nn.Identity())
    before = net[0].weight.clone()
    message = f"The net ends in {type(end).__name__} (net.1), " + RAW.format(task.activation)
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(task, torch.compile(net, backend="eager") if compiled else net, tmp_path)
    assert torch.equal(net[0].weight, before)


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        (
            "binary",
            torch.sigmoid,
            "The net ends in Sigmoid, but the loss takes raw logits and applies sigmoid",
        ),
        ("multilabel", lambda z: z.T.sigmoid().T.clone(), "The net ends in Sigmoid, but"),
        (
            "multiclass",
            lambda z: torch.cat([z[:, :1].sigmoid(), z[:, 1:].sigmoid()], 1),
            "The net ends in Sigmoid, but",
        ),
        (
            "multilabel",
            lambda z: z.log_softmax(1),
            "The net ends in LogSoftmax, but the loss takes raw logits and",
        ),
        (
            "multiclass",
            lambda z: z.softmax(1),
            "Each row of the first batch's outputs is between 0 and 1 and sums to 1",
        ),
        (
            "multilabel",
            lambda z: z.exp() / z.exp().sum(1, keepdim=True),
            "Each row of the first batch's outputs is",
        ),
        ("binary", lambda z: z.squeeze(), "logits of shape (N, 1) for binary, got (16,)."),
        ("binary", lambda z: z.detach(), "The logits have no gradient, so nothing would be trained"),
        ("binary", lambda z: z / 0, "of the first batch's logits is not finite. Check the layers of the net"),
        ("multiclass", lambda z: z[:, :2], "for multiclass with 3 classes, got (16, 2)"),
    ],
)
def test_a_wrong_function_at_the_end_raises_before_training(name, function, message, tmp_path):
    net = Ending(TASKS[name], function)
    before = net.head.weight.clone()
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(TASKS[name], net, tmp_path)
    assert torch.equal(net.head.weight, before)


@pytest.mark.parametrize("function", [lambda z: z.round(), lambda z: z * 0 + 1], ids=["round", "times 0"])
def test_a_net_with_a_gradient_of_0(function, tmp_path):
    with pytest.raises(
        ValueError, match="but its gradient is 0 for all weights, so nothing would be trained"
    ):
        fit(ls.Binary(), Ending(ls.Binary(), function), tmp_path)


class TestCustomGradients:
    def test_with_manual_optimization(self, tmp_path):
        class Manual(ls.TaskModule):
            automatic_optimization = False

            def training_step(self, batch, batch_idx):
                optimizer = self.optimizers()
                self.manual_backward(self.step(batch).loss)
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)

        fit_module(Manual(ls.Multiclass(3), nn.Linear(8, 3)), tmp_path)

    def test_a_loss_that_is_constant_at_first(self, tmp_path):
        steps = []

        def warming_up(logits, target):
            steps.append(1)
            return nn.functional.cross_entropy(logits, target) * (len(steps) > 2) + 0.1

        fit_module(ls.TaskModule(ls.Multiclass(3), nn.Linear(8, 3), warming_up), tmp_path)

    def test_a_loss_that_is_constant(self, tmp_path):
        module = ls.TaskModule(ls.Multiclass(3), nn.Linear(8, 3), lambda logits, target: logits.sum() * 0 + 1)
        with pytest.raises(ValueError, match=r"its gradient is 0 for all weights.*or from a custom loss"):
            fit_module(module, tmp_path)


def test_a_clamp_against_overflow_is_accepted(tmp_path):
    task = TASKS["multiclass"]
    fit(task, Ending(task, lambda z: z.clamp(-30, 30)), tmp_path)  # warnings are errors here
    with pytest.warns(
        ls.LossSelectWarning, match="The net ends in clamp, so its logits cannot take all values"
    ):
        fit(task, Ending(task, lambda z: z.clamp(-1, 1)), tmp_path)


def test_a_first_batch_without_labels_may_have_no_gradient(tmp_path):
    task = ls.Binary()
    target = torch.tensor([torch.nan] * 16 + [0.0, 1.0] * 24)
    fit(task, nn.Linear(8, 1), tmp_path, target=target)


def test_the_module_that_was_called_is_named(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.squash = nn.Linear(8, 1), nn.Sigmoid()

        def forward(self, inputs):
            return self.squash(self.head(inputs))

    with pytest.raises(ValueError, match=re.escape("The net ends in Sigmoid (net.squash), but")):
        fit(ls.Binary(), Net(), tmp_path)


def test_a_net_in_half_precision_is_checked(tmp_path):
    net = Ending(TASKS["multiclass"], lambda z: z.bfloat16().softmax(1))
    with pytest.raises(ValueError, match="Each row of the first batch's outputs"):
        fit(TASKS["multiclass"], net, tmp_path)


@pytest.mark.parametrize(
    ("name", "end", "message"),
    [
        (
            "multiclass",
            nn.LogSoftmax(1),
            r"ends in LogSoftmax \(net\.1\), which the loss applies itself.*\[log_softmax\]",
        ),
        (
            "multiclass",
            nn.ReLU(),
            r"The net ends in ReLU \(net\.1\), so its logits cannot take all values.*\[bounded_outputs\]",
        ),
        ("binary", nn.Tanh(), r"The net ends in Tanh \(net\.1\), so its logits cannot"),
    ],
)
def test_a_suspicious_last_layer_is_reported_once(name, end, message, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(TASKS[name], sequence(TASKS[name], end), tmp_path)
    messages = [
        str(w.message)
        for w in caught
        if issubclass(w.category, ls.LossSelectWarning)
        and "outputs_look_like_probabilities" not in str(w.message)
    ]
    assert len(messages) == 1
    assert re.search(message, messages[0])
    with ls.ignore_warnings("log_softmax", "bounded_outputs", "outputs_look_like_probabilities"):
        fit(TASKS[name], sequence(TASKS[name], end), tmp_path)


def test_warns_of_outputs_that_look_like_probabilities(tmp_path):
    net = Ending(TASKS["multilabel"], lambda z: 1 / (1 + (-z).exp()))
    with pytest.warns(
        ls.LossSelectWarning, match=r"All outputs of the first epoch lie between .* like probabilities"
    ):
        fit(TASKS["multilabel"], net, tmp_path)


def test_a_linear_layer_is_not_suspicious(tmp_path):
    net = nn.Linear(8, 1)
    nn.init.zeros_(net.weight)
    nn.init.constant_(net.bias, 0.5)
    task = ls.Binary()
    fit(task, net, tmp_path, target=torch.arange(64) % 2)  # warnings are errors here


def test_inputs_that_are_not_finite_are_named(tmp_path):
    inputs = torch.randn(64, 8)
    inputs[3, 2] = torch.nan
    with pytest.raises(
        ValueError, match=r"Row 3 .* not finite\. The inputs of row 3 contain NaN or infinity"
    ):
        fit(ls.Binary(), nn.Linear(8, 1), tmp_path, inputs=inputs)


def test_nothing_to_train(tmp_path):
    with pytest.raises(ValueError, match="No parameter of the module requires a gradient"):
        fit(ls.Binary(), nn.Linear(8, 1).requires_grad_(False), tmp_path)


class TestLabelsOfTheFirstEpoch:
    @pytest.mark.parametrize(
        ("task", "target", "message"),
        [
            (
                ls.Multiclass(4, class_names=[*"abcd"]),
                torch.arange(64) % 3,
                "No training row has d, so the net cannot learn",
            ),
            (ls.Multilabel(3), torch.eye(3)[torch.arange(64) % 3], "Every row has exactly one label"),
            (ls.Multilabel(2), torch.tensor([[1, 0], [0, 0]] * 32), "No training row has 1"),
        ],
        ids=str,
    )
    def test_warnings_for_a_custom_loader(self, task, target, message, tmp_path):
        with pytest.warns(ls.LossSelectWarning, match=message):
            fit(task, nn.Linear(8, task.num_outputs), tmp_path, target=target)

    def test_a_single_class_is_an_error(self, tmp_path):
        task = ls.Binary(class_names=("ham", "spam"))
        with pytest.raises(DataError, match="All rows of the training split have class 'spam'"):
            fit(task, nn.Linear(8, 1), tmp_path, target=torch.ones(64))

    def test_missing_labels_are_not_a_class(self, tmp_path):
        task = ls.Multiclass(3, missing=-1)
        fit(task, nn.Linear(8, 3), tmp_path, target=torch.arange(64) % 4 - 1)  # warnings are errors here


def test_warns_of_labels_without_positives(tmp_path):
    task = ls.Multilabel(3, class_names=[*"abc"])
    target = (torch.rand(64, 3) < 0.5).float()
    trainer = fit(task, nn.Linear(8, 3), tmp_path, target=target)
    target[:, 1] = 0
    with pytest.warns(
        ls.LossSelectWarning, match=r"1 of 3 labels have no positive in the test split.*: b\. \[no_pos"
    ):
        (got,) = trainer.test(trainer.lightning_module, loader(task, target=target), verbose=False)
    assert 0 <= got["test/f1_macro"] <= 1


class TestCheckBatch:
    def test_returns_the_loss_without_training(self):
        task, net = ls.Multiclass(3), nn.Linear(8, 3)
        before = net.weight.clone()
        inputs, target = torch.randn(4, 8), [0, 2, 1, 1]
        loss = ls.TaskModule(task, net).check_batch((inputs, target))
        torch.testing.assert_close(loss, nn.functional.cross_entropy(net(inputs), torch.tensor(target)))
        assert torch.equal(net.weight, before)

    def test_raises_the_errors_of_training(self):
        module = ls.TaskModule(ls.Binary(), Ending(ls.Binary(), torch.sigmoid))
        with pytest.raises(ValueError, match="The net ends in Sigmoid"):
            module.check_batch((torch.randn(4, 8), [0, 1, 1, 0]))
