"""Each example of docs/errors.md prints the message that the page shows."""

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import errors_page
import pytest
from lightning.pytorch import Trainer

from lossselect.cli import main as cli
from lossselect.utils.warnings import LossSelectWarning

# the examples start from the same runs
pytestmark = [pytest.mark.xdist_group("errors page"), pytest.mark.default_net]

PAGE = errors_page.load_page()
ENTRIES = [entry for section in PAGE["sections"] for entry in section["entries"]]

QUIET = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)

FIELDS = ("row", "column", "value")


@pytest.fixture
def names(monkeypatch):
    """The names that an example in Python starts with."""
    known = {"monkeypatch": monkeypatch, "Path": Path}
    exec(PAGE["imports"], known)
    known["Trainer"] = partial(Trainer, accelerator="cpu", **QUIET)
    return known


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """The folders of runs that several examples start from."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def shell(command, monkeypatch, capsys, runs):
    """Run lines of a shell; return the exit code and stderr of the last one, None for a common tool."""
    exec(PAGE["files"], {})

    def train(line):
        """Run a training whose folder later examples need, once."""
        kept = runs / hashlib.sha256(line.encode()).hexdigest()
        if not kept.exists():
            code, _, printed = command(*shlex.split(line)[2:])
            assert code == 0, printed
            shutil.copytree("run", kept)
        shutil.copytree(kept, "run", dirs_exist_ok=True)

    def run_last(line):
        words = shlex.split(line)
        if words[:2] == ["python", "train.py"]:
            code, _, printed = command(*words[2:])
            return code, printed
        assert words[0] == "lossselect", line
        monkeypatch.setattr(sys, "argv", words)
        try:
            cli.main()
            code = 0
        except SystemExit as stopped:
            code = stopped.code
        return code, capsys.readouterr().err

    def run(lines, keep_last=False):
        *before, last = lines.splitlines()
        for line in [*before, last] if keep_last else before:
            if line.startswith("python train.py "):
                train(line)
            elif line.startswith("lossselect "):
                assert run_last(line)[0] == 0, line
            elif line.startswith("python -c "):
                exec(shlex.split(line)[2], {})
            else:
                subprocess.run(["bash", "-c", line], check=True)
        return (0, "") if keep_last else run_last(last)

    return run


def run_python(code, names):
    """Return the error or the first warning, and what Python prints about all of them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LossSelectWarning)
        try:
            exec(code, names)
        except Exception as error:
            return error, f"{type(error).__name__}: {error}"
    seen = [warning.message for warning in caught if isinstance(warning.message, LossSelectWarning)]
    assert seen
    return seen[0], "\n".join(f"LossSelectWarning: {warning}" for warning in seen)


@pytest.mark.filterwarnings("ignore:Total length of `DataLoader` across ranks is zero")  # by Lightning
@pytest.mark.filterwarnings("always::lossselect.LossSelectWarning")
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["title"].strip("`"))
def test_example(entry, request, names, tmp_path, monkeypatch, check_message):
    monkeypatch.chdir(tmp_path)
    exec(entry.get("setup", ""), names)
    python = entry.get("python")
    if "shell" in entry:
        code, text = request.getfixturevalue("shell")(entry["shell"], keep_last=bool(python))
    if python:
        error, text = run_python(python, names)
        fields = {name: getattr(error, name, None) for name in FIELDS}
        assert type(error).__name__ == entry["type"]
        assert {name: value for name, value in fields.items() if value is not None} == pytest.approx(
            {name: entry[name] for name in FIELDS if name in entry}
        )
    else:
        assert code == int(not all(line.startswith("Warning: ") for line in text.splitlines()))
    text = _mask(text.strip())
    check_message(entry["title"], text)
    assert entry["contains"] in text


def _mask(text):
    """Replace what differs between machines: the folder, and sizes of files that torch writes."""
    text = text.replace(str(Path.cwd()), "/home/me")
    return re.sub(r"\(\d{5,} bytes\)", "(182034 bytes)", text)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_plan(task, command, monkeypatch, check_text):
    monkeypatch.setenv("COLUMNS", "100")
    code, text, _ = command(f"task={task}", "explain=true", "trainer.accelerator=cpu")
    assert code == 0
    check_text(f"plan-{task}", text)


def test_help_of_training(command, check_text):
    code, text, _ = command("--help")
    assert code == 0
    check_text("help-train", text)


@pytest.mark.parametrize("subcommand", ["", "data", "predict", "evaluate", "export", "report"])
def test_help(subcommand, monkeypatch, capsys, check_text):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "argv", ["lossselect", *subcommand.split(), "--help"])
    cli.main()
    check_text(f"help-{subcommand or 'lossselect'}", capsys.readouterr().out)
