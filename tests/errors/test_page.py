"""The data of docs/errors.md are complete, and the page is current."""

import errors_page
import pytest

from lossselect.utils.warnings import WARNINGS

PAGE = errors_page.load_page()
MESSAGES = errors_page.load_messages()
ENTRIES = [entry for section in PAGE["sections"] for entry in section["entries"]]
KEYS = {"title", "setup", "shell", "python", "contains", "type", "row", "column", "value", "cause", "fix"}


@pytest.fixture
def _compares(request):
    if request.config.getoption("update_messages", False):
        pytest.skip("the messages are being updated")


@pytest.mark.usefixtures("_compares")
def test_page_is_current():
    is_current = errors_page.render_page(PAGE, MESSAGES) == errors_page.PAGE.read_text(encoding="utf-8")
    assert is_current, "Run: python scripts/errors_page.py"


@pytest.mark.usefixtures("_compares")
def test_snapshot_has_the_message_of_each_entry():
    titles = [entry["title"] for entry in ENTRIES]
    assert list(MESSAGES) == titles, "Run: pytest tests/errors --update-messages"
    assert len(titles) == len(set(titles))


def test_each_entry_is_complete():
    for entry in ENTRIES:
        assert set(entry) <= KEYS, entry["title"]
        assert entry["contains"], entry["title"]
        assert entry["cause"], entry["title"]
        assert entry["fix"], entry["title"]
        assert ("python" in entry) == ("type" in entry), entry["title"]
        assert "type" in entry or "shell" in entry, entry["title"]


def test_each_warning_has_an_entry():
    (section,) = [section for section in PAGE["sections"] if section["title"] == "Warnings"]
    assert {entry["title"].strip("`") for entry in section["entries"]} == set(WARNINGS)
