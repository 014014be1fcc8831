"""The permutation importance of columns."""

import json
import math
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from table_cases import OPTIONS
from torch import nn

import lossselect as ls
from lossselect.data.files.load import load_own_data
from lossselect.reporting.importance import BATCH, compute_importance


def splits_of(path, columns, **options):
    pl.DataFrame(columns).write_csv(path)
    data = {**OPTIONS, "path": str(path), "target": "y", **options}
    return load_own_data("table", task={"name": "binary"}, **data)


@pytest.fixture
def columns():
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 2)).round(3)
    city = random.choice(["Bern", "Chur", "Davos"], 400)
    y = ((x[:, 0] + 3 * (city == "Bern") + random.normal(size=400)) > 1).astype(int)
    return {"useful": x[:, 0], "noise": x[:, 1], "city": city, "y": y}


class Constant(nn.Module):
    """Logits that depend only on the first feature, and on the first category."""

    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.3], [0.0], [2.0], [0.0], [0.0]][:features]))

    def forward(self, inputs):
        return inputs @ self.weight


def test_is_the_increase_of_the_loss(columns, tmp_path):
    splits = splits_of(tmp_path / "t.csv", columns)
    module = ls.TaskModule(ls.Binary(), Constant(splits.features.shape[1]))
    found = compute_importance(module, SimpleNamespace(splits=splits), 60, seed=3)
    rows = splits.rows["test"]
    inputs, target = splits.features[rows], module.task.encode(splits.labels[rows])

    def loss(features):
        with torch.no_grad():
            return nn.functional.binary_cross_entropy_with_logits(module(features), target).item()

    assert (found.split, found.rows, found.total) == ("test", len(rows), 3)
    assert found.loss == pytest.approx(loss(inputs), abs=1e-6)
    random = np.random.default_rng(3)
    orders = [torch.from_numpy(random.permutation(len(rows))) for _ in range(5)]
    for name, places in (("useful", [0]), ("noise", [1]), ("city", [2, 3, 4])):
        expected = []
        for order in orders:
            permuted = inputs.clone()
            permuted[:, places] = inputs[order][:, places]  # those of a category together
            expected.append(loss(permuted) - found.loss)
        assert found.increases[name] == pytest.approx(expected, abs=1e-6)
    assert found.increases["noise"] == [0] * 5
    table = {name: values for name, *values in found.table()}
    assert [*table] == ["city", "useful", "noise"]
    assert table["city"] == pytest.approx([np.mean(expected), np.std(expected, ddof=1)], abs=1e-6)
    assert module.training


def test_a_loss_that_is_nan_remains_nan(columns, tmp_path):
    splits = splits_of(tmp_path / "t.csv", columns)
    module = ls.TaskModule(ls.Binary(), Constant(splits.features.shape[1]))
    with torch.no_grad():
        module.net.weight[0] = torch.nan
    assert math.isnan(compute_importance(module, SimpleNamespace(splits=splits), 60, seed=3).loss)


def test_stops_at_the_time_limit(columns, tmp_path):
    splits = splits_of(tmp_path / "t.csv", columns)
    module = ls.TaskModule(ls.Binary(), Constant(splits.features.shape[1]))
    found = compute_importance(module, SimpleNamespace(splits=splits), 1e-9, seed=0)
    assert (len(found.increases), found.total) == (1, 3)


def test_batches_do_not_change_the_loss(tmp_path):
    count = 2 * BATCH + 5
    x = np.random.default_rng(0).normal(size=count)
    columns = {"x": x, "noise": x[::-1], "y": (x > 0).astype(int), "w": np.arange(count) % 3}
    splits = splits_of(tmp_path / "t.csv", columns, test_fraction=0.9, val_fraction=0.1, sample_weight="w")
    module = ls.TaskModule(ls.Binary(), Constant(2))
    found = compute_importance(module, SimpleNamespace(splits=splits), 60, seed=0)
    rows = splits.rows["test"]
    assert len(rows) > BATCH
    logits, target, weight = module(splits.features[rows]), splits.labels[rows], splits.weights[rows]
    losses = nn.functional.binary_cross_entropy_with_logits(
        logits[:, 0].detach(), torch.as_tensor(target).float(), reduction="none"
    )
    assert found.loss == pytest.approx(float((losses * weight).sum() / weight.sum()), abs=1e-6)


@pytest.mark.figures
def test_of_a_run(command, columns, tmp_path):
    pl.DataFrame(columns).write_csv(tmp_path / "t.csv")
    settings = ("task=binary", "data=table", "data.path=t.csv", "data.target=y", "hydra.run.dir=run")
    code, out, err = command(*settings, "trainer.max_epochs=5", "report.importance=true")
    assert (code, err) == (0, "")
    assert "importance.csv" in out
    table = pl.read_csv("run/importance.csv")
    assert table["column"].to_list()[2] == "noise"
    assert table["mean"].is_sorted(descending=True)
    assert pl.read_csv("run/figures/importance.csv")["mean"].to_list() == table["mean"].to_list()
    page = (tmp_path / "run" / "report.html").read_text()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert f"Increase of the loss, {metrics['test/loss']:.3f} on 80 test rows" in page


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["report.importance=1"], "report.importance must be true or false, got 1."),
        (["report.importance_seconds=0"], "report.importance_seconds must be"),
        (
            ["report=false", "report.importance=true"],
            "report.importance cannot be combined with report=false, which has no settings.",
        ),
        (["report=maybe"], "report must be true, false or options, such as importance, got 'maybe'."),
        (["report.importanc=true"], "Did you mean 'importance'?"),
        (["+report.speed=1"], "report has no option 'speed'. Its options: importance"),
        (["report.importance=true", "head=chunked"], "report.importance=true requires head=dense."),
        (["report.importance=true", "trainer=ddp", "trainer.devices=2"], "one process, but there are 2."),
    ],
    ids=str,
)
def test_mistakes(settings, message, command):
    code, _, err = command("task=multiclass", *settings)
    assert code == 1
    assert message in err
