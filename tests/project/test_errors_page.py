"""docs/errors.md is true: its examples are run, and print the messages that it shows.

An entry is a heading of the third level, and what stands under it. Its example is a block of `python` with a block
of `text` beneath, the message; or a block of `console`, where the message stands beneath the last line with a $.
A block of `text` alone shows a message that is not called up here; its words are looked for in the source.
"""

import ast
import hashlib
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from lightning.pytorch import Trainer
from paths import ROOT
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lossselect as ls
from lossselect.cli import main as cli
from lossselect.utils.warnings import WARNINGS, LossSelectWarning

pytestmark = pytest.mark.xdist_group("errors page")  # its examples start from the same runs

PAGE = ROOT / "docs" / "errors.md"
TEXT = PAGE.read_text(encoding="utf-8")


class Example(NamedTuple):
    entry: str
    kind: str
    code: str
    message: str


def entries():
    """Each entry's heading, section and text."""
    for section in re.split(r"^## ", TEXT, flags=re.M)[1:]:
        name = section.splitlines()[0]
        for part in re.split(r"^### ", section, flags=re.M)[1:]:
            title, _, body = part.partition("\n")
            yield title, name, body


def examples():
    for title, _, body in entries():
        blocks = re.findall(r"^```(\w+)\n(.*?)^```$", body, flags=re.M | re.S)
        for place, (kind, code) in enumerate(blocks):
            if kind == "python":
                beneath, message = blocks[place + 1]
                assert beneath == "text", title
                yield Example(title, kind, code, message.strip())
            if kind == "console":
                lines = code.splitlines()
                last = max(i for i, line in enumerate(lines) if line.startswith("$ "))
                yield Example(title, kind, "\n".join(lines[: last + 1]), "\n".join(lines[last + 1 :]))


FILES = re.search(r"^```python\n(# the files of the examples\n.*?)^```$", TEXT, flags=re.M | re.S)[1]
EXAMPLES = list(examples())

SILENT = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)
"""What a trainer of these examples is told besides."""

LOADERS = {"DataLoader": DataLoader, "TensorDataset": TensorDataset}


def printed_by_python(code):
    """The error's type and text, else the warnings'."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", LossSelectWarning)
        try:
            exec(code, {"ls": ls, "torch": torch, "nn": nn, **LOADERS, "Trainer": partial(Trainer, **SILENT)})
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "\n".join(f"LossSelectWarning: {warning.message}" for warning in seen)


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Folders of runs that several examples begin with."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def printed_by_shell(command, monkeypatch, capsys, runs):
    """What the last of these lines prints on stderr; it fails where there is more than warnings."""
    exec(FILES, {})

    def run(code):
        *before, last = [line.removeprefix("$ ") for line in code.splitlines()]
        for line in before:
            if line.startswith("python train.py "):
                kept = runs / hashlib.sha256(line.encode()).hexdigest()
                if not kept.exists():
                    assert command(*shlex.split(line)[2:])[0] == 0
                    shutil.copytree("run", kept)
                shutil.copytree(kept, "run", dirs_exist_ok=True)
            else:
                subprocess.run(["bash", "-c", line], check=True)
        words = shlex.split(last)
        if words[:2] == ["python", "train.py"]:
            code, _, printed = command(*words[2:])
        else:
            assert words[0] == "lossselect", last
            monkeypatch.setattr(sys, "argv", words)
            with pytest.raises(SystemExit) as left:
                cli.main()
            code, printed = left.value.code, capsys.readouterr().err
        assert code == int(not all(line.startswith("Warning: ") for line in printed.splitlines()))
        return printed.strip().replace(str(Path.cwd()), "/home/me")

    return run


@pytest.mark.filterwarnings("always::lossselect.LossSelectWarning")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.kind}: {example.entry}")
def test_each_example_prints_its_message(example, request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if example.kind == "python":
        printed = printed_by_python(example.code)
    else:
        printed = request.getfixturevalue("printed_by_shell")(example.code)
    assert printed
    assert printed == example.message


def templates():
    """Of each text in the source a pattern, in which what is put in is anything."""
    for file in Path(ls.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            known = [text for text in texts if isinstance(text, str)]
            if len("".join(known)) > 20:
                yield "".join(re.escape(text) if isinstance(text, str) else ".*" for text in texts)


def test_messages_without_an_example_are_those_of_the_source():
    ours = re.compile("|".join(f"(?:{template})" for template in templates()))
    shown = [
        (title, body)
        for title, _, body in entries()
        if not re.search("^```(python|console)$", body, flags=re.M)
    ]
    assert shown
    for title, body in shown:
        message = re.search(r"^```text\n(.*)\n```$", body, flags=re.M)[1]
        said = re.sub(r"^Warning: (.*) \(ignore_warnings=.*\)$", r"\1", message)
        assert ours.fullmatch(said), title


def test_most_entries_have_an_example():
    assert len(EXAMPLES) >= 25
    assert len({example.entry for example in EXAMPLES}) > len(list(entries())) / 2


def test_each_entry_has_a_message_a_cause_and_a_fix():
    for title, _, body in entries():
        assert re.search(
            r"^```(text|console)$.*^\*\*Cause\.\*\* .*^\*\*Fix\.\*\* ", body, flags=re.M | re.S
        ), title


def test_no_two_entries_have_one_name():
    titles = [title for title, *_ in entries()]
    assert len(titles) == len(set(titles))


def test_every_warning_is_on_the_page():
    named = {title.strip("`") for title, section, _ in entries() if section == "Warnings"}
    assert named == set(WARNINGS)
