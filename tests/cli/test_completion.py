"""Completion of command lines by the shell, and what a command prints first on a terminal."""

import os
import subprocess
import sys

import pytest

from lossselect.cli import main as cli
from lossselect.cli import train
from lossselect.data.preprocessing.scaling import SCALINGS
from lossselect.decision.fit import decision_options
from lossselect.decision.thresholds import CLASS_GOALS, GOALS
from lossselect.export.formats import FORMATS
from lossselect.models.nets import check_head_bias
from lossselect.utils.warnings import ON_NONFINITE


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lossselect e", ["explain", "evaluate", "export"]),
        ("lossselect train task=multi", ["task=multiclass", "task=multilabel"]),
        ("lossselect explain task=binary optimizer.l", ["optimizer.lr="]),
        ("lossselect train loss=f", ["loss=focal"]),
        ("lossselect train task=binary model=ta", ["model=tabm"]),
        ("lossselect train data.scaling=", [f"data.scaling={name}" for name in SCALINGS]),
        ("lossselect train data.path=ne", ["data.path=new.csv", "data.path=next.csv"]),
        ("lossselect data task=b", ["task=binary"]),
        ("lossselect data data.path=o", ["data.path=old.csv"]),
        ("lossselect export checkpoint=run format=", [f"format={name}" for name in FORMATS]),
        (
            "lossselect evaluate input=new.csv decision.metric=f1_m",
            ["decision.metric=f1_macro", "decision.metric=f1_micro"],
        ),
        ("lossselect predict checkpoint=a input=ne", ["input=new.csv", "input=next.csv"]),
        ("lossselect compare ne", []),  # the shell itself completes files
    ],
)
def test_the_shell_completes_commands_settings_and_files(line, words, call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("new.csv", "next.csv", "old.csv"):
        (tmp_path / name).touch()
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("COMP_LINE", line)
    code, out, said = call(cli.main, "lossselect", "-sc", "query=bash")
    assert (code, out.split(), said) == (0, words, "")


def test_completed_values_are_those_that_exist():
    assert {*cli.CHOICES["format"]} == {*FORMATS}
    assert cli.CHOICES["on_nonfinite"] == ON_NONFINITE
    assert cli.CHOICES["data.scaling"] == (*SCALINGS,)
    assert {*cli.CHOICES["decision.metric"]} == {"auto", "null", *GOALS, *CLASS_GOALS}
    for calibration in cli.CHOICES["decision.calibration"]:
        decision_options(calibration=calibration)
    for value in cli.CHOICES["bias_init"]:
        check_head_bias(None if value == "null" else value)


def test_completion_does_not_import_torch(tmp_path):
    program = "import sys; from lossselect.cli.main import main; main(); print('torch' in sys.modules)"
    for line, expected in (("lossselect train loss=fo", "loss=focal"), ("lossselect export fo", "")):
        words = [sys.executable, "-c", program, "-sc", "query=bash"]
        environment = {**os.environ, "COMP_LINE": line}
        out = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert out.stdout.split() == [*expected.split(), "False"]


@pytest.mark.parametrize("program", ["lossselect", "lossselect-train"])
def test_the_installed_script_names_the_program(program, call, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    main = cli.main if program == "lossselect" else train.main
    code, out, _ = call(main, program, "-sc", "install=bash")
    assert code == 0
    assert out.rstrip().endswith(f"-F hydra_bash_completion {program}")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["train", "task=binary", "data=none"], "Reading the data ..."),
        (["data", "data.path=a.csv"], "Reading a.csv ..."),
        (["predict", "checkpoint=a", "input=b.csv", "output=c.csv"], "Reading a, b.csv ..."),
        (["compare", "a", "b"], "Reading a, b ..."),
        (["report", "run=a"], "Reading a ..."),
        (["compare", "a", "b", "--json"], ""),
        (["train", "--cfg", "job", "task=binary", "data=none"], ""),
    ],
)
def test_a_terminal_shows_at_once_what_is_read(arguments, line, call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    code, out, said = call(cli.main, "lossselect", *arguments)
    assert (code, out.strip()) == (1, line)
    assert said
