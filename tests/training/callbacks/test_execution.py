"""StepsPerExecution: training is bit-identical to one step in each iteration of Lightning's loop."""

import lightning.pytorch as L
import polars as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger
from new_process import run_ranks
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lossselect as ls
from lossselect.data.batches import TensorBatches
from lossselect.exceptions import ConfigError

TASKS = {"binary": ls.Binary(), "multiclass": ls.Multiclass(3), "multilabel": ls.Multilabel(4)}
ROWS, BATCH = 13 * 19 + 5, 13  # 20 batches, the last one shorter


def net(task):
    return nn.Sequential(
        nn.Linear(7, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, task.num_outputs)
    )


def arrays(task):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(ROWS, 7, generator=generator)
    return inputs, task.encode(task.predict(inputs[:, : task.num_outputs]))


def tensor_loader(task, **options):
    return TensorBatches(*arrays(task)).loader(BATCH, **options)


def user_loader(task, shuffle=False, **options):
    return DataLoader(TensorDataset(*arrays(task)), BATCH, shuffle=shuffle, **options)


class Steps(Callback):
    """Records the steps of a run at which it validates and saves."""

    def __init__(self):
        self.validated_at, self.saved_at = [], []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.validated_at.append(trainer.global_step)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        self.saved_at.append(trainer.global_step)


def fit(
    tmp_path,
    steps,
    task=TASKS["multiclass"],
    make=tensor_loader,
    module=ls.TaskModule,
    callbacks=(),
    module_options=None,
    **options,
):
    torch.manual_seed(0)
    built = module(task, net(task), **(module_options or {"optimizer": {"name": "Adam", "lr": 0.01}}))
    seen = Steps()
    trainer = L.Trainer(
        **{"max_epochs": 2, "accelerator": "cpu", "logger": CSVLogger(tmp_path / str(steps)), **options},
        callbacks=[ls.StepsPerExecution(steps), seen, *callbacks],
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(built, make(task, shuffle=True), make(task))
    return built, trainer, seen


def assert_same(one, other):
    (module, trainer, seen), (module2, trainer2, seen2) = one, other
    for key, value in module.state_dict().items():
        assert torch.equal(value, module2.state_dict()[key]), key
    state, state2 = (t.optimizers[0].state_dict()["state"] for t in (trainer, trainer2))
    for key, entry in state.items():
        for name, value in entry.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, state2[key][name]), name
    assert trainer.global_step == trainer2.global_step
    assert trainer.current_epoch == trainer2.current_epoch
    assert seen.validated_at == seen2.validated_at
    assert seen.saved_at == seen2.saved_at
    logged, logged2 = trainer.callback_metrics, trainer2.callback_metrics
    assert logged.keys() == logged2.keys()
    for name, value in logged.items():
        assert torch.equal(value, logged2[name]), name
    text, text2 = ((trainer.loggers[0].log_dir + "/metrics.csv") for trainer in (trainer, trainer2))
    with open(text) as file, open(text2) as file2:
        assert file.read() == file2.read()


CASES = {
    "plain": {},
    "clipped": {"gradient_clip_val": 0.05},
    "clipped by value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "accumulated": {"accumulate_grad_batches": 3},
    "bf16": {"precision": "bf16-mixed"},
    "bf16, clipped": {"precision": "bf16-mixed", "gradient_clip_val": 0.05},
    "double": {"precision": "64-true"},
    "max_steps within a block": {"max_steps": 27},
    "max_steps of accumulated groups": {"max_steps": 9, "accumulate_grad_batches": 3},
    "a few batches": {"limit_train_batches": 7, "limit_val_batches": 3},
    "a fraction of the batches": {"limit_train_batches": 0.5},
    "validated within an epoch": {"val_check_interval": 6},
    "validated across epochs": {"val_check_interval": 7, "check_val_every_n_epoch": None},
    "validated after a fraction": {"val_check_interval": 0.3},
    "a smoke test": {"fast_dev_run": 3, "logger": False},
    "loaders reloaded": {"reload_dataloaders_every_n_epochs": 1},
}


@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_a_batch_that_is_overfitted(tmp_path):
    assert_same(*(fit(tmp_path, steps, make=user_loader, overfit_batches=1) for steps in (1, 8)))


@pytest.mark.parametrize("make", [tensor_loader, user_loader], ids=["TensorBatches", "DataLoader"])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_is_bit_identical(options, make, tmp_path):
    one, other = (fit(tmp_path, steps, make=make, **options) for steps in (1, 8))
    if options.get("fast_dev_run"):
        for p, q in zip(one[0].parameters(), other[0].parameters(), strict=True):
            assert torch.equal(p, q)
        assert one[1].global_step == other[1].global_step == 3
        return
    assert_same(one, other)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("steps", [2, 20, 64])
def test_is_bit_identical_for_each_task_and_block_size(task, steps, tmp_path):
    assert_same(fit(tmp_path, 1, task), fit(tmp_path, steps, task))


SCHEDULES = {
    "each step": {"name": "OneCycleLR", "max_lr": 0.05, "total_steps": 40},
    "some steps": {"name": "StepLR", "step_size": 3, "gamma": 0.7, "interval": "step"},
    "each epoch": {"name": "CosineAnnealingLR", "T_max": 2},
    "by a metric": {"name": "ReduceLROnPlateau", "patience": 0},
}


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_schedules(schedule, accumulate, tmp_path):
    options = {"optimizer": {"name": "SGD", "lr": 0.1, "momentum": 0.9}, "scheduler": schedule}
    assert_same(
        *(fit(tmp_path, k, module_options=options, accumulate_grad_batches=accumulate) for k in (1, 8))
    )


def test_a_schedule_with_a_frequency(tmp_path):
    class Rare(ls.TaskModule):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), 0.1)
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
            entry = {"scheduler": scheduler, "interval": "step", "frequency": 3}
            return {"optimizer": optimizer, "lr_scheduler": entry}

    assert_same(*(fit(tmp_path, k, module=Rare, module_options={}) for k in (1, 8)))


@pytest.mark.parametrize("optimizer", ["LBFGS", "Rprop", "AdamW"])
def test_optimizers(optimizer, tmp_path):
    options = {"optimizer": {"name": optimizer, "lr": 0.01}}
    assert_same(*(fit(tmp_path, k, module_options=options, max_epochs=1) for k in (1, 8)))


def test_overridden_hooks_run_in_each_step(tmp_path):
    """Hooks of the module and of callbacks get each batch with its index, and run in each step."""
    calls = []

    class Own(ls.TaskModule):
        def training_step(self, batch, batch_idx):
            calls.append(("step", batch_idx, len(batch[1])))
            loss = self.step(batch).loss
            self.log("own", loss, on_step=True, on_epoch=True, batch_size=len(batch[1]))
            return loss

        def on_before_batch_transfer(self, batch, dataloader_idx):
            calls.append(("transfer", len(batch[1])))
            return super().on_before_batch_transfer(batch, dataloader_idx)

        def on_after_backward(self):
            calls.append("backward")

    class Watching(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            calls.append(("optimizer", trainer.global_step))

    runs, seen = [], []
    for steps in (1, 8):
        calls.clear()
        runs.append(
            fit(
                tmp_path,
                steps,
                make=user_loader,
                module=Own,
                callbacks=[Watching()],
                enable_checkpointing=False,
            )
        )
        seen.append([call for call in calls if call != ("transfer", 13)])
    assert seen[0] == seen[1]
    assert sum(call == "backward" for call in seen[0]) == 40
    for p, q in zip(runs[0][0].parameters(), runs[1][0].parameters(), strict=True):
        assert torch.equal(p, q)
    torch.testing.assert_close(*(run[1].callback_metrics["own_epoch"] for run in runs))
    tables = [pl.read_csv(f"{run[1].loggers[0].log_dir}/metrics.csv") for run in runs]
    assert tables[0].filter(pl.col("own_step").is_not_null())["step"].to_list() == [*range(40)]
    assert tables[0]["own_step"].equals(tables[1]["own_step"])
    steps = [table.filter(pl.col("own_epoch").is_not_null())["step"].to_list() for table in tables]
    assert steps[0] == steps[1] == [19, 39]


def test_a_loader_with_custom_batches(tmp_path):
    def collated(task, shuffle=False):
        def doubled(batch):
            return batch._replace(inputs=batch.inputs * 2)

        return DataLoader(TensorBatches(*arrays(task)), BATCH, shuffle=shuffle, collate_fn=doubled)

    class Centred(TensorBatches):
        def __getitems__(self, indices):
            batch = super().__getitems__(indices)
            return batch._replace(inputs=batch.inputs - batch.inputs.mean(0))

    def centred(task, **options):
        return Centred(*arrays(task)).loader(BATCH, **options)

    for make in (collated, centred):
        assert_same(*(fit(tmp_path, k, make=make) for k in (1, 8)))


def test_overrides_get_the_batches_of_the_loader(tmp_path):
    class OwnStep(ls.TaskModule):
        def step(self, batch):
            assert type(batch) is list
            out = super().step(batch)
            out.loss = out.loss + 0.1 * out.logits.square().mean()
            return out

    class Weighted(ls.TaskModule):
        def unpack_batch(self, batch):
            inputs, target = batch
            return inputs, target, inputs[:, 0].abs()

    for module, make in ((OwnStep, user_loader), (Weighted, user_loader), (Weighted, tensor_loader)):
        assert_same(*(fit(tmp_path, k, module=module, make=make) for k in (1, 8)))


def test_a_dict_with_one_loader(tmp_path):
    class OwnStep(ls.TaskModule):
        def training_step(self, batch, batch_idx):
            return self.step(batch["rows"])

    def in_dict(task, shuffle=False):
        loader = tensor_loader(task, shuffle=shuffle)
        return {"rows": loader} if shuffle else loader

    assert_same(*(fit(tmp_path, k, module=OwnStep, make=in_dict) for k in (1, 8)))


def test_forward_may_log(tmp_path):
    class Logs(ls.TaskModule):
        def forward(self, x):
            if self.training:
                self.log("seen", x.mean(), batch_size=len(x))
            return self.net(x)

    one, other = (fit(tmp_path, k, module=Logs) for k in (1, 8))
    assert "seen" in other[1].callback_metrics
    assert_same(one, other)
    logged = pl.read_csv(f"{other[1].loggers[0].log_dir}/metrics.csv")
    assert logged["seen"].drop_nulls().len() == 40


def test_an_optimizer_that_needs_its_closure(tmp_path):
    class RequiresClosure(torch.optim.SGD):
        def step(self, closure):
            return super().step(closure)

    options = {"optimizer": lambda parameters: RequiresClosure(parameters, 0.1)}
    assert_same(*(fit(tmp_path, k, module_options=options) for k in (1, 8)))


@pytest.mark.parametrize("on_step", [False, True])
def test_epoch_means_of_several_hooks_that_log(on_step, tmp_path):
    class Logs(ls.TaskModule):
        def training_step(self, batch, batch_idx):
            loss = self.step(batch).loss
            self.log("own", loss, on_step=False, on_epoch=True, batch_size=len(batch[1]))
            return loss

        def on_before_optimizer_step(self, optimizer):
            self.log("lr", optimizer.param_groups[0]["lr"], on_step=on_step, on_epoch=True, batch_size=13)

    assert_same(*(fit(tmp_path, k, module=Logs) for k in (1, 8)))


def test_the_bar_reaches_the_end(tmp_path):
    shown = []

    class Bar(ProgressBar):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            shown.append(batch_idx)

    task, bar = TASKS["multiclass"], Bar()
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        default_root_dir=tmp_path,
        callbacks=[ls.StepsPerExecution(8), bar],
    )
    trainer.fit(ls.TaskModule(task, net(task)), tensor_loader(task))
    assert shown == [7, 15, 19]
    assert "on_train_batch_end" not in vars(bar)


def test_two_callbacks_raise(tmp_path):
    with pytest.raises(ConfigError, match="requires one StepsPerExecution callback, got several"):
        fit(tmp_path, 8, callbacks=[ls.StepsPerExecution(4)])


def test_a_stop_within_a_block_ends_training(tmp_path):
    class Stops(ls.TaskModule):
        def on_before_optimizer_step(self, optimizer):
            self.trainer.should_stop = self.trainer.global_step == 4

    steps = [fit(tmp_path, k, module=Stops)[1].global_step for k in (1, 8)]
    assert steps == [5, 5]


def test_validation_hooks_get_each_batch(tmp_path):
    seen = []

    class Watching(Callback):
        def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
            seen.append((batch_idx, len(batch[1])))

    runs = []
    for k in (1, 8):
        seen.clear()
        fit(tmp_path, k, callbacks=[Watching()])
        runs.append([*seen])
    assert runs[0] == runs[1]


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_the_trainer_fits_again_without_it(tmp_path):
    module, trainer, _ = fit(tmp_path, 8)
    trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, ls.StepsPerExecution)]
    trainer.fit_loop.max_epochs = 3
    task = TASKS["multiclass"]
    trainer.fit(module, tensor_loader(task), tensor_loader(task))
    assert trainer.current_epoch == 3


def test_checkpoints_are_saved_when_they_are_due(tmp_path):
    runs = []
    for steps in (1, 8):
        saving = ModelCheckpoint(tmp_path / f"saved{steps}", every_n_train_steps=6, save_top_k=-1)
        runs.append(fit(tmp_path, steps, callbacks=[saving]))
    assert_same(*runs)
    names = [sorted(path.name for path in (tmp_path / f"saved{k}").iterdir()) for k in (1, 8)]
    assert names[0] == names[1]
    assert len(names[0]) == 6


@pytest.mark.filterwarnings("ignore:.*num_workers.*", "ignore:.*os.fork.*")
def test_workers(tmp_path):
    def make(task, **options):
        return user_loader(task, num_workers=1, **options)

    assert_same(*(fit(tmp_path, k, make=make) for k in (1, 8)))


def test_a_loader_without_an_end(tmp_path):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            inputs, target = arrays(TASKS["multiclass"])
            while True:
                yield inputs[:8], target[:8]

    def make(task, shuffle=False):
        return DataLoader(Endless(), batch_size=None)

    limits = {"limit_val_batches": 2, "max_steps": 11, "max_epochs": -1, "limit_train_batches": 5}
    assert_same(*(fit(tmp_path, k, make=make, **limits) for k in (1, 8)))


def test_unaligned_views_are_copied():
    inputs = torch.randn(6, 3)
    block = TensorBatches(inputs, torch.zeros(6)).block(
        [torch.tensor(rows) for rows in ([0, 1], [2], [3, 4, 5])]
    )
    assert len(block) == 3
    for batch, rows in zip(block, ([0, 1], [2], [3, 4, 5]), strict=True):
        assert torch.equal(batch.inputs, inputs[rows])
        assert batch.inputs.data_ptr() % 64 == 0


class TestErrors:
    def test_an_invalid_number(self):
        with pytest.raises(ConfigError, match=r"steps_per_execution must be a.*, got 0"):
            ls.StepsPerExecution(0)

    def test_another_module(self, tmp_path):
        trainer = L.Trainer(
            callbacks=[ls.StepsPerExecution(4)],
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            default_root_dir=tmp_path,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        with pytest.raises(ConfigError, match="steps_per_execution requires a TaskModule, got BoringModel"):
            trainer.fit(BoringModel())

    def test_manual_optimization(self, tmp_path):
        class Own(ls.TaskModule):
            automatic_optimization = False

        with pytest.raises(ConfigError, match="but Own optimizes manually"):
            fit(tmp_path, 4, module=Own)

    def test_several_loaders(self, tmp_path):
        def make(task, shuffle=False):
            return {"a": tensor_loader(task), "b": tensor_loader(task)} if shuffle else tensor_loader(task)

        with pytest.raises(ConfigError, match="requires one training loader, got 2"):
            fit(tmp_path, 4, make=make)

    def test_weight_averaging(self, tmp_path):
        averaging = L.callbacks.WeightAveraging()
        with pytest.raises(ConfigError, match="cannot be combined with WeightAveraging"):
            fit(tmp_path, 4, callbacks=[averaging])


def test_at_the_command_line(command):
    same = ["task=multiclass", "trainer.max_epochs=2"]
    code, _, _ = command(*same, "trainer.steps_per_execution=16", "hydra.run.dir=blocks")
    assert code == 0
    command(*same, "hydra.run.dir=steps")
    blocks, steps = (
        torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True) for name in ("blocks", "steps")
    )
    assert blocks["global_step"] == steps["global_step"]
    for key, value in blocks["state_dict"].items():
        assert torch.equal(value, steps["state_dict"][key])


@pytest.mark.parametrize("value", ["0", "two", "1.5", "true"])
def test_invalid_values_at_the_command_line(value, command, tmp_path):
    code, _, err = command("task=binary", f"trainer.steps_per_execution={value}")
    assert code == 1
    assert "trainer.steps_per_execution must be a" in err
    assert not [*tmp_path.iterdir()]


TWO_PROCESSES = """
import torch
import lightning.pytorch as L
from torch import nn
import lossselect as ls
from lossselect.data.batches import TensorBatches

torch.set_num_threads(1)


def weights(steps):
    torch.manual_seed(0)
    inputs = torch.randn(203, 8, generator=torch.Generator().manual_seed(1))
    data = TensorBatches(inputs, inputs[:, :3].argmax(1))
    module = ls.TaskModule(ls.Multiclass(3), nn.Linear(8, 3), optimizer={"name": "Adam", "lr": 0.01})
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[ls.StepsPerExecution(steps)],
    )
    trainer.fit(module, data.loader(16, shuffle=True), data.loader(16))
    return trainer.global_step, module.net.weight.detach().clone()


(one, plain), (other, blocks) = weights(1), weights(5)
assert one == other == 14, (one, other)
assert torch.equal(plain, blocks)
torch.distributed.destroy_process_group()  # otherwise gloo's threads may end the process with an error
print("bit-identical in this process")
"""


@pytest.mark.xdist_group("processes")
def test_two_processes(tmp_path):
    """With gloo on this machine."""
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    printed = run_ranks([script], 2, tmp_path)
    assert all("bit-identical in this process" in out for out in printed)
