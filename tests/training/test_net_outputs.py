"""Nets as they are: forms of the output, and the dimension of the classes."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossselect as ls
from lossselect.exceptions import ConfigError, OptionTypeError

TASK = ls.Multiclass(3)
X, Y = torch.randn(8, 4), torch.arange(8) % 3


class Returns(nn.Module):
    """Returns the logits in another form."""

    def __init__(self, form, outputs=3):
        super().__init__()
        self.layer, self.form = nn.Linear(4, outputs), form

    def forward(self, x):
        return self.form(self.layer(x))


@pytest.mark.parametrize(
    "form",
    [
        lambda z: SimpleNamespace(logits=z, hidden=None),
        lambda z: {"logits": z, "hidden": z * 2},
        lambda z: {"out": z, "aux": z * 2},
        lambda z: (z, z[:, :2]),
        lambda z: [z],
    ],
    ids=["object", "logits", "out", "tuple", "list"],
)
def test_forms_of_the_output(form):
    net = Returns(form)
    module = ls.TaskModule(TASK, net).eval()
    out = module.step((X, Y))
    torch.testing.assert_close(out.loss, F.cross_entropy(net.layer(X), Y))
    assert torch.equal(module.predict(X)["prediction"], net.layer(X).argmax(1))
    assert torch.equal(module.compute_logits(X), net.layer(X))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (
            lambda z: (z[:, :2], z[:, 0]),
            r"returned a tuple of 2: \(8, 2\), \(8,\). Expected logits of shape \(N, 3\)",
        ),
        (lambda z: {"scores": z}, "got a dict with the keys 'scores'. Return a tensor"),
        (lambda z: z.tolist(), "got a list of 8"),
        (lambda z: (), "got a tuple of 0"),
        (lambda z: "z", "got a str"),
    ],
)
def test_outputs_without_logits(form, message):
    with pytest.raises(ConfigError, match=message):
        ls.TaskModule(TASK, Returns(form)).step((X, Y))


TOKENS = torch.randn(8, 5, 4)
POSITIONS = torch.randint(3, (8, 5)).index_fill(1, torch.tensor([4]), -100)


def test_classes_last():
    net = nn.Linear(4, 3)
    module = ls.TaskModule(ls.Multiclass(3, missing=-100), net, class_dim=-1)
    out = module.step((TOKENS, POSITIONS))
    torch.testing.assert_close(out.loss, F.cross_entropy(net(TOKENS).flatten(0, 1), POSITIONS.flatten()))
    assert out.logits.shape == (8, 3, 5)
    assert module.predict(TOKENS)["prediction"].shape == (8, 5)


def test_classes_last_as_long_as_another_dimension():
    """An image of 3 columns, with 3 classes: integer targets are class indices of positions."""
    net, target = nn.Linear(4, 3), torch.randint(3, (8, 2, 3))
    out = ls.TaskModule(TASK, net, class_dim=-1).step((torch.randn(8, 2, 3, 4), target))
    assert torch.equal(out.target, target)


@pytest.mark.parametrize("task", [ls.Multilabel(3), TASK])
def test_targets_with_the_classes_last(task):
    net = nn.Linear(4, 3)
    target = torch.rand(8, 5, 3).softmax(-1)
    out = ls.TaskModule(task, net, class_dim=-1).step((TOKENS, target))
    loss = F.cross_entropy if task is TASK else F.binary_cross_entropy_with_logits
    torch.testing.assert_close(out.loss, loss(net(TOKENS).movedim(-1, 1), target.movedim(-1, 1)))


def test_a_binary_net_that_squeezes():
    net, target = Returns(lambda z: z.squeeze(1), 1), Y % 2
    out = ls.TaskModule(ls.Binary(), net, class_dim=None).step((X, target))
    torch.testing.assert_close(out.loss, F.binary_cross_entropy_with_logits(net(X), target.float()))
    with pytest.raises(ConfigError, match=r"class_dim=None"):
        ls.TaskModule(ls.Binary(), net).step((X, target))


def test_classes_last_without_class_dim():
    with pytest.raises(ConfigError, match=r"class_dim=-1.*movedim\(-1, 1\)"):
        ls.TaskModule(TASK, nn.Linear(4, 3)).step((TOKENS, POSITIONS.abs() % 3))


def test_a_dimension_that_the_logits_lack():
    with pytest.raises(ConfigError, match=r"shape \(8, 3\), which have no dimension 3 \(class_dim\)"):
        ls.TaskModule(TASK, nn.Linear(4, 3), class_dim=3).step((X, Y))
    with pytest.raises(ConfigError, match=r"float32 \(class_dim=0\). Expected logits of shape \(N, 3\)"):
        ls.TaskModule(TASK, nn.Linear(4, 3), class_dim=0).step((X, Y))


@pytest.mark.parametrize("value", ["last", 1.0, True])
def test_class_dim_of_another_type(value):
    with pytest.raises(OptionTypeError, match="class_dim must be the dimension of the classes"):
        ls.TaskModule(TASK, nn.Linear(4, 3), class_dim=value)


def test_an_export_of_a_net_with_classes_last(tmp_path):
    pytest.importorskip("onnx")
    net = Returns(lambda z: {"logits": z})
    module = ls.TaskModule(ls.Multiclass(3), net, class_dim=-1)
    ls.export_model(module, tmp_path / "model.onnx", inputs=TOKENS)
    exported = ls.load_exported(tmp_path / "model.onnx")(TOKENS)
    torch.testing.assert_close(
        torch.as_tensor(exported.logits), module.compute_logits(TOKENS), rtol=1e-4, atol=1e-5
    )
