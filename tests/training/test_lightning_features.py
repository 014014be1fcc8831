"""Features of Lightning that a subclass expects to work, with `net=` and with its own forward and constructor."""

import copy
import functools
import io
import pickle
import warnings

import lightning
import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
)
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_summary import ModelSummary
from module_cases import TASKS, loader, trainer
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import lossselect as ls
from lossselect.exceptions import CheckpointError, ConfigError, OptionTypeError


class Own(ls.TaskModule):
    """A subclass with its own forward, constructor and names of layers."""

    def __init__(self, task, hidden=16, **kwargs):
        super().__init__(task, **kwargs)
        self.save_hyperparameters()
        self.backbone = nn.Sequential(nn.Linear(8, hidden), nn.ReLU())
        self.head = nn.Linear(hidden, task.num_outputs)

    def forward(self, x):
        return self.head(self.backbone(x))


def make_net(task):
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, task.num_outputs))


MAKERS = {"net": lambda task, **options: ls.TaskModule(task, net=make_net(task), **options), "own": Own}


@pytest.fixture(params=TASKS)
def task(request):
    return TASKS[request.param]


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def test_the_summary_shows_the_sizes_for_example_inputs(task, make):
    module = make(task)
    module.example_input_array = torch.zeros(2, 8)
    assert f"[2, {task.num_outputs}]" in str(ModelSummary(module, max_depth=2))


@pytest.mark.parametrize("method", ["script", "trace"])
def test_torchscript(task, make, method):
    module = make(task).eval()
    module.example_input_array = torch.zeros(2, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch and Lightning have deprecated TorchScript
        scripted = module.to_torchscript(method=method)
    inputs = torch.randn(4, 8)
    assert torch.equal(scripted(inputs), module(inputs))


def test_copies_train(task, make, tmp_path):
    module, data = make(task), loader(task)
    trainer(tmp_path).fit(module, data)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        trainer(tmp_path).fit(copied, data, data)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    make(task).load_state_dict(torch.load(file, weights_only=True))
    module.freeze()
    module.unfreeze()
    assert module.half().eval().predict(torch.zeros(2, 8).half())["probabilities"].isfinite().all()


def test_a_logger_receives_a_saved_task(task, tmp_path):
    module = Own(task)
    trainer(tmp_path, logger=CSVLogger(tmp_path), log_every_n_steps=1).fit(module, loader(task))
    (file,) = tmp_path.rglob("hparams.yaml")
    assert f"name: {task.name}" in file.read_text()
    assert module.hparams.task == task


class TestLoaders:
    class Semi(Own):
        def training_step(self, batch, batch_idx):
            out = self.step(batch["labelled"])
            return out.loss + 1e-3 * self(batch["unlabelled"][0]).square().mean()

    @pytest.mark.parametrize("mode", [None, "min_size", "max_size_cycle"])
    def test_several_training_loaders(self, task, mode, tmp_path):
        loaders = {"labelled": loader(task), "unlabelled": loader(task, rows=80)}
        run = trainer(tmp_path)
        run.fit(self.Semi(task), CombinedLoader(loaders, mode) if mode else loaders)
        assert run.global_step == (3 if mode == "min_size" else 5)
        assert "train/loss" in run.callback_metrics
        with pytest.raises(ConfigError, match="there are several training loaders"):
            trainer(tmp_path).fit(self.Semi(task, bias_init="prior"), loaders)

    def test_a_combined_batch_without_an_override(self, task, make, tmp_path):
        with pytest.raises(ValueError, match=r"pass one of them to self\.step"):
            trainer(tmp_path).fit(make(task), {"a": loader(task), "b": loader(task)})

    def test_a_combined_validation_loader(self, task, tmp_path):
        class Both(Own):
            def validation_step(self, batch, batch_idx):
                for part in batch.values():
                    if part is not None:
                        self.step(part)

        run = trainer(tmp_path)
        run.fit(Both(task), loader(task), CombinedLoader({"a": loader(task), "b": loader(task)}, "max_size"))
        assert "val/loss" in run.callback_metrics

    @pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
    def test_iterable_data(self, task, make, tmp_path):
        class Rows(IterableDataset):
            def __iter__(self):
                return iter(loader(task).dataset)

        class SizedRows(Rows):
            def __len__(self):
                return 40

        for rows in (Rows(), SizedRows()):
            data, run = DataLoader(rows, batch_size=16), trainer(tmp_path)
            module = make(task)
            run.fit(module, data, data)
            run.test(module, data, verbose=False)
            assert (run.global_step, len(run.predict(module, data))) == (3, 3)
        trainer(tmp_path).fit(make(task, bias_init="prior"), data)
        unsized = DataLoader(Rows(), batch_size=16)
        for limit in (1.0, 2):
            with pytest.raises(ConfigError, match="the training loader has no length"):
                trainer(tmp_path, limit_train_batches=limit).fit(make(task, bias_init="prior"), unsized)

    def test_a_step_that_takes_the_iterator(self, task, tmp_path):
        class Iterating(Own):
            def training_step(self, dataloader_iter):
                batch, _, _ = next(dataloader_iter)
                return self.step(batch).loss

        losses, data = [], loader(task)
        for cls in (Own, Iterating):
            torch.manual_seed(1)
            run = trainer(tmp_path, max_epochs=2)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Lightning: the signature is experimental
                run.fit(cls(task), data)
            losses.append(run.callback_metrics["train/loss"])
        assert losses[0] == losses[1]

    def test_loaders_that_lightning_cannot_create_again(self, task, make, tmp_path):
        class Positional(DataLoader):
            def __init__(self, rows, size):
                super().__init__(rows, size)

        class Fixed(DataLoader):
            def __init__(self):
                super().__init__(loader(task).dataset, batch_size=8)

        for data in (Positional(loader(task).dataset, 8), Fixed()):
            module, run = make(task), trainer(tmp_path)
            run.fit(module, data, data)
            run.test(module, data, verbose=False)
            assert len(run.predict(module, data)) == 5


@pytest.mark.parametrize(
    "options",
    [
        {"fast_dev_run": 2},
        {"overfit_batches": 1},
        {"limit_val_batches": 0, "limit_train_batches": 0.5},
        {"val_check_interval": 2},
        {"check_val_every_n_epoch": 2},
        {"reload_dataloaders_every_n_epochs": 1},
        {"precision": "bf16-true"},
        {"detect_anomaly": True},
        {"inference_mode": False},
        {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_the_trainer(task, make, options, tmp_path):
    data, module = loader(task), make(task, bias_init="prior")
    run = trainer(tmp_path, **{"max_epochs": 2} | options)
    run.fit(module, data, data)
    assert "train/loss" in run.callback_metrics
    run.test(module, data, verbose=False)
    assert run.predict(module, data)


def test_a_negative_gradient_clip_val(task, make, tmp_path):
    with pytest.raises(ConfigError, match="gradient_clip_val must be >= 0, got -1"):
        trainer(tmp_path, gradient_clip_val=-1).fit(make(task), loader(task))


@pytest.mark.parametrize(
    "callback",
    [
        lambda: GradientAccumulationScheduler({0: 2, 1: 1}),
        lambda: StochasticWeightAveraging(1e-2, swa_epoch_start=1),
        EMAWeightAveraging,
        lambda: BackboneFinetuning(unfreeze_backbone_at_epoch=1),
    ],
)
def test_callbacks_of_lightning(task, callback, tmp_path):
    module, run = Own(task), trainer(tmp_path, max_epochs=3, callbacks=[callback()])
    before = module.backbone[0].weight.clone()
    run.fit(module, loader(task), loader(task))
    assert not torch.equal(before, module.backbone[0].weight)
    run.save_checkpoint(tmp_path / "x.ckpt")
    loaded = Own.load_from_checkpoint(tmp_path / "x.ckpt")
    assert torch.equal(loaded.backbone[0].weight, module.backbone[0].weight)


def test_manual_optimization_without_a_training_step(tmp_path):
    module = Own(TASKS["binary"])
    module.automatic_optimization = False
    with pytest.raises(ConfigError, match=r"requires a training_step .*manual_backward\(out\.loss\)"):
        trainer(tmp_path).fit(module, loader(module.task))


def test_a_trainer_that_also_runs_another_module(tmp_path):
    class Plain(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 1)

        def training_step(self, batch, batch_idx):
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    module, both = Own(TASKS["binary"]), trainer(tmp_path)
    both.fit(module, loader(module.task))
    both.fit_loop.epoch_progress.reset()
    both.fit(Plain(), loader(module.task))
    both.fit_loop.epoch_progress.reset()
    both.fit(module, loader(module.task))
    assert "train/loss" in both.callback_metrics


def test_manual_optimization_with_two_optimizers(task, tmp_path):
    class Adversarial(Own):
        def __init__(self, task):
            super().__init__(task)
            self.automatic_optimization = False
            self.generator = nn.Linear(4, 8)

        def training_step(self, batch, batch_idx):
            inputs, labels = batch
            first, second = self.optimizers()
            fake = self.generator(torch.randn(len(inputs), 4))
            self.manual_backward(-self.criterion(self(fake), self.task.encode(labels)))
            first.step()
            second.zero_grad()
            out = self.step((inputs + fake.detach(), labels))
            self.manual_backward(out.loss)
            second.step()
            first.zero_grad()
            self.log("train/own", out.loss)

        def configure_optimizers(self):
            parts = (self.generator, nn.ModuleList([self.backbone, self.head]))
            return [torch.optim.SGD(part.parameters(), 0.1) for part in parts]

    run, module = trainer(tmp_path), Adversarial(task)
    run.fit(module, loader(task), loader(task))
    assert run.global_step == 6
    assert {"train/loss", "train/own", "val/loss"} <= run.callback_metrics.keys()


class TestCompiledNets:
    @pytest.mark.parametrize("saved", [True, False])
    def test_checkpoints_are_interchangeable(self, task, saved, tmp_path):
        compiled = functools.partial(torch.compile, backend="eager")
        nets = (
            [compiled(make_net(task)), make_net(task)]
            if saved
            else [make_net(task), compiled(make_net(task))]
        )
        run, module = trainer(tmp_path), ls.TaskModule(task, net=nets[0])
        run.fit(module, loader(task))
        run.save_checkpoint(tmp_path / "x.ckpt")
        assert "net.0.weight" in torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
        loaded = ls.TaskModule.load_from_checkpoint(tmp_path / "x.ckpt", net=nets[1])
        inputs = torch.randn(4, 8)
        assert torch.equal(loaded(inputs), module(inputs))
        resumed = ls.TaskModule(task, net=nets[1])
        trainer(tmp_path, max_epochs=2).fit(
            resumed, loader(task), ckpt_path=tmp_path / "x.ckpt", weights_only=True
        )
        resumed.load_state_dict(module.state_dict())

    def test_a_module_compiled_as_a_whole(self, task, make, tmp_path):
        module = make(task)
        run = trainer(tmp_path)
        run.fit(torch.compile(module, backend="eager"), loader(task), loader(task))
        assert "training_step" not in vars(module)
        assert "forward" in vars(module)
        assert run.global_step == 3


def test_a_lora_net(task, tmp_path):
    class Adapted(nn.Module):
        """As peft wraps a net: forward accepts anything, and only a few weights are trained."""

        def __init__(self):
            super().__init__()
            self.base = make_net(task).requires_grad_(False)
            self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, task.num_outputs, bias=False)

        def get_base_model(self):
            return self.base

        def forward(self, *args, **kwargs):
            return self.base(*args, **kwargs) + self.up(self.down(*args))

    net = Adapted()
    frozen = net.base[0].weight.clone()
    run, module = trainer(tmp_path), ls.TaskModule(task, net=net)
    run.fit(module, loader(task), loader(task))
    run.predict(module, loader(task))
    assert torch.equal(frozen, net.base[0].weight)


def test_fabric(task, make):
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    module = make(task)
    wrapped, optimizer = fabric.setup(module, module.configure_optimizers())
    wrapped.mark_forward_method("training_step")
    before = [weight.clone() for weight in module.parameters()]
    for index, batch in enumerate(fabric.setup_dataloaders(loader(task))):
        fabric.backward(wrapped.training_step(batch, index)["loss"])
        optimizer.step()
        optimizer.zero_grad()
    assert not all(map(torch.equal, before, module.parameters()))


def test_hooks_of_a_data_module_and_several_fits(task, make, tmp_path):
    class Data(L.LightningDataModule):
        def train_dataloader(self):
            return loader(task)

        val_dataloader = test_dataloader = predict_dataloader = train_dataloader

        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            return [part.to(device) for part in batch]

        def on_after_batch_transfer(self, batch, dataloader_idx):
            inputs, labels = batch
            return inputs + 1, labels

    module, runs = make(task), [trainer(tmp_path), trainer(tmp_path)]
    for run in runs:
        run.fit(module, datamodule=Data())
    runs[0].fit_loop.max_epochs = 2
    runs[0].fit(module, datamodule=Data())
    runs[0].test(module, datamodule=Data(), verbose=False)
    assert runs[1].predict(module, loader(task))


class TestAttributes:
    @pytest.mark.filterwarnings("ignore:Attribute 'value' is an instance")
    def test_common_names_are_free(self, task, tmp_path):
        names = (
            *("metrics", "loss", "watch", "model", "net", "optimizer", "scheduler", "train_metrics"),
            *("accuracy", "weights", "encoder", "labels", "counts", "mix", "num_classes", "class_names"),
            *("bias_init", "base_task", "class_dim", "loader_names", "label_counts", "threshold", "config"),
        )

        class Named(Own):
            def __init__(self, task, value):
                super().__init__(task)
                for name in names:
                    setattr(self, name, value)

        for value in (0.5, nn.Linear(2, 2), {"a": 1}):
            module, run = Named(task, value), trainer(tmp_path, fast_dev_run=True)
            run.fit(module, loader(task), loader(task))
            run.test(module, loader(task), verbose=False)
            run.predict(module, loader(task))
            run.save_checkpoint(tmp_path / "x.ckpt")
            assert all(getattr(module, name) is value for name in names)

    @pytest.mark.parametrize("name", ["step", "predict", "unpack_batch", "training_step", "log"])
    @pytest.mark.parametrize("value", [5, nn.Linear(2, 2)], ids=["int", "module"])
    def test_a_method_cannot_be_hidden(self, make, name, value):
        module = make(TASKS["binary"])
        with pytest.raises(ConfigError, match=rf"self\.{name} is a method of .* Choose another name"):
            setattr(module, name, value)

    def test_functions_replace_methods_and_none_disables_a_hook(self, task, make, tmp_path):
        module = make(task)
        module.unpack_batch = lambda batch: (batch[0] * 2, batch[1])
        module.validation_step = None
        run = trainer(tmp_path)
        run.fit(module, loader(task))
        assert "train/loss" in run.callback_metrics

    @pytest.mark.parametrize("value", [nn.Linear(2, 2), {"a": 1}, 3])
    def test_the_task_has_a_type(self, make, value):
        with pytest.raises(OptionTypeError, match="task must be a task"):
            make(TASKS["binary"]).task = value


class TestForeignCheckpoints:
    def test_another_module(self, task, tmp_path):
        class Plain(L.LightningModule):
            def __init__(self):
                super().__init__()
                self.net = make_net(task)

            def training_step(self, batch, batch_idx):
                return self.net(batch[0]).mean()

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), 0.1)

        run, path = trainer(tmp_path), tmp_path / "plain.ckpt"
        run.fit(Plain(), loader(task))
        run.save_checkpoint(path)
        with pytest.raises(CheckpointError, match=r"is not a checkpoint of .*\.load_state_dict"):
            ls.TaskModule.load_from_checkpoint(path, net=make_net(task))
        module = ls.TaskModule(task, net=make_net(task))
        module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])

    def test_an_older_version(self, task, tmp_path):
        class Fewer(Own):
            def __init__(self, task, hidden=16):
                super().__init__(task, hidden)

        run, path = trainer(tmp_path), tmp_path / "old.ckpt"
        run.fit(Own(task), loader(task))
        run.save_checkpoint(path)
        content = torch.load(path, weights_only=True)
        torch.save(content | {"class": "Fewer", "arguments": {**content["arguments"], "depth": 3}}, path)
        with pytest.raises(CheckpointError, match=r"argument 'depth'.*\.load_state_dict"):
            Fewer.load_from_checkpoint(path)
        del content["base_task"]
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=r"written by another version .*\.load_state_dict"):
            Own.load_from_checkpoint(path)


class ForCLI(ls.TaskModule):
    """A subclass whose arguments LightningCLI reads from the annotations."""

    def __init__(self, task: ls.Task, width: int = 4):
        super().__init__(task)
        self.net = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, self.task.num_outputs))


class DataForCLI(L.LightningDataModule):
    def train_dataloader(self):
        return loader(ls.Multiclass(3))

    val_dataloader = test_dataloader = train_dataloader


@pytest.mark.parametrize("subclass_mode", [False, True])
def test_lightning_cli_tests_a_checkpoint_with_a_task(subclass_mode, tmp_path):
    pytest.importorskip("jsonargparse")
    task = {"class_path": "lossselect.Multiclass", "init_args": {"num_classes": 3, "missing": -1}}
    model = {"task": task, "width": 5}
    if subclass_mode:
        model = {"class_path": f"{__name__}.ForCLI", "init_args": model}
    run = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    settings = {"model": model, "trainer": {**run, "max_epochs": 1, "default_root_dir": str(tmp_path)}}

    def run_cli(command, **more):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return LightningCLI(
                ls.TaskModule if subclass_mode else ForCLI,
                DataForCLI,
                subclass_mode_model=subclass_mode,
                save_config_callback=None,
                args={"subcommand": command, command: {**settings, **more}},
            )

    run_cli("fit").trainer.save_checkpoint(path := tmp_path / "model.ckpt")
    tested = run_cli("test", ckpt_path=str(path))
    assert tested.model.task == ls.Multiclass(3, missing=-1)
    assert "test/accuracy" in tested.trainer.callback_metrics
    assert ForCLI.load_from_checkpoint(path).task == tested.model.task
