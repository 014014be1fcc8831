"""The learning curve of the report: the validation metric by the number of training rows."""

import json

import numpy as np
import polars as pl
import pytest

from lossselect.cli import report


def read_curve(folder):
    return pl.read_csv(folder / "figures" / "learning_curve.csv")


@pytest.mark.figures
@pytest.mark.parametrize(
    ("settings", "metric"),
    [
        (("task=binary",), "val/loss"),
        (("task=multilabel", "monitor=val/f1_macro"), "val/f1_macro"),
        (("task=multiclass", "monitor=train/loss", "callbacks=none"), "val/loss"),
        (("task=multiclass", "head=chunked"), "val/loss"),
    ],
    ids=str,
)
def test_parts_are_trained_as_the_run(settings, metric, command, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "SHARES", (0.5, 1.0))
    given = (
        "trainer.max_epochs=3",
        "hydra.run.dir=run",
        "report.learning_curve=true",
    )
    code, _, err = command(*settings, *given)
    assert (code, err) == (0, "")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    count = json.loads((tmp_path / "run" / "data.json").read_text())["rows"]["train"]
    curve = read_curve(tmp_path / "run")
    assert curve["rows"].to_list() == [round(count / 2), count, count]
    half, whole, of_run = curve[metric]
    assert whole == of_run == pytest.approx(metrics[metric], rel=1e-6)
    assert half != whole
    assert 'id="learning_curve"' in (tmp_path / "run" / "report.html").read_text()
    log = pl.read_csv(tmp_path / "run" / "logs" / "metrics.csv")
    assert log["epoch"].max() == 2
    assert log["val/loss"].count() == 3  # the fits of parts are not logged
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
    ]


@pytest.mark.figures
@pytest.mark.filterwarnings("ignore::lossselect.utils.warnings.LossSelectWarning")
def test_a_part_of_one_class_is_left_out(command, tmp_path):
    y = np.zeros(120, int)
    y[:6] = 1
    x = np.random.default_rng(0).normal(size=120)
    pl.DataFrame({"x": x, "y": y, "s": (["train", "val", "test"] * 40)}).write_csv(tmp_path / "t.csv")
    settings = ("task=binary", "data=table", "data.path=t.csv", "data.target=y", "data.split=s")
    code, _, err = command(
        *settings, "trainer.max_epochs=1", "report.learning_curve=true", "hydra.run.dir=run"
    )
    assert code == 0, err
    rows = read_curve(tmp_path / "run")["rows"].to_list()
    assert rows[-1] == 40
    assert 4 not in rows


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["report.learning_curve=yes please"],
            "report.learning_curve must be true or false, got 'yes please'.",
        ),
        (
            ["+trainer.limit_val_batches=0", "monitor=last"],
            "report.learning_curve=true requires validation rows.",
        ),
        (
            ["trainer=ddp", "trainer.devices=2"],
            "report.learning_curve=true requires one process, but there are 2.",
        ),
    ],
    ids=str,
)
def test_mistakes(settings, message, command):
    code, _, err = command("task=binary", "report.learning_curve=true", *settings)
    assert code == 1
    assert message in err
