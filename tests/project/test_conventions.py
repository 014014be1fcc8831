"""Rules of the repository that no linter checks."""

import ast
import os
import re

import pytest
from paths import ROOT

PACKAGE = ROOT / "lossselect"
QUESTIONS = (
    r"(getattr|hasattr)\((self\.|loss\.|module\.)?task,"
    r"|_width_field"
    r"|task\.name (==|!=|in)"
    r"|isinstance\([^()]*task[^()]*(Binary|Multiclass|Multilabel)"
)


def test_nothing_outside_tasks_asks_which_task_it_is():
    """A property or method of `Task` has what differs by task; losses and metrics have what differs by activation."""
    for path in PACKAGE.rglob("*.py"):
        folder = path.relative_to(PACKAGE).parts[0]
        if folder == "tasks":
            continue
        text = path.read_text(encoding="utf-8")
        assert not re.search(QUESTIONS, text), path
        if folder not in ("losses", "metrics"):
            assert not re.search(r"activation (==|!=)", text), path


SEVERAL = re.compile(
    r"isinstance\([^()]*MultiTask|len\(\w*\.?task\.tasks\) [=>]|\"\" in [\w.]*tasks|MultiTask\.name"
)
ASK_FOR_SEVERAL = {
    # a class for one task, and one for several
    "losses/multi_loss.py",
    "training/criterion.py",
    "training/epochs/multi_epoch.py",
    "data/files/settings.py",
    "data/label_parsing/several.py",
    "data/label_parsing/settings.py",
    "data/loading.py",
    # what only one of them has
    "chunked/options.py",
    "decision/text.py",
    "reporting/explain.py",
    "run/resume.py",
    "run/settings.py",
    "run/validation.py",
    "sklearn/estimator.py",
    "training/checkpoints/validation.py",
    "training/forward.py",
}


def test_few_modules_ask_whether_there_are_several_tasks():
    """Others ask `Task` and `MultiTask` the same questions."""
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if SEVERAL.search(path.read_text(encoding="utf-8"))
    }
    assert {path for path in found if not path.startswith("tasks/")} == ASK_FOR_SEVERAL


@pytest.mark.parametrize(
    ("folder", "most"), [(PACKAGE, 400), (ROOT / "tests", 700)], ids=["modules", "tests"]
)
def test_no_file_is_long(folder, most):
    for path in folder.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= most, path


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="runs in one process")
@pytest.mark.xdist_group("a group")
def test_the_tests_of_a_group_run_in_one_process(request):
    """pytest-xdist adds the group to the name of a test, which pytest 9.2 does not let it change."""
    if request.config.getoption("loadgroup", False):
        assert request.node.nodeid.endswith("@a group")


def test_the_paths_that_texts_name_exist():
    """Pages, docstrings and comments name files that exist; CHANGELOG.md may name former ones."""
    pattern = re.compile(
        r"\b(?:(?:tests|lossselect|benchmarks|docs|scripts)/[\w/.-]*\w\.(?:py|json|md|yaml)|test_\w+\.py)\b"
    )
    texts = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    texts += [
        path for folder in ("lossselect", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    ]
    names = {path.name for path in (ROOT / "tests").rglob("*.py")}
    missing = [
        (path.relative_to(ROOT).as_posix(), found)
        for path in texts
        if path.name != "CHANGELOG.md"
        for found in pattern.findall(path.read_text(encoding="utf-8"))
        if not (ROOT / found).exists() and ("/" in found or found not in names)
    ]
    assert not missing


def data_errors(path):
    """The text and the keyword arguments of each DataError that a module makes."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("DataError", "DataTypeError"):
            yield " ".join(ast.get_source_segment(source, node).split()), {key.arg for key in node.keywords}


def test_an_error_that_names_a_row_has_it_as_a_field():
    for path in PACKAGE.rglob("*.py"):
        for text, fields in data_errors(path):
            assert "row" in fields or not re.search(r"[Rr]ow \{", text), text
            assert "column" in fields or not re.search(r"[Cc]olumn \{(column|name|self\.names)\b", text), text
