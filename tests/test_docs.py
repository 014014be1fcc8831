"""The site names every public name, and the Python of its first page runs."""

import re
from pathlib import Path

import pytest

import lossselect as ls

DOCS = Path(__file__).parents[1] / "docs"


def test_every_public_name_has_its_place_in_the_api():
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    named = re.findall(r"^::: lossselect\.(\w+)$", pages, flags=re.M)
    assert sorted(named) == sorted(ls.__all__)


def test_every_page_is_in_the_navigation():
    told = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        assert f": {page.relative_to(DOCS).as_posix()}\n" in told


@pytest.mark.parametrize(
    "code",
    re.findall(r"^```python\n(.*?)^```$", (DOCS / "index.md").read_text(encoding="utf-8"), flags=re.M | re.S),
    ids=["subclass", "loop"],
)
@pytest.mark.filterwarnings("ignore::lossselect.GuardWarning")
def test_the_first_page(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    silent = "enable_progress_bar=False, enable_model_summary=False, logger=False, enable_checkpointing=False"
    exec(code.replace("max_epochs=2", f"max_epochs=2, {silent}"), {"__name__": "first_page"})
