import math
import re

import pytest
import torch
from loss_cases import (
    PRIOR,
    ROWS,
    TASKS,
    as_probabilities,
    both_targets,
    hard_target,
    needed,
    random_logits,
    soft_target,
    trailing,
)
from torch.nn import functional as F

import lossselect as ls


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [None, [0.2, 1.5, 3.0]])
@pytest.mark.parametrize("name", [name for name, activation in ROWS if activation == "softmax"])
def test_index_one_hot_and_soft_forms_agree(name, weight, smoothing):
    task = ls.Multiclass(3)
    logits, labels = random_logits(name, 9), hard_target("softmax", 9, trailing(name))
    loss = ls.select_loss(task, name, weight=weight, label_smoothing=smoothing, **needed(name))
    index = loss(logits, labels)
    soft = loss(logits, as_probabilities(labels).double())
    torch.testing.assert_close(index, soft, rtol=1e-12, atol=0)
    assert torch.equal(index, loss(logits, task.encode(as_probabilities(labels).float())))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weight", [None, [0.2, 1.5, 3.0]])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_softmax_cross_entropy_equals_torch(reduction, weight, smoothing):
    logits, labels = torch.randn(9, 3, dtype=torch.float64), torch.tensor([0, 1, 2, -100, 1, 1, 0, -100, 2])
    tensor = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    loss = ls.select_loss(ls.Multiclass(3), weight=weight, label_smoothing=smoothing, reduction=reduction)
    expected = F.cross_entropy(logits, labels, weight=tensor, label_smoothing=smoothing, reduction=reduction)
    torch.testing.assert_close(loss(logits, labels), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("pos_weight", [None, [0.0, 2.0, 30.0]])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_sigmoid_cross_entropy_equals_torch(reduction, pos_weight):
    logits = torch.randn(9, 3, dtype=torch.float64)
    tensor = None if pos_weight is None else torch.tensor(pos_weight, dtype=torch.float64)
    loss = ls.select_loss(ls.Multilabel(3), pos_weight=pos_weight, reduction=reduction)
    for target in (torch.randint(0, 2, (9, 3)).double(), torch.rand(9, 3, dtype=torch.float64)):
        expected = F.binary_cross_entropy_with_logits(logits, target, pos_weight=tensor, reduction=reduction)
        torch.testing.assert_close(loss(logits, target), expected, rtol=1e-12, atol=1e-15)


def test_binary_is_multilabel_with_one_label():
    logits, target = torch.randn(8, 1), torch.randint(0, 2, (8, 1)).float()
    for name in [name for name, activation in ROWS if activation == "sigmoid" and name != "dice"]:
        options = {"prior": [0.2]} if name == "logit_adjusted" else {}
        options |= {} if name == "zlpr" else {"pos_weight": 3}
        one = ls.select_loss(ls.Binary(), name, **options)(logits, target)
        assert torch.equal(one, ls.select_loss(ls.Multilabel(1), name, **options)(logits, target))


def test_gamma_0_is_cross_entropy():
    logits = 10 * torch.randn(8, 3, dtype=torch.float64)
    for activation, task in TASKS.items():
        target = hard_target(activation)
        focal = ls.select_loss(task, "focal", gamma=0)(logits, target)
        torch.testing.assert_close(focal, ls.select_loss(task)(logits, target), rtol=1e-12, atol=0)


class TestShapes:
    @pytest.mark.parametrize(
        ("task", "logits", "target"),
        [
            (ls.Binary(), (4, 1), torch.zeros(4)),  # would broadcast to (4, 4)
            (ls.Multilabel(3), (4, 3), torch.zeros(4, 3, dtype=torch.long)),
            (ls.Multilabel(3), (4, 3), torch.zeros(4, 1)),
            (ls.Multiclass(3), (4, 3), torch.zeros(4, 3, dtype=torch.long)),
            (ls.Multiclass(3), (4, 3), torch.zeros(4)),
            (ls.Multiclass(3), (4, 3), torch.zeros(3, dtype=torch.long)),
            (ls.Multiclass(3), (4, 3), torch.zeros(4, dtype=torch.int32)),
        ],
    )
    def test_a_target_that_is_not_canonical_raises_an_error(self, task, logits, target):
        with pytest.raises(ValueError, match=r"task\.encode\(target\)"):
            ls.select_loss(task)(torch.zeros(logits), target)

    @pytest.mark.parametrize(
        ("task", "target", "message"),
        [
            (
                ls.Multilabel(3),
                [[0, 1, 1], [0, 2, 0]],
                "Row 1, label '1' of the target is 2",
            ),
            (ls.Multilabel(3, missing=-1), [[0, 1, -1], [0, 1, 0]], "task.encode(target)"),
            (
                ls.Multiclass(3),
                [[0, 1, 1], [0, 1, 0]],
                "Row 0 of the target has 2 ones",
            ),
            (ls.Multiclass(3), [[0.5, 0.5, 0], [0.5, 0.4, 0]], "Row 1 of the target sums to 0.9"),
        ],
    )
    def test_values_that_are_not_canonical_raise_an_error(self, task, target, message):
        loss = ls.select_loss(task)
        loss(torch.zeros(2, 3), task.encode([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
        with pytest.raises(ValueError, match=re.escape(message)):
            loss(torch.zeros(2, 3), torch.tensor(target, dtype=torch.float32))

    @pytest.mark.parametrize("index", [-1, 3])
    def test_an_index_out_of_range_raises_an_error(self, index):
        with pytest.raises(ValueError, match=rf"{index}.*from 0 to 2"):
            ls.select_loss(ls.Multiclass(3))(torch.zeros(2, 3), torch.tensor([0, index]))

    def test_one_hot_masks_of_integers(self):
        with pytest.raises(ValueError, match=r"target\.float\(\)"):
            ls.select_loss(ls.Multiclass(3))(
                torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4, dtype=torch.long)
            )

    def test_a_list_raises_an_error(self):
        with pytest.raises(TypeError, match=r"list.*task\.encode\(target\)"):
            ls.select_loss(ls.Multiclass(3))(torch.zeros(2, 3), [0, 1])

    def test_gradients_per_sample(self):
        loss, target = ls.select_loss(ls.Multiclass(3)), torch.tensor([0, 2, 1])
        logits = torch.randn(3, 3)
        each = torch.vmap(lambda x, y: loss(x[None], y[None]))(logits, target)
        torch.testing.assert_close(each.mean(), loss(logits, target))

    def test_a_target_on_another_device_raises_an_error(self):
        with pytest.raises(ValueError, match=r"meta.*cpu"):
            ls.select_loss(ls.Multilabel(3))(torch.zeros(4, 3, device="meta"), torch.zeros(4, 3))


class TestIdentities:
    def test_options_that_give_cross_entropy(self):
        same = {
            "asymmetric": {"gamma_neg": 0, "gamma_pos": 0, "clip": 0},
            "poly1": {"epsilon": 0},
            "logit_adjusted": {"tau": 0, "prior": PRIOR},
            "focal": {"gamma": 0},
        }
        for name, activation in ROWS:
            if name in same:
                logits, target = random_logits(name, scale=5), soft_target(activation)
                loss = ls.select_loss(TASKS[activation], name, **same[name])(logits, target)
                torch.testing.assert_close(
                    loss, ls.select_loss(TASKS[activation])(logits, target), rtol=1e-12, atol=0
                )

    def test_asymmetric_without_clip_is_focal_with_two_gammas(self):
        logits, target = random_logits("focal", scale=5), torch.zeros(8, 3, dtype=torch.float64)
        asymmetric = ls.select_loss(TASKS["sigmoid"], "asymmetric", gamma_neg=3, clip=0)
        focal = ls.select_loss(TASKS["sigmoid"], "focal", gamma=3)
        torch.testing.assert_close(asymmetric(logits, target), focal(logits, target), rtol=1e-12, atol=0)

    def test_a_negative_within_the_margin_costs_nothing(self):
        loss = ls.select_loss(ls.Binary(), "asymmetric", clip=0.2, gamma_neg=0.5)
        logits = torch.tensor([[-3.0], [-2.0]], requires_grad=True)
        value = loss(logits, torch.zeros(2, 1))
        value.backward()
        assert value.item() == 0
        assert not logits.grad.any()

    def test_symmetric_cross_entropy_is_poly1(self):
        alpha, beta, log_0 = 0.3, 1.5, -4.0
        logits, labels = random_logits("poly1", scale=3), torch.arange(8) % 3
        p = logits.softmax(1)
        reverse = -(p * F.one_hot(labels, 3).double().log().clamp(min=log_0)).sum(1)
        symmetric = (alpha * F.cross_entropy(logits, labels, reduction="none") + beta * reverse).mean()
        poly1 = ls.select_loss(ls.Multiclass(3), "poly1", epsilon=-log_0 * beta / alpha)(logits, labels)
        torch.testing.assert_close(alpha * poly1, symmetric, rtol=1e-12, atol=0)

    def test_generalized_cross_entropy_ranges_from_cross_entropy_to_the_absolute_error(self):
        logits, labels = random_logits("focal"), torch.arange(8) % 3
        near = ls.select_loss(ls.Multiclass(3), "generalized_cross_entropy", q=0.001)(logits, labels)
        torch.testing.assert_close(near, F.cross_entropy(logits, labels), rtol=2e-3, atol=0)
        far = ls.select_loss(ls.Multiclass(3), "generalized_cross_entropy", q=1)(logits, labels)
        wrong = 1 - logits.softmax(1).gather(1, labels[:, None])
        torch.testing.assert_close(far, wrong.mean(), rtol=1e-12, atol=0)

    def test_balanced_softmax(self):
        counts, labels = torch.tensor([10.0, 30.0, 60.0], dtype=torch.float64), torch.arange(8) % 3
        logits = random_logits("focal")
        loss = ls.select_loss(ls.Multiclass(3), "logit_adjusted", prior=counts / counts.sum())
        weighted = counts * logits.exp()
        ren = -(weighted / weighted.sum(1, keepdim=True)).gather(1, labels[:, None]).log().mean()
        torch.testing.assert_close(loss(logits, labels), ren, rtol=1e-12, atol=0)

    def test_zlpr_with_one_label_is_binary_cross_entropy(self):
        logits, target = torch.randn(8, 1, dtype=torch.float64), torch.rand(8, 1, dtype=torch.float64)
        hard = target.round()
        torch.testing.assert_close(
            ls.select_loss(ls.Binary(), "zlpr")(logits, hard), ls.select_loss(ls.Binary())(logits, hard)
        )

    def test_zlpr_ignores_a_missing_label(self):
        loss, rest = ls.select_loss(ls.Multilabel(3), "zlpr"), ls.select_loss(ls.Multilabel(2), "zlpr")
        logits = torch.randn(1, 3, dtype=torch.float64)
        value = loss(logits, torch.tensor([[1.0, math.nan, 0.0]]))
        torch.testing.assert_close(value, rest(logits[:, [0, 2]], torch.tensor([[1.0, 0.0]])))

    def test_one_vs_rest_is_a_bce_for_each_class(self):
        logits, labels = random_logits("one_vs_rest"), torch.arange(8) % 3
        bce = F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, 3).double(), reduction="sum") / 8
        torch.testing.assert_close(ls.select_loss(ls.Multiclass(3), "one_vs_rest")(logits, labels), bce)

    def test_dice_ignores_missing_pixels_and_supports_class_weights(self):
        for activation, task in TASKS.items():
            logits = random_logits("dice")
            hard, soft = both_targets("dice", activation)
            for target in (hard, soft):
                holes = target.clone()
                holes[..., 3:] = math.nan if target.is_floating_point() else -100
                loss = ls.select_loss(task, "dice", weight=[0, 1, 3])
                torch.testing.assert_close(loss(logits, holes), loss(logits[..., :3], target[..., :3]))
        first = ls.select_loss(ls.Multiclass(3), "dice", weight=[1, 0, 0])
        p, t = logits.softmax(1)[:, 0], (hard == 0).double()
        dice = (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
        torch.testing.assert_close(first(logits, hard), (1 - dice).mean())

    def test_dice_needs_trailing_dimensions(self):
        with pytest.raises(ValueError, match=r"compares regions .* got \(4, 3\)"):
            ls.select_loss(ls.Multiclass(3), "dice")(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))


class TestSampleWeight:
    def test_per_position(self):
        loss = ls.select_loss(ls.Multilabel(3))
        logits, target = torch.randn(2, 3, 4), torch.randint(0, 2, (2, 3, 4)).float()
        weight = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 1]])
        value = loss(logits, target, weight)
        kept = (
            torch.cat([logits[0, :, :2].T, logits[1, :, 3:].T]),
            torch.cat([target[0, :, :2].T, target[1, :, 3:].T]),
        )
        torch.testing.assert_close(value, loss(*kept))

    @pytest.mark.parametrize(
        ("weight", "message"),
        [
            (torch.ones(3), r"one weight per row, of shape \(2,\), got \(3,\)"),
            (torch.ones(2, 3), r"one weight per row, of shape \(2,\), got \(2, 3\)"),
            ([1, 2], "got list"),
            (torch.tensor([1.0, -1.0]), "Row 1 has the sample weight -1, but"),
            (torch.tensor([1.0, math.nan]), "Row 1 has the sample weight nan"),
            (torch.ones(2, device="meta"), "sample_weight is on meta, but the logits are on cpu"),
        ],
    )
    def test_an_invalid_one_raises_an_error(self, weight, message):
        with pytest.raises((ValueError, NotImplementedError), match=message):
            ls.select_loss(ls.Multiclass(3))(torch.zeros(2, 3), torch.tensor([0, 1]), weight)

    def test_per_position_is_not_supported_for_regions(self):
        loss = ls.select_loss(ls.Multilabel(3), "dice")
        for positions in (3, 4):  # once equal to the number of labels
            logits = torch.zeros(2, 3, positions)
            with pytest.raises(ValueError, match="Loss 'dice' pools positions"):
                loss(logits, logits, torch.ones(2, positions))
