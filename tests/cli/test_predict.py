"""Tests of `lossselect predict`: copied columns, and headers unlike those of the training file."""

import shutil
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from train_cases import read_csv, train_in

from lossselect.cli import predict

SHORT = [
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "hydra.run.dir=run",
    "report=false",
    "logger=none",
]


@pytest.fixture
def run(call):
    return partial(call, predict.main, "predict.py")


@pytest.fixture(scope="module")
def folder_of_run(tmp_path_factory):
    """Return a folder with data.csv and a run on it."""
    folder = tmp_path_factory.mktemp("trained")
    lines = [f"{i * 7 % 10}.5,{i % 4},{'red' if i % 3 else 'blue'},{'abc'[i % 3]}" for i in range(60)]
    (folder / "data.csv").write_text("length,width,colour,y\n" + "\n".join(lines) + "\n")
    settings = ["data=table", "data.path=data.csv", "data.target=y", "ignore_warnings=[duplicate_rows]"]
    train_in(folder, "task=multiclass", *settings, *SHORT)
    return folder


@pytest.fixture
def trained(folder_of_run, command, tmp_path):
    """Copy data.csv and the run on it to the current folder."""
    shutil.copytree(folder_of_run, tmp_path, dirs_exist_ok=True)


def test_names_with_commas_are_kept(trained, run):
    pl.read_csv("data.csv").with_columns(pl.lit(1).alias("a, b"), pl.lit(2).alias("a")).write_csv("new.csv")
    for keep in ("['a, b',a]", '["a, b", a]', "'a, b',a"):
        assert run("checkpoint=run", "input=new.csv", "output=out.csv", f"keep={keep}")[0] == 0
        assert [*read_csv("out.csv")[0]][-2:] == ["a, b", "a"]


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (
            "1,2,red\n3,4,blue\n",
            [],
            "on a file with a header, and this one seems to have no header. Add a first line",
        ),
        ("1,2,red\n3,4,blue\n", ["header=false"], "names of the columns, and remove header=false."),
        (
            "wide,long,colour\n1,2,red\n",
            [],
            "new.csv has no column 'length' (a feature of the model). Did you mean 'long'?",
        ),
    ],
)
def test_a_file_without_the_header_of_the_training(content, settings, message, trained, run):
    Path("new.csv").write_text(content)
    code, _, err = run("checkpoint=run", "input=new.csv", "output=out.csv", *settings)
    assert code == 1
    assert message in err


def test_a_file_with_a_header_unlike_the_training(trained, command, run):
    Path("bare.csv").write_text(Path("data.csv").read_text().partition("\n")[2])
    assert (
        command(
            "task=multiclass",
            "data=table",
            "data.path=bare.csv",
            "data.header=false",
            "data.target=column 3",
            "ignore_warnings=[duplicate_rows]",
            *SHORT,
        )[0]
        == 0
    )
    arguments = ["checkpoint=run", "output=out.csv"]
    Path("nan.csv").write_text("nan,NaN,red,a\n")
    assert "Row 0 of column 'column 0' is nan" in run("input=nan.csv", *arguments)[2]
    assert run("input=bare.csv", *arguments)[0] == 0
    Path("out.csv").unlink()
    Path("short.csv").write_text("1,2\n3,4\n")
    assert "keep the label column, with any content." in run("input=short.csv", *arguments)[2]
    for settings, message in (
        ([], "The first line of data.csv seems to contain names of columns ('length', 'width')"),
        (["header=true"], "Remove header=true, and the first line of data.csv if it contains names."),
    ):
        code, _, err = run("input=data.csv", *arguments, *settings)
        assert code == 1
        assert message in err
        assert not Path("out.csv").exists()
