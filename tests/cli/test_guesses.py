"""Common first guesses at the command line: the answer names the right setting."""

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hydra._internal.utils import get_args_parser
from paths import ROOT

from lossselect.cli import main as cli
from lossselect.cli.arguments import CHOICES, FLAGS, order_arguments
from lossselect.exceptions import ConfigError
from lossselect.utils.devices import parse_device

GUESSES = [
    ("epochs=3", "Set trainer.max_epochs=3."),
    ("max_epochs=3", "Set trainer.max_epochs=3."),
    ("n_epochs=3", "Set trainer.max_epochs=3."),
    ("num_epochs=3", "Set trainer.max_epochs=3."),
    ("lr=0.1", "Set optimizer.lr=0.1."),
    ("learning_rate=0.1", "Set optimizer.lr=0.1."),
    ("optimizer.learning_rate=0.1", "Set optimizer.lr=0.1."),
    ("optim=adam", "Set optimizer.name=Adam."),
    ("optim=sgd", "Set optimizer=sgd."),
    ("wd=0.1", "Set optimizer.weight_decay=0.1."),
    ("weight_decay=0.1", "Set optimizer.weight_decay=0.1."),
    ("batch_size=8", "Set data.batch_size=8."),
    ("bs=8", "Set data.batch_size=8."),
    ("gpu=1", "Set trainer=gpu."),
    ("gpus=2", "Set trainer=gpu trainer.devices=2."),
    ("gpus=0", "Set trainer=cpu."),
    ("n_gpus=4", "Set trainer=gpu trainer.devices=4."),
    ("cuda=true", "Set trainer=gpu."),
    ("cuda=false", "Set trainer=cpu."),
    ("device=cuda", "Set trainer=gpu."),
    ("device=cuda:1", "Set trainer=gpu trainer.devices=[1]."),
    ("device=cpu", "Set trainer=cpu."),
    ("device=mps", "Set trainer.accelerator=mps."),
    ("accelerator=gpu", "Set trainer=gpu."),
    ("devices=2", "Set trainer=gpu trainer.devices=2."),
    ("trainer.gpus=2", "Set trainer=gpu trainer.devices=2."),
    ("metric=f1", "Set metrics=f1 to log this metric, monitor=val/f1 to choose the best checkpoint"),
    ("metric=f1", "decision.metric=f1 to tune the thresholds"),
    ("num_workers=4", "Remove num_workers."),
    ("workers=4", "Remove workers."),
    ("data.num_workers=4", "Remove data.num_workers."),
    ("patience=5", "callbacks.early_stopping.monitor=val/loss callbacks.early_stopping.patience=5."),
    ("output=runs/a", "Set hydra.run.dir=runs/a."),
    ("output_dir=runs/a", "Set hydra.run.dir=runs/a."),
    ("out=runs/a", "Set hydra.run.dir=runs/a."),
    ("path=a.csv", "Set data=table data.path=a.csv."),
    ("file=a.csv", "Set data=table data.path=a.csv."),
    ("csv=a.csv", "Set data=table data.path=a.csv."),
    ("path=a.npz", "Set data=arrays data.path=a.npz."),
    ("target=kind", "Set data=table data.path=FILE data.target=kind."),
    ("labels=kind", "Set data=table data.path=FILE data.target=kind."),
    ("val_split=0.1", "Set data.val_fraction=0.1."),
    ("data.test_size=0.1", "Set data.test_fraction=0.1."),
    ("threshold=0.3", "Set task.threshold=0.3."),
    ("num_classes=3", "follows from the data. Remove num_classes."),
    ("classes=3", "follows from the data. Remove classes."),
    ("checkpoint=a.ckpt", "Set resume=a.ckpt."),
    ("ckpt=a.ckpt", "Set resume=a.ckpt."),
    ("weight=balanced", "Set loss.weight=balanced."),
    ("pos_weight=3", "Set loss.pos_weight=3."),
    ("gamma=2", "Set loss=focal loss.gamma=2."),
    ("label_smoothing=0.1", "Set loss.label_smoothing=0.1."),
    ("precision=16-mixed", "Set trainer.precision=16-mixed."),
    ("random_state=3", "Set seed=3."),
]


def check_one_line(result, message, start=""):
    code, out, err = result
    assert (code, out) == (1, "")
    assert err.startswith(start)
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("guess", "answer"), GUESSES, ids=lambda text: text)
def test_a_guess(guess, answer, command, tmp_path):
    start = f"Unknown setting {guess.partition('=')[0]!r}. "
    check_one_line(command("task=binary", guess), answer, start)
    check_one_line(command(f"+{guess}", "task=binary"), answer, start)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_guess_at_any_place(place, command):
    arguments = ["task=multilabel", "seed=1"]
    arguments.insert(place, "epochs=3")
    check_one_line(command(*arguments), "Unknown setting 'epochs'. Set trainer.max_epochs=3.")


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["-m", "task=binary", "lr=0.1,0.2"], "Set optimizer.lr=0.1,0.2."),
        (["task=multiclass", "data=table", "path=a.csv"], "Set data.path=a.csv."),
        (["task=multiclass", "data=table", "data.path=a.csv", "target=kind"], "Set data.target=kind."),
        (["task=multiclass", "loss=poly1", "gamma=2"], "Set loss.gamma=2."),
        (["task=multiclass", "trainer=ddp", "devices=2"], "Set trainer.devices=2."),
    ],
    ids=str,
)
def test_settings_that_are_already_there_are_not_repeated(arguments, answer, command):
    check_one_line(command(*arguments), answer)


def test_a_guess_that_another_setting_refers_to_is_a_setting(command):
    code, _, err = command("task=binary", "+lr=0.5", "optimizer.lr=${lr}", "explain=true")
    assert (code, err) == (0, "")


FORMS = [
    ("--task multilabel", "use task=multilabel."),
    ("--task=multilabel", "use task=multilabel."),
    ("--epochs 3", "use trainer.max_epochs=3."),
    ("--task multilabel --max-epochs 3 --lr=0.1", "use task=multilabel trainer.max_epochs=3 optimizer.lr=0.1."),
    ("--trainer.max_epochs 3 task=binary", "use trainer.max_epochs=3."),
    ("--path train.csv", "use data=table data.path=train.csv."),
    ("multilabel", "use task=multilabel."),
    ("task multilabel", "use task=multilabel."),
    ("task = multilabel", "use task=multilabel, without spaces around =."),
    ("train.csv task=binary", "use data=table data.path=train.csv."),
    ("task=binary focal", "use loss=focal."),
    ("explain", "use explain=true."),
    ("explain multilabel", "use explain=true task=multilabel."),
    ("seed", "use seed=VALUE."),
    ("task=binary seed", "use seed=VALUE."),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "fix"), FORMS, ids=lambda text: text)
def test_the_form_of_a_setting(arguments, fix, command):
    result = command(*arguments.split())
    check_one_line(result, fix, "Settings are written KEY=VALUE: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--metric f1", "Unknown setting 'metric'. Set metrics=f1"),
        ("--optimise 3", "Unknown option '--optimise'. Did you mean 'optimizer'? Settings are written KEY=VALUE"),
        ("--multi task=binary", "Unknown option '--multi'."),
        ("multilable", "'multilable' is not a setting. Did you mean task=multilabel?"),
        ("hello task=binary", "'hello' is not a setting. Settings are written KEY=VALUE"),
        ("task=binary -- seed=1", "Unknown option '--'."),
        ("predict checkpoint=a.ckpt", "Run it with: lossselect predict"),
        ("task=binary --cfg jobb", "--cfg must be one of job, hydra, all, got 'jobb'."),
        ("task=binary --config-dir", "--config-dir requires a value."),
        ("task=binary --config-dir= -m", "--config-dir requires a value."),
        ("--cfg task=binary", "--cfg must be one of job, hydra, all, got 'task=binary'."),
        ("task=binary loss.weight={cat=2}", "Write a list as [a,b] and a mapping as {a:1,b:2}"),
    ],
    ids=str,
)  # fmt: skip
def test_arguments_that_are_not_settings(arguments, message, command):
    result = command(*arguments.split())
    check_one_line(result, message)
    assert "EOF" not in result[2]


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        ("train multilabel", "use task=multilabel."),
        ("multilabel", "use task=multilabel."),
        ("explain multilabel", "use task=multilabel."),
        ("task multilabel", "use task=multilabel."),
        ("train.csv", "use data=table data.path=train.csv."),
        ("--task multilabel", "use task=multilabel."),
        ("epochs=3", "Unknown setting 'epochs'. Set trainer.max_epochs=3."),
        ("tran task=binary", "Unknown command 'tran'. Did you mean 'train'?"),
    ],
    ids=str,
)
def test_a_guess_at_the_command_lossselect(arguments, fix, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lossselect", *arguments.split()])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    text = stopped.value.code if isinstance(stopped.value.code, str) else capsys.readouterr().err
    assert fix in text
    assert len(text.splitlines()) == 1


def test_flags_may_stand_between_settings():
    assert order_arguments(["task=binary", "--cfg", "job", "seed=1", "-m", "~data", "--info"]) == [
        *("--cfg", "job", "-m", "--info", "all", "task=binary", "seed=1", "~data"),
    ]
    assert order_arguments(["-i", "config", "-c=job"]) == ["-i", "config", "-c", "job"]
    assert order_arguments(["-i", "task=binary"]) == ["-i", "all", "task=binary"]


def test_the_flags_are_those_of_hydra():
    # the program answers --help and --version itself
    actions = [action for action in get_args_parser()._actions if action.option_strings]
    known = {name: action for action in actions for name in action.option_strings}
    others = {"--help", "-h", "--version"}
    assert {name: action.nargs != 0 for name, action in known.items() if name not in others} == FLAGS
    assert {name: tuple(action.choices) for name, action in known.items() if action.choices} == CHOICES


def test_without_arguments(command):
    code, out, err = command()
    assert (code, out) == (1, "")
    assert len(err.splitlines()) <= 8
    for text in ("task=binary ", "task=multiclass ", "task=multilabel ", "data=table", "train.py --help"):
        assert text in err


@pytest.mark.parametrize(
    "arguments",
    [["train"], [], ["predict"], ["export"], ["report"]],
    ids=lambda names: "".join(names) or "all",
)
def test_help_is_short(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lossselect", *arguments, "--help"])
    cli.main()
    out = capsys.readouterr().out
    assert 3 < len(out.splitlines()) <= 60
    assert "KEY=VALUE" in out


@pytest.mark.parametrize("setting", ["trainer=gpu", "trainer=fsdp", "trainer.accelerator=cuda"])
@pytest.mark.parametrize(
    ("cuda", "visible", "reason"),
    [
        (None, None, "does not support GPUs. To use one, install PyTorch with CUDA"),
        ("13.0", "", "CUDA_VISIBLE_DEVICES='' hides all GPUs."),
        ("13.0", None, "Check that nvidia-smi (or rocm-smi) lists one"),
    ],
)
def test_a_gpu_that_is_not_there(cuda, visible, reason, setting, command, monkeypatch):
    monkeypatch.setattr("lossselect.utils.devices.auto_device", lambda: "cpu")
    monkeypatch.setattr("torch.version.cuda", cuda)
    monkeypatch.setattr("torch.version.hip", None)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for more in ([], ["explain=true"]):
        code, out, said = command("task=binary", setting, *more)
        assert (code, out) == (1, "")
        assert said.startswith("No GPU was found. ")
        assert reason in said
        assert said.endswith("To train on the CPU, set trainer=cpu, or remove trainer=...\n")


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "gpu"])
def test_a_device_that_is_not_there(name, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(
        ConfigError, match=r"device=cuda\S* cannot be used, as no GPU was found.*set device=cpu"
    ):
        parse_device(name)


def test_precisions_are_one_list(command):
    _, _, err = command("task=binary", "trainer.precision=wrong")
    assert err.count("one of") == 1
    assert err.count("32-true") == err.count(" bf16,") == 1
    assert err.endswith(", or null, got 'wrong'.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task=multiclass", "task.top_k=3"], "top_k is a setting of task=multilabel."),
        (["task=binary", "task.top_k=3"], "top_k is a setting of task=multilabel."),
        (["task=multiclass", "task.threshold=0.3"], "threshold is a setting of task=binary and task=multilabel."),
        (["task=binary", "scheduler.patience=3"], "patience is a setting of scheduler=plateau."),
        (["task=binary", "data.delimiter=x"], "delimiter is a setting of data=table."),
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_of_another_variant(arguments, message, command):
    check_one_line(command(*arguments), message, f"Unknown setting '{arguments[1].partition('=')[0]}'.")


def test_make_announces_the_installation(monkeypatch, capsys, tmp_path):
    spec = importlib.util.spec_from_file_location("make", ROOT / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    commands = []

    def record(command, check):
        commands.append((command, capsys.readouterr().err))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(make, "VENV", tmp_path)
    monkeypatch.setattr(make, "PYTHON", tmp_path / "python")
    (tmp_path / "python").touch()
    monkeypatch.setattr(subprocess, "run", record)
    make.install("")
    ((command, announced),) = commands
    assert command[1:5] == ("-m", "pip", "--disable-pip-version-check", "install")
    assert not {"-q", "--quiet"} & {*command}  # pip shows its progress
    assert announced.startswith("Installing into .venv, which takes a minute or two")
    assert "200 MB" in announced
    assert announced.count("\n") == 1
    make.install("")  # nothing changed: nothing is installed
    assert len(commands) == 1


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_has_its_own_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lossselect", name, "--help"])
    cli.main()
    out = capsys.readouterr().out
    assert f"lossselect {name} " in out
    for other in cli.COMMANDS:
        if other not in (name, "predict", "train"):  # the help of train mentions predict
            assert f"lossselect {other}" not in out
