"""Training on a GPU, or without one on the simulated GPU of tests/helpers/simulated_gpu.py.

Tests with the mark `gpu` need a real GPU, because the simulation does not support what they test.
"""

import contextlib
import json

import pytest
import torch
from simulated_gpu import simulated_gpu

import lossselect as ls
from lossselect.cli import train

# "default", not "error": the warnings of Lightning and torch on a GPU are not known in advance
pytestmark = pytest.mark.filterwarnings("default")
REAL = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _gpu():
    """A real GPU, or a simulated one."""
    with contextlib.nullcontext() if REAL else simulated_gpu():
        yield


def cast(*values):
    """Mark a case with autocast or torch.compile, which the simulation does not support."""
    return pytest.param(*values, marks=pytest.mark.gpu)


TASKS = {"binary": ls.Binary(), "multiclass": ls.Multiclass(10), "multilabel": ls.Multilabel(14)}


@pytest.mark.parametrize("precision", ["32-true", cast("bf16-mixed"), cast("16-mixed")])
@pytest.mark.parametrize("task", TASKS)
def test_trains_as_on_the_cpu(task, precision, tmp_path, monkeypatch):
    def run(folder, *settings):
        epochs = 10 if REAL else 2
        arguments = [
            f"task={task}",
            f"model={'auto' if REAL or task == 'binary' else 'mlp'}",  # the simulation is slow
            f"hydra.run.dir={tmp_path / folder}",
            f"trainer.max_epochs={epochs}",
            "report=false",
            *([] if REAL else ["data.batch_size=128"]),  # as each operation takes longer
            *settings,
        ]
        monkeypatch.setattr("sys.argv", ["train.py", *arguments])
        train.main()
        return json.loads((tmp_path / folder / "metrics.json").read_text())

    gpu = run("gpu", "trainer.accelerator=gpu", f"trainer.precision={precision}")
    cpu = run("cpu", "trainer.accelerator=cpu")
    assert gpu["test/loss"] == pytest.approx(cpu["test/loss"], rel=0.15)
    assert gpu["test/accuracy"] == pytest.approx(cpu["test/accuracy"], abs=0.03)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_all_tensors_are_on_the_device(task, tmp_path):
    import lightning.pytorch as L
    from torch.utils.data import DataLoader, TensorDataset

    seen = []

    class Watching(ls.TaskModule):
        def on_train_batch_end(self, *_):
            self._epochs["train"].first._flush()
            tensors = [*self.parameters(), *self.buffers()]
            epoch = self._epochs["train"].first
            for metric in (epoch.loss, *epoch.metrics.sources.values()):
                for state in metric.metric_state.values():
                    tensors += state if isinstance(state, list) else [state]
            seen.append({tensor.device.type for tensor in tensors})
            assert len(tensors) > 8

    threshold = {} if task.name == "multiclass" else {"threshold": [0.4] * task.num_outputs}
    task = ls.make_task(task.name, task.num_outputs, **threshold)
    loss = {"name": "cross_entropy", "weight": [1.0] * task.num_outputs}
    module = Watching(task, {"name": "linear", "num_features": 8}, loss)
    inputs = torch.randn(64, 8)
    labels = task.predict(torch.randn(64, task.num_outputs))
    data = DataLoader(TensorDataset(inputs, labels), batch_size=16)
    L.Trainer(accelerator="gpu", devices=1, max_epochs=1, logger=False, default_root_dir=tmp_path).fit(
        module, data, data
    )
    assert seen == [{"cuda"}] * 4
    probabilities = task.probabilities(torch.zeros(2, task.num_outputs, device="cuda"))
    assert task.predict_from_probabilities(probabilities).device.type == "cuda"


def options_of(name, task):
    """Return all options of the loss, so that a tensor left on the CPU is noticed."""
    options = {"label_smoothing": 0.1}
    if name == "logit_adjusted":
        options["prior"] = [1 / max(task.num_outputs, 2)] * task.num_outputs
    if name != "zlpr":
        options["weight"] = [2.0] * task.num_outputs
    if task.activation == "sigmoid" and name not in ("zlpr", "dice"):
        options["pos_weight"] = 3.0
    return options


def trailing(name):
    return (5,) if name == "dice" else ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ls.LOSSES)
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_loss_equals_that_on_the_cpu(task, name, dtype):
    if task.activation not in ls.LOSSES[name]:
        pytest.skip("the loss has no form for this task")
    loss = ls.select_loss(task, name, **options_of(name, task))
    logits = (5 * torch.randn(64, task.num_outputs, *trailing(name))).to(dtype)
    target = task.encode(task.predict(torch.randn(64, task.num_outputs, *trailing(name))))
    weight = torch.rand(64)
    on_cpu = loss(logits, target, weight)
    with torch.autocast("cuda", dtype=torch.float16):
        on_gpu = loss.to("cuda")(logits.cuda(), target.cuda(), weight.cuda())
    assert on_gpu.dtype == torch.float32
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mix", [None, "mixup", "cutmix"])
@pytest.mark.parametrize("loss", ls.LOSSES)
@pytest.mark.parametrize("task", [*TASKS.values(), ls.Multiclass(4, ordinal=True)], ids=str)
def test_a_step_does_not_sync(task, loss, mix):
    if task.activation not in ls.LOSSES[loss] or (getattr(task, "ordinal", False) and loss == "one_vs_rest"):
        pytest.skip("the loss has no form for this task")
    if loss == "dice" and mix == "cutmix":
        pytest.skip(
            "cutmix gives each box the weight of its sample, but dice does not support weights of positions"
        )
    options = {"temperature": 1.5}
    if task.activation == "sigmoid":
        options["threshold"] = [0.4] * task.num_outputs
    task = ls.make_task(**{**task.to_dict(), **options})
    width = task.num_probabilities
    spec = {"name": loss, **options_of(loss, ls.make_task(task.name, width if task._width_field else None))}
    module = ls.TaskModule(task, torch.nn.Conv1d(8, task.num_outputs, 1), spec, mix=mix).cuda()
    inputs = torch.randn(64, 8, 5)
    batch = module._encode_batch((inputs, task.predict(torch.randn(64, task.num_outputs, 5))))
    batch = type(batch)(batch.inputs.cuda(), batch.target.cuda(), torch.rand(64).cuda())
    module.training_step(batch, 0)["loss"].backward()  # checks that run once may sync
    module.predict_step(batch, 0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        module.training_step(batch, 1)["loss"].backward()
        module.validation_step(batch, 1)
        module.predict_step(batch, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_fitted_decision_and_the_metrics_equal_those_on_the_cpu(task):
    logits = torch.randn(200, task.num_outputs)
    target = task.encode(task.predict(logits + torch.randn_like(logits)))
    fitted = ls.fit_decision(task, logits.cuda(), target.cuda())
    assert fitted == ls.fit_decision(task, logits, target)
    values = []
    for device in ("cpu", "cuda"):
        metrics = ls.make_metrics(fitted).to(device)
        x = logits.to(device).double()
        metrics.update(fitted.probabilities(x), target.to(device), log_odds=fitted.log_odds(x))
        values.append({name: value.item() for name, value in metrics.compute().items()})
    assert values[1] == pytest.approx(values[0], abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("task", [ls.Multilabel(1000), ls.Multiclass(1000)], ids=lambda task: task.name)
def test_a_chunked_head(task, dtype):
    """Compared with float64 on the CPU; with missing rows and labels, and sample weights."""
    from lossselect.chunked.linear import ChunkedLinear
    from lossselect.chunked.loss import chunked_loss

    inputs, layer = torch.randn(40, 16).to(dtype), torch.nn.Linear(16, 1000).to(dtype)
    if task.name == "multilabel":
        target = (torch.rand(40, 1000) < 0.01).double()
        target[3] = torch.nan
        target[torch.rand(40, 1000) < 0.01] = torch.nan
        sparse = ls.SparseLabels.from_dense(target)
    else:
        sparse = target = torch.randint(0, 1000, (40,)).masked_fill(torch.arange(40) % 5 == 0, -100)
    weight, loss = torch.rand(40), ls.select_loss(task, label_smoothing=0.1)
    exact = torch.nn.Linear(16, 1000).double()
    exact.load_state_dict(layer.state_dict())
    total, count = loss.sum_and_count(exact(inputs.double()), target, weight.double())
    (total / count).backward()
    head = ChunkedLinear.of(layer, 37).cuda()
    on_gpu = inputs.cuda(), sparse.to("cuda"), weight.cuda()
    got = []
    for _ in range(2):
        head.weight.grad = None
        torch.cuda.set_sync_debug_mode("error")  # no step may sync
        try:
            mean, _, _ = chunked_loss(loss.cuda(), head(on_gpu[0]), on_gpu[1], on_gpu[2])
            mean.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        got.append(head.weight.grad.clone())
    assert torch.equal(*got)
    near = 1e-5 if dtype == torch.float32 else 10 * torch.finfo(dtype).eps
    assert mean.item() == pytest.approx((total / count).item(), rel=near)
    largest = exact.weight.grad.abs().max()
    assert (got[0].cpu().double() - exact.weight.grad).abs().max() < near * largest


@pytest.mark.parametrize("head", [None, "chunked"])
@pytest.mark.parametrize("compiled", [False, cast(True)], ids=["plain", "compiled"])
def test_several_steps_per_execution(head, compiled, tmp_path):
    import lightning.pytorch as L

    from lossselect.data.batches import TensorBatches

    if head and compiled:
        pytest.skip("a chunked head does not support torch.compile")
    weights = []
    for steps in (1, 8):
        torch.manual_seed(0)
        inputs = torch.randn(300, 8)
        data = TensorBatches(inputs, inputs[:, :5].argmax(1))
        net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 5))
        module = ls.TaskModule(ls.Multiclass(5), net, head=head)
        if compiled:
            module.compile()
        trainer = L.Trainer(
            max_epochs=2,
            accelerator="gpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            default_root_dir=tmp_path,
            callbacks=[ls.StepsPerExecution(steps)],
        )
        trainer.fit(module, data.loader(16, shuffle=True), data.loader(16))
        weights.append(torch.nn.utils.parameters_to_vector(module.parameters()))
    assert torch.equal(*weights)


def test_data_that_fit_are_kept_on_the_gpu(tmp_path):
    import lightning.pytorch as L

    from lossselect.data.datamodule import TensorData
    from lossselect.data.toy import load

    splits = load("digits", seed=0, val_fraction=0.2, test_fraction=0.2)
    data = TensorData(splits, ls.Multiclass(10), 32)
    expected = next(iter(data.val_dataloader()))
    devices, data_devices = [], []

    class Watching(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            devices.append(batch.inputs.device.type)
            data_devices.append(data.batches["val"].inputs.device.type)

    module = ls.TaskModule(ls.Multiclass(10), torch.nn.Linear(64, 10))
    options = {"accelerator": "gpu", "devices": 1, "logger": False, "default_root_dir": tmp_path}
    trainer = L.Trainer(max_epochs=1, callbacks=[Watching()], enable_checkpointing=False, **options)
    trainer.fit(module, datamodule=data)
    assert set(devices) == set(data_devices) == {"cuda"}
    assert data.batches["val"].inputs.device.type == "cpu"  # like the module after fit
    data.setup("fit")
    batches = data.batches["val"]
    assert batches.device.type == batches.inputs.device.type == batches.target.device.type == "cuda"
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = batches.__getitems__([*range(32)])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(batch.inputs.cpu(), expected.inputs)
    assert torch.equal(batch.target.cpu(), expected.target)
