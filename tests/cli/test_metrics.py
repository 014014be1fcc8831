"""The setting `metrics`."""

import json
from pathlib import Path

import polars as pl
import pytest
from train_cases import SHORT

MINE = "{_target_: torchmetrics.classification.MulticlassJaccardIndex, num_classes: %d}"


def keys_of(split, metrics):
    return {name.removeprefix(f"{split}/") for name in metrics if name.startswith(f"{split}/")}


@pytest.mark.figures
def test_chosen_metrics_in_all_results(command):
    chosen = f"metrics={{iou: jaccard_none, mine: {MINE % 10}, f: f0.5, exclude: ['0']}}"
    code, out, err = command("task=multiclass", chosen, "monitor=val/mine", "hydra.run.dir=run", *SHORT)
    assert code == 0, err
    metrics = json.loads(Path("run/metrics.json").read_text())
    names = {"loss", "mine", "f", *(f"iou/{i}" for i in range(1, 10))}
    assert keys_of("val", metrics) == names
    assert keys_of("test", metrics) >= names
    assert "test/default_decision/iou/1" in metrics
    assert "test/default_decision/mine" not in metrics
    assert "iou/9" in out
    log = pl.read_csv("run/logs/metrics.csv")
    assert {"train/mine", "val/iou/3", "val/f"} <= {*log.columns}
    assert pl.read_csv("run/per_class.csv").columns == [
        *("class", "positives", "negatives", "predicted", "precision", "recall", "f1")
    ]
    report = Path("run/report.html").read_text()
    assert "iou/9" in report
    assert "Validation metrics by epoch" in report
    plan = {line["name"]: line["value"] for line in json.loads(Path("run/plan.json").read_text())["lines"]}
    assert plan["metrics"] == "loss, iou, mine, f"
    assert plan["checkpoint"] == "the epoch with the best val/mine (max)"


@pytest.mark.parametrize("chosen", ["f1_weighted", "[accuracy,f1_weighted]", "{f1_weighted: f1_weighted}"])
def test_forms(chosen, command):
    code, _, err = command("task=multilabel", f"metrics={chosen}", "hydra.run.dir=run", *SHORT)
    assert code == 0, err
    metrics = keys_of("val", json.loads(Path("run/metrics.json").read_text()))
    assert metrics - {"accuracy"} == {"loss", "f1_weighted", "average_precision"}  # with the default monitor


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["metrics=f1_macr"], "Unknown metric 'f1_macr'. Did you mean 'f1_macro'"),
        (["metrics=[accuracy_at_20]"], "requires k from 1 to 9"),
        (["metrics={f1: f1, exclude: [zero]}"], "Unknown class 'zero' in exclude"),
        (["metrics=f1", "monitor=val/typo"], "Choose one of: val/loss, val/f1, train/loss, train/f1, last."),
        (["metrics=f1_none", "monitor=val/f1/x"], "Unknown metric 'val/f1/x' of monitor. Did you mean"),
        ([f"metrics={{mine: {MINE % 11}}}"], "'mine' (MulticlassJaccardIndex) cannot be updated"),
        (["metrics=0.5"], "metrics must be a name"),
        (["metrics=[f1]", "head=chunked"], "head=chunked does not support the metric 'f1'"),
        (["metric=f1"], "Set metrics=f1 to log this metric"),
        (["metrics={x: {_target_: my.Metric}}"], "a config may name only metrics of torchmetrics"),
    ],
    ids=str,
)
def test_errors_are_raised_before_anything_is_written(settings, message, command, tmp_path):
    code, _, err = command("task=multiclass", *settings, "hydra.run.dir=run", *SHORT)
    assert code == 1
    assert message in err
    assert not list(tmp_path.iterdir())


def test_metrics_of_a_chunked_head(command):
    settings = ("head=chunked", "metrics=[ndcg_at_3,psp_at_1]", "hydra.run.dir=run")
    code, _, err = command("task=multilabel", *settings, *SHORT)
    assert code == 0, err
    metrics = keys_of("val", json.loads(Path("run/metrics.json").read_text()))
    assert metrics == {"loss", "ndcg_at_3", "psp_at_1", "precision_at_1"}


def test_an_own_metric_under_trust(command, monkeypatch, tmp_path):
    (tmp_path / "own_metric.py").write_text(
        "from torchmetrics.classification import BinaryAccuracy\n"
        "class Own(BinaryAccuracy):\n"
        "    higher_is_better = False\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = ("metrics={own: {_target_: own_metric.Own}}", "trust=[own_metric]", "monitor=val/own")
    code, _, err = command("task=binary", *settings, "hydra.run.dir=run", *SHORT)
    assert code == 0, err
    assert "best val/own (min)" in Path("run/plan.json").read_text()
