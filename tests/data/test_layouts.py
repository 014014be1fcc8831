"""Layouts of published data sets are read correctly at the first or second natural try."""

import json
import shlex

import pytest
from layouts.all_layouts import LAYOUTS
from layouts.check import check, try_command, write

PENDING = {name for name, create in LAYOUTS.items() if create().pending}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layout = LAYOUTS[name]()
    write(layout, tmp_path)
    if layout.pending and (outcome := try_command(layout.tries[0])).data is None:
        assert outcome.message
    else:
        assert check(layout) == []


def test_nine_in_ten_need_two_tries_at_most():
    few = [name for name, create in LAYOUTS.items() if name not in PENDING and len(create().tries) <= 2]
    assert len(few) >= 0.9 * len(LAYOUTS)


@pytest.mark.slow
@pytest.mark.filterwarnings("always::lossselect.LossSelectWarning")
@pytest.mark.parametrize(
    "name", ["adult", "chexpert", "skin_lesions", "stack_overflow_tags", "r_write_table"]
)
def test_a_run(name, command, tmp_path):
    layout = LAYOUTS[name]()
    write(layout, tmp_path)
    settings = [word for words in layout.tries for word in shlex.split(words)]
    code, _, printed = command(
        "data=table",
        *settings,
        "trainer.max_epochs=1",
        "trainer.accelerator=cpu",
        "report=false",
        "hydra.run.dir=run",
    )
    assert code == 0, printed
    assert "test/loss" in json.loads((tmp_path / "run" / "metrics.json").read_text())
