"""`Task.mean_logits` against means of probabilities in float64."""

import pytest
import torch

import lossselect as ls

TASKS = [
    ls.Binary(),
    ls.Multiclass(4),
    ls.Multilabel(3),
    ls.Multiclass(4, ordinal=True),
    ls.Multiclass(2, ordinal=True),
]


@pytest.mark.parametrize("task", TASKS, ids=str)
@pytest.mark.parametrize("weights", [None, [0.1, 0.2, 0.3, 0.4]])
def test_probabilities_are_the_mean_of_those_of_the_nets(task, weights):
    torch.manual_seed(0)
    logits = 3 * torch.randn(6, 4, task.num_outputs)
    weights = None if weights is None else torch.tensor(weights)
    w = torch.full((4,), 0.25) if weights is None else weights
    expected = sum(w[k].double() * task.probabilities(logits[:, k].double()) for k in range(4))
    result = task.probabilities(task.mean_logits(logits, weights).double())
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_a_single_net_is_unchanged(task):
    logits = torch.randn(6, 1, task.num_outputs)
    expected = task.probabilities(logits[:, 0])
    torch.testing.assert_close(task.probabilities(task.mean_logits(logits)), expected)


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_extreme_logits(task):
    logits = torch.tensor([1e4, -1e4, 0.0, 50.0]).expand(2, 2, 4)[..., : task.num_outputs].clone()
    logits[:, 1] *= -1
    logits.requires_grad_()
    result = task.mean_logits(logits)
    assert result.isfinite().all()
    result.sum().backward()
    assert logits.grad.isfinite().all()


def test_half_precision_becomes_float32():
    assert ls.Multiclass(3).mean_logits(torch.randn(2, 3, 3).bfloat16()).dtype == torch.float32
