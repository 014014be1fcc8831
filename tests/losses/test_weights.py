"""What the train labels tell: counts, priors, weights, first logits."""

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

import lossselect as ls
from lossselect.losses.class_weights import class_prior
from lossselect.tasks.label_counts import count_batches

LONG_TAIL = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)


class TestCounts:
    def test_of_each_task(self):
        binary = ls.count_labels(ls.Binary(), [0, 0, 1, math.nan])
        assert (binary.positives.tolist(), binary.negatives.tolist(), binary.missing) == ([2, 1], [1, 2], 1)
        classes = ls.count_labels(ls.Multiclass(3, missing=-1), [0, 0, 2, -1])
        assert (classes.positives.tolist(), classes.negatives.tolist(), classes.rows) == (
            [2, 0, 1],
            [1, 3, 2],
            4,
        )
        labels = ls.count_labels(ls.Multilabel(2), [[1, 0], [1, math.nan], [0, 0]])
        assert (labels.positives.tolist(), labels.negatives.tolist()) == ([2, 0], [1, 2])
        lists = ls.SparseLabels.from_csr([0, 0, 1], [0, 1, 3, 3], 2, [False, False, True])
        assert ls.count_labels(ls.Multilabel(2), lists).positives.tolist() == [2, 1]

    def test_soft_labels_count_by_their_mass(self):
        counts = ls.count_labels(ls.Multiclass(2), [[0.75, 0.25], [0.5, 0.5]])
        assert counts.soft
        assert counts.mass.tolist() == [1.25, 0.75]
        binary = ls.count_labels(ls.Binary(), torch.tensor([0.25, 1.0, math.nan]))
        assert binary.mass.tolist() == [0.75, 1.25]

    def test_trailing_dimensions(self):
        target = torch.tensor([[[1, 0, 1], [0, 0, 0]]]).float()
        assert ls.count_labels(ls.Multilabel(2), target).positives.tolist() == [2, 0]
        assert ls.count_labels(ls.Multiclass(2), torch.tensor([[0, 1, 1]])).positives.tolist() == [1, 2]

    def test_batches_add_up(self):
        task = ls.Multilabel(2)
        target = torch.rand(10, 2).round()
        target[3] = math.nan
        whole, parts = ls.count_labels(task, target), count_batches(task, target.split(4))
        for name in vars(whole):
            assert np.all(getattr(whole, name) == getattr(parts, name)), name
        assert count_batches(task, []) is None
        assert count_batches(task, [target[:0]]).positives.tolist() == [0, 0]


class TestNamedWeights:
    def test_balanced_is_scikit_learns(self):
        counts = ls.count_labels(ls.Multiclass(3), LONG_TAIL)
        loss = ls.select_loss(ls.Multiclass(3), weight="balanced", counts=counts)
        theirs = compute_class_weight("balanced", classes=np.arange(3), y=LONG_TAIL.numpy())
        np.testing.assert_allclose(loss.weight, theirs)

    def test_effective_number(self):
        counts = ls.count_labels(ls.Multiclass(3), LONG_TAIL)
        loss = ls.select_loss(ls.Multiclass(3), weight="effective_number", beta=0.9, counts=counts)
        cui = 0.1 / (1 - 0.9 ** np.array([60, 30, 10]))
        np.testing.assert_allclose(loss.weight, cui / cui.mean())
        nearly = ls.select_loss(ls.Multiclass(3), weight="effective_number", beta=1 - 1e-12, counts=counts)
        inverse = 1 / np.array([60, 30, 10])
        np.testing.assert_allclose(nearly.weight, inverse / inverse.mean(), rtol=1e-4)

    def test_a_class_without_rows_weighs_1(self):
        counts = ls.count_labels(ls.Multiclass(4), LONG_TAIL)
        for name in ("balanced", "effective_number"):
            weight = ls.select_loss(ls.Multiclass(4), weight=name, counts=counts).weight
            assert weight.isfinite().all()
            assert weight[3] == 1

    def test_pos_weight_auto(self):
        target = torch.zeros(1000, 4)
        target[:250, 0] = target[:1, 1] = target[:, 3] = 1
        counts = ls.count_labels(ls.Multilabel(4), target)
        loss = ls.select_loss(ls.Multilabel(4), pos_weight="auto", counts=counts)
        assert loss.pos_weight.tolist() == [3, 100, 1, 1]  # clipped; without positives; without negatives
        binary = ls.count_labels(ls.Binary(), target[:, 0])
        assert ls.select_loss(ls.Binary(), pos_weight="auto", counts=binary).pos_weight.tolist() == [3]

    def test_before_the_labels_are_counted(self):
        loss = ls.select_loss(ls.Multiclass(3), weight="balanced")
        assert loss.waiting
        with pytest.raises(
            ValueError, match=r"weight=balanced is computed from the train labels, .*count_labels"
        ):
            loss(torch.zeros(1, 3), torch.tensor([0]))
        with pytest.raises(
            ValueError, match="The prior of loss 'logit_adjusted' is computed from the train labels"
        ):
            ls.select_loss(ls.Multiclass(3), "logit_adjusted")(torch.zeros(1, 3), torch.tensor([0]))
        counted = loss.with_counts(ls.count_labels(ls.Multiclass(3), LONG_TAIL))
        assert not counted.waiting
        assert counted.with_counts(None) is counted
        assert counted(torch.zeros(1, 3), torch.tensor([0])) > 0

    def test_plain_values_make_the_same_loss_again(self):
        task, counts = ls.Multiclass(3), ls.count_labels(ls.Multiclass(3), LONG_TAIL)
        for options in ({"weight": "effective_number", "beta": 0.9}, {"name": "logit_adjusted", "tau": 0.5}):
            waiting = ls.select_loss(task, **options)
            again = ls.select_loss(task, **waiting.to_dict())
            logits, labels = torch.randn(5, 3), torch.arange(5) % 3
            values = [
                loss(logits, labels)
                for loss in (
                    waiting.with_counts(counts),
                    again.with_counts(counts),
                    ls.select_loss(task, **waiting.with_counts(counts).to_dict()),
                )
            ]
            assert values[0] == values[1] == values[2]


class TestPriors:
    def test_shares(self):
        task = ls.Multiclass(4)
        np.testing.assert_allclose(
            class_prior(task, ls.count_labels(task, LONG_TAIL)), np.array([60, 30, 10, 0.5]) / 100.5
        )
        target = torch.zeros(10, 3)
        target[:4, 0] = target[:, 2] = 1
        shares = class_prior(ls.Multilabel(3), ls.count_labels(ls.Multilabel(3), target))
        np.testing.assert_allclose(shares, [0.4, 0.05, 0.95])
        np.testing.assert_allclose(
            class_prior(ls.Binary(), ls.count_labels(ls.Binary(), target[:, 0])), [0.4]
        )

    def test_of_nothing_known(self):
        for task, target in ((ls.Multilabel(2), [[math.nan, 0]]), (ls.Binary(), [math.nan])):
            prior = class_prior(task, ls.count_labels(task, target))
            assert ((prior > 0) & (prior < 1)).all()

    @pytest.mark.parametrize(
        "task", [ls.Binary(), ls.Multiclass(3), ls.Multiclass(3, ordinal=True), ls.Multilabel(3)]
    )
    @pytest.mark.parametrize("soft", [False, True])
    def test_the_first_loss_is_the_priors_entropy(self, task, soft):
        if task.activation == "softmax":
            target = torch.nn.functional.one_hot(LONG_TAIL, 3).double() if soft else LONG_TAIL
            target = 0.9 * target + 0.1 / 3 if soft else target
        else:
            share = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)[: task.num_outputs].expand(100, -1)
            target = share * torch.rand_like(share) if soft else torch.bernoulli(share)
        target = task.encode(target)
        prior = class_prior(task, ls.count_labels(task, target))
        logits = ls.select_loss(task).first_logits(ls.count_labels(task, target)).expand(100, -1)
        entropy = -(prior * np.log(prior)).sum()
        if task.activation == "sigmoid":
            entropy = -(prior * np.log(prior) + (1 - prior) * np.log(1 - prior)).mean()
        assert ls.select_loss(task)(logits, target).item() == pytest.approx(entropy, rel=1e-12)

    @pytest.mark.parametrize(
        ("task", "options"),
        [
            (ls.Multiclass(3), {"weight": [1.0, 2.0, 5.0]}),
            (ls.Multiclass(3, ordinal=True), {"weight": [1.0, 2.0, 5.0]}),
            (ls.Multiclass(3), {"name": "logit_adjusted"}),
            (ls.Multiclass(3), {"name": "logit_adjusted", "tau": 0.4}),
            (ls.Multiclass(3), {"name": "logit_adjusted", "weight": [1.0, 5.0, 1.0]}),
            (
                ls.Multiclass(3, ordinal=True),
                {"name": "logit_adjusted", "tau": 0.4, "weight": [1.0, 5.0, 1.0]},
            ),
            (ls.Multiclass(3), {"name": "one_vs_rest", "weight": [1.0, 5.0, 1.0]}),
            (ls.Binary(), {"name": "logit_adjusted", "tau": 0.4, "pos_weight": 3}),
            (ls.Multiclass(3, ordinal=True), {"name": "logit_adjusted"}),
            (ls.Multiclass(3), {"name": "one_vs_rest"}),
            (ls.Binary(), {"pos_weight": "auto"}),
            (ls.Binary(), {"name": "logit_adjusted"}),
            (ls.Binary(), {}),
        ],
    )
    def test_no_constant_logits_have_a_smaller_loss(self, task, options):
        target = task.encode(LONG_TAIL if task.activation == "softmax" else (LONG_TAIL == 2).float())
        counts = ls.count_labels(task, target)
        loss = ls.select_loss(task, **options, counts=counts)
        logits = loss.first_logits(counts).clone().requires_grad_()
        loss(logits.expand(100, -1), target).backward()
        torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-12)


def test_soft_labels_weigh_by_their_mass():
    counts = ls.count_labels(ls.Binary(), torch.full((10,), 0.25))
    assert ls.select_loss(ls.Binary(), pos_weight="auto", counts=counts).pos_weight.tolist() == [3]
    rows = ls.count_labels(ls.Multiclass(2), torch.tensor([[0.8, 0.2]] * 10))
    weight = ls.select_loss(ls.Multiclass(2), weight="balanced", counts=rows).weight
    np.testing.assert_allclose(weight, [1 / 1.6, 1 / 0.4])


def test_of_no_label_at_all():
    nothing = ls.count_labels(ls.Multiclass(2, missing=-1), [-1, -1])
    for name in ("balanced", "effective_number"):
        assert ls.select_loss(ls.Multiclass(2), weight=name, counts=nothing).weight.tolist() == [1, 1]


def test_counts_of_another_task():
    five = ls.count_labels(ls.Multilabel(5), torch.ones(4, 5))
    for use in (
        lambda: ls.select_loss(ls.Multilabel(3), pos_weight="auto", counts=five),
        lambda: ls.suggest_loss(ls.Multiclass(3), five),
        lambda: ls.TaskModule(ls.Multilabel(3), torch.nn.Linear(2, 3)).set_label_counts(five),
    ):
        with pytest.raises(ValueError, match="The counts have 5 classes, but the task is multi"):
            use()


def test_plain_values_make_the_same_counts_again():
    counts = ls.count_labels(ls.Multilabel(2), [[1, 0], [0.3, math.nan]])
    again = ls.LabelCounts.from_dict(counts.to_dict())
    for name in vars(counts):
        assert np.all(getattr(counts, name) == getattr(again, name)), name


@pytest.mark.parametrize("prior", [[1 - 1e-9, 0.5], [1e-12, 0.5]])
def test_shares_near_1_are_not_1(prior):
    loss = ls.select_loss(ls.Multilabel(2), "logit_adjusted", prior=prior)
    assert loss(torch.zeros(2, 2), torch.tensor([[0.0, 1], [1, 0]])).isfinite()


@pytest.mark.parametrize("name", ["balanced", "auto"])
def test_a_prior_has_no_name(name):
    with pytest.raises(
        ValueError, match="prior must be the shares of the classes, or left out to be counted, got"
    ):
        ls.select_loss(ls.Multiclass(2), "logit_adjusted", prior=name)


def test_on_the_meta_device():
    with torch.device("meta"):
        loss = ls.select_loss(ls.Multiclass(2), weight=[1, 2])
        module = ls.TaskModule(
            ls.Multiclass(2), torch.nn.Linear(2, 2), {"name": "cross_entropy", "weight": [1, 2]}
        )
    assert loss.weight.tolist() == [1, 2]
    assert module.to_empty(device="cpu").net.weight.device.type == "cpu"
