"""A chunked head equals a dense one, up to rounding, in value and gradient."""

import copy
import itertools
import re

import numpy as np
import pytest
import torch
from chunked_cases import EACH, NAN, ROWS, TASKS, WIDTH, C, target_of
from torch import nn

import lossselect as ls
from lossselect.chunked.linear import ChunkedLinear, ChunkedLogits
from lossselect.chunked.loss import chunked_loss
from lossselect.chunked.options import check_topk_task, chunkable
from lossselect.chunked.topk_metrics import TopKOutputs
from lossselect.labels.sparse_labels import SparseLabels

PRIOR = (np.array(EACH) / sum(EACH)).tolist()


SIGMOID = [
    *((name, {"prior": PRIOR} if name == "logit_adjusted" else {}) for name in chunkable("sigmoid")),
    ("cross_entropy", {"label_smoothing": 0.1}),
    ("cross_entropy", {"pos_weight": EACH}),
    ("cross_entropy", {"weight": EACH}),
    ("cross_entropy", {"weight": EACH, "pos_weight": EACH[::-1], "label_smoothing": 0.2}),
    ("focal", {"weight": EACH, "pos_weight": EACH[::-1], "label_smoothing": 0.2}),
]


SOFTMAX = [
    *((name, {"prior": PRIOR} if name == "logit_adjusted" else {}) for name in chunkable("softmax")),
    ("cross_entropy", {"label_smoothing": 0.1}),
    ("cross_entropy", {"weight": EACH}),
    ("cross_entropy", {"weight": EACH, "label_smoothing": 0.2}),
    ("logit_adjusted", {"prior": PRIOR, "tau": 0.5, "weight": EACH, "label_smoothing": 0.2}),
]


LOSSES = [("multilabel", *row) for row in SIGMOID] + [("multiclass", *row) for row in SOFTMAX]


def relative(got, expected):
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def both(task, name, options, *, dtype=torch.double, chunk=5, weighted=False, missing=False, bias=True):
    """Return mean, numerator, denominator and gradients of the dense head, and of the chunked head."""
    loss = ls.select_loss(task, name, **options)
    inputs = torch.randn(ROWS, WIDTH, dtype=dtype, requires_grad=True)
    layer = nn.Linear(WIDTH, C, bias=bias).to(dtype)
    leaves = [inputs, *layer.parameters()]
    target = target_of(task, missing)
    weight = torch.rand(ROWS, dtype=dtype) if weighted else None
    total, count = loss.sum_and_count(
        layer(inputs), target.to(dtype) if target.is_floating_point() else target, weight
    )
    dense = [total / count, total, torch.as_tensor(count), *torch.autograd.grad(total / count, leaves)]
    sparse = SparseLabels.from_dense(target) if target.ndim > 1 else target
    mean, total, count = chunked_loss(loss, ChunkedLinear.of(layer, chunk)(inputs), sparse, weight)
    return dense, [mean, total, count, *torch.autograd.grad(mean, leaves)]


@pytest.mark.parametrize("missing", [False, True], ids=["known", "missing"])
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize(("task", "name", "options"), LOSSES, ids=lambda value: str(value)[:40])
def test_each_loss_equals_that_of_the_dense_head(task, name, options, weighted, missing, monkeypatch):
    for chunk, most_rows in itertools.product((1, 5, 23, 100, None), (8192, 10)):
        monkeypatch.setattr("lossselect.chunked.linear.MAX_ROWS", most_rows)
        settings = {"weighted": weighted, "missing": missing, "chunk": chunk}
        for expected, got in zip(*both(TASKS[task], name, options, **settings), strict=True):
            assert relative(got.detach(), expected.detach()) < 1e-10, (chunk, most_rows)
    for expected, got in zip(*both(TASKS[task], name, options, dtype=torch.float, **settings), strict=True):
        assert relative(got.detach().float(), expected.detach().float()) < 1e-5


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_without_a_bias(task):
    for expected, got in zip(*both(task, "cross_entropy", {"label_smoothing": 0.1}, bias=False), strict=True):
        assert relative(got.detach(), expected.detach()) < 1e-10


@pytest.mark.parametrize("frozen", ["inputs", "weight", "bias"])
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_frozen_parts_get_no_gradient(task, frozen):
    inputs, layer = torch.randn(ROWS, WIDTH, requires_grad=True), ChunkedLinear(WIDTH, C, chunk=5)
    parts = {"inputs": inputs, "weight": layer.weight, "bias": layer.bias}
    parts[frozen].requires_grad_(False)
    target = target_of(task, True)
    chunked_loss(ls.select_loss(task), layer(inputs), target)[0].backward()
    for name, part in parts.items():
        assert (part.grad is None) == (name == frozen)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_finite_at_extreme_logits(task, scale):
    inputs = torch.randn(ROWS, WIDTH, requires_grad=True)
    layer = ChunkedLinear(WIDTH, C, chunk=5)
    with torch.no_grad():
        layer.weight.mul_(scale)
    mean, _, _ = chunked_loss(ls.select_loss(task), layer(inputs), target_of(task, False))
    mean.backward()
    assert all(
        bool(value.isfinite().all()) for value in (mean, inputs.grad, layer.weight.grad, layer.bias.grad)
    )


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_only_missing_labels_give_0_with_a_zero_gradient(task):
    target = torch.full((ROWS,), -100) if task.name == "multiclass" else torch.full((ROWS, C), NAN)
    inputs, layer = torch.randn(ROWS, WIDTH, requires_grad=True), ChunkedLinear(WIDTH, C, chunk=5)
    mean, total, count = chunked_loss(ls.select_loss(task), layer(inputs), target)
    mean.backward()
    assert mean.item() == total.item() == count.item() == 0
    assert not inputs.grad.any()
    assert not layer.weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_half_precision_is_summed_in_float32(task, dtype):
    """With autocast and with half-precision weights, errors do not exceed the rounding of the inputs."""
    target, loss = target_of(task, True), ls.select_loss(task)
    inputs, layer = torch.randn(ROWS, WIDTH).to(dtype), nn.Linear(WIDTH, C).to(dtype)
    exact = nn.Linear(WIDTH, C).double()
    exact.load_state_dict(layer.state_dict())
    total, count = loss.sum_and_count(exact(inputs.double()), target)
    gradient = torch.autograd.grad(total / count, exact.weight)[0]
    mean, _, _ = chunked_loss(loss, ChunkedLinear.of(layer, 5)(inputs), target)
    mean.backward()
    assert mean.dtype == torch.float32
    assert layer.weight.grad.dtype == dtype
    assert relative(mean.detach().double(), (total / count).detach()) < 1e-6
    assert relative(layer.weight.grad.double(), gradient) < 2 * torch.finfo(dtype).eps
    wide = ChunkedLinear(WIDTH, C, chunk=5)
    wide.load_state_dict(layer.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        mean, _, _ = chunked_loss(loss, wide(inputs.float()), target)
    mean.backward()
    assert relative(mean.detach().double(), (total / count).detach()) < 1e-6
    assert relative(wide.weight.grad.double(), gradient) < 1e-5


def test_code_for_devices(monkeypatch):
    """On a GPU each block processes all labels, without waiting; test that code on the CPU."""
    expected = []
    for on_device in (False, True):
        if on_device:
            monkeypatch.setattr("lossselect.chunked.sums._on_cpu", lambda tensor: False)
        torch.manual_seed(0)
        got = []
        for task, name, options in LOSSES:
            got += both(TASKS[task], name, options, weighted=True, missing=True)[1]
        expected = expected or got
    for one, other in zip(expected, got, strict=True):
        assert relative(other.detach(), one.detach()) < 1e-12


def test_runs_are_bit_identical():
    for task in TASKS.values():
        torch.manual_seed(0)
        one = both(task, "cross_entropy", {}, dtype=torch.float)[1]
        torch.manual_seed(0)
        for a, b in zip(one, both(task, "cross_entropy", {}, dtype=torch.float)[1], strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("z", [10.0, 17.0, 30.0, 1e4])
def test_confident_rows_keep_their_digits(task, z):
    """Compare with float64 for confident rows, both correct and wrong ones."""
    for wrong in (0.0, z + 2):
        weight = torch.full((7, 1), -z)
        weight[3], weight[4] = z, wrong if wrong else -z
        weight.requires_grad_()
        exact = weight.detach().double().requires_grad_()
        target = torch.tensor([3, 3]) if task.name == "multiclass" else torch.eye(7)[[3, 3]]
        task = type(task)(7)
        inputs = torch.ones(2, 1)
        mean, _, _ = chunked_loss(ls.select_loss(task), ChunkedLogits(inputs, weight, None, 3), target)
        expected = ls.select_loss(task)(
            inputs.double() @ exact.t(), target.double() if target.is_floating_point() else target
        )
        mean.backward()
        expected.backward()
        assert mean.item() >= 0
        torch.testing.assert_close(mean.double(), expected, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(weight.grad.double(), exact.grad, rtol=1e-5, atol=1e-7)
        if (
            task.name == "multilabel" and not wrong and z < 1e4
        ):  # small gradients are not rounded to 0, as 1 - p would be in float32
            torch.testing.assert_close(weight.grad[3].double(), exact.grad[3], rtol=2e-3, atol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_batch_without_rows(task, smoothing):
    inputs, layer = torch.randn(0, WIDTH, requires_grad=True), ChunkedLinear(WIDTH, C, chunk=5)
    torch.full((C, WIDTH), 1e30)  # uninitialised memory may then contain such values
    target = torch.zeros(0, C) if task.name == "multilabel" else torch.zeros(0, dtype=torch.long)
    logits = layer(inputs)
    loss = ls.select_loss(task, label_smoothing=smoothing)
    mean, _, _ = chunked_loss(loss, logits, target, observe=TopKOutputs(task, logits))
    mean.backward()
    assert mean.item() == 0
    assert not layer.weight.grad.any()
    assert not layer.bias.grad.any()
    assert logits.topk(3)[0].shape == (0, 3)


@pytest.mark.parametrize("scale", [65536.0, 1 / 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_scaled_loss_of_half_precision(dtype, scale):
    """The factor is applied before rounding, as a gradient scaler requires."""
    task, target = TASKS["multiclass"], target_of(TASKS["multiclass"], False)
    inputs = torch.randn(ROWS, WIDTH).to(dtype).requires_grad_()
    layer = ChunkedLinear(WIDTH, C, chunk=5).to(dtype)
    mean, _, _ = chunked_loss(ls.select_loss(task), layer(inputs), target)
    (mean * scale).backward()
    wide, exact = inputs.detach().double().requires_grad_(), nn.Linear(WIDTH, C).double()
    exact.load_state_dict(layer.state_dict())
    (ls.select_loss(task)(exact(wide), target) * scale).backward()
    for got, expected in ((inputs.grad, wide.grad), (layer.weight.grad, exact.weight.grad)):
        assert relative(got.double(), expected) < 2 * torch.finfo(dtype).eps


def test_rows_without_labels_may_have_any_inputs():
    task, inputs = TASKS["multilabel"], torch.randn(3, WIDTH)
    inputs[1] = torch.inf
    target = torch.zeros(3, C)
    target[1] = NAN
    logits = ChunkedLinear(WIDTH, C, chunk=5)(inputs)
    assert chunked_loss(ls.select_loss(task), logits, target)[0].isfinite()


def test_dtype_of_products_with_autocast(monkeypatch):
    layer = ChunkedLinear(WIDTH, C)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.zeros(1, WIDTH)).dtype == torch.float32  # equally fast on a CPU
    monkeypatch.setattr("lossselect.chunked.linear._product_dtype", lambda *_: torch.bfloat16)
    logits = layer(torch.randn(4, WIDTH, requires_grad=True))
    mean, _, _ = chunked_loss(ls.select_loss(TASKS["multiclass"]), logits, torch.arange(4))
    mean.backward()
    assert mean.dtype == layer.weight.grad.dtype == torch.float32
    expected = ls.select_loss(TASKS["multiclass"])(logits.dense(), torch.arange(4))
    assert mean.item() == pytest.approx(expected.item(), rel=1e-2)


class TestBackward:
    def logits(self):
        self.inputs = torch.randn(ROWS, WIDTH, requires_grad=True)
        self.layer = ChunkedLinear(WIDTH, C, chunk=5)
        return self.layer(self.inputs)

    def mean(self):
        task = TASKS["multiclass"]
        return chunked_loss(ls.select_loss(task), self.logits(), target_of(task, False))[0]

    def test_is_scaled_by_the_upstream_gradient(self):
        torch.manual_seed(0)
        self.mean().backward()
        one = self.inputs.grad
        torch.manual_seed(0)
        (self.mean() * 3).backward()
        torch.testing.assert_close(self.inputs.grad, 3 * one)

    def test_a_second_derivative_raises(self):
        with pytest.raises(
            RuntimeError, match=r"does not support second derivatives \(create_graph=True\)\. Set head=dense"
        ):
            torch.autograd.grad(self.mean(), self.inputs, create_graph=True)

    def test_a_second_backward_raises(self):
        mean = self.mean()
        mean.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match=r"only one backward for each loss. Compute the loss again"):
            mean.backward()


class TestLogits:
    def test_topk(self):
        layer, inputs = ChunkedLinear(WIDTH, 200, chunk=17), torch.randn(ROWS, WIDTH)
        values, columns = layer(inputs).topk(9)
        expected = layer(inputs).dense().topk(9, 1)
        torch.testing.assert_close(values, expected.values)
        assert torch.equal(columns, expected.indices)
        with pytest.raises(ValueError, match=r"k must be .* 200, got 201"):
            layer(inputs).topk(201)
        with pytest.raises(TypeError, match=r"k must be .* 200, got 2"):
            layer(inputs).topk(2.5)
        for operation in (lambda z: z > 0, lambda z: z @ inputs, lambda z: z**2, lambda z: z + 1):
            with pytest.raises(TypeError, match="never has all logits at once, but arithmetic requires them"):
                operation(layer(inputs))

    def test_positives_of_another_task(self):
        head, loss = ChunkedLinear(WIDTH, C), ls.select_loss(TASKS["multiclass"])
        target = SparseLabels.from_csr([0], [0, 1], C)
        with pytest.raises(
            ValueError, match="SparseLabels require task=multilabel, but the task is multiclass"
        ):
            chunked_loss(loss, head(torch.randn(1, WIDTH)), target)

    def test_weights_are_shared_with_the_original_layer(self):
        layer = nn.Linear(WIDTH, C)
        chunked = ChunkedLinear.of(layer)
        assert chunked.weight is layer.weight
        assert chunked.state_dict().keys() == layer.state_dict().keys()
        assert copy.deepcopy(chunked)(torch.zeros(1, WIDTH)).shape == (1, C)

    @pytest.mark.parametrize("chunk", [0, -1, 1.5, "many", True])
    def test_an_invalid_chunk(self, chunk):
        with pytest.raises((ValueError, TypeError), match=r"chunk must be .* 1, got"):
            ChunkedLinear(WIDTH, C, chunk=chunk)

    def test_a_chunk_too_large_for_the_memory(self, monkeypatch):
        monkeypatch.setattr("lossselect.chunked.linear.free_memory", lambda device=None: 10_000_000)
        layer = ChunkedLinear(WIDTH, 100_000, chunk=50_000)
        with pytest.raises(
            ValueError, match=r"Blocks of 64 x 50000 logits require .* Set head.chunk=9765, or"
        ):
            layer(torch.zeros(64, WIDTH))

    def test_methods_of_a_matrix_raise(self):
        logits = ChunkedLinear(WIDTH, C)(torch.zeros(2, WIDTH))
        with pytest.raises(AttributeError, match=r"so its logits have no .softmax.\. Use logits.topk"):
            logits.softmax(1)
        with pytest.raises(ValueError, match=re.escape("shape (N, 8) for a chunked head, got (2, 3, 8)")):
            ChunkedLinear(WIDTH, C)(torch.zeros(2, 3, WIDTH))


class TestUnsupported:
    def run(self, task, target, loss=None, weight=None):
        logits = ChunkedLinear(WIDTH, C)(torch.zeros(4, WIDTH))
        return chunked_loss(loss or ls.select_loss(task), logits, target, weight)

    def test_losses_that_need_all_logits(self):
        message = "Loss 'zlpr' requires all logits of a row at once.*For multilabel: cross_entropy, asymmetric.*For multiclass: cross_entropy, logit_adjusted"
        with pytest.raises(ValueError, match=message):
            self.run(TASKS["multilabel"], torch.zeros(4, C), ls.select_loss(TASKS["multilabel"], "zlpr"))
        with pytest.raises(ValueError, match="Loss 'focal' requires all logits"):
            self.run(TASKS["multiclass"], torch.zeros(4), ls.select_loss(TASKS["multiclass"], "focal"))
        with pytest.raises(ValueError, match="Loss 'CrossEntropyLoss' requires all logits"):
            self.run(TASKS["multiclass"], torch.zeros(4), nn.CrossEntropyLoss())

    def test_errors_of_a_loss_of_a_matrix(self):
        task = TASKS["multiclass"]
        with pytest.raises(ValueError, match="class indices must be from 0 to 22"):
            self.run(task, torch.tensor([0, 1, 2, 23]))
        message = re.escape("logits of shape (N, 7) for multiclass with 7 classes, got (4, 23)")
        with pytest.raises(ValueError, match=message):
            self.run(ls.Multiclass(7), torch.zeros(4, dtype=torch.long))
        with pytest.raises(ValueError, match=r"only reduction='mean', got 'sum'"):
            self.run(task, torch.zeros(4, dtype=torch.long), ls.select_loss(task, reduction="sum"))
        with pytest.raises(ValueError, match="weight"):
            self.run(task, torch.zeros(4, dtype=torch.long), weight=-torch.ones(4))

    def test_arithmetic(self):
        logits = ChunkedLinear(WIDTH, C)(torch.zeros(4, WIDTH))
        with pytest.raises(TypeError, match=r"but relu requires them\. Use logits.topk"):
            torch.relu(logits)
        for use in (lambda z: z / 2, lambda z: 2 * z, lambda z: z[:, :3]):
            with pytest.raises(TypeError, match="but arithmetic requires them"):
                use(logits)

    def test_targets(self):
        soft = torch.zeros(4, C)
        soft[1, 2] = 0.5
        with pytest.raises(ValueError, match=r"Row 1 .*label 2"):
            self.run(TASKS["multilabel"], soft)
        with pytest.raises(ValueError, match=r"a target of shape \(4, 23\), like the logits, got \(3, 23\)"):
            self.run(TASKS["multilabel"], torch.zeros(3, C))
        with pytest.raises(ValueError, match=r"does not support soft labels\. Pass class indices"):
            self.run(TASKS["multiclass"], torch.rand(4, C))
        with pytest.raises(ValueError, match=r"one weight per row, of shape \(4,\), got \(4, 23\)"):
            self.run(TASKS["multilabel"], torch.zeros(4, C), weight=torch.ones(4, C))

    @pytest.mark.parametrize(
        ("task", "message"),
        [
            (ls.Multilabel(C, top_k=3), "top_k requires all outputs"),
            (ls.Multilabel(C, min_labels=1), "min_labels requires all outputs"),
            (ls.Multiclass(C, ordinal=True), "Ordered classes require all logits"),
            (ls.Multiclass(C, temperature=2.0), "does not support temperature"),
            (ls.Binary(), "requires at least 2 outputs, but the task has 1"),
        ],
        ids=lambda value: str(value)[:20],
    )
    def test_tasks(self, task, message):
        with pytest.raises(ValueError, match=message):
            check_topk_task(task)
