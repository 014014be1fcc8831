"""A task added by a single module trains from a config, with plan, metrics, report and export."""

import json

import numpy as np
import polars as pl
import pytest
from fourth_task import AtMostOne

import lossselect as ls
from lossselect.cli import predict
from lossselect.tasks.registry import TASKS

CONFIG = """# @package _global_
task:
  name: at_most_one
"""


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A table whose rows have at most one of the labels a, b and c, and the config of the task."""
    monkeypatch.setitem(TASKS, "at_most_one", AtMostOne)
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "task" / "at_most_one.yaml").write_text(CONFIG)
    features = np.random.default_rng(0).normal(size=(200, 4))
    largest = features[:, :3].argmax(1)
    has_label = features[:, :3].max(1) > 0.5
    labels = {name: ((largest == i) & has_label).astype(int) for i, name in enumerate("abc")}
    frame = pl.DataFrame({f"x{i}": features[:, i] for i in range(4)} | labels)
    frame.write_csv(tmp_path / "t.csv")
    frame.head(5).write_csv(tmp_path / "new.csv")
    return ["--config-dir=conf", "task=at_most_one", "data=table", "data.path=t.csv", "data.target=[a,b,c]"]


@pytest.mark.figures
def test_trains_from_a_config(data, command, tmp_path, monkeypatch, capsys):
    code, out, err = command(*data, "trainer.max_epochs=30", "hydra.run.dir=run", "export=onnx")
    assert code == 0, err
    assert "at most one of 3 labels" in out
    assert "one logit per label" in (tmp_path / "run" / "plan.json").read_text()
    assert "tuned for f1_macro" in out.replace("expected_f1", "f1_macro")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test/auroc"] > 0.9
    assert {"test/f1_macro", "test/exact_match", "val/loss"} <= metrics.keys()
    assert "at most one of 3 labels" in (tmp_path / "run" / "plan.json").read_text()
    assert "exact_match" in (tmp_path / "run" / "report.html").read_text()

    best = str(tmp_path / "run" / "checkpoints" / "best.ckpt")
    module = ls.TaskModule.load_from_checkpoint(best)
    assert isinstance(module.task, AtMostOne)
    (model,) = (tmp_path / "run").glob("*.onnx")
    for source, output in ((best, "a.csv"), (str(model), "b.csv")):
        monkeypatch.setattr(
            "sys.argv", ["lossselect", f"checkpoint={source}", "input=new.csv", f"output={output}"]
        )
        predict.main()
    capsys.readouterr()
    of_checkpoint, of_export = (pl.read_csv(tmp_path / name) for name in ("a.csv", "b.csv"))
    assert of_checkpoint["prediction"].equals(of_export["prediction"])
    decided = module.task.predict(module.task.encode(np.eye(3)).logit().clamp(-9, 9))
    assert (decided.sum(1) <= 1).all()


def test_errors_of_the_task_are_raised_before_training(data, command, tmp_path):
    frame = pl.read_csv("t.csv").with_columns(pl.lit(1).alias("b"), pl.lit(1).alias("a"))
    frame.write_csv("t.csv")
    code, _, err = command(*data, "hydra.run.dir=run")
    assert code == 1
    assert err.startswith("Row 0 of the target has several labels, but at most one is possible.")
    assert not (tmp_path / "run").exists()
