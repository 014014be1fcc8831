"""best.ckpt and last.ckpt: their content, and the equal files of a killed and resumed run."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from new_process import Program
from paths import ROOT
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from trainers import quiet_trainer

import lossselect as ls
from lossselect.training.checkpoints.content import read_checkpoint
from lossselect.training.checkpoints.saving import BestCheckpoint, LastCheckpoint, saves_at_epoch_end
from lossselect.utils import atomic_write as files

pytestmark = pytest.mark.filterwarnings(
    "ignore:The dirpath has changed", "ignore:Checkpoint directory .* exists"
)


def leaves(value, path=""):
    """Yield each plain value and tensor of a checkpoint with its path."""
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], f"{path}/{key}")
    elif isinstance(value, list | tuple):
        yield f"{path}/length", len(value)
        for i, entry in enumerate(value):
            yield from leaves(entry, f"{path}/{i}")
    else:
        yield path, value


def differences(one, other):
    one, other = dict(leaves(one)), dict(leaves(other))
    different = [*(one.keys() ^ other.keys())]
    for path in one.keys() & other.keys():
        a, b = one[path], other[path]
        if isinstance(a, torch.Tensor):
            same = (
                isinstance(b, torch.Tensor)
                and a.dtype == b.dtype
                and a.numpy().tobytes() == b.numpy().tobytes()
            )
        else:
            same = type(a) is type(b) and (a == b or (a != a and b != b))
        if not same:
            different.append(path)
    return different


class Peaks(ls.TaskModule):
    """Logs a metric that is best at the second validation."""

    scores = (0.2, 0.9, 0.5, 0.7, 0.1, 0.3, 0.4, 0.8)
    validations = 0

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            self.log("val/score", self.scores[self.validations % 8])
            self.validations += 1


def fit(folder, monitor="val/score", callbacks=(), at_epoch_end=None, **options):
    torch.manual_seed(0)
    rows = TensorDataset(torch.randn(32, 3), torch.arange(32).reshape(-1, 1) % 2.0)
    options = {"max_epochs": 4, "num_sanity_val_steps": 0, **options}
    at_epoch_end = saves_at_epoch_end(monitor, options) if at_epoch_end is None else at_epoch_end
    best = BestCheckpoint(folder, monitor, "max", at_epoch_end)
    trainer = quiet_trainer(callbacks=[best, *callbacks, LastCheckpoint(best)], **options)
    trainer.fit(Peaks(ls.Binary(), nn.Linear(3, 1)), DataLoader(rows, 4), DataLoader(rows, 16))
    return [read_checkpoint(folder / name) for name in ("best.ckpt", "last.ckpt")]


def state_of_best(content):
    return next(state for key, state in content["callbacks"].items() if key.startswith("BestCheckpoint"))


@pytest.mark.parametrize(
    ("options", "best_step", "last_step"),
    [
        ({}, 16, 32),
        ({"val_check_interval": 0.25, "max_epochs": 2}, 4, 16),
        ({"check_val_every_n_epoch": 2, "max_epochs": 7}, 32, 56),  # the last epoch is not validated
        ({"val_check_interval": 3, "check_val_every_n_epoch": None}, 6, 32),
        ({"val_check_interval": 1, "max_epochs": 1}, 2, 8),
        ({"max_steps": 27}, 16, 27),
        ({"limit_train_batches": 5}, 10, 20),
        ({"monitor": "last"}, 32, 32),
        ({"monitor": "last", "val_check_interval": 0.5}, 32, 32),
        ({"monitor": "last", "limit_val_batches": 0}, 32, 32),
        ({"user_callbacks": True}, 16, 32),
    ],
    ids=str,
)
def test_last_is_the_latest_state(options, best_step, last_step, tmp_path):
    options = dict(options)
    own = [ModelCheckpoint(tmp_path / "own")] if options.pop("user_callbacks", False) else []
    best, last = fit(tmp_path, callbacks=own, **options)
    assert (best["global_step"], last["global_step"]) == (best_step, last_step)
    assert state_of_best(best)["best_model_score"] == state_of_best(last)["best_model_score"]
    if best_step == last_step:
        assert not differences(best, last)


def test_after_each_validation(tmp_path, monkeypatch):
    """A killed run loses at most the batches since the last validation."""
    steps = []
    replace = os.replace

    def seen(source, target):
        replace(source, target)
        if Path(target).name == "last.ckpt":
            steps.append(read_checkpoint(target)["global_step"])

    monkeypatch.setattr(files.os, "replace", seen)
    fit(tmp_path, val_check_interval=0.25, max_epochs=2)
    assert steps == [2, 4, 6, 8, 10, 12, 14, 16]


def test_a_state_is_serialised_once(tmp_path, monkeypatch):
    written = []
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: (written.append(content), save(content, file)))
    fit(tmp_path, "last")
    assert len(written) == 4  # one for each of 4 epochs, which is both the best and the last
    best = (tmp_path / "best.ckpt").read_bytes()
    (tmp_path / "last.ckpt").write_bytes(b"")
    assert (tmp_path / "best.ckpt").read_bytes() == best  # two files, not two links to one file


def test_the_state_of_user_callbacks_is_up_to_date(tmp_path):
    own = ModelCheckpoint(tmp_path / "own", "{epoch}", monitor="val/score", mode="max", save_top_k=2)
    _, last = fit(tmp_path, callbacks=[own], max_epochs=2)  # both save the second epoch as the best
    kept = next(state for key, state in last["callbacks"].items() if key.startswith("ModelCheckpoint"))
    assert kept["best_model_score"] == state_of_best(last)["best_model_score"] == pytest.approx(0.9)


def copy_after_each_checkpoint(patch, run):
    """Copy the run folder after each checkpoint that is written, as kill -9 would leave it at that time."""
    replace = os.replace
    copies = []

    def replace_and_copy(source, target):
        replace(source, target)
        if Path(target).suffix == ".ckpt":
            copies.append(run.with_name(f"killed.{len(copies) + 1}"))
            shutil.copytree(run, copies[-1])

    patch.setattr(files.os, "replace", replace_and_copy)
    return copies


SETTINGS = (
    *("task=binary", "hydra.run.dir=run", "resume=auto", "report=false", "model.hidden=[8]"),
    *("scheduler=none", "optimizer.lr=.1", "+trainer.limit_train_batches=4", "trainer.max_epochs=4"),
)
# with this high learning rate the loss goes up and down, so that each step matters
PLATEAU = ("scheduler=plateau", "scheduler.patience=0", "scheduler.factor=.7", "optimizer.lr=.3")
RUNS = {
    "an up-and-down metric": ("monitor=val/f1", "trainer.max_epochs=5"),
    "the last epoch": ("monitor=last",),
    "without validation": ("monitor=train/loss", "+trainer.limit_val_batches=0", "decision=none"),
    "within epochs and groups": (
        *("monitor=val/f1", "+trainer.val_check_interval=.25", "trainer.accumulate_grad_batches=3"),
        "trainer.max_epochs=2",
    ),
    "every other epoch": ("monitor=val/f1", "+trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3"),
    "ended by steps": ("monitor=val/f1", "++trainer.max_steps=10"),
    "plateau": ("monitor=val/f1", *PLATEAU),
    "plateau of the training loss": ("monitor=train/loss", "+scheduler.monitor=train/loss", *PLATEAU),
    "plateau within epochs": ("monitor=val/f1", "+trainer.val_check_interval=.5", *PLATEAU),
    "plateau at the last step": (
        *("monitor=val/f1", *PLATEAU, "+scheduler.interval=step", "+scheduler.frequency=4"),
    ),
    "plateau at each validation": (
        *("monitor=val/f1", "+trainer.val_check_interval=.5", *PLATEAU),
        *("+scheduler.interval=step", "+scheduler.frequency=2"),
    ),
}


def results(folder):
    """Return the results of a run, without the lines of its plan about resuming."""
    names = ("metrics.json", "predictions.csv", "per_class.csv", "logs/metrics.csv")
    left = {name: (folder / name).read_bytes() for name in names}
    lines = json.loads((folder / "plan.json").read_text())["lines"]
    left["plan"] = [line for line in lines if line["name"] not in ("resumed", "previous_run")]
    checkpoints = (folder / "checkpoints").glob("*.ckpt")
    return left, {path.name: read_checkpoint(path) for path in checkpoints}


@pytest.mark.parametrize("case", RUNS)
def test_a_killed_and_resumed_run_leaves_the_same_files(case, command, monkeypatch, tmp_path):
    settings = (*SETTINGS, *RUNS[case])
    with monkeypatch.context() as patch:
        killed = copy_after_each_checkpoint(patch, tmp_path / "run")
        assert command(*settings)[0] == 0
    expected, checkpoints = results(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    # killed after the first best.ckpt (without last.ckpt), in the middle, after the last checkpoints of
    # training (up to two files with the decision follow), and at the end
    count = len(killed)
    few = case.startswith("plateau") and case != "plateau"  # to save time
    for number in {count // 2, count - 2} if few else {1, count // 2, count - 3, count - 2, count}:
        killed[number - 1].rename(tmp_path / "run")
        code, _, err = command(*settings)
        assert code == 0, err
        left, others = results(tmp_path / "run")
        assert left == expected, number
        assert others.keys() == checkpoints.keys()
        for name, content in checkpoints.items():
            assert not differences(content, others[name]), (number, name)
        shutil.rmtree(tmp_path / "run")


LONG = ("monitor=val/f1", "trainer.max_epochs=25", "callbacks=none")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_kill_9(command, tmp_path):
    arguments = (*SETTINGS, *LONG)
    process = Program([ROOT / "train.py", *arguments], tmp_path)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    while not last.exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    step = read_checkpoint(last)["global_step"]
    assert command(*arguments)[0] == 0
    left, checkpoints = results(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "killed")
    assert command(*arguments)[0] == 0
    expected, others = results(tmp_path / "run")
    assert left == expected
    assert step <= checkpoints["last.ckpt"]["global_step"] == 100
    for name, content in checkpoints.items():
        assert not differences(content, others[name]), name
