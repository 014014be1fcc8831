"""Every row of LOSSES is tested because it is in the table."""

import math
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import lossselect as ls
from lossselect.losses.registry import formula_options, formula_takes, row_options

EXTREMES = [0.0, 1.0, -1.0, 20.0, -20.0, 100.0, -100.0, 1e4, -1e4, 6e4, -6e4]


# float64 references from the papers' formulas, never calling our code: (x, t, options) -> losses, where x
# and t, 0 to 1, have shape (N, C) or (N, C, T)
def log_sigmoid(x):
    return -np.logaddexp(0, -x)


def log_softmax(x):
    return x - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)) - x.max(1, keepdims=True)


def by_value(positive, negative):
    return lambda x, y, **options: y * positive(x, **options) + (1 - y) * negative(x, **options)


def by_class(loss):
    return lambda x, t, **options: (t * loss(x, **options)).sum(1)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(log_softmax(x))


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
PRIOR = [0.2, 0.3, 0.5]
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
ROWS = [(name, activation) for name, forms in ls.LOSSES.items() for activation in forms]
CASES = [
    (name, activation, options)
    for name, activation in ROWS
    for options in OPTIONS.get(name, [{}])
    if set(options) - {"prior"} <= set(formula_options(ls.LOSSES[name][activation]))
]
TASKS = {"sigmoid": ls.Multilabel(3), "softmax": ls.Multiclass(3)}
POOLED = [row for row in ROWS if "known" in formula_takes(ls.LOSSES[row[0]][row[1]])]


def trailing(name):
    """Dice needs some."""
    return (5,) if name == "dice" else ()


def random_logits(name, rows=8, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(rows, 3, *trailing(name), dtype=dtype)


def hard_target(activation, rows=8, more=()):
    if activation == "sigmoid":
        return torch.randint(0, 2, (rows, 3, *more)).float()
    return torch.arange(rows * math.prod(more)).reshape(rows, *more) % 3


def soft_target(activation, rows=8, dtype=torch.float64, more=()):
    random = torch.rand(rows, 3, *more, dtype=dtype)
    return random if activation == "sigmoid" else random / random.sum(1, keepdim=True)


def both_targets(name, activation, rows=8, dtype=torch.float64):
    more = trailing(name)
    return hard_target(activation, rows, more), soft_target(activation, rows, dtype, more)


def modifiers_of(name):
    """Those that a gradient or a mask could trip over."""
    return {"label_smoothing": 0.1} | ({} if name == "zlpr" else {"weight": [0.5, 1, 2]})


def needed(name):
    """Options that the loss cannot do without."""
    return {"prior": PRIOR} if name == "logit_adjusted" else {}


def as_shares(target):
    """(N, C, ...) shares of class indices."""
    return target if target.is_floating_point() else F.one_hot(target, 3).movedim(-1, 1)


def test_every_row_has_a_reference():
    assert set(ROWS) == set(REFERENCES)


@pytest.mark.parametrize(("name", "activation", "options"), CASES)
class TestEveryRow:
    def test_equals_the_reference_in_float64(self, name, activation, options):
        logits = random_logits(name, scale=4)
        loss = ls.select_loss(TASKS[activation], name, reduction="none", **options)
        for target in both_targets(name, activation):
            want = REFERENCES[name, activation](
                logits.numpy(), as_shares(target).numpy().astype(np.float64), **options
            )
            np.testing.assert_allclose(loss(logits, target).numpy(), want, rtol=1e-10, atol=1e-12)

    def test_gradient_is_right(self, name, activation, options):
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
    def test_each_loss_at_extremes_is_that_of_the_rounded_logits(self, name, activation, options, dtype):
        loss = ls.select_loss(TASKS[activation], name, reduction="none", **options)
        grid = torch.cartesian_prod(*[torch.tensor(EXTREMES)] * 3).to(dtype)
        grid = grid.reshape(len(grid), 3, *[1] * len(trailing(name))).repeat(1, 1, *trailing(name))
        target, _ = both_targets(name, activation, len(grid), torch.float32)
        # torch's log_softmax rounds a log p above -1e-7 to 0
        torch.testing.assert_close(
            loss(grid, target).double(), loss(grid.double(), target), rtol=2e-5, atol=1e-7
        )

    def test_missing_labels_are_the_same_as_rows_removed(self, name, activation, options):
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
    def test_nothing_labelled_gives_0_with_zero_gradient(self, name, activation, options, rows):
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

    def test_a_weight_of_1_is_no_weight(self, name, activation, options):
        if name == "zlpr":
            pytest.skip("it takes no weight")
        logits = random_logits(name, dtype=torch.float32)
        target, _ = both_targets(name, activation)
        weighted = ls.select_loss(TASKS[activation], name, weight=torch.ones(3), **options)
        torch.testing.assert_close(
            weighted(logits, target), ls.select_loss(TASKS[activation], name, **options)(logits, target)
        )

    def test_a_weight_of_1_for_each_sample_is_none_and_of_0_removes_it(self, name, activation, options):
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

    def test_trailing_dimensions_are_rows(self, name, activation, options):
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
            pytest.skip("the loss has one form, an option that one form has, or means over both classes")
        logits = 5 * torch.randn(8, 2, dtype=torch.float64)
        difference = (logits[:, 1] - logits[:, 0]).unsqueeze(1)
        labels = torch.arange(8) % 2
        two, one = ({**options, "prior": p} if "prior" in options else options for p in ([0.7, 0.3], [0.3]))
        softmax = ls.select_loss(ls.Multiclass(2), name, **two)(logits, labels)
        sigmoid = ls.select_loss(ls.Binary(), name, **one)(difference, labels.unsqueeze(1).double())
        torch.testing.assert_close(softmax, sigmoid, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [None, [0.2, 1.5, 3.0]])
@pytest.mark.parametrize("name", [name for name, activation in ROWS if activation == "softmax"])
def test_index_one_hot_and_soft_forms_agree(name, weight, smoothing):
    task = ls.Multiclass(3)
    logits, labels = random_logits(name, 9), hard_target("softmax", 9, trailing(name))
    loss = ls.select_loss(task, name, weight=weight, label_smoothing=smoothing, **needed(name))
    index = loss(logits, labels)
    soft = loss(logits, as_shares(labels).double())
    torch.testing.assert_close(index, soft, rtol=1e-12, atol=0)
    assert torch.equal(index, loss(logits, task.encode(as_shares(labels).float())))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weight", [None, [0.2, 1.5, 3.0]])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_softmax_cross_entropy_is_torchs_number(reduction, weight, smoothing):
    logits, labels = torch.randn(9, 3, dtype=torch.float64), torch.tensor([0, 1, 2, -100, 1, 1, 0, -100, 2])
    tensor = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    ours = ls.select_loss(ls.Multiclass(3), weight=weight, label_smoothing=smoothing, reduction=reduction)
    torchs = F.cross_entropy(logits, labels, weight=tensor, label_smoothing=smoothing, reduction=reduction)
    torch.testing.assert_close(ours(logits, labels), torchs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("pos_weight", [None, [0.0, 2.0, 30.0]])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_sigmoid_cross_entropy_is_torchs_number(reduction, pos_weight):
    logits = torch.randn(9, 3, dtype=torch.float64)
    tensor = None if pos_weight is None else torch.tensor(pos_weight, dtype=torch.float64)
    ours = ls.select_loss(ls.Multilabel(3), pos_weight=pos_weight, reduction=reduction)
    for target in (torch.randint(0, 2, (9, 3)).double(), torch.rand(9, 3, dtype=torch.float64)):
        torchs = F.binary_cross_entropy_with_logits(logits, target, pos_weight=tensor, reduction=reduction)
        torch.testing.assert_close(ours(logits, target), torchs, rtol=1e-12, atol=1e-15)


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


def test_a_missing_label_within_a_row_counts_in_no_denominator():
    loss = ls.select_loss(ls.Multilabel(2))
    value = loss(torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, float("nan")]]))
    torch.testing.assert_close(value, torch.tensor(math.log(2)))


@pytest.mark.parametrize("target", [torch.tensor([0, 0]), torch.tensor([[1.0, 0, 0], [1, 0, 0]])])
def test_smoothed_labels_of_weight_0_count_for_nothing(target):
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]], requires_grad=True)
    loss = ls.select_loss(ls.Multiclass(3), weight=[0.0, 1.0, 2.0], label_smoothing=0.2)(logits, target)
    assert loss.item() == 0
    loss.backward()
    assert not logits.grad.any()


def test_label_smoothing_moves_sigmoid_targets_towards_one_half():
    logits = torch.randn(4, 3)
    smooth = ls.select_loss(ls.Multilabel(3), label_smoothing=0.2)(logits, torch.ones(4, 3))
    torch.testing.assert_close(smooth, ls.select_loss(ls.Multilabel(3))(logits, torch.full((4, 3), 0.9)))


def test_only_zero_weight_classes_give_0_not_nan():
    loss = ls.select_loss(ls.Multiclass(3), weight=[0, 1, 1])
    logits = torch.randn(4, 3, requires_grad=True)
    value = loss(logits, torch.zeros(4, dtype=torch.long))
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


class TestOptions:
    def test_tensor_options_are_buffers_that_keep_their_precision(self):
        loss = ls.select_loss(ls.Multilabel(2), pos_weight=[1e5, 0.1], weight=[1, 2])
        assert dict(loss.named_buffers()).keys() == {"weight", "pos_weight"}
        assert loss.to("meta").pos_weight.device.type == "meta"
        half = ls.select_loss(ls.Multilabel(2), pos_weight=[1e5, 0.1]).half()
        assert half.pos_weight.tolist() == [1e5, 0.1]
        assert half(torch.full((1, 2), 8.0).half(), torch.zeros(1, 2)).isfinite()

    def test_numpy_numbers_are_numbers(self):
        assert ls.select_loss(ls.Binary(), "focal", gamma=np.float32(1.5), label_smoothing=np.float64(0.1))

    def test_plain_values_make_the_same_loss_again(self):
        loss = ls.select_loss(ls.Multilabel(2), "focal", gamma=1.5, weight=[1, 2], pos_weight=3)
        again = ls.select_loss(ls.Multilabel(2), **loss.to_dict())
        logits, target = torch.randn(4, 2), torch.rand(4, 2)
        assert torch.equal(loss(logits, target), again(logits, target))

    def test_options_do_not_enter_the_state_dict(self):
        assert not ls.select_loss(ls.Multilabel(2), weight=[1, 2]).state_dict()

    @pytest.mark.parametrize(
        ("task", "name", "options", "message"),
        [
            (ls.Binary(), "focl", {}, "There is no loss 'focl'. Did you mean 'focal'?"),
            (ls.Binary(), "focal", {"gama": 1}, "has no option 'gama'. Did you mean 'gamma'?"),
            (ls.Binary(), "cross_entropy", {"gamma": 1}, "has no option 'gamma'"),
            (
                ls.Multiclass(3),
                "cross_entropy",
                {"pos_weight": 2.0},
                "pos_weight has no effect under softmax",
            ),
            (ls.Multiclass(3), "focal", {"alpha": 0.2}, "alpha has no effect on the softmax form"),
            (ls.Binary(), "focal", {"gamma": -1}, "gamma must be a number of at least 0, got -1."),
            (ls.Binary(), "focal", {"gamma": float("nan")}, "gamma must be a number of at least 0, got nan."),
            (ls.Binary(), "focal", {"alpha": 1.5}, "alpha must be a number between 0 and 1, got 1.5."),
            (ls.Binary(), "cross_entropy", {"label_smoothing": 1.0}, "label_smoothing must be below 1"),
            (
                ls.Binary(),
                "cross_entropy",
                {"label_smoothing": -0.1},
                "label_smoothing must be a number between 0 and 1, got -0.1.",
            ),
            (ls.Binary(), "cross_entropy", {"reduction": "avg"}, "reduction must be 'none', 'mean' or 'sum'"),
            (
                ls.Multiclass(3),
                "cross_entropy",
                {"weight": [1, 2]},
                "shape (3,) for multiclass with 3 classes",
            ),
            (ls.Multiclass(3), "cross_entropy", {"weight": [1, -2, 1]}, "at least 0, got -2 for '1'"),
            (ls.Multiclass(3), "cross_entropy", {"weight": [1, float("nan"), 1]}, "got nan for '1'"),
            (ls.Multiclass(3), "cross_entropy", {"weight": [0, 0, 0]}, "nothing would be learned"),
            (ls.Multilabel(2), "cross_entropy", {"pos_weight": 0}, "pos_weight is 0 for every output"),
            (
                ls.Multilabel(2),
                "cross_entropy",
                {"weight": [1, 1e300]},
                "must be finite and at least 0, got 1e+300",
            ),
            (ls.Binary(), "cross_entropy", {"weight": [1, 3]}, "use pos_weight=3"),
            (ls.Multilabel(2), "cross_entropy", {"pos_weight": [1, 2, 3]}, "got shape (3,)"),
        ],
    )
    def test_wrong_options_are_named_at_construction(self, task, name, options, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            ls.select_loss(task, name, **options)

    @pytest.mark.parametrize(
        "options", [{"gamma": "2"}, {"alpha": True}, {"weight": ["a"]}, {"label_smoothing": "x"}]
    )
    def test_options_that_are_no_numbers(self, options):
        with pytest.raises(TypeError, match=next(iter(options))):
            ls.select_loss(ls.Binary(), "focal", **options)

    def test_a_loss_without_the_form_that_the_task_needs(self, monkeypatch):
        monkeypatch.setitem(ls.LOSSES, "only_sigmoid", {"sigmoid": ls.LOSSES["focal"]["sigmoid"]})
        with pytest.raises(
            ValueError, match="'only_sigmoid' has no softmax form, which task=multiclass needs"
        ) as e:
            ls.select_loss(ls.Multiclass(3), "only_sigmoid")
        others = [name for name, forms in ls.LOSSES.items() if "softmax" in forms]
        assert f"Losses for multiclass: {', '.join(others)}." in str(e.value)


@pytest.mark.parametrize("task", ["multiclass", ls.Multiclass, [0, 1]])
def test_what_is_no_task(task):
    for call in (lambda: ls.select_loss(task), lambda: ls.check_task(task, [0, 1])):
        with pytest.raises(TypeError, match="task must be a task such as"):
            call()


@pytest.mark.parametrize(
    "task", [ls.Binary(), ls.Multiclass(3), ls.Multilabel(3)], ids=lambda task: task.name
)
@pytest.mark.parametrize("name", ls.LOSSES)
def test_what_the_config_group_lists_of_a_loss_is_taken_as_it_stands(task, name):
    if task.activation in ls.LOSSES[name]:
        assert ls.TaskModule(task, loss={"name": name, **row_options(name)}).criterion.name == name


def test_row_options_leave_a_default_open_on_which_the_forms_differ(monkeypatch):
    def one(logits, target, k=1.0):
        return logits

    def two(logits, target, k=2.0, only=3.0):
        return logits

    monkeypatch.setitem(ls.LOSSES, "odd", {"sigmoid": one, "softmax": two})
    assert row_options("odd") == {
        "k": None,
        "only": 3.0,
        "weight": None,
        "pos_weight": None,
        "beta": None,
        "label_smoothing": 0.0,
    }


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
def test_logits_with_a_common_offset_are_the_same(name):
    if name in ("dice", "one_vs_rest"):
        pytest.skip("it needs trailing dimensions, or is no loss of softmax's probabilities")
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
    theirs = F.binary_cross_entropy_with_logits(
        logits, smoothed, pos_weight=torch.tensor(pos_weight), reduction="none"
    )
    torch.testing.assert_close(loss(logits, target), theirs)


def test_weights_of_any_size_cancel_in_a_mean():
    logits, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 0, 1])
    exact = ls.select_loss(ls.Multiclass(3), weight=[1, 2, 3])(logits, target)
    tiny = ls.select_loss(ls.Multiclass(3), weight=[1e-9, 2e-9, 3e-9])(logits, target)
    torch.testing.assert_close(tiny, exact)


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
    def test_a_target_that_is_not_canonical_is_refused(self, task, logits, target):
        with pytest.raises(ValueError, match=r"Pass task\.encode\(target\)"):
            ls.select_loss(task)(torch.zeros(logits), target)

    @pytest.mark.parametrize(
        ("task", "target", "message"),
        [
            (
                ls.Multilabel(3),
                [[0, 1, 1], [0, 2, 0]],
                "Row 1, label '1' of the target is 2, but the canonical",
            ),
            (ls.Multilabel(3, missing=-1), [[0, 1, -1], [0, 1, 0]], "pass task.encode(target)"),
            (
                ls.Multiclass(3),
                [[0, 1, 1], [0, 1, 0]],
                "Row 0 of the target has 2 ones, but a multiclass sample",
            ),
            (ls.Multiclass(3), [[0.5, 0.5, 0], [0.5, 0.4, 0]], "Row 1 of the target sums to 0.9"),
        ],
    )
    def test_values_that_are_not_canonical_are_refused(self, task, target, message):
        loss = ls.select_loss(task)
        loss(torch.zeros(2, 3), task.encode([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
        with pytest.raises(ValueError, match=re.escape(message)):
            loss(torch.zeros(2, 3), torch.tensor(target, dtype=torch.float32))

    @pytest.mark.parametrize("index", [-1, 3])
    def test_an_index_that_is_no_class_is_refused(self, index):
        with pytest.raises(ValueError, match=f"is {index}, but a class index is from 0 to 2, or -100"):
            ls.select_loss(ls.Multiclass(3))(torch.zeros(2, 3), torch.tensor([0, index]))

    def test_one_hot_masks_of_integers(self):
        with pytest.raises(ValueError, match=r"pass target\.float\(\)"):
            ls.select_loss(ls.Multiclass(3))(
                torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4, dtype=torch.long)
            )

    def test_a_list_is_refused(self):
        with pytest.raises(TypeError, match=r"The target is a list, no tensor: pass task.encode\(target\)"):
            ls.select_loss(ls.Multiclass(3))(torch.zeros(2, 3), [0, 1])

    def test_gradients_per_sample(self):
        loss, target = ls.select_loss(ls.Multiclass(3)), torch.tensor([0, 2, 1])
        logits = torch.randn(3, 3)
        each = torch.vmap(lambda x, y: loss(x[None], y[None]))(logits, target)
        torch.testing.assert_close(each.mean(), loss(logits, target))

    def test_a_target_on_another_device_is_refused(self):
        with pytest.raises(ValueError, match="The outputs are on meta, the target is on cpu"):
            ls.select_loss(ls.Multilabel(3))(torch.zeros(4, 3, device="meta"), torch.zeros(4, 3))


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


class TestIdentities:
    def test_options_that_leave_cross_entropy(self):
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

    def test_asymmetric_without_clip_is_focal_of_two_gammas(self):
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

    def test_generalized_cross_entropy_goes_from_cross_entropy_to_the_absolute_error(self):
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

    def test_zlpr_of_one_label_is_binary_cross_entropy(self):
        logits, target = torch.randn(8, 1, dtype=torch.float64), torch.rand(8, 1, dtype=torch.float64)
        hard = target.round()
        torch.testing.assert_close(
            ls.select_loss(ls.Binary(), "zlpr")(logits, hard), ls.select_loss(ls.Binary())(logits, hard)
        )

    def test_zlpr_leaves_a_missing_label_out(self):
        loss, rest = ls.select_loss(ls.Multilabel(3), "zlpr"), ls.select_loss(ls.Multilabel(2), "zlpr")
        logits = torch.randn(1, 3, dtype=torch.float64)
        value = loss(logits, torch.tensor([[1.0, math.nan, 0.0]]))
        torch.testing.assert_close(value, rest(logits[:, [0, 2]], torch.tensor([[1.0, 0.0]])))

    def test_one_vs_rest_is_a_bce_for_each_class(self):
        logits, labels = random_logits("one_vs_rest"), torch.arange(8) % 3
        bce = F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, 3).double(), reduction="sum") / 8
        torch.testing.assert_close(ls.select_loss(ls.Multiclass(3), "one_vs_rest")(logits, labels), bce)

    def test_dice_leaves_missing_pixels_out_and_takes_class_weights(self):
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
        with pytest.raises(ValueError, match=r"compares regions, and logits of shape \(4, 3\) have none"):
            ls.select_loss(ls.Multiclass(3), "dice")(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))


class TestSampleWeight:
    def test_of_positions(self):
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
            (torch.ones(3), r"a weight for each row, \(2,\), got \(3,\)"),
            (torch.ones(2, 3), r"a weight for each row, \(2,\), got \(2, 3\)"),
            ([1, 2], "got list"),
            (torch.tensor([1.0, -1.0]), "Row 1 has the sample weight -1: weights are finite"),
            (torch.tensor([1.0, math.nan]), "Row 1 has the sample weight nan"),
            (torch.ones(2, device="meta"), "The sample_weight is on meta, the logits are on cpu"),
        ],
    )
    def test_what_is_none(self, weight, message):
        with pytest.raises((ValueError, NotImplementedError), match=message):
            ls.select_loss(ls.Multiclass(3))(torch.zeros(2, 3), torch.tensor([0, 1]), weight)

    def test_of_positions_is_none_of_a_region(self):
        loss = ls.select_loss(ls.Multilabel(3), "dice")
        for positions in (3, 4):  # as many as labels, too
            logits = torch.zeros(2, 3, positions)
            with pytest.raises(ValueError, match="Loss 'dice' pools positions"):
                loss(logits, logits, torch.ones(2, positions))


@pytest.mark.parametrize(
    ("task", "name", "options", "message"),
    [
        (
            ls.Multilabel(3),
            "asymmetric",
            {"gamma_neg": -1},
            "gamma_neg must be a number of at least 0, got -1.",
        ),
        (ls.Multilabel(3), "asymmetric", {"clip": 1}, "clip must be below 1"),
        (ls.Multiclass(3), "asymmetric", {}, "'asymmetric' has no softmax form"),
        (ls.Multiclass(3), "zlpr", {}, "'zlpr' has no softmax form"),
        (ls.Multilabel(3), "one_vs_rest", {}, "'one_vs_rest' has no sigmoid form"),
        (ls.Binary(), "poly1", {"epsilon": -2}, "epsilon must be a number of at least -1, got -2."),
        (
            ls.Binary(),
            "generalized_cross_entropy",
            {"q": 0},
            "q must be a number between 0.001 and 1, got 0.",
        ),
        (
            ls.Binary(),
            "logit_adjusted",
            {"tau": -1, "prior": [0.5]},
            "tau must be a number of at least 0, got -1.",
        ),
        (ls.Binary(), "logit_adjusted", {"prior": [0.0]}, "prior is 0 for every output"),
        (
            ls.Multilabel(2),
            "logit_adjusted",
            {"prior": [0.2, 1]},
            "between 0 and 1, both excluded, got 1 for '1'",
        ),
        (ls.Multiclass(2), "logit_adjusted", {"prior": [0.2, 0.2]}, "which sum to 1, got a sum of 0.4"),
        (ls.Multiclass(2), "cross_entropy", {"prior": [0.2, 0.8]}, "has no option 'prior'"),
        (ls.Multilabel(2), "zlpr", {"weight": [1, 2]}, "weight is a factor of the loss of single labels"),
        (ls.Multilabel(2), "zlpr", {"pos_weight": 2}, "pos_weight is a factor of the loss of single labels"),
        (ls.Multilabel(2), "dice", {"pos_weight": 2}, "pos_weight is a factor of the loss of single labels"),
        (ls.Binary(), "dice", {"smooth": 0}, "smooth must be a number of at least 0.001, got 0."),
        (ls.Binary(), "sce", {}, "Here it is 'poly1'"),
        (ls.Multilabel(2), "AsymmetricLoss", {}, "Here it is 'asymmetric'"),
        (
            ls.Multiclass(2),
            "cross_entropy",
            {"weight": "balnced"},
            "There is no weight 'balnced'. Did you mean 'balanced'?",
        ),
        (ls.Binary(), "cross_entropy", {"weight": "balanced"}, "use pos_weight=auto|pos_weight=auto."),
        (ls.Binary(), "cross_entropy", {"pos_weight": "balanced"}, "There is no pos_weight 'balanced'."),
        (
            ls.Multiclass(2),
            "cross_entropy",
            {"beta": 0.9},
            "beta has no effect without weight=effective_number.",
        ),
        (
            ls.Multiclass(2),
            "cross_entropy",
            {"weight": "effective_number", "beta": 1},
            "beta must be below 1",
        ),
    ],
)
def test_options_of_the_losses_are_named_at_construction(task, name, options, message):
    with pytest.raises(ValueError, match="|".join(map(re.escape, message.split("|")))):
        ls.select_loss(task, name, **options)


@pytest.mark.parametrize("written", ["true", "True"])
def test_a_class_called_true_by_name(written):
    task = ls.Multiclass(2, class_names=(written, "maybe"))
    assert ls.select_loss(task, weight={True: 3}).weight.tolist() == [3, 1]
