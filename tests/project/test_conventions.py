"""Rules that no linter knows."""

import re

import pytest
from paths import ROOT

PACKAGE = ROOT / "lossselect"
QUESTIONS = (
    r"(getattr|hasattr)\((self\.|loss\.|module\.)?task,"
    r"|width_field"
    r"|task\.name (==|!=|in)"
    r"|isinstance\([^()]*task[^()]*(Binary|Multiclass|Multilabel)"
)


def test_nothing_outside_tasks_asks_which_task_it_is():
    """What differs by task is a property or method of `Task`; what differs by activation is in losses and metrics."""
    for path in PACKAGE.rglob("*.py"):
        folder = path.relative_to(PACKAGE).parts[0]
        if folder == "tasks":
            continue
        text = path.read_text(encoding="utf-8")
        assert not re.search(QUESTIONS, text), path
        if folder not in ("losses", "metrics"):
            assert not re.search(r"activation (==|!=)", text), path


@pytest.mark.parametrize(
    ("folder", "most"), [(PACKAGE, 400), (ROOT / "tests", 700)], ids=["modules", "tests"]
)
def test_no_file_is_long(folder, most):
    for path in folder.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= most, path
