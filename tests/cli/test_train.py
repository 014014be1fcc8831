"""Runs by the command line, in this process except for tests of imports."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from new_process import run_program
from paths import ROOT
from train_cases import SHORT, read_csv

import lossselect as ls


@pytest.mark.parametrize(
    ("task", "rows", "first"),
    [("binary", 114, "benign"), ("multiclass", 360, "0"), ("multilabel", 917, "Class1")],
)
def test_the_results_of_a_run(task, rows, first, command, tmp_path):
    code, out, _ = command(f"task={task}", "hydra.run.dir=run", *SHORT)
    assert code == 0
    for word in (
        "Plan",
        "Results",
        "test (default)",
        "f1_macro",
        "cross_entropy (softmax form)" if task == "multiclass" else "cross_entropy (sigmoid form)",
    ):
        assert word in out

    metrics = json.loads(Path("run/metrics.json").read_text())
    for name in ("loss", "accuracy", "f1_micro", "f1_macro", "auroc", "average_precision"):
        assert metrics[f"test/{name}"] >= 0
        assert metrics[f"val/{name}"] >= 0

    table = read_csv("run/predictions.csv")
    assert len(table) == rows
    assert next(name for name in table[0] if name.startswith("p_")) == f"p_{first}"
    module = ls.TaskModule.load_from_checkpoint("run/checkpoints/best.ckpt")
    names = [name for name in table[0] if name.startswith("p_")]
    probabilities = torch.tensor([[float(row[name]) for name in names] for row in table])
    decided = module.task.decode(module.task.predict_from_probabilities(probabilities))
    assert decided == [
        json.loads(row["prediction"]) if task == "multilabel" else row["prediction"] for row in table
    ]
    if task != "multilabel":
        right = sum(row["target"] == row["prediction"] for row in table) / rows
        assert metrics["test/accuracy"] == pytest.approx(right, abs=1e-6)

    logged = read_csv("run/logs/metrics.csv")
    assert {"train/loss", "val/loss", "train/auroc", "val/auroc"} <= set(logged[0])


def test_the_config_is_written_unresolved(command, monkeypatch):
    monkeypatch.setenv("A_SECRET", "hunter2")
    secret = ["+mine=${oc.env:A_SECRET}", "+task.class_names=[no,'${mine}']"]
    code, _, err = command("task=binary", "hydra.run.dir=run", *secret, *SHORT)
    assert code == 0, err
    written = Path("run/.hydra/config.yaml").read_text()
    assert "hunter2" not in written
    assert "${oc.env:A_SECRET}" in written


def test_a_checkpoint_contains_plain_values(command):
    command("task=multilabel", "loss=focal", "loss.gamma=1.5", "hydra.run.dir=run", *SHORT)
    content = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    assert content["hyper_parameters"]["loss"] == {"name": "focal", "gamma": 1.5}
    assert content["hyper_parameters"]["task"]["init_args"]["class_names"][0] == "Class1"
    assert len(content["TensorData"]["features"]["numbers"]) == 103


def test_the_same_seed_gives_the_same_metrics(command):
    results = []
    for run in ("a", "b"):
        command("task=binary", "seed=3", f"hydra.run.dir={run}", *SHORT)
        results.append(Path(run, "metrics.json").read_text())
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "choice",
    [
        ["model=linear"],
        ["optimizer=sgd"],
        ["scheduler=none"],
        ["scheduler=plateau"],
        ["logger=none"],
        ["logger=null", "scheduler=null", "callbacks=null"],
        ["~logger", "~scheduler", "~callbacks"],
        ["monitor=train/loss"],
        ["+trainer.limit_predict_batches=1"],
        ["trainer.precision=bf16-mixed"],
        ["monitor=val/f1_macro"],
        ["loss.weight=[1]", "loss.pos_weight=2", "loss.label_smoothing=0.1"],
        ["data=digits", "task=multiclass"],
        ["experiment=yeast_focal", "task=multilabel"],
    ],
    ids=" ".join,
)
def test_choices(choice, command):
    code, _, err = command("task=binary", *choice, "hydra.run.dir=run", *SHORT)
    assert code == 0, err
    assert Path("run/metrics.json").exists()


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_a_smoke_test(command):
    code, out, err = command("task=binary", "+trainer.fast_dev_run=true", "hydra.run.dir=run", *SHORT)
    assert code == 0, err
    assert "Nothing was saved." in out
    assert not list(Path("run").rglob("*.ckpt"))
    command("task=binary", "hydra.run.dir=run", *SHORT)
    before = {
        path: path.read_bytes()
        for path in Path("run").rglob("*")
        if path.suffix in (".ckpt", ".json", ".csv")
    }
    command("task=binary", "+trainer.fast_dev_run=true", "logger=none", "hydra.run.dir=run", *SHORT)
    assert before == {path: path.read_bytes() for path in before}


def test_a_callback_monitors_its_own_metric_and_its_direction(command, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "lightning.pytorch.callbacks.EarlyStopping.on_fit_end",
        lambda s, *_: seen.append((s.monitor, s.mode)),
        raising=False,
    )
    command("task=multilabel", "callbacks.early_stopping.monitor=val/loss", "hydra.run.dir=a", *SHORT)
    command("task=multilabel", "scheduler=none", "hydra.run.dir=b", *SHORT)
    command("task=multilabel", "hydra.run.dir=c", *SHORT)  # annealed: early stopping is left out
    assert seen == [("val/loss", "min"), ("val/average_precision", "max")]


def test_a_name_is_checked_before_heavy_imports(tmp_path):
    commands = [
        "--help",
        "",
        "task=multilable",
        "task=binary epochs=3",
        "task=binary +epochs=3",
        "--task multilabel",
        "multilabel",
        "task=binary loss=focl",
        "task=binary loss=focal loss.gama=1",
        "task=binary trainer.max_epoch=1",
        "task=binary data.name=yest",
        "task=binary model.name=mpl",
        "task=binary +model.width=3",
    ]
    code = f"""
import sys, lossselect.cli.train
found = {{}}
for command in {commands}:
    sys.argv, code = ["train.py", *command.split()], 0
    try:
        lossselect.cli.train.main()
    except SystemExit as stop:
        code = stop.code or 0
    found[command] = code, [name for name in ("torch", "lightning", "torchmetrics") if name in sys.modules]
print(found)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.splitlines()[-1] == str(
        {command: (int(command != "--help"), []) for command in commands}
    )


def test_help(command):
    code, out, _ = command("--help")
    assert code == 0
    for words in (
        "task=multilabel",
        "loss       auto, cross_entropy, asymmetric, dice, focal",
        "metrics.json",
        "trainer.max_epochs=10",
    ):
        assert words in out


def test_train_py_in_the_repository_is_the_same_command(tmp_path):
    environment = {**os.environ, "HYDRA_FULL_ERROR": ""}
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "task=multilable"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "Unknown task 'multilable'. Did you mean 'multilabel'? "
        "Choose one of: auto, binary, multiclass, multilabel, several.\n"
    )


def test_a_new_row_of_the_table_of_losses_is_a_choice_of_the_command_line(tmp_path):
    """No config and no list of names is changed, only the table."""
    code = f"""
import sys, lossselect, lossselect.cli.train
def squared(logits, target, power=2.0):
    return (logits.sigmoid() - target).abs() ** power
lossselect.LOSSES["squared"] = {{"sigmoid": squared}}
for arguments in (["task=binary", "loss=squared", "loss.power=3"], ["task=multiclass", "loss=squared"]):
    sys.argv = ["train.py", "hydra.run.dir=run", "report=false", *{SHORT}, *arguments]
    lossselect.cli.train.main()
"""
    done = run_program(["-c", code], tmp_path)
    assert done.returncode == 1, done.stderr
    assert "squared (sigmoid form)" in done.stdout
    content = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)
    assert content["hyper_parameters"]["loss"] == {"name": "squared", "power": 3}
    assert "Loss 'squared' has no softmax form, which task=multiclass requires." in done.stderr


TO_RESUME = (
    "checkpoints/best.ckpt, checkpoints/last.ckpt. To resume, add hydra.run.dir={} resume=auto to the same "
    "settings"
)


@pytest.mark.parametrize(("epoch", "left"), [(0, "no checkpoint yet"), (1, TO_RESUME)])
def test_an_interrupted_run_lists_its_checkpoints(epoch, left, command, monkeypatch, tmp_path):
    step = ls.TaskModule.training_step

    def interrupted(self, batch, batch_idx):
        if self.current_epoch == epoch and batch_idx == 3:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ls.TaskModule, "training_step", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    try:
        code, _, err = command("task=binary", "hydra.run.dir=r")
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning has replaced it
    assert code == 130
    assert f"Interrupted after {epoch * 7 + 3} steps. In " in err
    assert err.strip().endswith(f"r: {left.format(tmp_path / 'r')}.")
    assert "Traceback" not in err


def test_a_run_interrupted_in_its_evaluation(command, monkeypatch, tmp_path):
    def interrupted(*args):
        raise KeyboardInterrupt

    run = ("task=binary", "hydra.run.dir=r", "trainer.max_epochs=1", "resume=auto")
    with monkeypatch.context() as patched:
        patched.setattr("lossselect.run.results.evaluation.evaluate", interrupted)
        code, _, err = command(*run)
    assert code == 130
    assert err.strip().endswith(
        f"Interrupted after 7 steps. In {tmp_path / 'r'}: {TO_RESUME.format(tmp_path / 'r')}."
    )
    code, out, err = command(*run)
    assert code == 0, err
    assert "after 7 steps" in out


class TestFolder:
    def test_a_file_in_its_place(self, command, tmp_path):
        (tmp_path / "run").touch()
        code, _, err = command("task=multilabel", "hydra.run.dir=run")
        assert code == 1
        assert err.endswith("run is a file. Set hydra.run.dir to another folder.\n")

    @pytest.mark.parametrize(
        "written", ["hydra.core.utils._save_config", "lossselect.utils.atomic_write.os.replace"]
    )
    def test_cannot_be_written(self, written, command, monkeypatch):
        def denied(source, to, *_):
            path = f"{to}/config.yaml" if "hydra" in str(to) else str(to)
            raise PermissionError(errno.EACCES, "Permission denied", path)

        monkeypatch.setattr(
            written, (lambda config, name, to: denied(name, to)) if "hydra" in written else denied
        )
        code, _, err = command("task=multilabel", "hydra.run.dir=run")
        assert code == 1
        assert err.endswith("run is not writable. Set hydra.run.dir to another folder.\n")

    def test_a_closed_pipe(self, tmp_path):
        """After `| head -1` the run still trains to its end."""
        arguments = ["task=multilabel", "trainer.max_epochs=1", "hydra.run.dir=run", "report=false"]
        path = str(ROOT / "train.py")
        code = f"""
import os, runpy, sys
read, write = os.pipe()
os.close(read)
for descriptor, name in ((1, "stdout"), (2, "stderr")):
    os.dup2(write, descriptor)
    setattr(sys, name, open(descriptor, "w"))
sys.argv = {[path, *arguments]}
runpy.run_path({path!r}, run_name="__main__")
"""
        assert run_program(["-c", code], tmp_path).returncode == 0
        assert (tmp_path / "run" / "predictions.csv").is_file()


def test_a_custom_checkpoint_callback_may_refer_to_the_monitor(command, tmp_path):
    own = (
        "_target_=lightning.pytorch.callbacks.ModelCheckpoint",
        "dirpath=own",
        "filename=x",
        "every_n_epochs=2",  # Lightning accepts no two checkpoint callbacks with equal settings
        "monitor='${monitor}'",
    )
    mine = [f"+callbacks.mine.{setting}" for setting in own]
    code, _, err = command("task=binary", "trainer.max_epochs=2", "hydra.run.dir=run", "report=false", *mine)
    assert code == 0, err
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["x.ckpt"]


STOPS = """
from lightning.pytorch import Callback
class Ends(Callback):
    def on_validation_end(self, trainer, module):
        trainer.should_stop = not trainer.sanity_checking
"""


@pytest.mark.filterwarnings("always::lossselect.LossSelectWarning")
def test_a_warning_if_a_custom_callback_stops_the_run(command, tmp_path, monkeypatch):
    name = f"stops_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(STOPS)
    monkeypatch.syspath_prepend(tmp_path)
    settings = ("task=binary", f"+callbacks.own._target_={name}.Ends", "hydra.run.dir=run", "report=false")
    code, _, err = command(*settings)
    assert code == 0
    assert "Warning: Training stopped after epoch 1 of 72, before the learning rate reached 0." in err
    code, _, err = command(*settings, "monitor=last")
    assert (code, err) == (0, "")
