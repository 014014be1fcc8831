"""Training on a simulated GPU: no operation mixes devices, and no step makes the host wait for the device.

A step that waits (`.item()`, `.cpu()`, indexing by a mask, a blocking copy) leaves the device idle while Python prepares
the next one. Checks that run once may wait, so waits are allowed in the first two steps and at the end of an epoch.
tests/helpers/simulated_gpu.py describes the simulation, and tests/helpers/test_simulated_gpu.py tests it.
"""

import collections
import math

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from simulated_gpu import SimulatedTensor, simulated_gpu
from sklearn import metrics as sk
from torch.utils.data import DataLoader, TensorDataset

import lossselect as ls
from lossselect.chunked.linear import ChunkedLinear
from lossselect.chunked.loss import chunked_loss
from lossselect.chunked.options import chunkable
from lossselect.data.datamodule import TensorData
from lossselect.data.splits import Splits
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.metrics.stat_scores import ConfusionMatrix
from lossselect.metrics.task_metric import MetricInput

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU: tests/training/test_gpu.py"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

TASKS = {
    "binary": ls.Binary(),
    "multiclass": ls.Multiclass(10, missing=-100),
    "multilabel": ls.Multilabel(14),
    "ordinal": ls.Multiclass(4, ordinal=True, missing=-100),
}
LOSSES = [
    (task, loss)
    for task in TASKS
    for loss, forms in ls.LOSSES.items()
    if TASKS[task].activation in forms and (task, loss) != ("ordinal", "one_vs_rest")
]


@pytest.fixture
def gpu():
    with simulated_gpu() as simulated:
        yield simulated


def options_of(loss, task):
    """Return all options of the loss, so that a tensor left on the CPU is noticed."""
    options = {"label_smoothing": 0.1}
    if loss == "logit_adjusted":
        options["prior"] = [1 / max(task.num_probabilities, 2)] * task.num_probabilities
    if loss != "zlpr":
        options["weight"] = [2.0] * task.num_probabilities
    if task.activation == "sigmoid" and loss not in ("zlpr", "dice"):
        options["pos_weight"] = 3.0
    return options


def labels_of(task, rows, trailing=()):
    """Return a random canonical target with some missing labels."""
    target = task.encode(task.predict(torch.randn(rows, task.num_outputs, *trailing)))
    target[::7] = torch.nan if target.is_floating_point() else -100
    if task.name == "multilabel":
        target[3, 1] = torch.nan
    return target


def waits_of_third_call(gpu, step):
    step()
    step()
    before = len(gpu.waits)
    step()
    return list(map(str, gpu.waits[before:]))


# One step of each loss


@pytest.mark.parametrize("trailing", [(), (5,)], ids=["rows", "positions"])
@pytest.mark.parametrize(("task", "loss"), LOSSES)
def test_a_loss_does_not_wait(gpu, task, loss, trailing):
    if loss == "dice" and not trailing:
        pytest.skip("dice compares positions")
    task = TASKS[task]
    criterion = ls.select_loss(task, loss, **options_of(loss, task)).cuda()
    logits = torch.randn(16, task.num_outputs, *trailing).cuda().requires_grad_()
    target, weight = labels_of(task, 16, trailing).cuda(), torch.rand(16).cuda()
    soft = task.to_one_hot(target).nan_to_num(0.25)  # as from mixup

    def step():
        for labels in (target, soft):
            total, count = criterion.sum_and_count(logits, labels, weight)
            (criterion(logits, labels, weight) + total / count).backward()

    assert waits_of_third_call(gpu, step) == []
    assert isinstance(logits.grad, SimulatedTensor)
    assert torch.isfinite(logits.grad.host).all()


@pytest.mark.parametrize("missing", [False, True], ids=["known", "missing"])
@pytest.mark.parametrize(
    ("task", "loss"),
    [
        *[(ls.Multilabel(60), loss) for loss in chunkable("sigmoid")],
        *[(ls.Multiclass(60, missing=-100), loss) for loss in chunkable("softmax")],
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_chunked_head_does_not_wait(gpu, task, loss, missing):
    criterion = ls.select_loss(task, loss, **options_of(loss, task)).cuda()
    target = labels_of(task, 16) if missing else task.encode(task.predict(torch.randn(16, 60)))
    head, inputs, weight = (
        ChunkedLinear(8, 60, chunk=25).cuda(),
        torch.randn(16, 8).cuda(),
        torch.rand(16).cuda(),
    )
    if task.name == "multilabel":
        target = ls.SparseLabels.from_dense(target)

    def step():
        mean, _, _ = chunked_loss(criterion, head(inputs), target.to("cuda"), weight)
        mean.backward()

    if task.name == "multiclass":
        target = target.cuda()
    assert waits_of_third_call(gpu, step) == []


@pytest.mark.parametrize("pinned", [False, True])
def test_positives_are_moved_without_a_wait(gpu, pinned):
    target = labels_of(ls.Multilabel(6), 16)
    positives = ls.SparseLabels.from_dense(target)
    assert positives.missing is not None
    assert positives.unknown is not None
    if pinned:  # by a loader, which calls the pin_memory() of a batch
        (positives,) = DataLoader([positives], batch_size=None, collate_fn=lambda one: one, pin_memory=True)
        assert all(part.is_pinned() for part in positives.coo())
    moved = positives.to("cuda")
    assert gpu.waits == []
    assert moved.device.type == "cuda"
    back = moved.to("cpu").to_dense()
    torch.testing.assert_close(back, target, rtol=0, atol=0, equal_nan=True)


# Whole fits


class WaitsOfSteps(L.Callback):
    """Collects the waits of each step after the second of an epoch, including Lightning's work between two steps."""

    def __init__(self, gpu):
        self.gpu, self.train, self.val = gpu, collections.Counter(), collections.Counter()
        self.steps = self.val_steps = self.mark = 0

    def on_train_epoch_start(self, trainer, module):
        self.steps = 0

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.steps += 1
        if self.steps > 2:
            self.train.update(map(str, self.gpu.waits[self.mark :]))
        self.mark = len(self.gpu.waits)
        inputs = getattr(batch, "inputs", None)
        assert inputs is None or isinstance(inputs, SimulatedTensor)


class WaitsOfValidation(WaitsOfSteps):
    """Also collects the waits of validation batches, which then run one by one."""

    def on_validation_start(self, trainer, module):
        self.val_steps = 0

    def on_validation_batch_end(self, *_, **__):
        self.val_steps += 1
        if self.val_steps > 2:
            self.val.update(map(str, self.gpu.waits[self.mark :]))
        self.mark = len(self.gpu.waits)


class Weighted(ls.TaskModule):
    """A module with sample weights in its batches."""

    def unpack_batch(self, batch):
        return batch


def loader(*tensors):
    return DataLoader(TensorDataset(*tensors), batch_size=16, pin_memory=True)


def fit(gpu, module, rows=96, trailing=(), missing=True, see_validation=True, callbacks=(), **options):
    """Fit for two epochs; return the callback with the waits."""
    task = module.task
    inputs, weight = torch.randn(rows, 8, *trailing), torch.rand(rows)
    target = labels_of(task, rows, trailing) if missing else task.predict(torch.randn(rows, task.num_outputs))
    data = (
        loader(inputs, target, weight)
        if type(module).unpack_batch is not ls.TaskModule.unpack_batch
        else loader(inputs, target)
    )
    watch = (WaitsOfValidation if see_validation else WaitsOfSteps)(gpu)
    run(module, data, data, callbacks=[watch, *callbacks], **{"max_epochs": 2, **options})
    return watch


def run(module, *data, **options):
    extras = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    trainer = L.Trainer(accelerator="gpu", devices=1, **dict.fromkeys(extras, False), **options)
    trainer.fit(module, *data)
    assert math.isfinite(trainer.callback_metrics["val/loss"])


def linear(task, **options):
    return Weighted(task, torch.nn.Linear(8, task.num_outputs), **options)


@pytest.mark.parametrize("task", TASKS)
def test_no_step_of_a_fit_waits(gpu, task):
    task = TASKS[task]
    loss = {"name": "cross_entropy", **options_of("cross_entropy", task)}
    watch = fit(gpu, linear(task, loss=loss))
    assert watch.train == {}
    assert watch.val == {}
    assert watch.steps == watch.val_steps == 6


@pytest.mark.parametrize("task", TASKS)
def test_no_step_waits_with_accumulation_and_clipping(gpu, task):
    watch = fit(gpu, linear(TASKS[task]), rows=160, accumulate_grad_batches=4, gradient_clip_val=0.5)
    assert watch.train == {}


@pytest.mark.parametrize("task", TASKS)
def test_no_step_waits_with_several_steps_per_execution(gpu, task):
    steps = [ls.StepsPerExecution(4)]
    watch = fit(gpu, linear(TASKS[task]), rows=320, see_validation=False, callbacks=steps)
    assert watch.train == {}
    assert watch.steps == 5


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
@pytest.mark.parametrize("task", TASKS)
def test_no_step_waits_with_mixed_batches(gpu, task, mix):
    module = Weighted(TASKS[task], torch.nn.Conv1d(8, TASKS[task].num_outputs, 1), mix=mix)
    assert fit(gpu, module, trailing=(5,), max_epochs=1).train == {}


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(
    "task", [ls.Multilabel(60), ls.Multiclass(60, missing=-100)], ids=lambda task: task.name
)
def test_no_step_waits_with_a_chunked_head(gpu, task, steps):
    module = linear(task, head={"name": "chunked", "chunk": 25})
    watch = fit(
        gpu,
        module,
        rows=160,
        see_validation=steps == 1,
        callbacks=[ls.StepsPerExecution(steps)],
        max_epochs=1,
    )
    assert watch.train == {}
    assert watch.val == {}


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(
    "kind", ["on the GPU", "on the CPU", "lists of labels", "lists of labels, chunked head"]
)
def test_no_step_waits_with_tensor_data(gpu, kind, steps, monkeypatch):
    """Pinned memory contains the batches of data on the CPU, or the row numbers for data on the GPU."""
    task, rows = ls.Multilabel(60), 160
    if kind == "on the CPU":
        monkeypatch.setattr("lossselect.data.datamodule._has_room", lambda *_: False)
    labels = (torch.rand(rows, 60) < 0.1).numpy()
    if "lists" in kind:
        pairs = labels.nonzero()
        labels = SparseLabels.from_pairs(*pairs, (rows, 60))
    else:
        labels = labels.astype(np.float32)
    parts = {"train": torch.arange(rows), "val": torch.arange(rows)}
    data = TensorData(Splits("data", torch.randn(rows, 8), labels, task.names, parts, {}), task, 16)
    head = {"name": "chunked", "chunk": 25} if "chunked" in kind else None
    module = ls.TaskModule(task, torch.nn.Linear(8, 60), head=head)
    if head:
        data.use_sparse_targets()
    watch = (WaitsOfValidation if steps == 1 else WaitsOfSteps)(gpu)
    run(module, None, None, data, callbacks=[watch, ls.StepsPerExecution(steps)], max_epochs=1)
    assert watch.train == {}
    assert watch.val == {}
    assert watch.steps == (10 if steps == 1 else 4)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("task", TASKS)
def test_no_step_waits_with_several_nets(gpu, task, steps):
    task, rows = TASKS[task], 160
    nets = {
        "mlp": {"name": "mlp", "hidden": [8], "encoding": "periodic"},
        "tabm": {"name": "tabm", "hidden": [8], "encoding": "ple", "columns": [0, 2], "features": [1, 3, 5]},
    }
    labels = labels_of(task, rows, ())
    labels = labels.numpy() if isinstance(labels, torch.Tensor) else labels
    parts = {"train": torch.arange(rows), "val": torch.arange(rows)}
    weights = torch.rand(rows)
    splits = Splits("data", torch.randn(rows, 8), labels, task.names, parts, {}, weights=weights)
    module = ls.TaskModule(task, {"name": "ensemble", "num_features": 8, "nets": nets}, bias_init="prior")
    watch = (WaitsOfValidation if steps == 1 else WaitsOfSteps)(gpu)
    data = TensorData(splits, task, 16)
    run(module, None, None, data, callbacks=[watch, ls.StepsPerExecution(steps)], max_epochs=1)
    assert watch.train == {}
    assert watch.val == {}
    assert module.net.weights.sum().item() == pytest.approx(1)


def test_no_step_waits_with_a_custom_loss(gpu):
    task = ls.Multilabel(14)
    own = torch.nn.functional.binary_cross_entropy_with_logits
    module = ls.TaskModule(task, torch.nn.Linear(8, 14), own)
    assert fit(gpu, module, missing=False).train == {}


def test_float16_waits_only_where_torch_does(gpu):
    """`GradScaler.step` reads whether the gradients have overflowed, unless the optimizer does."""
    watch = fit(gpu, linear(TASKS["multiclass"]), precision="16-mixed")
    assert len(watch.train) == 1
    (wait,) = watch.train
    assert "lightning/pytorch/plugins/precision/amp.py" in wait


@pytest.mark.parametrize("task", TASKS)
def test_each_operation_has_a_deterministic_implementation(gpu, task):
    task = TASKS[task]
    fit(gpu, linear(task), deterministic=True)
    fit(gpu, Weighted(task, torch.nn.Conv1d(8, task.num_outputs, 1)), trailing=(5,), deterministic=True)


@pytest.mark.parametrize(
    "task", [ls.Multilabel(60), ls.Multiclass(60, missing=-100)], ids=lambda task: task.name
)
def test_a_chunked_head_has_a_deterministic_implementation(gpu, task):
    fit(gpu, linear(task, head={"name": "chunked", "chunk": 25}), deterministic=True)


@pytest.fixture(autouse=True)
def _not_deterministic():
    yield
    torch.use_deterministic_algorithms(False)  # Lightning leaves it on


def test_the_waits_at_the_end_of_an_epoch_do_not_depend_on_its_length(gpu):
    waits = []
    for rows in (96, 240):
        before = len(gpu.waits)
        fit(gpu, linear(TASKS["multiclass"]), rows=rows)
        waits.append(len(gpu.waits) - before)
    assert waits[0] == waits[1]


@pytest.mark.parametrize("deterministic", [False, True])
def test_predictions_are_counted_without_a_wait_and_in_little_memory(gpu, deterministic):
    """torchmetrics needs an N x C^2 matrix with deterministic algorithms, and waits for the device without them."""
    torch.use_deterministic_algorithms(deterministic)
    target = torch.randint(0, 50, (400,))
    predictions = torch.where(torch.rand(400) < 0.5, target, torch.randint(0, 50, (400,)))
    target[::7] = -100
    task = ls.Multiclass(50, ordinal=True, missing=-100)
    names = ("quadratic_kappa", "accuracy")
    metrics = [ConfusionMatrix(task), *(ls.make_metrics(task, names=name)[name] for name in names)]
    on_device, before = (predictions.cuda(), target.cuda()), len(gpu.waits)
    metrics = [metric.cuda() for metric in metrics]
    gpu.largest, moved = 0, len(gpu.waits)
    metrics[0].update(*on_device)
    for metric in metrics[1:]:
        metric.accumulate(MetricInput(task, torch.empty(0), on_device[1], on_device[0]))
    assert gpu.largest <= 50 * 50
    assert [*map(str, gpu.waits[moved:])] == []
    assert before < moved  # moving waits
    counts, kappa, scores = metrics[0].compute(), metrics[1].summarize(), metrics[2].summarize()
    counts, kappa, scores = counts.cpu(), kappa.cpu(), scores.cpu()
    known = target != -100
    truth, predicted = target[known].numpy(), predictions[known].numpy()
    labels = [*range(50)]
    np.testing.assert_array_equal(counts, sk.confusion_matrix(truth, predicted, labels=labels))
    assert kappa.item() == pytest.approx(
        sk.cohen_kappa_score(truth, predicted, weights="quadratic", labels=labels)
    )
    matrices = sk.multilabel_confusion_matrix(truth, predicted, labels=labels)
    expected = [matrices[:, 1, 1], matrices[:, 0, 1], matrices[:, 1, 0], matrices[:, 0, 0]]
    np.testing.assert_array_equal(scores, expected)


def test_a_wait_in_a_step_is_caught(gpu):
    class Waiting(Weighted):
        def training_step(self, batch, batch_idx):
            loss = self.step(batch).loss
            self.seen = loss.item()
            return loss

    watch = fit(gpu, Waiting(TASKS["multiclass"], torch.nn.Linear(8, 10)))
    line = test_a_wait_in_a_step_is_caught.__code__.co_firstlineno + 4
    assert watch.train == {f"item() at {__file__}:{line}": 8}  # two epochs with four counted steps each
