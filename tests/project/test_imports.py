"""Lazy imports, each tested in a separate interpreter."""

import re
import subprocess
import sys
import tomllib

import pytest
from paths import ROOT

HEAVY = ("torch", "lightning", "torchmetrics", "hydra", "sklearn", "polars", "rich")


def run(code, folder=None):
    """The value that a program prints last."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder
    )
    return eval(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "steps",
    [
        {
            "import lossselect": [],
            "lossselect.LOSSES": [],
            "lossselect.Binary": ["torch"],
            "lossselect.select_loss(lossselect.Binary())": ["torch"],
            "lossselect.make_metrics": ["torch", "torchmetrics"],
        },
        {"import lossselect.sklearn; lossselect.sklearn.TaskClassifier": ["sklearn"]},
    ],
    ids=["names", "estimator"],
)
def test_nothing_heavy_before_it_is_needed(steps):
    code = "import sys\nfound = []\n"
    for step in steps:
        code += f"{step}\nfound.append([name for name in {HEAVY} if name in sys.modules])\n"
    assert dict(zip(steps, run(f"{code}print(found)"), strict=True)) == steps


def test_help_needs_no_heavy_imports():
    code = f"""
import contextlib, io, sys
from lossselect.cli.main import COMMANDS, main
found = {{}}
for name in ("", *COMMANDS):
    sys.argv = ["lossselect", *name.split(), "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main()
    assert "lossselect" in printed.getvalue()
    for module in {HEAVY}:
        if module in sys.modules:
            found.setdefault(module, name)
print(found)
"""
    assert run(code) == {"hydra": "train"}  # the command itself is decorated


def test_what_trains_nothing_never_imports_lightning(tmp_path):
    commands = [
        ("--help",),
        ("task=multilable",),
        ("task=binary", "check_only=true"),
        ("task=multilabel", "check_only=true", "loss=auto", "head=chunked"),
        ("task=binary", "loss=focal", "loss.gamma=-1"),
        ("task=binary", "trainer.max_epochs=0"),
        ("task=binary", "optimizer.name=adm"),
        ("task=multiclass", "loss.pos_weight=2"),
        ("task=binary", "data=digits"),
        ("task=multiclass", "monitor=val/f1"),
        ("task=multiclass", "metrics=f1_wighted"),
        ("task=multiclass", "monitor=val/loss", "check_only=true"),
        ("task=binary", "data=table", "data.path=none.csv", "data.target=y"),
    ]
    code = f"""
import sys
from lossselect.cli.train import main
found = {{}}
for arguments in {commands}:
    sys.argv, code = ["train.py", *arguments], 0
    try:
        main()
    except SystemExit as stopped:
        code = stopped.code or 0
    found[arguments] = code, {{"lightning", "torchmetrics"}} & {{*sys.modules}}
print(found)
"""
    succeeds = {"--help", "check_only=true"}
    assert run(code, tmp_path) == {words: (int(not succeeds & {*words}), set()) for words in commands}


@pytest.mark.parametrize(
    "arguments",
    [
        ["task=binary", "explain=true"],
        ["task=multilabel", "explain=true"],
        ["task=multiclass", "check_only=true"],
        ["task=multiclass", "optimizer=sgd", "optimizer.lr=0.2", "scheduler=plateau", "explain=json"],
    ],
)
def test_a_plan_needs_neither_scikit_learn_nor_the_compiler(arguments, tmp_path):
    code = f"""
import sys
from lossselect.cli.train import main
sys.argv = ["train.py", *{arguments}]
try:
    main()
except SystemExit as stopped:
    assert not stopped.code
print({{"sklearn", "scipy", "torch._dynamo", "lightning", "torchmetrics", "matplotlib"}} & {{*sys.modules}})
"""
    assert run(code, tmp_path) == set()


def test_an_overview_needs_no_lightning(tmp_path):
    code = """
import sys
sys.argv = ["lossselect", "data", "data=digits"]
from lossselect.cli.main import main
main()
print({"lightning", "torchmetrics", "matplotlib"} & {*sys.modules})
"""
    assert run(code, tmp_path) == set()


def test_names_are_found_and_listed():
    import lossselect

    for name in dir(lossselect):
        assert getattr(lossselect, name) is not None
    with pytest.raises(AttributeError, match="module 'lossselect' has no attribute 'Binry'"):
        lossselect.Binry  # noqa: B018


def test_every_package_and_every_folder_of_configs_is_installed():
    """A package that is missing in this list is missing in a wheel, but not in an editable installation."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = [file.parent for file in ROOT.glob("lossselect/**/__init__.py")]
    folders += [folder for folder in (ROOT / "configs", *ROOT.glob("configs/**/")) if folder.name[0] != "_"]
    folders = [folder.relative_to(ROOT).as_posix().replace("/", ".") for folder in folders]
    expected = {re.sub("^configs", "lossselect.configs", folder) for folder in folders}
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(expected)


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
    code = f"import sys, pytest; pytest.main(['-q', '--collect-only', *{folders!r}])"
    assert not run(f"{code}; print({{'hydra', 'lightning'}} & {{*sys.modules}})", ROOT)
