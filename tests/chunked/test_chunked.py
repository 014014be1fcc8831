"""A chunked head: to rounding what the dense one gives, in value, gradient, metrics and training."""

import copy
import itertools
import re

import lightning.pytorch as L
import numpy as np
import polars as pl
import pytest
import sklearn.metrics as sk
import torch
from torch import nn

import lossselect as ls
from lossselect.chunked import sums as module_of_loss
from lossselect.chunked.linear import ChunkedLinear, ChunkedLogits
from lossselect.chunked.loss import chunkable, chunked_loss
from lossselect.chunked.options import check_top, top_metric_names
from lossselect.chunked.topk_metrics import TopMetrics, TopOutputs, propensities
from lossselect.data.batches import PositiveRows, TensorBatches
from lossselect.labels.label_lists import LabelLists
from lossselect.labels.positives import Positives
from lossselect.run.settings import head_of

ROWS, WIDTH, C = 37, 8, 23
TASKS = {"multilabel": ls.Multilabel(C), "multiclass": ls.Multiclass(C)}
NAN = float("nan")
EACH = np.random.default_rng(0).uniform(0.2, 5, C).tolist()
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


def target_of(task, missing):
    if task.name == "multiclass":
        target = torch.randint(0, C, (ROWS,))
        return target.masked_fill(torch.arange(ROWS) % 5 == 0, -100) if missing else target
    target = (torch.rand(ROWS, C) < 0.2).double()
    if missing:
        target[3] = NAN
        target[torch.rand(ROWS, C) < 0.1] = NAN
    return target


def relative(got, want):
    return float((got - want).abs().max() / want.abs().max().clamp(min=1e-30))


def both(task, name, options, *, dtype=torch.double, chunk=5, weighted=False, missing=False, bias=True):
    """Mean, numerator, denominator and gradients: of the dense head, and of the chunked one."""
    loss = ls.select_loss(task, name, **options)
    inputs = torch.randn(ROWS, WIDTH, dtype=dtype, requires_grad=True)
    layer = nn.Linear(WIDTH, C, bias=bias).to(dtype)
    given = [inputs, *layer.parameters()]
    target = target_of(task, missing)
    weight = torch.rand(ROWS, dtype=dtype) if weighted else None
    total, count = loss.sum_and_count(
        layer(inputs), target.to(dtype) if target.is_floating_point() else target, weight
    )
    dense = [total / count, total, torch.as_tensor(count), *torch.autograd.grad(total / count, given)]
    sparse = Positives.of_target(target) if target.ndim > 1 else target
    mean, total, count = chunked_loss(loss, ChunkedLinear.of(layer, chunk)(inputs), sparse, weight)
    return dense, [mean, total, count, *torch.autograd.grad(mean, given)]


@pytest.mark.parametrize("missing", [False, True], ids=["known", "missing"])
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
@pytest.mark.parametrize(("task", "name", "options"), LOSSES, ids=lambda value: str(value)[:40])
def test_each_loss_is_that_of_the_dense_head(task, name, options, weighted, missing, monkeypatch):
    for chunk, most_rows in itertools.product((1, 5, 23, 100, None), (8192, 10)):
        monkeypatch.setattr("lossselect.chunked.linear.MOST_ROWS", most_rows)
        given = {"weighted": weighted, "missing": missing, "chunk": chunk}
        for want, got in zip(*both(TASKS[task], name, options, **given), strict=True):
            assert relative(got.detach(), want.detach()) < 1e-10, (chunk, most_rows)
    for want, got in zip(*both(TASKS[task], name, options, dtype=torch.float, **given), strict=True):
        assert relative(got.detach().float(), want.detach().float()) < 1e-5


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_without_a_bias(task):
    for want, got in zip(*both(task, "cross_entropy", {"label_smoothing": 0.1}, bias=False), strict=True):
        assert relative(got.detach(), want.detach()) < 1e-10


@pytest.mark.parametrize("frozen", ["inputs", "weight", "bias"])
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_what_is_frozen_gets_no_gradient(task, frozen):
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
def test_nothing_known_is_0_with_a_zero_gradient(task):
    target = torch.full((ROWS,), -100) if task.name == "multiclass" else torch.full((ROWS, C), NAN)
    inputs, layer = torch.randn(ROWS, WIDTH, requires_grad=True), ChunkedLinear(WIDTH, C, chunk=5)
    mean, total, count = chunked_loss(ls.select_loss(task), layer(inputs), target)
    mean.backward()
    assert mean.item() == total.item() == count.item() == 0
    assert not inputs.grad.any()
    assert not layer.weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_half_precision_is_added_up_in_float32(task, dtype):
    """Under autocast and of half-precision weights: no further off than the inputs' own rounding."""
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


def test_on_a_device_pairs_are_found_without_waiting(monkeypatch):
    """The way of a GPU, on the CPU: all pairs for each block, those of others with a factor of 0."""
    of_group = module_of_loss.Pairs.of_group.__func__

    class OnDevice(module_of_loss.Pairs):
        def __init__(self, rows, columns, width, chunk):
            super().__init__(rows, columns, width, chunk)
            self.on_cpu = False

    def pairs_on_device(self, target):
        return OnDevice(torch.arange(len(target)), target, *self.logits.shape[1:], self.logits.chunk)

    want = []
    for monkeyed in (False, True):
        if monkeyed:
            OnDevice.of_group = classmethod(of_group)
            monkeypatch.setattr(module_of_loss, "Pairs", OnDevice)
            monkeypatch.setattr(module_of_loss.SoftmaxSums, "_pairs", pairs_on_device)
        torch.manual_seed(0)
        got = []
        for task, name, options in LOSSES:
            got += both(TASKS[task], name, options, weighted=True, missing=True)[1]
        want = want or got
    for one, other in zip(want, got, strict=True):
        assert relative(other.detach(), one.detach()) < 1e-12


def test_runs_are_the_same_to_the_bit():
    for task in TASKS.values():
        torch.manual_seed(0)
        one = both(task, "cross_entropy", {}, dtype=torch.float)[1]
        torch.manual_seed(0)
        for a, b in zip(one, both(task, "cross_entropy", {}, dtype=torch.float)[1], strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("z", [10.0, 17.0, 30.0, 1e4])
def test_confident_rows_keep_their_digits(task, z):
    """Beside float64: where it is sure and right, and where it is sure and wrong by 2."""
    for wrong in (0.0, z + 2):
        weight = torch.full((7, 1), -z)
        weight[3], weight[4] = z, wrong if wrong else -z
        weight.requires_grad_()
        exact = weight.detach().double().requires_grad_()
        target = torch.tensor([3, 3]) if task.name == "multiclass" else torch.eye(7)[[3, 3]]
        task = type(task)(7)
        inputs = torch.ones(2, 1)
        mean, _, _ = chunked_loss(ls.select_loss(task), ChunkedLogits(inputs, weight, None, 3), target)
        want = ls.select_loss(task)(
            inputs.double() @ exact.t(), target.double() if target.is_floating_point() else target
        )
        mean.backward()
        want.backward()
        assert mean.item() >= 0
        torch.testing.assert_close(mean.double(), want, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(weight.grad.double(), exact.grad, rtol=1e-5, atol=1e-7)
        if task.name == "multilabel" and not wrong and z < 1e4:  # float64 knows more of z = 17 than 1 - p
            torch.testing.assert_close(weight.grad[3].double(), exact.grad[3], rtol=2e-3, atol=0)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_batch_without_rows(task):
    inputs, layer = torch.randn(0, WIDTH, requires_grad=True), ChunkedLinear(WIDTH, C, chunk=5)
    torch.full((C, WIDTH), 1e30)  # what the memory may hold
    target = torch.zeros(0, C) if task.name == "multilabel" else torch.zeros(0, dtype=torch.long)
    logits = layer(inputs)
    mean, _, _ = chunked_loss(ls.select_loss(task), logits, target, look=TopOutputs(task, logits))
    mean.backward()
    assert mean.item() == 0
    assert not layer.weight.grad.any()
    assert not layer.bias.grad.any()
    assert logits.topk(3)[0].shape == (0, 3)


@pytest.mark.parametrize("scale", [65536.0, 1 / 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_scaled_loss_of_half_precision(dtype, scale):
    """As a gradient scaler does it: the factor comes before the rounding."""
    task, target = TASKS["multiclass"], target_of(TASKS["multiclass"], False)
    inputs = torch.randn(ROWS, WIDTH).to(dtype).requires_grad_()
    layer = ChunkedLinear(WIDTH, C, chunk=5).to(dtype)
    mean, _, _ = chunked_loss(ls.select_loss(task), layer(inputs), target)
    (mean * scale).backward()
    wide, exact = inputs.detach().double().requires_grad_(), nn.Linear(WIDTH, C).double()
    exact.load_state_dict(layer.state_dict())
    (ls.select_loss(task)(exact(wide), target) * scale).backward()
    for got, want in ((inputs.grad, wide.grad), (layer.weight.grad, exact.weight.grad)):
        assert relative(got.double(), want) < 2 * torch.finfo(dtype).eps


def test_a_row_of_which_nothing_is_known_may_be_anything():
    task, inputs = TASKS["multilabel"], torch.randn(3, WIDTH)
    inputs[1] = torch.inf
    target = torch.zeros(3, C)
    target[1] = NAN
    logits = ChunkedLinear(WIDTH, C, chunk=5)(inputs)
    assert chunked_loss(ls.select_loss(task), logits, target)[0].isfinite()


def test_products_are_taken_as_autocast_has_it(monkeypatch):
    layer = ChunkedLinear(WIDTH, C)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.zeros(1, WIDTH)).dtype == torch.float32  # no slower there
    monkeypatch.setattr("lossselect.chunked.linear._dtype_of_products", lambda *_: torch.bfloat16)
    logits = layer(torch.randn(4, WIDTH, requires_grad=True))
    mean, _, _ = chunked_loss(ls.select_loss(TASKS["multiclass"]), logits, torch.arange(4))
    mean.backward()
    assert mean.dtype == layer.weight.grad.dtype == torch.float32
    want = ls.select_loss(TASKS["multiclass"])(logits.dense(), torch.arange(4))
    assert mean.item() == pytest.approx(want.item(), rel=1e-2)


class TestBackward:
    def logits(self):
        self.inputs = torch.randn(ROWS, WIDTH, requires_grad=True)
        self.layer = ChunkedLinear(WIDTH, C, chunk=5)
        return self.layer(self.inputs)

    def mean(self):
        task = TASKS["multiclass"]
        return chunked_loss(ls.select_loss(task), self.logits(), target_of(task, False))[0]

    def test_is_scaled_by_what_comes_from_above(self):
        torch.manual_seed(0)
        self.mean().backward()
        one = self.inputs.grad
        torch.manual_seed(0)
        (self.mean() * 3).backward()
        torch.testing.assert_close(self.inputs.grad, 3 * one)

    def test_a_second_derivative_is_refused(self):
        with pytest.raises(RuntimeError, match=r"has no second derivative \(create_graph=True\): head=dense"):
            torch.autograd.grad(self.mean(), self.inputs, create_graph=True)

    def test_a_second_backward_is_refused(self):
        mean = self.mean()
        mean.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="handed over once: compute the loss again"):
            mean.backward()


class TestLogits:
    def test_topk(self):
        layer, inputs = ChunkedLinear(WIDTH, 200, chunk=17), torch.randn(ROWS, WIDTH)
        values, columns = layer(inputs).topk(9)
        want = layer(inputs).dense().topk(9, 1)
        torch.testing.assert_close(values, want.values)
        assert torch.equal(columns, want.indices)
        with pytest.raises(ValueError, match="k must be a whole number from 1 to 200, got 201"):
            layer(inputs).topk(201)
        with pytest.raises(TypeError, match="k must be a whole number from 1 to 200, got 2"):
            layer(inputs).topk(2.5)
        for operation in (lambda z: z > 0, lambda z: z @ inputs, lambda z: z**2, lambda z: z + 1):
            with pytest.raises(TypeError, match="never there all at once, and arithmetic needs them"):
                operation(layer(inputs))

    def test_positives_of_another_task(self):
        head, loss = ChunkedLinear(WIDTH, C), ls.select_loss(TASKS["multiclass"])
        target = Positives.of_lists([0], [0, 1], C)
        with pytest.raises(ValueError, match="Positives are a target of task=multilabel"):
            chunked_loss(loss, head(torch.randn(1, WIDTH)), target)

    def test_weights_are_shared_with_the_layer_it_is_made_of(self):
        layer = nn.Linear(WIDTH, C)
        made = ChunkedLinear.of(layer)
        assert made.weight is layer.weight
        assert made.state_dict().keys() == layer.state_dict().keys()
        assert copy.deepcopy(made)(torch.zeros(1, WIDTH)).shape == (1, C)

    @pytest.mark.parametrize("chunk", [0, -1, 1.5, "many", True])
    def test_a_chunk_that_is_none(self, chunk):
        with pytest.raises((ValueError, TypeError), match="chunk must be a whole number of at least 1"):
            ChunkedLinear(WIDTH, C, chunk=chunk)

    def test_a_chunk_too_large_for_the_memory(self, monkeypatch):
        monkeypatch.setattr("lossselect.chunked.linear.free_memory", lambda device=None: 10_000_000)
        layer = ChunkedLinear(WIDTH, 100_000, chunk=50_000)
        said = r"50000 outputs at a time make blocks of 64 x 50000 logits, 0\.0 GB with a copy"
        with pytest.raises(ValueError, match=said.replace(r"0\.0 GB with a copy", "")):
            layer(torch.zeros(64, WIDTH))

    def test_what_is_done_with_a_matrix_is_not_with_them(self):
        logits = ChunkedLinear(WIDTH, C)(torch.zeros(2, WIDTH))
        with pytest.raises(AttributeError, match=r"so they have no .softmax.: logits.topk"):
            logits.softmax(1)
        with pytest.raises(ValueError, match=re.escape("takes rows of features (N, 8), got (2, 3, 8)")):
            ChunkedLinear(WIDTH, C)(torch.zeros(2, 3, WIDTH))


class TestRefused:
    def run(self, task, target, loss=None, weight=None):
        logits = ChunkedLinear(WIDTH, C)(torch.zeros(4, WIDTH))
        return chunked_loss(loss or ls.select_loss(task), logits, target, weight)

    def test_losses_that_need_all_logits(self):
        said = "Loss 'zlpr' needs all logits of a row at once.*for multilabel: cross_entropy, focal.*for multiclass: cross_entropy, logit_adjusted"
        with pytest.raises(ValueError, match=said):
            self.run(TASKS["multilabel"], torch.zeros(4, C), ls.select_loss(TASKS["multilabel"], "zlpr"))
        with pytest.raises(ValueError, match="Loss 'focal' needs all logits"):
            self.run(TASKS["multiclass"], torch.zeros(4), ls.select_loss(TASKS["multiclass"], "focal"))
        with pytest.raises(ValueError, match="Loss 'CrossEntropyLoss' needs all logits"):
            self.run(TASKS["multiclass"], torch.zeros(4), nn.CrossEntropyLoss())

    def test_what_a_loss_of_a_matrix_refuses_too(self):
        task = TASKS["multiclass"]
        with pytest.raises(ValueError, match="a class index is from 0 to 22"):
            self.run(task, torch.tensor([0, 1, 2, 23]))
        with pytest.raises(
            ValueError, match="The head has 23 outputs, but multiclass with 7 classes needs 7"
        ):
            self.run(ls.Multiclass(7), torch.zeros(4, dtype=torch.long))
        with pytest.raises(ValueError, match=r"makes the mean.*reduction='sum'"):
            self.run(task, torch.zeros(4, dtype=torch.long), ls.select_loss(task, reduction="sum"))
        with pytest.raises(ValueError, match="weight"):
            self.run(task, torch.zeros(4, dtype=torch.long), weight=-torch.ones(4))

    def test_arithmetic(self):
        logits = ChunkedLinear(WIDTH, C)(torch.zeros(4, WIDTH))
        with pytest.raises(TypeError, match=r"and relu needs them: logits.topk"):
            torch.relu(logits)
        for use in (lambda z: z / 2, lambda z: 2 * z, lambda z: z[:, :3]):
            with pytest.raises(TypeError, match="and arithmetic needs them"):
                use(logits)

    def test_targets(self):
        soft = torch.zeros(4, C)
        soft[1, 2] = 0.5
        with pytest.raises(ValueError, match=r"Row 1 has 0.5 for label 2: .*no soft ones"):
            self.run(TASKS["multilabel"], soft)
        with pytest.raises(ValueError, match=r"the target is of shape \(4, 23\), got \(3, 23\)"):
            self.run(TASKS["multilabel"], torch.zeros(3, C))
        with pytest.raises(ValueError, match=r"takes class indices \(N,\), no soft labels"):
            self.run(TASKS["multiclass"], torch.rand(4, C))
        with pytest.raises(ValueError, match=r"a weight is one of a row, \(N,\), got \(4, 23\)"):
            self.run(TASKS["multilabel"], torch.zeros(4, C), weight=torch.ones(4, C))

    @pytest.mark.parametrize(
        ("task", "said"),
        [
            (ls.Multilabel(C, top_k=3), "top_k needs all outputs"),
            (ls.Multilabel(C, at_least=1), "at_least needs all outputs"),
            (ls.Multiclass(C, ordered=True), "Ordered classes need all logits"),
            (ls.Multiclass(C, temperature=2.0), "takes no temperature"),
            (ls.Binary(), "for many outputs, and there is one"),
        ],
        ids=lambda value: str(value)[:20],
    )
    def test_tasks(self, task, said):
        with pytest.raises(ValueError, match=said):
            check_top(task)


class TestPositives:
    def test_of_lists(self):
        made = Positives.of_lists([5, 1, 2, 0], [0, 2, 2, 4], 6, [False, True, False])
        want = torch.zeros(3, 6)
        want[0, [1, 5]] = 1
        want[1] = NAN
        want[2, [0, 2]] = 1
        torch.testing.assert_close(made.matrix(), want, equal_nan=True)
        torch.testing.assert_close(made.matrix(1, 4), want[:, 1:4], equal_nan=True)
        assert made.labels.tolist() == [0, 1, 2, 5]

    def test_of_target_and_back(self):
        target = target_of(TASKS["multilabel"], True).float()
        made = Positives.of_target(target)
        torch.testing.assert_close(made.matrix(), target, equal_nan=True)
        assert made.known_rows().tolist() == (~target.isnan().all(1)).tolist()
        moved = made.to("cpu")
        torch.testing.assert_close(moved.matrix(), target, equal_nan=True)

    def test_of_rows(self):
        lists = LabelLists(
            np.array([1, 4, 0, 2, 3]), np.array([0, 2, 2, 5]), 6, np.array([False, True, False])
        )
        made = Positives.of_rows(lists, np.array([2, 0, 1, 2]))
        np.testing.assert_array_equal(made.matrix().numpy(), lists.multi_hot([2, 0, 1, 2]))

    @pytest.mark.parametrize(
        ("rows", "labels"),
        [
            ([0, 0], [2, 1]),
            ([1, 0], [2, 2]),
            ([0, 0], [1, 1]),
            ([0], [6]),
            ([3], [0]),
            ([-1], [0]),
            ([0, 1], [0]),
        ],
    )
    def test_pairs_in_another_order_or_out_of_range(self, rows, labels):
        with pytest.raises(
            ValueError, match="Positives are pairs of a row from 0 to 2 and a label from 0 to 5"
        ):
            Positives(torch.tensor(rows), torch.tensor(labels), 3, 6)

    @pytest.mark.parametrize("rows", [[0], torch.tensor([0.0]), torch.tensor([[0]])], ids=str)
    def test_no_tensors_of_long(self, rows):
        with pytest.raises(TypeError, match="Positives are rows and labels as two tensors of long"):
            Positives(rows, torch.tensor([1]), 3, 6)

    @pytest.mark.parametrize("offsets", [[0, 0, 0], [0]], ids=str)
    def test_rows_without_a_label(self, offsets):
        made = Positives.of_lists([], offsets, 20)
        assert torch.equal(made.matrix(), torch.zeros(len(offsets) - 1, 20))

    def test_are_counted(self):
        task, target = TASKS["multilabel"], target_of(TASKS["multilabel"], True)
        got, want = ls.count_labels(task, Positives.of_target(target)), ls.count_labels(task, target)
        assert (got.rows, got.missing, got.single) == (want.rows, want.missing, want.single)
        np.testing.assert_array_equal(got.positives, want.positives)
        np.testing.assert_array_equal(got.negatives, want.negatives)

    @pytest.mark.parametrize(
        ("lists", "said"),
        [
            (([6], [0, 1], 6), "Row 0 has label 6, but labels are from 0 to 5"),
            (([-1], [0, 0, 1], 6), "Row 1 has label -1, but labels are from 0 to 5"),
            (([2, 1, 2], [0, 0, 3], 6), "Row 1 has label 2 twice"),
            (([2], [0, 2], 6), "offsets must rise from 0 to the number of indices"),
            (([2, 3], [0, 2, 1, 2], 6), "offsets must rise from 0"),
            (([2], [1, 1], 6), "offsets must rise from 0"),
            (([2], torch.zeros(0, dtype=torch.long), 6), "offsets must rise from 0"),
            (([2.0], [0, 1], 6), "indices must be whole numbers"),
            (([[1, 2], [3]], [0, 2, 3], 6), "indices must be whole numbers of shape .N,., one list for all"),
            ((["a"], [0, 1], 6), "indices must be whole numbers of shape .N,., one list for all"),
            ((torch.tensor([1], dtype=torch.complex128), [0, 1], 6), "indices must be whole numbers"),
            (([2], [0, 1], "6"), "num_labels must be a whole number of at least 1, got '6'"),
            (([2], [0, 1], 6.0), "num_labels must be a whole number of at least 1, got 6.0"),
            (([2], [0, 1], 6, [0]), "missing must be true or false for each of 1 rows"),
            (([2], [0, 1], 6, [True, False]), "missing must be true or false for each of 1 rows"),
        ],
    )
    def test_lists_that_are_none(self, lists, said):
        with pytest.raises((ValueError, TypeError), match=said):
            Positives.of_lists(*lists)


class TestMetrics:
    def values(self, task, logits_of, target, counts=None):
        layer, inputs = logits_of
        metrics = TopMetrics(task, counts)
        for rows in (slice(0, 13), slice(13, None)):
            logits = layer(inputs[rows])
            sparse = Positives.of_target(target[rows]) if target.ndim > 1 else target[rows]
            seen = TopOutputs(task, logits, sparse)
            chunked_loss(ls.select_loss(task), logits, sparse, look=seen)
            metrics.update(seen, sparse)
        return {name: value.item() for name, value in metrics.compute().items()}

    def net(self):
        return ChunkedLinear(WIDTH, C, chunk=5), torch.randn(ROWS, WIDTH)

    def test_of_labels(self):
        task = ls.Multilabel(C, threshold=0.45, temperature=1.3)
        layer, inputs = self.net()
        target = target_of(task, False).float()
        target[7] = 0
        got = self.values(task, (layer, inputs), target)
        logits = layer(inputs).dense().detach()
        assert got["f1_micro"] == pytest.approx(sk.f1_score(target, task.predict(logits), average="micro"))
        order = logits.argsort(1, descending=True)
        for k in (1, 3, 5):
            assert got[f"ndcg_at_{k}"] == pytest.approx(sk.ndcg_score(target, logits, k=k))
            assert got[f"precision_at_{k}"] == pytest.approx(target.gather(1, order[:, :k]).mean().item())

    def test_of_classes(self):
        task = TASKS["multiclass"]
        layer, inputs = self.net()
        target = target_of(task, True)
        got = self.values(task, (layer, inputs), target)
        known = target >= 0
        logits, truth = layer(inputs).dense().detach()[known], target[known]
        for k in (1, 3, 5):
            assert got[f"accuracy_at_{k}"] == pytest.approx(
                sk.top_k_accuracy_score(truth, logits, k=k, labels=range(C))
            )
            assert got[f"ndcg_at_{k}"] == pytest.approx(
                sk.ndcg_score(nn.functional.one_hot(truth, C), logits, k=k)
            )
        assert got["f1_micro"] == got["accuracy_at_1"]

    def test_propensity_scored(self):
        """By hand, row by row, with the formulas of Jain et al."""
        task = TASKS["multilabel"]
        layer, inputs = self.net()
        target = target_of(task, False).float()
        train = (torch.rand(500, C) < torch.linspace(0.01, 0.5, C)).float()
        counts = ls.count_labels(task, train)
        got = self.values(task, (layer, inputs), target, counts)
        n, per_label = 500, train.sum(0).double().numpy()
        p = 1 / (1 + (np.log(n) - 1) * 2.5**0.55 * np.exp(-0.55 * np.log(per_label + 1.5)))
        np.testing.assert_allclose(propensities(counts), p)
        order = layer(inputs).dense().detach().argsort(1, descending=True).numpy()
        for k in (1, 3, 5):
            mine = sum(sum(target[i, c].item() / p[c] for c in row[:k]) for i, row in enumerate(order))
            best = sum(
                sum(sorted((1 / p[c] for c in range(C) if row[c]), reverse=True)[:k]) for row in target
            )
            assert got[f"psp_at_{k}"] == pytest.approx(mine / best)

    def test_are_of_the_logits_and_not_of_what_the_loss_adds(self):
        task = TASKS["multiclass"]
        layer, inputs = self.net()
        target = target_of(task, False)
        skewed = ls.select_loss(task, "logit_adjusted", prior=[0.978, *[0.001] * (C - 1)], tau=5)
        logits = layer(inputs)
        seen = TopOutputs(task, logits, target)
        chunked_loss(skewed, logits, target, look=seen)
        assert torch.equal(seen.columns, logits.dense().topk(5, 1).indices)

    def test_highest_first_with_a_temperature_of_each_label(self):
        task = ls.Multilabel(C, temperature=EACH)
        layer, inputs = self.net()
        seen = TopOutputs(task, layer(inputs)).look()
        want = task.probabilities(layer(inputs).dense()).topk(5, 1)
        assert torch.equal(seen.columns, want.indices)
        torch.testing.assert_close(seen.probabilities, want.values)

    def test_of_outputs_that_are_no_number_there_are_none(self):
        task = TASKS["multiclass"]
        layer, inputs = self.net()
        inputs[20] = NAN
        assert all(
            np.isnan(value) for value in self.values(task, (layer, inputs), target_of(task, False)).values()
        )

    def test_nothing_there_and_nothing_decided_is_0(self):
        task = ls.Multilabel(C, threshold=1.0)
        assert self.values(task, self.net(), torch.zeros(ROWS, C))["f1_micro"] == 0

    def test_what_is_missing_counts_nowhere(self):
        task = TASKS["multilabel"]
        layer, inputs = self.net()
        target = target_of(task, True).float()
        got = self.values(task, (layer, inputs), target)
        logits = layer(inputs).dense().detach()
        known = ~target.isnan()
        decided = task.predict(logits)
        assert got["f1_micro"] == pytest.approx(sk.f1_score(target[known], decided[known]))
        rows = known.any(1)
        ranked = logits.masked_fill(~known, -torch.inf)[rows]
        hits = target[rows].nan_to_num().gather(1, ranked.argsort(1, descending=True)[:, :3])
        assert got["precision_at_3"] == pytest.approx(hits.mean().item())


def fit(task, head, tmp_path, steps=1, lists=False, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, task.num_outputs))
    module = ls.TaskModule(task, net, optimizer={"name": "Adam", "lr": 0.01}, head=head, **options)
    inputs = torch.randn(300, WIDTH)
    target = task.encode(task.predict(torch.randn(300, task.num_outputs) - 1.5))
    if lists:
        labels = target.nonzero(as_tuple=True)[1]
        offsets = np.concatenate([[0], target.sum(1).long().cumsum(0).numpy()])
        target = PositiveRows(LabelLists(labels.numpy(), offsets, C, np.zeros(300, dtype=bool)))
    data = TensorBatches(inputs, target)
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[ls.StepsPerExecution(steps)],
        enable_checkpointing=False,
    )
    trainer.fit(module, data.loader(32, shuffle=True), data.loader(50))
    return module, trainer, data


class TestTraining:
    @pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
    def test_as_the_dense_head(self, task, tmp_path):
        dense, trainer, data = fit(task, None, tmp_path)
        want = trainer.callback_metrics
        for head, steps in (("chunked", 1), ({"name": "chunked", "chunk": 5}, 8)):
            module, trainer, _ = fit(task, head, tmp_path, steps)
            for p, q in zip(dense.parameters(), module.parameters(), strict=True):
                torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
            got = trainer.callback_metrics
            names = {f"val/{name}" for name in ("loss", *top_metric_names(task, C, counted=False))}
            assert {name for name in got if name.startswith("val/")} == names
            for name in {*names, "train/loss"} & set(want):
                assert got[name].item() == pytest.approx(want[name].item(), rel=1e-4)
            (tested,) = trainer.test(module, data.loader(50), verbose=False)
            assert tested["test/loss"] == pytest.approx(got["val/loss"].item())
            batches = trainer.predict(module, data.loader(50))
            p = dense.task.probabilities(dense(data.inputs)).topk(5, 1)
            assert torch.equal(torch.cat([batch["top"] for batch in batches]), p.indices)
            torch.testing.assert_close(
                torch.cat([batch["probabilities"] for batch in batches]), p.values, rtol=1e-3, atol=1e-4
            )

    def test_lists_stay_lists(self, tmp_path):
        one, other = (fit(TASKS["multilabel"], "chunked", tmp_path, 4, lists)[0] for lists in (False, True))
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q)

    def test_no_matrix_is_made(self, tmp_path, monkeypatch):
        def made(*_):
            raise AssertionError("a matrix (N, C)")

        monkeypatch.setattr(ChunkedLogits, "dense", made)
        monkeypatch.setattr(LabelLists, "multi_hot", made)
        fit(TASKS["multilabel"], "chunked", tmp_path, lists=True)

    def test_what_the_train_labels_tell(self, tmp_path):
        given = {"loss": {"name": "cross_entropy", "pos_weight": "auto"}, "head_bias": "prior"}
        dense, _, _ = fit(TASKS["multilabel"], None, tmp_path, **given)
        module, trainer, data = fit(TASKS["multilabel"], "chunked", tmp_path, **given)
        for p, q in zip(dense.parameters(), module.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
        want = trainer.callback_metrics["val/psp_at_5"].item()
        path = tmp_path / "counted.ckpt"
        trainer.save_checkpoint(path)
        net = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, C))
        again = ls.TaskModule.load_from_checkpoint(path, net=net)
        (values,) = trainer.validate(again, data.loader(50), verbose=False)
        assert values["val/psp_at_5"] == pytest.approx(want)

    def test_a_subclass_that_builds_its_net_later(self, tmp_path):
        class Own(ls.TaskModule):
            def __init__(self, task, **options):
                super().__init__(task, **options)
                self.body, self.last = nn.Linear(WIDTH, 16), nn.Linear(16, task.num_outputs)

            def forward(self, x):
                return self.last(self.body(x).relu())

        module = Own(TASKS["multiclass"], head="chunked")
        trainer = L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        data = TensorBatches(torch.randn(40, WIDTH), torch.randint(0, C, (40,)))
        trainer.fit(module, data.loader(8), data.loader(8))
        assert isinstance(module.last, ChunkedLinear)
        assert "val/accuracy_at_1" in trainer.callback_metrics
        path = tmp_path / "own.ckpt"
        trainer.save_checkpoint(path)
        again = Own.load_from_checkpoint(path)
        torch.testing.assert_close(again.last.weight, module.last.weight)
        dense = Own.load_from_checkpoint(path, head=None)
        assert type(dense.last) is nn.Linear
        want = trainer.predict(module, data.loader(40))[0]["top"]
        assert torch.equal(dense(data.inputs).topk(5, 1).indices, want)

    def test_settings_that_contradict_it(self):
        task = TASKS["multilabel"]
        with pytest.raises(ValueError, match="Loss 'dice' needs all logits"):
            ls.TaskModule(task, nn.Linear(8, C), "dice", head="chunked")
        with pytest.raises(ValueError, match="mix makes soft labels"):
            ls.TaskModule(task, nn.Linear(8, C), mix="mixup", head="chunked")
        with pytest.raises(ValueError, match="does not go through a chunked head"):
            ls.TaskModule(task, nn.Sequential(nn.Linear(8, C)), head="chunked").compile()
        with pytest.raises(ValueError, match=r"There is no head 'chunkd'\. Did you mean 'chunked'"):
            ls.TaskModule(task, nn.Linear(8, C), head="chunkd")
        with pytest.raises(ValueError, match="Head 'dense' has no option 'chunk'"):
            ls.TaskModule(task, nn.Linear(8, C), head={"name": "dense", "chunk": 3})
        with pytest.raises(
            ValueError,
            match=r"needs a plain torch.nn.Linear at the end, as a part of the module, and net.1 is a Conv1d",
        ):
            ls.TaskModule(task, nn.Sequential(nn.Linear(8, 8), nn.Conv1d(8, C, 1)), head="chunked")

    def short(self, tmp_path, module, target=None):
        trainer = L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            enable_checkpointing=False,
        )
        inputs = torch.randn(40, WIDTH)
        target = torch.randint(0, C, (40,)) if target is None else target
        data = TensorBatches(inputs, target)
        with ls.allow("absent_class", "no_positives"):
            trainer.fit(module, data.loader(8), data.loader(8))
        return trainer

    def test_a_subclass_may_call_its_layer_head(self, tmp_path):
        class Own(ls.TaskModule):
            def __init__(self, task, **options):
                super().__init__(task, **options)
                self.head = nn.Linear(WIDTH, task.num_outputs)

            def forward(self, x):
                return self.head(x)

        assert "val/auroc" in self.short(tmp_path, Own(TASKS["multiclass"])).callback_metrics
        assert (
            "val/ndcg_at_3" in self.short(tmp_path, Own(TASKS["multiclass"], head="chunked")).callback_metrics
        )

    def test_a_head_of_two_names(self, tmp_path):
        class Own(ls.TaskModule):
            def __init__(self, task):
                super().__init__(task, head="chunked")
                self.last = nn.Linear(16, task.num_outputs)
                self.net = nn.Sequential(nn.Linear(WIDTH, 16), self.last)

        module = Own(TASKS["multiclass"])
        assert "val/ndcg_at_3" in self.short(tmp_path, module).callback_metrics
        assert module.last is module.net[1]

    def test_a_head_that_is_no_layer(self, tmp_path):
        class Own(ls.TaskModule):
            def __init__(self, task):
                super().__init__(task, head="chunked")
                self.w = nn.Parameter(torch.randn(WIDTH, task.num_outputs))

            def forward(self, x):
                return x @ self.w

        with pytest.raises(ValueError, match=r"finds no torch.nn.Linear with 23 outputs"):
            self.short(tmp_path, Own(TASKS["multiclass"]))

        class Beside(Own):
            def __init__(self, task):
                super().__init__(task)
                self.unused = nn.Linear(8, task.num_outputs)

        with pytest.raises(ValueError, match="head=chunked had no effect: forward returned a tensor"):
            self.short(tmp_path, Beside(TASKS["multiclass"]))

    def test_no_gradient_goes_back(self, tmp_path):
        class Own(ls.TaskModule):
            def forward(self, x):
                with torch.no_grad():
                    return self.net(x)

        net = nn.Sequential(nn.Linear(WIDTH, 16), nn.Linear(16, C))
        with pytest.raises(ValueError, match="carry no gradient, so nothing but the head would be learned"):
            self.short(tmp_path, Own(TASKS["multiclass"], net, head="chunked"))

    def test_inputs_that_are_not_finite(self, tmp_path):
        net = nn.Sequential(nn.Linear(WIDTH, 16), nn.Linear(16, C))
        with torch.no_grad():
            net[0].bias[0] = torch.nan
        with pytest.raises(ValueError, match="Row 0 of what the head takes in the first batch is not finite"):
            self.short(tmp_path, ls.TaskModule(TASKS["multiclass"], net, head="chunked"))

    def test_hooks_of_the_layer_are_not_lost(self):
        net = nn.Sequential(nn.Linear(WIDTH, 16), nn.Linear(16, C))
        net[1].register_forward_hook(lambda module, inputs, outputs: outputs * 3)
        with pytest.raises(ValueError, match=r"net.1 is a Linear with hooks"):
            ls.TaskModule(TASKS["multiclass"], net, head="chunked")

    def test_a_net_that_has_a_chunked_layer_is_chunked(self):
        net = nn.Sequential(nn.Linear(WIDTH, 16), ChunkedLinear(16, C, chunk=5))
        module = ls.TaskModule(TASKS["multiclass"], net)
        assert module.chunked
        assert ls.TaskModule(TASKS["multiclass"], net, head={"name": "chunked", "chunk": 3}).net[1].chunk == 3
        with pytest.raises(ValueError, match="Loss 'focal' needs all logits"):
            ls.TaskModule(TASKS["multiclass"], net, "focal")
        with pytest.raises(ValueError, match="takes no temperature"):
            module.task = ls.Multiclass(C, temperature=3.0)
        with pytest.raises(ValueError, match="which a chunked head never has"):
            ls.tune_decision(L.Trainer(logger=False, enable_checkpointing=False), module)

    def test_what_a_plateau_watches(self, tmp_path):
        _, trainer, _ = fit(TASKS["multilabel"], "chunked", tmp_path, scheduler="ReduceLROnPlateau")
        assert trainer.lr_scheduler_configs[0].monitor == "val/precision_at_1"

    def test_a_dense_head_takes_positives_too(self):
        module = ls.TaskModule(TASKS["multilabel"], nn.Linear(WIDTH, C))
        inputs, target = torch.randn(ROWS, WIDTH), target_of(TASKS["multilabel"], True).float()
        torch.testing.assert_close(
            module.check_batch((inputs, Positives.of_target(target))), module.check_batch((inputs, target))
        )

    def test_a_head_of_another_width(self, tmp_path):
        class Own(ls.TaskModule):
            def __init__(self, task):
                super().__init__(task)
                self.last = ChunkedLinear(WIDTH, C + 1)

            def forward(self, x):
                return self.last(x)

        with pytest.raises(
            ValueError, match=r"The head has 24 outputs, but multiclass with 23 classes needs 23"
        ):
            Own(TASKS["multiclass"]).check_batch((torch.zeros(2, WIDTH), torch.tensor([0, 1])))


class TestCommand:
    @pytest.fixture
    def files(self, tmp_path):
        generator = np.random.default_rng(0)
        inputs = generator.standard_normal((400, 6)).astype(np.float32)
        rows, labels = np.nonzero(inputs @ generator.standard_normal((6, C)) > 2.5)
        offsets = np.concatenate([[0], np.bincount(rows, minlength=400).cumsum()])
        np.save(tmp_path / "X.npy", inputs)
        np.savez(tmp_path / "Y.npz", indices=labels, offsets=offsets, num_labels=C)
        np.save(tmp_path / "y.npy", (inputs @ generator.standard_normal((6, C))).argmax(1))

    SAME = (
        "data=arrays",
        "data.path=X.npy",
        "trainer.max_epochs=3",
        "allow=[absent_class,rare_class,label_everywhere,no_positives]",
    )

    @pytest.mark.parametrize(("task", "target"), [("multilabel", "Y.npz"), ("multiclass", "y.npy")])
    def test_a_run(self, task, target, files, command, monkeypatch):
        given = (f"task={task}", f"data.target={target}", *self.SAME, "hydra.run.dir=run")
        code, out, said = command(*given, "head=chunked", "head.chunk=7")
        assert code == 0, said
        assert "7 at a time, with their loss and" in " ".join(out.split())
        table = pl.read_csv("run/predictions.csv")
        assert table.columns[:5] == ["row", "target", "prediction", "top_1", "p_1"]
        assert len(table) == 80
        from lossselect.cli.predict import predict_file

        predict_file("run/checkpoints/best.ckpt", "X.npy", "again.csv")
        again = pl.read_csv("again.csv")
        rows = table["row"].to_list()
        assert again[rows]["top_1"].to_list() == table["top_1"].to_list()
        np.testing.assert_allclose(again[rows]["p_3"], table["p_3"], rtol=1e-5)

    def test_auto(self, files, command, monkeypatch):
        given = ("task=multilabel", "data.target=Y.npz", *self.SAME, "check_only=true")
        assert "head=chunked" not in command(*given)[1]
        monkeypatch.setattr("lossselect.run.settings.MANY_OUTPUTS", C)
        assert "(head=chunked)" in " ".join(command(*given)[1].split())
        assert "(head=chunked)" not in " ".join(command(*given, "head=dense")[1].split())
        code, out, _ = command(*given, "~head")
        assert code == 0
        assert "(head=chunked)" not in " ".join(out.split())
        assert "(head=chunked)" not in " ".join(command(*given, "loss=zlpr")[1].split())
        assert "(head=chunked)" not in " ".join(command(*given, "decision.metric=f1_macro")[1].split())
        assert "(head=chunked)" not in " ".join(command(*given, "monitor=val/map")[1].split())
        assert "(head=chunked)" not in " ".join(command(*given, "trainer.compile=true")[1].split())
        assert "(head=chunked)" in " ".join(command(*given, "monitor=val/ndcg_at_3")[1].split())

    def test_auto_by_the_memory(self, monkeypatch):
        config = {
            "head": {"name": "auto"},
            "monitor": None,
            "model": {},
            "trainer": {},
            "data": {"batch_size": 64},
            "loss": {"name": "cross_entropy"},
        }
        monkeypatch.setattr("lossselect.utils.devices.memory_of_machine", lambda: 4 * 16 * 64 * 1000)
        monkeypatch.setattr("lossselect.run.settings.FITS_ANYWHERE", 0)
        assert head_of(config, ls.Multilabel(1000))["name"] == "dense"
        assert head_of(config, ls.Multilabel(1001))["name"] == "chunked"

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["head=chunked", "head.chunk=0"], "head.chunk must be a whole number of at least 1, got 0"),
            (["head=chunked", "head.chunk=x"], "head.chunk must be a whole number of at least 1, got 'x'"),
            (["head=dense", "+head.chunk=3"], "Head 'dense' has no option 'chunk'"),
            (["head=chunked", "loss=dice"], "Loss 'dice' needs all logits of a row at once"),
            (["head=chunked", "mix=mixup"], "mix makes soft labels of a batch"),
            (
                ["head=chunked", "trainer.compile=true"],
                "trainer.compile does not go through head=chunked",
            ),
            (["head=chunked", "decision.calibration=none"], "decision.calibration=none needs all outputs"),
            (["head=chunked", "monitor=val/map"], "training knows no metric 'val/map'"),
            (["monitor=val/ndcg_at_5"], "training knows no metric 'val/ndcg_at_5'"),
            (["head=chunked", "task.top_k=2"], "top_k needs all outputs"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_mistakes(self, arguments, said, files, command, tmp_path):
        before = sorted(tmp_path.iterdir())
        given = ("task=multilabel", "data.target=Y.npz", *self.SAME)
        code, _, err = command(*given, *arguments)
        assert code == 1
        assert said in err
        assert sorted(tmp_path.iterdir()) == before

    def test_monitors(self, files, command):
        given = ("task=multilabel", "data.target=Y.npz", *self.SAME, "head=chunked", "scheduler=none")
        code, out, said = command(*given, "hydra.run.dir=run")
        assert code == 0, said
        assert "best val/precision_at_1 (max)" in " ".join(out.split())
        assert command(*given, "hydra.run.dir=other", "monitor=val/psp_at_3")[0] == 0
