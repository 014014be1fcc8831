"""`Average` against means of calibrated probabilities in float64."""

from dataclasses import replace

import pytest
import torch

import lossselect as ls
from lossselect.cross_validation.average import mean_decision
from lossselect.exceptions import CheckpointError, ConfigError
from lossselect.models.nets import make_net

NETS = {
    "one": {"name": "linear"},
    "two": {"name": "mlp", "hidden": [4]},
    "both": {"name": "ensemble", "nets": {"tabm": {"name": "tabm", "hidden": [4], "num_members": 2}}},
}
TASKS = [ls.Binary(), ls.Multiclass(4), ls.Multiclass(4, ordinal=True), ls.Multilabel(3)]


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_probabilities_are_the_mean_of_those_of_the_nets(task):
    torch.manual_seed(0)
    net = make_net({"name": "average", "num_features": 5, "nets": NETS}, task)
    shift = tuple(torch.linspace(-1, 1, task.num_probabilities).tolist())
    tasks = [
        replace(task, temperature=0.5),
        replace(task, temperature=2.0, shift=shift if len(shift) > 1 else 0.7),
        replace(task, shift=0.3),
    ]
    net.set_calibration(tasks)
    x = torch.randn(7, 5)
    net.train()  # the nets are trained already, and stay in evaluation mode
    with torch.no_grad():
        each = [t.probabilities(n(x).double()) for t, n in zip(tasks, net.nets.values(), strict=True)]
        torch.testing.assert_close(
            task.probabilities(net(x).double()), torch.stack(each).mean(0), atol=1e-6, rtol=0
        )


def test_extreme_logits_have_finite_means():
    task = ls.Multilabel(2)
    logits = torch.tensor([[[1e4, -1e4], [1e4, -1e4]]])
    assert task.mean_logits(logits, None, torch.zeros(2, 2), torch.ones(2, 2)).isfinite().all()


def test_only_built_in_nets_can_be_averaged():
    nested = {"a": {"name": "average", "nets": NETS}}
    with pytest.raises(
        ConfigError, match=r"nets\.a must be a mapping whose name is one of mlp, linear, tabm"
    ):
        make_net({"name": "average", "num_features": 5, "nets": nested}, ls.Binary())


def test_temperatures_of_a_checkpoint_are_checked():
    net = make_net({"name": "average", "num_features": 5, "nets": NETS}, ls.Binary())
    state = net.state_dict()
    state["temperatures"] = torch.zeros_like(state["temperatures"])
    with pytest.raises(CheckpointError, match="temperatures of averaged nets must be > 0"):
        net.load_state_dict(state)


def test_mean_decision():
    binary = [ls.Binary(threshold=0.2, temperature=2.0), ls.Binary(threshold=0.8, shift=1.0)]
    assert mean_decision(binary) == ls.Binary(threshold=0.5)
    assert mean_decision([ls.Binary(threshold=0.3)] * 2).threshold == 0.3
    several = [ls.Multilabel(2, threshold=(0.1, 0.5)), ls.Multilabel(2)]
    assert mean_decision(several).threshold == pytest.approx((0.3, 0.5))
    factors = [ls.Multiclass(2), ls.Multiclass(2, prior_correction=(4.0, 1.0))]
    assert mean_decision(factors).prior_correction == pytest.approx((1.6, 1.0))  # 1 / mean(1/4, 1)
    assert mean_decision([ls.Multiclass(2, ordinal=True)] * 2) == ls.Multiclass(2, ordinal=True)
