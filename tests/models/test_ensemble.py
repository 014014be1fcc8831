"""Members of nets against single nets and references in float64."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lossselect.exceptions import ConfigError
from lossselect.models.ensemble import Ensemble, mean_logits
from lossselect.models.nets import make_net
from lossselect.models.tabm import MemberLinear, SharedLinear

NETS = {
    "mlp": {"name": "mlp", "dropout": 0.0, "input_dropout": 0.0},
    "tabm": {"name": "tabm", "dropout": 0.0},
}


def make_ensemble(activation="softmax", num_outputs=3):
    torch.manual_seed(0)
    return make_net({"name": "ensemble", "num_features": 5, "nets": NETS}, num_outputs, activation)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_mean_logits_are_those_of_the_mean_probability(activation):
    torch.manual_seed(0)
    logits, weights = 3 * torch.randn(6, 4, 3), torch.tensor([0.1, 0.2, 0.3, 0.4])
    activate = torch.sigmoid if activation == "sigmoid" else lambda z: z.softmax(-1)
    expected = (activate(logits.double()) * weights.double()[:, None]).sum(1)
    result = mean_logits(logits, activation, weights).double()
    torch.testing.assert_close(activate(result), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_mean_logits_and_gradients_are_finite_for_extreme_logits(activation):
    logits = torch.tensor([[[1e4, -1e4, 0.0], [-1e4, 1e4, 50.0]]], requires_grad=True)
    result = mean_logits(logits, activation)
    assert result.isfinite().all()
    result.sum().backward()
    assert logits.grad.isfinite().all()


def test_mean_logits_of_half_precision_are_float32():
    assert mean_logits(torch.randn(2, 3, 4).bfloat16(), "softmax").dtype == torch.float32


def test_unknown_activation():
    with pytest.raises(ConfigError, match="Unknown activation 'tanh'"):
        Ensemble({"a": nn.Linear(2, 2)}, "tanh")


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
    net, x = make_net({"name": "tabm", "num_features": 5, "dropout": 0.0}, 3, "softmax"), torch.randn(4, 5)
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


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_each_net_gets_the_gradient_that_it_would_get_alone(activation):
    net, x = make_ensemble(activation), torch.randn(16, 5)
    alone = copy.deepcopy(net.nets)
    target = torch.randint(3, (16,)) if activation == "softmax" else torch.rand(16, 3)
    loss = F.cross_entropy if activation == "softmax" else F.binary_cross_entropy_with_logits
    loss(net(x), target.repeat_interleave(9, 0)).backward()
    for name, members in (("mlp", 1), ("tabm", 8)):
        loss(alone[name](x), target.repeat_interleave(members, 0)).backward()
        for joint, single in zip(net.nets[name].parameters(), alone[name].parameters(), strict=True):
            torch.testing.assert_close(joint.grad, single.grad, rtol=1e-4, atol=1e-7)
