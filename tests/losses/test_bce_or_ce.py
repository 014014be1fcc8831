"""Statements of docs/bce-or-ce.md, one test each, in the order of the page."""

import math

import pytest
import torch
from torch.nn import functional as F

import lossselect as ls

BCE_PROBABILITIES = torch.tensor([[1.0, 0.0, 0.8], [0.1, 1.0, 1.0]])
BCE_TARGETS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
CE_LOGITS = torch.tensor([[-10.0, 10.0, 5.0], [10.0, -10.0, -5.0]])
CE_TARGETS = torch.tensor([1, 0])


def bce(reduction="mean", task=ls.Multilabel(3)):  # noqa: B008
    return ls.select_loss(task, "cross_entropy", reduction=reduction)


def ce(reduction="mean", task=ls.Multiclass(3)):  # noqa: B008
    return ls.select_loss(task, "cross_entropy", reduction=reduction)


def test_the_worked_bce_example():
    logits = BCE_PROBABILITIES.logit(eps=1e-7)  # 0 and 1 become 1e-7 and 1 - 1e-7: logits of -16 and 16
    none = bce("none")(logits, BCE_TARGETS)
    assert [[round(v, 4) for v in row] for row in none.tolist()] == [[0, 0, 0.2231], [0.1054, 0, 0]]
    assert round(bce("mean")(logits, BCE_TARGETS).item(), 4) == 0.0548
    assert round(bce("sum")(logits, BCE_TARGETS).item(), 4) == 0.3285


def test_the_worked_ce_example():
    none = ce("none")(CE_LOGITS, CE_TARGETS)
    assert [f"{v:.4e}" for v in none.tolist()] == ["6.7153e-03", "3.5763e-07"]
    assert round(ce("mean")(CE_LOGITS, CE_TARGETS).item(), 4) == 0.0034
    assert round(ce("sum")(CE_LOGITS, CE_TARGETS).item(), 4) == 0.0067


def test_bce_serves_binary_and_multilabel():
    assert ls.Binary().activation == ls.Multilabel(3).activation == "sigmoid"
    assert ls.Multiclass(3).activation == "softmax"
    assert bce().formula is ls.select_loss(ls.Binary()).formula


def test_ce_depends_only_on_the_true_class_and_bce_counts_the_negatives():
    log_p = CE_LOGITS.log_softmax(1)
    assert torch.equal(ce("none")(CE_LOGITS, CE_TARGETS), torch.stack([-log_p[0, 1], -log_p[1, 0]]))
    # at a fixed probability of the true class, only BCE depends on how the other classes divide the rest
    even, uneven = torch.tensor([[0.6, 0.2, 0.2]]), torch.tensor([[0.6, 0.39, 0.01]])
    true = torch.tensor([0])
    torch.testing.assert_close(ce()(even.log(), true), ce()(uneven.log(), true))
    one_hot = torch.tensor([[1.0, 0.0, 0.0]])
    terms = bce("none")(uneven.logit(), one_hot)
    torch.testing.assert_close(terms, -torch.tensor([[0.6, 0.61, 0.99]]).log())
    assert bce("sum")(uneven.logit(), one_hot) > bce("sum")(even.logit(), one_hot) + 0.01


def test_with_one_output_the_matrix_form_is_the_binary_one():
    logits, target = torch.randn(5, 1), torch.tensor([[0.0], [1.0], [1.0], [0.0], [1.0]])
    y, p = target, logits.sigmoid()
    by_hand = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    torch.testing.assert_close(bce(task=ls.Multilabel(1))(logits, target), by_hand)
    assert torch.equal(bce(task=ls.Multilabel(1))(logits, target), bce(task=ls.Binary())(logits, target))


def test_both_use_the_natural_logarithm():
    nats = pytest.approx(math.log(2))
    assert bce(task=ls.Binary())(torch.zeros(1, 1), torch.ones(1, 1)).item() == nats
    assert ce(task=ls.Multiclass(2))(torch.zeros(1, 2), torch.tensor([0])).item() == nats


def test_ce_needs_raw_logits_and_softmax_twice_gives_another_value():
    once, twice = ce()(CE_LOGITS, CE_TARGETS), ce()(CE_LOGITS.softmax(1), CE_TARGETS)
    assert once < 0.004
    assert twice > 0.55  # with three classes the loss cannot go below 0.551, however good the net
    torch.testing.assert_close(once, F.nll_loss(CE_LOGITS.log_softmax(1), CE_TARGETS))


def test_bce_loss_on_probabilities_loses_the_precision_of_logits():
    logits = torch.tensor([[30.0]], requires_grad=True)
    on_probabilities = F.binary_cross_entropy(logits.sigmoid(), torch.zeros(1, 1))
    (from_probabilities,) = torch.autograd.grad(on_probabilities, logits)
    with_logits = bce(task=ls.Binary())(logits, torch.zeros(1, 1))
    (from_logits,) = torch.autograd.grad(with_logits, logits)
    assert on_probabilities.item() == 100  # clamped; the true loss is 30
    assert from_probabilities.item() == 0  # nothing is learned from a maximally wrong sample
    assert with_logits.item() == 30
    assert from_logits.item() == 1


def test_reduction_none_mean_sum():
    logits = BCE_PROBABILITIES.logit(eps=1e-7)
    each = bce("none")(logits, BCE_TARGETS)
    assert each.shape == (2, 3)  # BCE has a loss for each label of a sample, CE one for each sample
    assert ce("none")(CE_LOGITS, CE_TARGETS).shape == (2,)
    torch.testing.assert_close(bce("mean")(logits, BCE_TARGETS), each.sum() / 6)
    torch.testing.assert_close(bce("sum")(logits, BCE_TARGETS), each.sum())


def test_ce_takes_class_indices_and_bce_a_multi_hot_matrix():
    index = ls.Multiclass(3).encode([1, 0])
    assert index.dtype == torch.long
    assert index.shape == (2,)
    matrix = ls.Multilabel(3).encode([[1, 0, 1], [0, 1, 1]])
    assert matrix.dtype == torch.float32
    assert matrix.shape == (2, 3)
    with pytest.raises(ValueError, match="task=multilabel"):
        ls.Multiclass(3).encode([[1, 0, 1], [0, 1, 1]])
    with pytest.raises(ValueError, match="task=multiclass"):
        ls.Multilabel(3).encode([1, 0])


def test_two_class_softmax_and_one_logit_sigmoid_are_the_same_model():
    two = 3 * torch.randn(6, 2)
    one = (two[:, 1] - two[:, 0]).unsqueeze(1)
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    torch.testing.assert_close(ls.Multiclass(2).probabilities(two)[:, 1:], ls.Binary().probabilities(one))
    assert torch.equal(ls.Multiclass(2).predict(two), ls.Binary().predict(one).squeeze(1))
    torch.testing.assert_close(
        ce(task=ls.Multiclass(2))(two, labels), bce(task=ls.Binary())(one, ls.Binary().encode(labels))
    )
