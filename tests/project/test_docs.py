"""The site names every public name, and the Python of its pages runs."""

import re

import pytest
import torch
from paths import ROOT
from torch.utils.data import DataLoader, TensorDataset
from trainers import quiet_trainer

import lossselect as ls

DOCS = ROOT / "docs"


def test_every_public_name_has_its_place_in_the_api():
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    named = re.findall(r"^::: lossselect\.(\w+)$", pages, flags=re.M)
    assert sorted(named) == sorted(ls.__all__)


def test_every_page_is_in_the_navigation():
    told = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        assert f": {page.relative_to(DOCS).as_posix()}\n" in told


def test_the_map_lists_every_package():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    packages = [path.parent for path in (ROOT / "lossselect").rglob("__init__.py")]
    for folder in packages[1:]:
        assert f"| `{folder.relative_to(ROOT / 'lossselect').as_posix()}/` |" in text


def test_no_package_is_crowded():
    for path in (ROOT / "lossselect").rglob("__init__.py"):
        modules = [module for module in path.parent.glob("*.py") if module.name != "__init__.py"]
        assert len(modules) <= 12, path.parent


def python_of(page):
    """The blocks of Python on a page."""
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.mark.parametrize("code", python_of("index.md"), ids=["subclass", "loop"])
@pytest.mark.filterwarnings("ignore::lossselect.LossSelectWarning")
def test_the_first_page(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    silent = "enable_progress_bar=False, enable_model_summary=False, logger=False, enable_checkpointing=False"
    exec(code.replace("max_epochs=2", f"max_epochs=2, {silent}"), {"__name__": "first_page"})


@pytest.mark.filterwarnings("ignore::lossselect.LossSelectWarning")
def test_the_page_on_a_project_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subclass, predicts, schedule, tunes, loop, sklearn = python_of("project.md")
    loader = DataLoader(TensorDataset(torch.randn(64, 8), (torch.rand(64, 5) < 0.4).float()), 16)
    known = {
        "trainer": quiet_trainer(max_epochs=1),
        "loader": loader,
        "val_loader": loader,
        "test_loader": loader,
    }
    exec(subclass, known)
    known["trainer"].fit(known["model"], loader, loader)
    known["trainer"].save_checkpoint("best.ckpt")
    exec(predicts, known)
    assert sum(map(len, known["names"])) == 64
    scheduled = {**known}
    exec(schedule, scheduled)
    trainer = quiet_trainer(max_epochs=1, enable_checkpointing=False)
    trainer.fit(scheduled["model"], loader)
    assert trainer.lr_scheduler_configs[0].interval == "step"
    exec(tunes, known)
    assert known["model"].task.threshold != 0.5
    exec(loop, known)
    assert known["fitted"] != known["task"]
    exec(sklearn.replace("random_state=0", "random_state=0, max_epochs=2"), known)
    assert known["search"].best_score_ > 0.5
