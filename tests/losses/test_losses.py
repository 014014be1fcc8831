"""Tests of every row of LOSSES."""

import math

import numpy as np
import pytest
import torch
from loss_cases import (
    PRIOR,
    ROWS,
    TASKS,
    as_probabilities,
    both_targets,
    log_softmax,
    needed,
    random_logits,
    sigmoid,
    softmax,
    trailing,
)
from torch.nn import functional as F

import lossselect as ls
from lossselect.losses.registry import formula_options

EXTREMES = [0.0, 1.0, -1.0, 20.0, -20.0, 100.0, -100.0, 1e4, -1e4, 6e4, -6e4]


# float64 references from the papers' formulas, independent of the package: (x, t, options) -> losses, with x
# and t in [0, 1] of shape (N, C) or (N, C, T)
def log_sigmoid(x):
    return -np.logaddexp(0, -x)


def by_value(positive, negative):
    return lambda x, y, **options: y * positive(x, **options) + (1 - y) * negative(x, **options)


def by_class(loss):
    return lambda x, t, **options: (t * loss(x, **options)).sum(1)


def ref_sigmoid_focal(x, y, gamma=2.0, alpha=None):
    positive = (1 - sigmoid(x)) ** gamma * -log_sigmoid(x)
    negative = sigmoid(x) ** gamma * -log_sigmoid(-x)
    a, b = (1, 1) if alpha is None else (alpha, 1 - alpha)
    return a * y * positive + b * (1 - y) * negative


def ref_asymmetric(x, y, gamma_neg=4.0, gamma_pos=0.0, clip=0.05):
    p = sigmoid(x)
    q = np.maximum(p - clip, 0)
    return y * (1 - p) ** gamma_pos * -np.log(p) + (1 - y) * q**gamma_neg * -np.log(1 - q)


def ref_one_vs_rest(x, t):
    losses = np.zeros(t.sum(1).shape)
    for c in range(x.shape[1]):
        others = [k for k in range(x.shape[1]) if k != c]
        losses += t[:, c] * (-log_sigmoid(x[:, c]) - log_sigmoid(-x[:, others]).sum(1))
    return losses


def ref_zlpr(x, y):
    return np.log(1 + ((1 - y) * np.exp(x)).sum(1)) + np.log(1 + (y * np.exp(-x)).sum(1))


def ref_dice(p, t, smooth):
    return 1 - (2 * (p * t).sum(2) + smooth) / (p.sum(2) + t.sum(2) + smooth)


def adjusted_logit(p):
    return np.log(np.array(p) / (1 - np.array(p)))


REFERENCES = {
    ("cross_entropy", "sigmoid"): by_value(lambda x: -log_sigmoid(x), lambda x: -log_sigmoid(-x)),
    ("cross_entropy", "softmax"): by_class(lambda x: -log_softmax(x)),
    ("one_vs_rest", "softmax"): ref_one_vs_rest,
    ("focal", "sigmoid"): ref_sigmoid_focal,
    ("focal", "softmax"): by_class(lambda x, gamma=2.0: (1 - softmax(x)) ** gamma * -log_softmax(x)),
    ("asymmetric", "sigmoid"): ref_asymmetric,
    ("poly1", "sigmoid"): by_value(
        lambda x, epsilon=1.0: -log_sigmoid(x) + epsilon * (1 - sigmoid(x)),
        lambda x, epsilon=1.0: -log_sigmoid(-x) + epsilon * sigmoid(x),
    ),
    ("poly1", "softmax"): by_class(lambda x, epsilon=1.0: -log_softmax(x) + epsilon * (1 - softmax(x))),
    ("logit_adjusted", "sigmoid"): lambda x, y, prior, tau=1.0: REFERENCES["cross_entropy", "sigmoid"](
        x + tau * adjusted_logit(prior), y
    ),
    ("logit_adjusted", "softmax"): by_class(
        lambda x, prior, tau=1.0: -log_softmax(x + tau * np.log(np.array(prior)))
    ),
    ("generalized_cross_entropy", "sigmoid"): by_value(
        lambda x, q=0.7: (1 - sigmoid(x) ** q) / q, lambda x, q=0.7: (1 - (1 - sigmoid(x)) ** q) / q
    ),
    ("generalized_cross_entropy", "softmax"): by_class(lambda x, q=0.7: (1 - softmax(x) ** q) / q),
    ("zlpr", "sigmoid"): ref_zlpr,
    ("dice", "sigmoid"): lambda x, y, smooth=1.0: ref_dice(sigmoid(x), y, smooth),
    ("dice", "softmax"): lambda x, t, smooth=1.0: ref_dice(softmax(x), t, smooth).mean(1),
}


OPTIONS = {
    "focal": [
        {},
        {"gamma": 0.0},
        {"gamma": 0.5},
        {"gamma": 1.0},
        {"gamma": 1.0, "alpha": 0.25},
        {"gamma": 2.0},
        {"gamma": 5.0},
    ],
    "asymmetric": [
        {},
        {"gamma_neg": 0.5, "gamma_pos": 0.5},
        {"gamma_neg": 2.0, "gamma_pos": 1.0, "clip": 0.0},
        {"gamma_neg": 0.0, "clip": 0.2},
        {"clip": 1e-3},
    ],
    "poly1": [{}, {"epsilon": -1.0}, {"epsilon": 5.0}],
    "logit_adjusted": [{"prior": PRIOR}, {"prior": PRIOR, "tau": 0.5}],
    "generalized_cross_entropy": [{}, {"q": 1.0}, {"q": 0.01}],
    "dice": [{}, {"smooth": 0.1}],
}


CASES = [
    (name, activation, options)
    for name, activation in ROWS
    for options in OPTIONS.get(name, [{}])
    if set(options) - {"prior"} <= set(formula_options(ls.LOSSES[name][activation]))
]


def modifiers_of(name):
    """Modifiers that could break a gradient or a mask."""
    return {"label_smoothing": 0.1} | ({} if name == "zlpr" else {"weight": [0.5, 1, 2]})


def test_every_row_has_a_reference():
    assert set(ROWS) == set(REFERENCES)


@pytest.mark.parametrize(("name", "activation", "options"), CASES)
class TestEveryRow:
    def test_equals_the_reference_in_float64(self, name, activation, options):
        logits = random_logits(name, scale=4)
        loss = ls.select_loss(TASKS[activation], name, reduction="none", **options)
        for target in both_targets(name, activation):
            want = REFERENCES[name, activation](
                logits.numpy(), as_probabilities(target).numpy().astype(np.float64), **options
            )
            np.testing.assert_allclose(loss(logits, target).numpy(), want, rtol=1e-10, atol=1e-12)

    def test_gradient_is_correct(self, name, activation, options):
        loss = ls.select_loss(TASKS[activation], name, **modifiers_of(name), **options)
        logits = random_logits(name).requires_grad_()
        for target in both_targets(name, activation):
            assert torch.autograd.gradcheck(lambda x, t=target: loss(x, t), logits)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("modified", [False, True])
    def test_finite_at_extreme_logits(self, name, activation, options, dtype, modified):
        modifiers = modifiers_of(name) if modified else {}
        loss = ls.select_loss(TASKS[activation], name, reduction="sum", **modifiers, **options)
        grid = torch.cartesian_prod(*[torch.tensor(EXTREMES)] * 3).to(dtype)
        grid = grid.reshape(len(grid), 3, *[1] * len(trailing(name))).repeat(1, 1, *trailing(name))
        grid.requires_grad_()
        for target in both_targets(name, activation, len(grid), torch.float32):
            value = loss(grid, target)
            (gradient,) = torch.autograd.grad(value, grid)
            assert value.isfinite()
            assert gradient.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_computed_in_float32(self, name, activation, options, dtype):
        loss = ls.select_loss(TASKS[activation], name, **modifiers_of(name), **options)
        logits = random_logits(name, 64, 6, torch.float32).to(dtype)
        target, _ = both_targets(name, activation, 64)
        exact = loss(logits.double(), target)
        plain = loss(logits, target)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = loss(logits, target)
        assert plain.dtype == inside.dtype == torch.float32
        torch.testing.assert_close(plain.double(), exact, rtol=2e-5, atol=0)
        assert torch.equal(plain, inside)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_each_loss_at_extremes_equals_that_of_the_rounded_logits(self, name, activation, options, dtype):
        loss = ls.select_loss(TASKS[activation], name, reduction="none", **options)
        grid = torch.cartesian_prod(*[torch.tensor(EXTREMES)] * 3).to(dtype)
        grid = grid.reshape(len(grid), 3, *[1] * len(trailing(name))).repeat(1, 1, *trailing(name))
        target, _ = both_targets(name, activation, len(grid), torch.float32)
        # torch's log_softmax rounds a log p above -1e-7 to 0
        torch.testing.assert_close(
            loss(grid, target).double(), loss(grid.double(), target), rtol=2e-5, atol=1e-7
        )

    def test_missing_labels_equal_removed_rows(self, name, activation, options):
        loss = ls.select_loss(TASKS[activation], name, **modifiers_of(name), **options)
        logits = random_logits(name).requires_grad_()
        for target in both_targets(name, activation):
            holes = target.clone()
            holes[2:5] = float("nan") if target.is_floating_point() else -100
            kept = [0, 1, 5, 6, 7]
            with_holes, without = loss(logits, holes), loss(logits[kept], target[kept])
            torch.testing.assert_close(with_holes, without, rtol=1e-14, atol=0)
            gradient, expected = (
                torch.autograd.grad(with_holes, logits)[0],
                torch.autograd.grad(without, logits)[0],
            )
            torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=0)

    @pytest.mark.parametrize("rows", [0, 4])
    def test_no_label_at_all_gives_0_with_zero_gradient(self, name, activation, options, rows):
        loss = ls.select_loss(TASKS[activation], name, **options)
        logits = random_logits(name, rows, dtype=torch.float32).requires_grad_()
        hard, soft = both_targets(name, activation, rows)
        target = soft * float("nan")
        for holes in [target] if activation == "sigmoid" else [target, torch.full_like(hard, -100)]:
            logits.grad = None
            value = loss(logits, holes)
            value.backward()
            assert value.item() == 0
            assert torch.equal(logits.grad, torch.zeros_like(logits))

    def test_a_weight_of_1_has_no_effect(self, name, activation, options):
        if name == "zlpr":
            pytest.skip("it does not support weight")
        logits = random_logits(name, dtype=torch.float32)
        target, _ = both_targets(name, activation)
        weighted = ls.select_loss(TASKS[activation], name, weight=torch.ones(3), **options)
        torch.testing.assert_close(
            weighted(logits, target), ls.select_loss(TASKS[activation], name, **options)(logits, target)
        )

    def test_a_sample_weight_of_1_has_no_effect_and_0_removes_the_row(self, name, activation, options):
        loss = ls.select_loss(TASKS[activation], name, **modifiers_of(name), **options)
        logits = random_logits(name)
        for target in both_targets(name, activation):
            plain = loss(logits, target)
            torch.testing.assert_close(loss(logits, target, torch.ones(8)), plain, rtol=1e-14, atol=0)
            some = torch.tensor([1.0, 0, 2, 1, 0, 0, 1, 1])
            rows = [0, 2, 2, 3, 6, 7]
            torch.testing.assert_close(
                loss(logits, target, some), loss(logits[rows], target[rows]), rtol=1e-14, atol=0
            )

    def test_trailing_dimensions_equal_rows(self, name, activation, options):
        if name == "dice":
            pytest.skip("it pools them")
        loss = ls.select_loss(TASKS[activation], name, **modifiers_of(name), **options)
        logits = torch.randn(4, 3, 5, 2, dtype=torch.float64)
        rows = logits.movedim(1, -1).reshape(-1, 3)
        for target in both_targets(name, activation, 40):
            unflat = target.reshape(4, 5, 2, *target.shape[1:])
            unflat = unflat.movedim(-1, 1) if target.is_floating_point() else unflat
            torch.testing.assert_close(loss(logits, unflat), loss(rows, target), rtol=1e-12, atol=0)

    def test_reductions_agree(self, name, activation, options):
        logits = random_logits(name)
        target, _ = both_targets(name, activation)
        none, mean, total = (
            ls.select_loss(TASKS[activation], name, reduction=reduction, **options)(logits, target)
            for reduction in ("none", "mean", "sum")
        )
        assert none.shape == ((8, 3) if activation == "sigmoid" and name != "zlpr" else (8,))
        torch.testing.assert_close(none.sum(), total, rtol=1e-14, atol=0)
        torch.testing.assert_close(none.mean(), mean, rtol=1e-14, atol=0)

    def test_two_class_softmax_is_one_logit_sigmoid(self, name, activation, options):
        if {"sigmoid", "softmax"} - set(ls.LOSSES[name]) or "alpha" in options or name == "dice":
            pytest.skip("the loss has only one form, an option of one form, or a mean over both classes")
        logits = 5 * torch.randn(8, 2, dtype=torch.float64)
        difference = (logits[:, 1] - logits[:, 0]).unsqueeze(1)
        labels = torch.arange(8) % 2
        two, one = ({**options, "prior": p} if "prior" in options else options for p in ([0.7, 0.3], [0.3]))
        softmax = ls.select_loss(ls.Multiclass(2), name, **two)(logits, labels)
        sigmoid = ls.select_loss(ls.Binary(), name, **one)(difference, labels.unsqueeze(1).double())
        torch.testing.assert_close(softmax, sigmoid, rtol=1e-12, atol=1e-15)


def test_a_missing_label_within_a_row_is_not_in_the_denominator():
    loss = ls.select_loss(ls.Multilabel(2))
    value = loss(torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, float("nan")]]))
    torch.testing.assert_close(value, torch.tensor(math.log(2)))


@pytest.mark.parametrize("target", [torch.tensor([0, 0]), torch.tensor([[1.0, 0, 0], [1, 0, 0]])])
def test_smoothed_labels_of_weight_0_are_ignored(target):
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]], requires_grad=True)
    loss = ls.select_loss(ls.Multiclass(3), weight=[0.0, 1.0, 2.0], label_smoothing=0.2)(logits, target)
    assert loss.item() == 0
    loss.backward()
    assert not logits.grad.any()


def test_label_smoothing_moves_sigmoid_targets_towards_one_half():
    logits = torch.randn(4, 3)
    smooth = ls.select_loss(ls.Multilabel(3), label_smoothing=0.2)(logits, torch.ones(4, 3))
    torch.testing.assert_close(smooth, ls.select_loss(ls.Multilabel(3))(logits, torch.full((4, 3), 0.9)))


def test_rows_of_classes_with_weight_0_give_0_not_nan():
    loss = ls.select_loss(ls.Multiclass(3), weight=[0, 1, 1])
    logits = torch.randn(4, 3, requires_grad=True)
    value = loss(logits, torch.zeros(4, dtype=torch.long))
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("name", [name for name, forms in ls.LOSSES.items() if "softmax" in forms])
def test_a_class_that_the_net_rules_out_by_minus_infinity(name):
    if name == "dice":
        pytest.skip("it needs trailing dimensions")
    loss = ls.select_loss(ls.Multiclass(3), name, **needed(name))
    logits = torch.tensor([[1.0, -math.inf, 0.5], [-math.inf, -math.inf, 2.0]], requires_grad=True)
    target = torch.tensor([2, 2])
    value = loss(logits, target)
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.isfinite().all()
    torch.testing.assert_close(value, loss(logits.detach().clamp(min=-1e4), target))


@pytest.mark.parametrize("name", [name for name, forms in ls.LOSSES.items() if "softmax" in forms])
def test_a_common_offset_of_the_logits_has_no_effect(name):
    if name in ("dice", "one_vs_rest"):
        pytest.skip("it needs trailing dimensions, or does not depend on softmax probabilities only")
    loss = ls.select_loss(ls.Multiclass(3), name, **needed(name))
    logits, target = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([2])
    for y in (target, torch.tensor([[0.0, 0.25, 0.75]])):
        torch.testing.assert_close(loss(logits + 10000, y), loss(logits, y))


@pytest.mark.parametrize("pos_weight", [1e-4, 30.0, 1e8])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_large_weights_lose_no_digits_in_float32(pos_weight, smoothing):
    logits, target = torch.tensor([[20.0], [-20.0], [0.3]]), torch.tensor([[1.0], [0.0], [0.7]])
    loss = ls.select_loss(ls.Binary(), pos_weight=pos_weight, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(
        loss(logits, target).double(), loss(logits.double(), target), rtol=1e-5, atol=3e-9
    )
    smoothed = target * (1 - smoothing) + smoothing / 2
    expected = F.binary_cross_entropy_with_logits(
        logits, smoothed, pos_weight=torch.tensor(pos_weight), reduction="none"
    )
    torch.testing.assert_close(loss(logits, target), expected)


def test_weights_of_any_size_cancel_in_a_mean():
    logits, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 0, 1])
    exact = ls.select_loss(ls.Multiclass(3), weight=[1, 2, 3])(logits, target)
    tiny = ls.select_loss(ls.Multiclass(3), weight=[1e-9, 2e-9, 3e-9])(logits, target)
    torch.testing.assert_close(tiny, exact)


def test_sum_and_count_add_up_over_batches():
    loss = ls.select_loss(ls.Multiclass(3), weight=[0.2, 1.5, 3.0])
    logits, labels = (
        torch.randn(10, 3, dtype=torch.float64),
        torch.tensor([0, 1, 2, -100, 1, 1, 0, -100, 2, 0]),
    )
    parts = [loss.sum_and_count(logits[i], labels[i]) for i in (slice(0, 3), slice(3, 4), slice(4, 10))]
    total, count = (sum(part) for part in zip(*parts, strict=True))
    torch.testing.assert_close(total / count, loss(logits, labels), rtol=1e-14, atol=0)


def test_compiles_without_a_graph_break():
    for activation, task in TASKS.items():
        for name in ls.LOSSES:
            if activation not in ls.LOSSES[name]:
                continue
            loss = ls.select_loss(task, name, **modifiers_of(name), **needed(name))
            logits, target = random_logits(name, dtype=torch.float32), both_targets(name, activation)[0]
            explained = torch._dynamo.explain(loss)(logits, target)
            assert explained.graph_break_count == 0, (name, activation, explained.break_reasons)
