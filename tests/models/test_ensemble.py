"""Members of nets against single nets and references in float64."""

import copy

import pytest
import torch
from torch.nn import functional as F

import lossselect as ls
from lossselect.exceptions import CheckpointError
from lossselect.models.ensemble import _scale_gradient
from lossselect.models.nets import make_net
from lossselect.models.tabm import MemberLinear, SharedDropout, SharedLinear

TASK = ls.Multiclass(3)
NETS = {
    "mlp": {"name": "mlp", "dropout": 0.0, "input_dropout": 0.0},
    "tabm": {"name": "tabm", "dropout": 0.0},
}


def make_ensemble(task=TASK):
    torch.manual_seed(0)
    return make_net({"name": "ensemble", "num_features": 5, "nets": NETS}, task)


def test_shared_linear_is_a_linear_layer_for_each_member():
    layer, x = SharedLinear(4, 6, 3, random_signs=True), torch.randn(5, 3, 4)
    for k in range(3):
        weight = layer.s[k][:, None] * layer.weight * layer.r[k]
        torch.testing.assert_close(layer(x)[:, k], F.linear(x[:, k], weight, layer.bias[k]))
    assert set(layer.r.flatten().tolist()) == {-1.0, 1.0}


def test_member_linear_is_a_linear_layer_for_each_member():
    layer, x = MemberLinear(4, 6, 3), torch.randn(5, 3, 4)
    for k in range(3):
        torch.testing.assert_close(layer(x)[:, k], F.linear(x[:, k], layer.weight[k].T, layer.bias[k]))


def test_members_are_rows_in_training_and_averaged_in_evaluation():
    net, x = make_net({"name": "tabm", "num_features": 5, "dropout": 0.0}, TASK), torch.randn(4, 5)
    members = net.member_logits(x)
    assert members.shape == (4, 8, 3)
    assert torch.equal(net(x), members.reshape(32, 3))
    assert not torch.allclose(members[:, 0], members[:, 1])
    torch.testing.assert_close(net.eval()(x).softmax(1), members.softmax(2).mean(1))


def test_an_ensemble_averages_its_nets():
    net, x = make_ensemble(), torch.randn(4, 5)
    assert net(x).shape == (4 * 9, 3)
    net.eval()
    net.load_state_dict(
        net.state_dict() | {"weights": torch.tensor([0.25, 0.75]), "temperatures": torch.tensor([2.0, 0.5])}
    )
    first, second = (part(x) for part in net.nets.values())
    expected = 0.25 * (first / 2).softmax(1) + 0.75 * (second / 0.5).softmax(1)
    torch.testing.assert_close(net(x).softmax(1), expected)


def test_nets_of_weight_0_are_not_computed():
    net, x = make_ensemble().eval(), torch.randn(4, 5)
    net.load_state_dict(net.state_dict() | {"weights": torch.tensor([0.0, 1.0])})
    with torch.no_grad():
        net.nets["mlp"][-1].bias.fill_(torch.nan)
    torch.testing.assert_close(net(x).softmax(1), net.nets["tabm"](x).softmax(1))


def test_a_copy_follows_its_own_weights():
    net, x = make_ensemble().eval(), torch.randn(4, 5)
    other = copy.deepcopy(net)
    other.load_state_dict(net.state_dict() | {"weights": torch.tensor([1.0, 0.0])})
    torch.testing.assert_close(other(x).softmax(1), net.nets["mlp"](x).softmax(1))
    assert not torch.allclose(net(x), other(x))


@pytest.mark.parametrize("task", [TASK, ls.Multilabel(3)], ids=["softmax", "sigmoid"])
def test_each_net_gets_the_gradient_that_it_would_get_alone(task):
    net, x = make_ensemble(task), torch.randn(16, 5)
    alone = copy.deepcopy(net.nets)
    target = torch.randint(3, (16,)) if task is TASK else torch.rand(16, 3)
    loss = F.cross_entropy if task is TASK else F.binary_cross_entropy_with_logits
    loss(net(x), target.repeat_interleave(9, 0)).backward()
    for name, members in (("mlp", 1), ("tabm", 8)):
        loss(alone[name](x), target.repeat_interleave(members, 0)).backward()
        for joint, single in zip(net.nets[name].parameters(), alone[name].parameters(), strict=True):
            torch.testing.assert_close(joint.grad, single.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "entry",
    [
        {"weights": torch.zeros(2)},
        {"weights": torch.tensor([-1.0, 2.0])},
        {"weights": torch.tensor([torch.nan, 1.0])},
        {"temperatures": torch.tensor([0.0, 1.0])},
    ],
)
def test_invalid_buffers_of_a_file_are_rejected(entry):
    net = make_ensemble()
    with pytest.raises(CheckpointError, match="The weights of the nets must be >= 0"):
        net.load_state_dict(net.state_dict() | entry)


def test_the_gradient_scale_does_not_change_half_precision():
    x = torch.randn(1000).bfloat16().requires_grad_()
    assert torch.equal(_scale_gradient(x, 17), x)
    large = torch.tensor([4000.0], dtype=torch.float16)
    assert torch.equal(_scale_gradient(large, 17), large)


def test_dropout_is_shared_by_the_members():
    torch.manual_seed(0)
    layer, x = SharedDropout(0.25), torch.randn(400, 3, 50)
    y = layer(x)
    kept = y != 0
    assert torch.equal(kept, kept[:, :1].expand_as(kept))
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.02)
    torch.testing.assert_close(y[kept], x[kept] / 0.75)
    assert torch.equal(layer.eval()(x), x)
    net = make_net({"name": "tabm", "num_features": 5}, TASK)
    assert [type(part) for part in net.hidden if isinstance(part, torch.nn.Dropout)] == 3 * [SharedDropout]
