"""Completion of command lines by the shell, and what a command prints first on a terminal."""

import pytest

from lossselect.cli import main as cli
from lossselect.cli import train


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lossselect e", ["explain", "evaluate", "export"]),
        ("lossselect train task=multi", ["task=multiclass", "task=multilabel"]),
        ("lossselect explain task=binary optimizer.l", ["optimizer.lr="]),
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
