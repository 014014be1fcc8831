"""The snapshots of printed texts, which `pytest tests/errors --update-messages` rewrites.

Messages are kept in messages.json, by the titles of their entries; longer texts are files in printed/.
"""

import sys
from pathlib import Path

import pytest
from paths import ROOT

sys.path[:0] = [str(ROOT / "scripts"), str(Path(__file__).parent)]

import errors_page  # noqa: E402  # in scripts

UPDATED = pytest.StashKey[dict[str, str]]()
"""The messages of this process and of those that have ended, if they are to be updated."""

HINT = (
    "This is not the text of the snapshot. If it is right, run: pytest tests/errors --update-messages "
    "(which also writes docs/errors.md)."
)


def pytest_addoption(parser):
    parser.addoption("--update-messages", action="store_true", help="write the printed texts, do not compare")


def pytest_configure(config):
    config.stash[UPDATED] = {}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Collect the messages of a process of pytest-xdist."""
    node.config.stash[UPDATED] |= getattr(node, "workeroutput", {}).get("messages", {})


def pytest_sessionfinish(session):
    config = session.config
    if not config.getoption("update_messages", False):
        return
    if hasattr(config, "workeroutput"):
        config.workeroutput["messages"] = config.stash[UPDATED]
        return
    page = errors_page.load_page()
    known = errors_page.load_messages() | config.stash[UPDATED]
    titles = [entry["title"] for section in page["sections"] for entry in section["entries"]]
    messages = {title: known[title] for title in titles if title in known}
    errors_page.write_messages(messages)
    if len(messages) == len(titles):
        errors_page.write_page(page, messages)


@pytest.fixture
def check_message(request):
    """Compare a message with its snapshot, or update that."""

    def check(title, text):
        if request.config.getoption("update_messages", False):
            request.config.stash[UPDATED][title] = text
        else:
            assert text == errors_page.load_messages().get(title), HINT

    return check


@pytest.fixture
def check_text(request):
    """Compare a longer text with printed/NAME.txt, or update that."""

    def check(name, text):
        text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
        path = Path(__file__).parent / "printed" / f"{name}.txt"
        if request.config.getoption("update_messages", False):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        else:
            assert text == (path.read_text(encoding="utf-8") if path.is_file() else None), HINT

    return check
