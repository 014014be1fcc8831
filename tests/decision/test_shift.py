"""Tests that the shift which weights of a loss add to the logits is removed, so that probabilities are calibrated.

The rows are simulated, so their true probabilities are known.
"""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torch import nn

import lossselect as ls
from lossselect.decision.temperature import weight_shift

ROWS = {"train": 6000, "val": 1500, "test": 20_000}


def simulated(task, seed=0):
    """Return inputs, true probabilities and labels of each split, with rare classes and labels."""
    random = torch.Generator().manual_seed(seed)
    width = task.num_probabilities
    factors = torch.randn(5, width, generator=random)
    rates = torch.tensor({1: [-2.6], 3: [0.0, -1.5, -3.0]}[width])
    splits = {}
    for name, rows in ROWS.items():
        x = torch.randn(rows, 5, generator=random)
        logits = x @ factors + rates
        if task.activation == "sigmoid":
            p = logits.sigmoid()
            labels = torch.bernoulli(p, generator=random)
        else:
            p = logits.softmax(1)
            labels = torch.multinomial(p, 1, generator=random).squeeze(1)
        splits[name] = x, p, task.encode(labels)
    return splits


def trained(task, loss, splits):
    """Return a linear net fitted to the training split."""
    torch.manual_seed(0)
    net = nn.Linear(5, task.num_outputs)
    x, _, target = splits["train"]
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(net(x), target)
        value.backward()
        return value

    optimizer.step(closure)
    return net.requires_grad_(False)


def evaluate_test_split(task, net, splits):
    """Return the probabilities of the test rows, the true ones, and the log loss."""
    x, true, target = splits["test"]
    p = task.probabilities(net(x).double())
    if task.activation == "softmax":
        return p, true, log_loss(target, p.numpy(), labels=range(3))
    each = [log_loss(target[:, i], p[:, i].numpy()) for i in range(p.shape[1])]
    return p, true, float(np.mean(each))


CASES = {
    "pos_weight": (ls.Binary(), {"pos_weight": 10.0}),
    "pos_weight=auto": (ls.Binary(), {"pos_weight": "auto"}),
    "logit_adjusted": (ls.Binary(), {"name": "logit_adjusted"}),
    "focal": (ls.Binary(), {"name": "focal", "gamma": 2.0, "pos_weight": 10.0}),
    "focal alpha": (ls.Binary(), {"name": "focal", "gamma": 1.0, "alpha": 0.9}),
    "asymmetric": (ls.Binary(), {"name": "asymmetric"}),
    "labels": (ls.Multilabel(3), {"pos_weight": [1.0, 4.0, 12.0]}),
    "focal labels": (ls.Multilabel(3), {"name": "focal", "gamma": 1.0, "pos_weight": [1.0, 4.0, 12.0]}),
    "classes": (ls.Multiclass(3), {"weight": "balanced"}),
    "adjusted classes": (ls.Multiclass(3), {"name": "logit_adjusted"}),
}
KNOWN_SHIFT = {"pos_weight", "pos_weight=auto", "logit_adjusted", "labels", "classes", "adjusted classes"}


@pytest.mark.parametrize("case", CASES)
def test_probabilities_are_calibrated(case):
    task, options = CASES[case]
    splits = simulated(task)
    loss = ls.select_loss(task, **options, counts=ls.count_labels(task, splits["train"][2]))
    plain, net = trained(task, ls.select_loss(task), splits), trained(task, loss, splits)
    x, _, labels = splits["val"]
    fitted = ls.fit_decision(task, net(x), labels, loss=loss, metric=None)
    p, true, value = evaluate_test_split(fitted, net, splits)
    raw, _, raw_value = evaluate_test_split(task, net, splits)
    base = true.mean(0)
    if case != "asymmetric":
        assert (raw.mean(0) - base).abs().max() > 0.08  # the shift that has to be removed
    assert (p.mean(0) - base).abs().max() < 0.02
    assert (p - true).abs().mean() < (0.02 if case in KNOWN_SHIFT else 0.035)
    best = evaluate_test_split(ls.fit_decision(task, plain(x), labels, metric=None), plain, splits)[2]
    assert value < best + (0.004 if case in KNOWN_SHIFT else 0.01)
    assert value < raw_value


@pytest.mark.parametrize("case", sorted(KNOWN_SHIFT - {"labels"}))  # multilabel thresholds are tuned
def test_predictions_remain_those_of_the_weighted_loss(case):
    """The user set weights because of the predictions that they cause."""
    task, options = CASES[case]
    splits = simulated(task)
    loss = ls.select_loss(task, **options, counts=ls.count_labels(task, splits["train"][2]))
    net = trained(task, loss, splits)
    x, _, labels = splits["val"]
    fitted = ls.fit_decision(task, net(x), labels, loss=loss)
    logits = net(splits["test"][0]).double()
    assert (fitted.predict(logits) == task.predict(logits)).float().mean() > 0.9999
    calibrated = ls.fit_decision(task, net(x), labels, loss=loss, metric=None)
    assert (calibrated.predict(logits) != task.predict(logits)).float().mean() > 0.05
    if task.name == "binary":
        assert calibrated.threshold == 0.5
        own = ls.Binary(threshold=0.3)  # a custom threshold applies to the calibrated probability
        assert ls.fit_decision(own, net(x), labels, loss=loss).threshold == 0.3
    else:
        most_accurate = ls.fit_decision(task, net(x), labels, loss=loss, metric="accuracy")
        assert torch.equal(most_accurate.predict(logits), calibrated.predict(logits))


@pytest.mark.parametrize("seed", range(5))
def test_a_few_rows_barely_change_the_known_shift(seed):
    task, random = ls.Binary(), torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(40, 1, generator=random)
    target = torch.bernoulli(logits.sigmoid(), generator=random)
    loss = ls.select_loss(task, pos_weight=8.0)
    fitted = ls.fit_decision(task, logits + np.log(8), target, loss=loss)
    assert fitted.shift == pytest.approx(np.log(8), rel=0.3)


def test_plain_cross_entropy_has_no_shift():
    logits, target = torch.randn(300, 1), (torch.rand(300, 1) < 0.5).float()
    for loss in (None, ls.select_loss(ls.Binary()), nn.BCEWithLogitsLoss()):
        fitted = ls.fit_decision(ls.Binary(), logits, target, loss=loss)
        assert fitted.shift == 0
        assert fitted.threshold == 0.5


def test_weights_of_torchs_losses_are_known():
    weight = torch.tensor([1.0, 4.0])
    np.testing.assert_allclose(
        weight_shift(ls.Multilabel(2), nn.BCEWithLogitsLoss(pos_weight=weight)), [0, np.log(4)]
    )
    want = np.log([1, 4]) - np.log([1, 4]).mean()
    np.testing.assert_allclose(weight_shift(ls.Multiclass(2), nn.CrossEntropyLoss(weight=weight)), want)
    function = partial(nn.functional.cross_entropy, weight=weight)
    np.testing.assert_allclose(weight_shift(ls.Multiclass(2), function), want)
    assert weight_shift(ls.Binary(), lambda logits, target: logits.sum()) is None


class OwnLoss(nn.modules.loss._WeightedLoss):
    """A custom loss, whose weights can have any meaning."""

    def forward(self, logits, target):
        return nn.functional.cross_entropy(logits, target)


@pytest.mark.parametrize("kind", [OwnLoss, nn.MultiMarginLoss])
def test_weights_of_other_losses_are_ignored(kind):
    loss = kind(weight=torch.tensor([1.0, 4.0]))
    assert weight_shift(ls.Multiclass(2), loss) is None
    assert "weight" not in str(ls.explain_task(ls.Multiclass(2), loss))


@pytest.mark.parametrize("task", [ls.Binary(), ls.Multilabel(3), ls.Multiclass(3)], ids=str)
def test_a_task_with_a_shift(task):
    """The probabilities are sigmoid or softmax of (logits - shift) / temperature; `to_dict` keeps both."""
    logits = torch.randn(20, task.num_outputs, dtype=torch.float64)
    shift = np.linspace(-1, 2, task.num_outputs)
    values = task.to_dict() | {"shift": shift.tolist(), "temperature": 2.0}
    shifted = ls.make_task(**values)
    z = (logits.numpy() - shift) / 2
    if task.activation == "sigmoid":
        want = 1 / (1 + np.exp(-z))
    else:
        want = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_allclose(shifted.probabilities(logits), want)
    np.testing.assert_allclose(shifted.log_odds(logits), np.log(want / (1 - want)))
    assert ls.make_task(**shifted.to_dict()) == shifted
    with pytest.raises(ValueError, match="got 7"):
        ls.make_task(**(task.to_dict() | {"shift": [1.0] * 7}))
    with pytest.raises(TypeError, match="got None"):
        ls.make_task(**(task.to_dict() | {"shift": None}))
