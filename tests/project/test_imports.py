"""What is imported when, each in an interpreter of its own."""

import subprocess
import sys
import tomllib

import pytest
from paths import ROOT

HEAVY = ("torch", "lightning", "torchmetrics", "hydra", "sklearn", "polars", "rich")


def imported_by(code, folder=None):
    probe = f"{code}\nimport sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=folder
    )
    return eval(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import lossselect", []),
        ("import lossselect; lossselect.LOSSES", []),
        ("import lossselect; lossselect.Binary", ["torch"]),
        ("import lossselect; lossselect.select_loss(lossselect.Binary())", ["torch"]),
        ("import lossselect; lossselect.make_metrics", ["torch", "torchmetrics"]),
        ("import lossselect.cli.train", ["hydra"]),
        ("import lossselect.cli.predict", ["hydra"]),
        ("import lossselect.cli.report", ["hydra"]),
        ("import lossselect.sklearn; lossselect.sklearn.TaskClassifier", ["sklearn"]),
    ],
)
def test_nothing_heavy_before_it_is_needed(code, expected):
    assert imported_by(code) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("task=multilable",),
        ("task=binary", "check_only=true"),
        ("task=multilabel", "check_only=true", "loss=auto", "head=chunked"),
        ("task=binary", "loss=focal", "loss.gamma=-1"),
        ("task=binary", "trainer.max_epochs=0"),
        ("task=binary", "optimizer.name=adm"),
        ("task=multiclass", "monitor=val/f1"),
        ("task=binary", "data=table", "data.path=none.csv", "data.target=y"),
    ],
    ids=" ".join,
)
def test_what_trains_nothing_never_imports_lightning(arguments, tmp_path):
    code = f"""
import os, sys
os.chdir({str(tmp_path)!r})
sys.argv = ["train.py", *{arguments!r}]
from lossselect.cli.train import main
try:
    main()
except SystemExit:
    pass
"""
    assert not {"lightning", "torchmetrics"} & set(imported_by(code))


def test_names_are_found_and_listed():
    import lossselect

    for name in dir(lossselect):
        assert getattr(lossselect, name) is not None
    with pytest.raises(AttributeError, match="module 'lossselect' has no attribute 'Binry'"):
        lossselect.Binry  # noqa: B018


def test_every_folder_of_configs_is_installed():
    root = ROOT
    packages = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    for folder in (root / "configs").iterdir():
        if folder.is_dir() and folder.name[0] != "_":
            assert f"lossselect.configs.{folder.name}" in packages


@pytest.mark.parametrize(
    "given", ["trainer.precision=foo", "trainer.gradient_clip_val=abc", "+trainer.limit_val_batches=-1"]
)
def test_a_setting_that_lightning_alone_can_check_is_checked_by_check_only_too(given, command):
    code, out, said = command("task=binary", "check_only=true", given)
    assert code == 1
    assert "The trainer cannot be built" in said
    assert "goes through" not in out


def test_tests_of_the_core_run_without_hydra():
    """That they do not need it shows what the core imports."""
    folders = ("tests/losses", "tests/tasks/test_tasks.py", "tests/labels", "tests/decision")
    code = f"import pytest; pytest.main(['-q', '--collect-only', *{folders!r}])"
    assert not {"hydra", "lightning"} & set(imported_by(code, ROOT))
