"""Several tasks with the features of Lightning and of this package that a single task has."""

import math
import warnings

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from simulated_gpu import simulated_gpu
from torch import nn
from torch.utils.data import DataLoader
from trainers import quiet_trainer

import lossselect as ls
from lossselect.data.batches import TensorBatches
from lossselect.exceptions import ConfigError

pytestmark = pytest.mark.filterwarnings(
    "ignore:The dirpath has changed", "ignore:Be aware that when using `ckpt_path`"
)

TASKS = {"species": ls.Multiclass(3, missing=-1), "tags": ls.Multilabel(2), "sick": ls.Binary()}
TASK = ls.MultiTask(TASKS)
LOSS = {
    "tags": {"name": "focal", "pos_weight": 2.0},
    "species": {"name": "cross_entropy", "weight": [1, 2, 3]},
}


def rows(count=96, missing=True):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 8, generator=generator)
    labels = {
        "species": torch.randint(3, (count,), generator=generator),
        "tags": torch.randint(2, (count, 2), generator=generator).float(),
        "sick": (inputs[:, 0] > 0).float(),
    }
    if missing:
        labels["species"][::3], labels["tags"][1::4, 0], labels["sick"][::5] = -1, torch.nan, torch.nan
    return inputs, labels


class Rows(torch.utils.data.Dataset):
    def __init__(self, count=96, missing=True):
        self.inputs, self.labels = rows(count, missing)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, i):
        return self.inputs[i], {name: values[i] for name, values in self.labels.items()}


def module_of(**options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 6))
    return ls.TaskModule(TASK, net, **{"loss": LOSS, "optimizer": {"name": "AdamW", "lr": 0.01}, **options})


def fit(module, data=None, **options):
    data = data or DataLoader(Rows(), 16)
    trainer = quiet_trainer(**{"max_epochs": 2, "enable_checkpointing": False, **options})
    trainer.fit(module, data, data)
    return trainer


def test_an_output_has_logits_and_targets_by_task():
    class Penalised(ls.TaskModule):
        def training_step(self, batch, batch_idx):
            out = self.step(batch)
            assert out.logits.keys() == out.target.keys() == TASKS.keys()
            return out.loss + 1e-3 * out.logits["tags"].square().mean()

    trainer = fit(Penalised(TASK, nn.Linear(8, 6)), max_epochs=1)
    assert math.isfinite(trainer.callback_metrics["train/loss"])


def test_predictions_of_a_loader():
    module = module_of()
    parts = quiet_trainer().predict(module, DataLoader(Rows(), 64))
    assert [part["probabilities"]["species"].shape for part in parts] == [(64, 3), (32, 3)]
    assert parts[1]["prediction"]["tags"].shape == (32, 2)


def test_encoded_targets_in_memory():
    """Batches of an encoded target in one tensor train like those of raw labels by task."""
    inputs, labels = rows()
    encoded = TensorBatches(inputs, TASK.encode_tensor(labels)).loader(16)
    found, expected = (fit(module_of(), data).callback_metrics for data in (encoded, None))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, equal_nan=True)


@pytest.mark.parametrize(("group", "weights"), [(1, None), (2, "uncertainty")])
def test_a_resumed_run_is_bit_identical(group, weights, tmp_path):
    task = ls.MultiTask(TASKS, weights)

    def run(folder, checkpoint=None, **options):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 6))
        module = ls.TaskModule(task, net, LOSS, {"name": "AdamW", "lr": 0.01})
        saved = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=1)
        trainer = quiet_trainer(
            max_epochs=2, callbacks=[saved], accumulate_grad_batches=group, val_check_interval=3, **options
        )
        train = TensorBatches(*_encoded()).loader(16, shuffle=True, seed=1)
        trainer.fit(module, train, TensorBatches(*_encoded()).loader(16), ckpt_path=checkpoint)
        return module, trainer

    def _encoded():
        inputs, labels = rows()
        return inputs, task.encode_tensor(labels)

    whole, trainer = run(tmp_path / "whole")
    checkpoints = sorted((tmp_path / "whole").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    assert len(checkpoints) >= 5
    for checkpoint in checkpoints[1:4]:
        resumed, again = run(tmp_path / f"from {checkpoint.stem}", checkpoint)
        for name, weight in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], weight), name
        for name, value in trainer.callback_metrics.items():
            assert torch.equal(again.callback_metrics[name], value), name


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precision(precision):
    found = []
    for kind in ("32-true", precision):
        torch.manual_seed(0)
        found.append(fit(module_of(), precision=kind).callback_metrics["val/loss"].item())
    assert found[1] == pytest.approx(found[0], rel=1e-5 if precision == "64-true" else 0.02)


def test_bfloat16_does_not_round_class_indices():
    """With precision=bf16-true Lightning converts floats of batches, also those of encoded targets."""
    task = ls.MultiTask({"word": ls.Multiclass(1000), "sick": ls.Binary()})
    labels = {"word": torch.arange(513, 523), "sick": torch.arange(10) % 2}
    data = TensorBatches(torch.randn(10, 4), task.encode_tensor(labels)).loader(10)
    seen = []

    class Records(ls.TaskModule):
        def training_step(self, batch, batch_idx):
            out = self.step(batch)
            seen.append(out.target["word"])
            return out.loss

    with ls.ignore_warnings("class_without_rows", "one_class"):
        fit(Records(task, nn.Linear(4, 1001)), data, precision="bf16-true", max_epochs=1, limit_val_batches=0)
    assert torch.equal(seen[0], labels["word"])


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_batches(mix, monkeypatch):
    """The loss of a mixed batch is the mean of the losses with both labels, weighted by the factor."""
    monkeypatch.setattr("lossselect.training.batches.mixup._draw_factor", lambda alpha: 0.3)
    monkeypatch.setattr(torch, "randperm", lambda count, device: torch.arange(count).flip(0))
    task = ls.MultiTask(TASKS)
    inputs = torch.randn(64, 8, 5, generator=torch.Generator().manual_seed(0))
    labels = rows(64, missing=False)[1]
    net = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 6))
    module = ls.TaskModule(task, net, mix=mix)
    mixed = module._mix(module._encode_batch((inputs, labels)), task)
    factor = 0.3
    if mix == "cutmix":
        kept = mixed.inputs == inputs
        factor = kept.float().mean().item()
        torch.testing.assert_close(mixed.inputs, torch.where(kept, inputs, inputs.flip(0)))
        assert 0 < factor < 1
    else:
        torch.testing.assert_close(mixed.inputs, 0.3 * inputs + 0.7 * inputs.flip(0))
    logits = net(mixed.inputs)
    expected = 0.0
    for name, z in task.split_logits(logits).items():
        loss, target = ls.select_loss(TASKS[name]), TASKS[name].encode(labels[name])
        expected += factor * loss(z, target) + (1 - factor) * loss(z, target.flip(0))
    torch.testing.assert_close(module._compute_loss(logits, mixed.target, None).loss, expected)


@pytest.mark.slow
def test_a_compiled_step():
    expected = fit(module_of(), max_epochs=1).callback_metrics
    module = module_of()
    module.compile(backend="aot_eager")
    found = fit(module, max_epochs=1).callback_metrics
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5, equal_nan=True)


def test_several_loaders():
    module = module_of(loader_names=["first", "second"])
    loader = DataLoader(Rows(), 16)
    (first, second) = quiet_trainer().validate(module, [loader, loader], verbose=False)
    assert first["val/loss"] == first["val/first/loss"] == second["val/second/loss"]
    assert first["val/first/tags/accuracy"] == second["val/second/tags/accuracy"]


def test_a_loader_must_not_be_called_like_a_task():
    module = module_of(loader_names=["tags", "second"])
    loader = DataLoader(Rows(), 16)
    with pytest.raises(ConfigError, match="'tags', is also the name of a task"):
        quiet_trainer().validate(module, [loader, loader], verbose=False)


def test_a_metric_of_a_task_is_monitored(tmp_path):
    found = []

    class Records(L.Callback):
        def on_validation_epoch_end(self, trainer, module):
            if not trainer.sanity_checking:
                found.append(trainer.callback_metrics["val/tags/f1_macro"])

    best = ModelCheckpoint(tmp_path, monitor="val/tags/f1_macro", mode="max")
    trainer = fit(module_of(), callbacks=[Records(), best], enable_checkpointing=True)
    assert len(found) == 2
    assert best.best_model_score == max(found)
    stops = EarlyStopping("val/tags/f1_macr", mode="max")
    with pytest.raises(ConfigError, match=r"Did you mean 'val/tags/f1_macro'"):
        fit(module_of(), callbacks=[stops])
    assert trainer.current_epoch == 2


class Waits(L.Callback):
    """Collects the waits of each step after the second of an epoch, as in test_device_semantics."""

    def __init__(self, gpu):
        self.gpu, self.found, self.steps, self.mark = gpu, [], 0, 0

    def on_train_epoch_start(self, trainer, module):
        self.steps = 0

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.steps += 1
        if self.steps > 2:
            self.found += map(str, self.gpu.waits[self.mark :])
        self.mark = len(self.gpu.waits)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("weights", "options", "in_memory"),
    [(None, {}, True), ({"tags": 2.0}, {"accumulate_grad_batches": 3}, False), ("uncertainty", {}, False)],
)
def test_no_step_waits_for_a_gpu(weights, options, in_memory):
    with simulated_gpu() as gpu:
        task = ls.MultiTask(TASKS, weights)
        inputs, labels = rows(192)
        data = DataLoader(Rows(192), 16, pin_memory=True)
        if in_memory:
            batches = TensorBatches(inputs, task.encode_tensor(labels))
            batches.pins = True
            data = batches.loader(16)
        module = ls.TaskModule(task, nn.Linear(8, 6), LOSS)
        watch = Waits(gpu)
        extras = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
        trainer = L.Trainer(
            accelerator="gpu",
            devices=1,
            max_epochs=2,
            callbacks=[watch],
            **dict.fromkeys(extras, False),
            **options,
        )
        trainer.fit(module, data, data)
        assert watch.found == []
        assert watch.steps == 12
        assert math.isfinite(trainer.callback_metrics["val/loss"])


class ForCLI(ls.TaskModule):
    def __init__(self, task: ls.MultiTask, width: int = 4):
        super().__init__(task, nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 6)))


class DataForCLI(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Rows(), 16)

    val_dataloader = test_dataloader = train_dataloader


def test_lightning_cli_tests_a_checkpoint(tmp_path):
    cli = pytest.importorskip("lightning.pytorch.cli")
    pytest.importorskip("jsonargparse")
    tasks = {
        "species": {"class_path": "lossselect.Multiclass", "init_args": {"num_classes": 3, "missing": -1}},
        "tags": {"class_path": "lossselect.Multilabel", "init_args": {"num_labels": 2}},
        "sick": {"class_path": "lossselect.Binary"},
    }
    task = {"class_path": "lossselect.MultiTask", "init_args": {"tasks": tasks, "weights": {"sick": 2}}}
    run = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    settings = {"model": {"task": task}, "trainer": {**run, "max_epochs": 1, "default_root_dir": tmp_path}}

    def run_cli(command, **more):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return cli.LightningCLI(
                ForCLI,
                DataForCLI,
                save_config_callback=None,
                args={"subcommand": command, command: {**settings, **more}},
            )

    run_cli("fit").trainer.save_checkpoint(path := tmp_path / "model.ckpt")
    tested = run_cli("test", ckpt_path=str(path))
    assert tested.model.task == ls.MultiTask(TASKS, {"sick": 2})
    assert "test/tags/accuracy" in tested.trainer.callback_metrics
    assert ForCLI.load_from_checkpoint(path).task == tested.model.task


def test_a_loss_of_other_tasks():
    loss = ls.TaskModule(task=TASK, net=nn.Linear(8, TASK.num_outputs)).criterion
    with pytest.raises(ConfigError, match="for the tasks species, tags, sick, but the task is binary"):
        ls.TaskModule(task=ls.Binary(), net=nn.Linear(8, 1), loss=loss)
    with pytest.raises(
        ConfigError, match="for the tasks species, tags, sick, but the task is several tasks: a "
    ):
        ls.TaskModule(task=ls.MultiTask({"a": ls.Binary(), "b": ls.Binary()}), net=nn.Linear(8, 2), loss=loss)
    with pytest.raises(ConfigError, match=r"loss is for binary, but the task is .*\(Task 'species'\.\)"):
        ls.TaskModule(task=TASK, net=nn.Linear(8, TASK.num_outputs), loss=ls.select_loss(ls.Binary()))
