"""Every row of LOSSES is tested because it is in the table."""

import math
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import lossselect as ls
from lossselect.losses import formula_options, row_options

EXTREMES = [0.0, 1.0, -1.0, 20.0, -20.0, 100.0, -100.0, 1e4, -1e4, 6e4, -6e4]


# float64 references from the papers' formulas, element by element: (x, y, options) -> loss
def _log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x >= 0 else x - math.log1p(math.exp(x))


def ref_sigmoid_cross_entropy(x, y):
    return -(y * _log_sigmoid(x) + (1 - y) * _log_sigmoid(-x))


def ref_sigmoid_focal(x, y, gamma=2.0, alpha=None):
    p = 1 / (1 + math.exp(-x))
    positive = (1 - p) ** gamma * -_log_sigmoid(x)
    negative = p**gamma * -_log_sigmoid(-x)
    if alpha is not None:
        positive, negative = alpha * positive, (1 - alpha) * negative
    return y * positive + (1 - y) * negative


def ref_softmax_cross_entropy(x, t):
    log_p = x - math.log(sum(math.exp(v) for v in x))
    return -sum(t[c] * log_p[c] for c in range(len(x)))


def ref_softmax_focal(x, t, gamma=2.0):
    log_p = x - math.log(sum(math.exp(v) for v in x))
    return sum(t[c] * (1 - math.exp(log_p[c])) ** gamma * -log_p[c] for c in range(len(x)))


REFERENCES = {
    ("cross_entropy", "sigmoid"): ref_sigmoid_cross_entropy,
    ("cross_entropy", "softmax"): ref_softmax_cross_entropy,
    ("focal", "sigmoid"): ref_sigmoid_focal,
    ("focal", "softmax"): ref_softmax_focal,
}
OPTIONS = {
    "focal": [{}, {"gamma": 0.0}, {"gamma": 0.5}, {"gamma": 5.0}, {"gamma": 1.0, "alpha": 0.25}],
}
ROWS = [(name, activation) for name, forms in ls.LOSSES.items() for activation in forms]
CASES = [
    (name, activation, options)
    for name, activation in ROWS
    for options in OPTIONS.get(name, [{}])
    if set(options) <= set(formula_options(ls.LOSSES[name][activation]))
]
TASKS = {"sigmoid": ls.Multilabel(3), "softmax": ls.Multiclass(3)}


def hard_target(activation, rows=8):
    if activation == "sigmoid":
        return torch.randint(0, 2, (rows, 3)).float()
    return torch.arange(rows) % 3


def soft_target(activation, rows=8, dtype=torch.float64):
    random = torch.rand(rows, 3, dtype=dtype)
    return random if activation == "sigmoid" else random / random.sum(1, keepdim=True)


def test_every_row_has_a_reference():
    assert set(ROWS) == set(REFERENCES)


@pytest.mark.parametrize(("name", "activation", "options"), CASES)
class TestEveryRow:
    def test_equals_the_reference_in_float64(self, name, activation, options):
        logits = 4 * torch.randn(8, 3, dtype=torch.float64)
        loss = ls.select_loss(TASKS[activation], name, reduction="none", **options)
        reference = REFERENCES[name, activation]
        for target in (hard_target(activation), soft_target(activation)):
            got = loss(logits, target).numpy()
            t = target if target.is_floating_point() else F.one_hot(target, 3)
            x, t = logits.numpy(), t.numpy().astype(np.float64)
            if activation == "sigmoid":
                want = [[reference(x[i, j], t[i, j], **options) for j in range(3)] for i in range(8)]
            else:
                want = [reference(x[i], t[i], **options) for i in range(8)]
            np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)

    def test_gradient_is_right(self, name, activation, options):
        loss = ls.select_loss(TASKS[activation], name, weight=[0.5, 1, 2], label_smoothing=0.1, **options)
        logits = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
        for target in (hard_target(activation), soft_target(activation)):
            assert torch.autograd.gradcheck(lambda x, t=target: loss(x, t), logits)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_finite_at_extreme_logits(self, name, activation, options, dtype):
        loss = ls.select_loss(TASKS[activation], name, reduction="sum", **options)
        grid = torch.cartesian_prod(*[torch.tensor(EXTREMES)] * 3).to(dtype).requires_grad_()
        for target in (hard_target(activation, len(grid)), soft_target(activation, len(grid), torch.float32)):
            value = loss(grid, target)
            (gradient,) = torch.autograd.grad(value, grid)
            assert value.isfinite()
            assert gradient.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_computed_in_float32(self, name, activation, options, dtype):
        loss = ls.select_loss(TASKS[activation], name, **options)
        logits, target = (6 * torch.randn(64, 3)).to(dtype), hard_target(activation, 64)
        exact = loss(logits.double(), target)
        plain = loss(logits, target)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = loss(logits, target)
        assert plain.dtype == inside.dtype == torch.float32
        torch.testing.assert_close(plain.double(), exact, rtol=2e-5, atol=0)
        assert torch.equal(plain, inside)

    def test_missing_labels_are_the_same_as_rows_removed(self, name, activation, options):
        loss = ls.select_loss(TASKS[activation], name, weight=[0.5, 1, 2], **options)
        logits = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
        for target in (hard_target(activation), soft_target(activation)):
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
        logits = torch.randn(rows, 3, requires_grad=True)
        target = soft_target(activation, rows) * float("nan")
        for holes in [target] if activation == "sigmoid" else [target, torch.full((rows,), -100)]:
            value = loss(logits, holes)
            value.backward()
            assert value.item() == 0
            assert torch.equal(logits.grad, torch.zeros(rows, 3))

    def test_a_weight_of_1_is_no_weight(self, name, activation, options):
        logits, target = torch.randn(8, 3), hard_target(activation)
        weighted = ls.select_loss(TASKS[activation], name, weight=torch.ones(3), **options)
        assert torch.equal(
            weighted(logits, target), ls.select_loss(TASKS[activation], name, **options)(logits, target)
        )

    def test_trailing_dimensions_are_rows(self, name, activation, options):
        loss = ls.select_loss(TASKS[activation], name, weight=[0.5, 1, 2], label_smoothing=0.1, **options)
        logits = torch.randn(4, 3, 5, 2, dtype=torch.float64)
        rows = logits.movedim(1, -1).reshape(-1, 3)
        for target in (hard_target(activation, 40), soft_target(activation, 40)):
            unflat = target.reshape(4, 5, 2, *target.shape[1:])
            unflat = unflat.movedim(-1, 1) if target.is_floating_point() else unflat
            torch.testing.assert_close(loss(logits, unflat), loss(rows, target), rtol=1e-12, atol=0)

    def test_reductions_agree(self, name, activation, options):
        logits, target = torch.randn(8, 3, dtype=torch.float64), hard_target(activation)
        none, mean, total = (
            ls.select_loss(TASKS[activation], name, reduction=reduction, **options)(logits, target)
            for reduction in ("none", "mean", "sum")
        )
        assert none.shape == ((8, 3) if activation == "sigmoid" else (8,))
        torch.testing.assert_close(none.sum(), total, rtol=1e-14, atol=0)
        torch.testing.assert_close(none.mean(), mean, rtol=1e-14, atol=0)

    def test_two_class_softmax_is_one_logit_sigmoid(self, name, activation, options):
        if {"sigmoid", "softmax"} - set(ls.LOSSES[name]) or "alpha" in options:
            pytest.skip("the loss has one form, or an option that one form has")
        logits = 5 * torch.randn(8, 2, dtype=torch.float64)
        difference = (logits[:, 1] - logits[:, 0]).unsqueeze(1)
        labels = torch.arange(8) % 2
        softmax = ls.select_loss(ls.Multiclass(2), name, **options)(logits, labels)
        sigmoid = ls.select_loss(ls.Binary(), name, **options)(difference, labels.unsqueeze(1).double())
        torch.testing.assert_close(softmax, sigmoid, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [None, [0.2, 1.5, 3.0]])
@pytest.mark.parametrize("name", [name for name, activation in ROWS if activation == "softmax"])
def test_index_one_hot_and_soft_forms_agree(name, weight, smoothing):
    task = ls.Multiclass(3)
    logits, labels = torch.randn(9, 3, dtype=torch.float64), torch.arange(9) % 3
    loss = ls.select_loss(task, name, weight=weight, label_smoothing=smoothing)
    index = loss(logits, labels)
    soft = loss(logits, F.one_hot(labels, 3).double())
    torch.testing.assert_close(index, soft, rtol=1e-12, atol=0)
    assert torch.equal(index, loss(logits, task.encode(F.one_hot(labels, 3))))


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
    for name in [name for name, forms in ls.LOSSES.items() if "sigmoid" in forms]:
        one = ls.select_loss(ls.Binary(), name, pos_weight=3)(logits, target)
        assert torch.equal(one, ls.select_loss(ls.Multilabel(1), name, pos_weight=[3])(logits, target))


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
        "options", [{"gamma": "2"}, {"alpha": True}, {"weight": "balanced"}, {"label_smoothing": "x"}]
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
        "label_smoothing": 0.0,
    }


@pytest.mark.parametrize("name", [name for name, forms in ls.LOSSES.items() if "softmax" in forms])
def test_a_class_that_the_net_rules_out_by_minus_infinity(name):
    loss = ls.select_loss(ls.Multiclass(3), name)
    logits = torch.tensor([[1.0, -math.inf, 0.5], [-math.inf, -math.inf, 2.0]], requires_grad=True)
    target = torch.tensor([2, 2])
    value = loss(logits, target)
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.isfinite().all()
    torch.testing.assert_close(value, loss(logits.detach().clamp(min=-1e4), target))


@pytest.mark.parametrize("name", [name for name, forms in ls.LOSSES.items() if "softmax" in forms])
def test_logits_with_a_common_offset_are_the_same(name):
    loss = ls.select_loss(ls.Multiclass(3), name)
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
        loss(torch.zeros(2, 3), task.encode([[0, 1, 0], [0, 0, 1]]))
        with pytest.raises(ValueError, match=re.escape(message)):
            loss(torch.zeros(2, 3), torch.tensor(target, dtype=torch.float32))

    @pytest.mark.parametrize("index", [-1, 3])
    def test_an_index_that_is_no_class_is_refused(self, index):
        with pytest.raises(ValueError, match=f"is {index}, but a class index is from 0 to 2, or -100"):
            ls.select_loss(ls.Multiclass(3))(torch.zeros(2, 3), torch.tensor([0, index]))

    @pytest.mark.parametrize(
        ("target", "fix"),
        [
            (torch.zeros(2, 1, 4, 4, dtype=torch.long), "target.squeeze(1)"),
            (torch.zeros(2, 3, 4, 4, dtype=torch.long), "pass target.float()"),
        ],
    )
    def test_masks_of_another_shape(self, target, fix):
        with pytest.raises(ValueError, match=re.escape(fix)):
            ls.select_loss(ls.Multiclass(3))(torch.zeros(2, 3, 4, 4), target)

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
            loss = ls.select_loss(task, name, weight=[1, 2, 3], label_smoothing=0.1)
            logits, target = torch.randn(8, 3), hard_target(activation)
            explained = torch._dynamo.explain(loss)(logits, target)
            assert explained.graph_break_count == 0, (name, activation, explained.break_reasons)
