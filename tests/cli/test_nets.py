"""Tests of model=auto and of single nets on the command line, from the plan to exported files."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from train_cases import SHORT, read_csv, train_in

import lossselect as ls
from lossselect.cli import evaluate, predict
from lossselect.reporting.html import format_cell
from lossselect.training.checkpoints.content import read_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a table, a run on it, and a run that was interrupted and resumed."""
    folder = tmp_path_factory.mktemp("nets")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 2))
    columns = {"a": x[:, 0], "b": x[:, 1], "c": generator.choice(["x", "y", "z"], 300)}
    labels = np.array(["no", "yes"])[(x[:, 0] * x[:, 1] > 0).astype(int)]
    pl.DataFrame({**columns, "label": labels}).write_csv(folder / "data.csv")
    settings = [
        "task=binary",
        "data=table",
        "data.path=data.csv",
        "data.target=label",
        "trainer.accelerator=cpu",
    ]
    settings.append("model=auto")
    train_in(folder, *settings, "trainer.max_epochs=6", "hydra.run.dir=whole", "export=onnx")
    train_in(folder, *settings, "trainer.max_epochs=6", "hydra.run.dir=part", "+trainer.max_steps=12")
    last = folder / "part/checkpoints/last.ckpt"
    train_in(
        folder, *settings, "trainer.max_epochs=6", "hydra.run.dir=resumed", f"resume={last}", "report=false"
    )
    return folder


def test_the_plan_and_the_report_name_the_nets(folder):
    lines = {line["name"]: line for line in json.loads((folder / "whole/plan.json").read_text())["lines"]}
    assert lines["model"]["value"].startswith("mlp, mlp_deep, tabm, tabm_ple, trained together")
    assert lines["model"]["why"] == "5 features, of which 2 have more than two values"
    report = (folder / "whole/report.html").read_text()
    table = report[report.index("<h2>Nets</h2>") :].partition("</table>")[0]
    weights = [format_cell(float(row["weight"])) for row in read_csv(folder / "whole/nets.csv")]
    assert all(
        f"<bdi>{cell}</bdi>" in table
        for cell in ("mlp", "mlp_deep", "tabm", "tabm_ple", "together", *weights)
    )


def test_the_table_of_the_nets_agrees_with_the_metrics(folder):
    rows = {row["net"]: row for row in read_csv(folder / "whole/nets.csv")}
    assert [*rows] == ["mlp", "mlp_deep", "tabm", "tabm_ple", "together"]
    metrics = json.loads((folder / "whole/metrics.json").read_text())
    assert float(rows["together"]["log_loss"]) == pytest.approx(metrics["val/loss"], rel=1e-4)
    assert sum(float(row["weight"]) for row in rows.values()) == pytest.approx(2)


def test_the_resumed_run_has_the_same_result(folder):
    whole, resumed = (
        read_checkpoint(folder / f"{run}/checkpoints/best.ckpt") for run in ("whole", "resumed")
    )
    assert resumed["epoch"] == whole["epoch"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name
    assert (folder / "whole/nets.csv").read_text() == (folder / "resumed/nets.csv").read_text()


def test_predict_evaluate_and_export_use_the_selected_nets(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    predicted = {}
    for name, checkpoint in (("ckpt", "whole"), ("onnx", "whole/model.onnx")):
        monkeypatch.setattr(
            "sys.argv", ["predict", f"checkpoint={checkpoint}", "input=data.csv", f"output={name}.csv"]
        )
        predict.main()
        predicted[name] = pl.read_csv(f"{name}.csv")["p_yes"].to_numpy()
    np.testing.assert_allclose(predicted["onnx"], predicted["ckpt"], atol=1e-5)
    written = pl.read_csv("whole/predictions.csv")
    np.testing.assert_allclose(predicted["ckpt"][written["row"].to_numpy()], written["p_yes"], atol=1e-5)
    monkeypatch.setattr("sys.argv", ["evaluate", "checkpoint=whole", "input=data.csv", "output=evaluation"])
    evaluate.main()
    assert json.loads((folder / "evaluation/metrics.json").read_text())["test/loss"] < 0.7


def test_a_checkpoint_loads_without_arguments(folder):
    module = ls.TaskModule.load_from_checkpoint(folder / "whole").eval()
    assert [*module.net.nets] == ["mlp", "mlp_deep", "tabm", "tabm_ple"]
    assert module.net.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "net"),
    [
        (["model=tabm", "model.encoding=ple"], "TabM"),
        (["model=mlp", "model.encoding=periodic"], "Sequential"),
        (["model=linear", "model.encoding=ple"], "Sequential"),
        (["model.nets=[tabm]"], "TabM"),
        (["head=chunked", "task=multilabel"], "Sequential"),
    ],
    ids=str,
)
def test_single_nets(tmp_path, settings, net):
    task = [] if any("task=" in setting for setting in settings) else ["task=multiclass"]
    train_in(tmp_path, *SHORT, *task, *settings, "hydra.run.dir=run", "report=false")
    assert type(ls.TaskModule.load_from_checkpoint(tmp_path / "run").net).__name__ == net
    assert not (tmp_path / "run/nets.csv").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model=tabm", "head=chunked"], "head=chunked does not support nets with several members"),
        (["model.nets=[tabm]", "head=chunked"], "head=chunked supports only a single net"),
        (["model.nets=[mlp]", "module._target_=my.M"], "model.nets requires the built-in module"),
        (["model.nets=[mlp,tabm]", "+trainer.strategy=fsdp"], "model.nets requires the built-in module"),
        (["model.name=ensemble"], "Unknown net 'ensemble'. Choose one of: auto, mlp, linear, tabm."),
    ],
    ids=str,
)
def test_a_conflict_is_found_before_anything_is_written(command, tmp_path, settings, message):
    code, _, err = command("task=multiclass", *settings, "hydra.run.dir=run")
    assert (code, err.startswith(message)) == (1, True), err
    assert not (tmp_path / "run").exists()


def test_wide_tables_get_a_net_with_selected_features(tmp_path):
    generator = np.random.default_rng(0)
    x = generator.poisson(0.3, size=(200, 450)).astype(np.float32)
    y = (x[:, 7] > 0).astype(int)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    settings = ["task=binary", "data=arrays", "data.path=data.npz", "hydra.run.dir=run", "report=false"]
    train_in(tmp_path, *SHORT, *settings, "model=auto", "ignore_warnings=[duplicate_rows]")
    net = ls.TaskModule.load_from_checkpoint(tmp_path / "run").net
    assert 7 in net.nets["tabm_selected"].first.used.indices


def test_a_time_limit_reduces_the_number_of_epochs(tmp_path, capsys):
    settings = ["task=binary", "trainer.max_epochs=100000", "time_limit=3", "hydra.run.dir=run"]
    train_in(tmp_path, *settings, "trainer.accelerator=cpu", "report=false")
    epochs = read_checkpoint(tmp_path / "run/checkpoints/best.ckpt")["epoch"] + 1
    assert 1 <= epochs < 10_000
    log = read_csv(tmp_path / "run/logs/metrics.csv")
    assert max(int(row["epoch"]) for row in log) == epochs - 1
    assert "at most 100000 epochs or 3 seconds" in capsys.readouterr().out


@pytest.mark.default_net
@pytest.mark.parametrize(
    ("setting", "title"),
    [("model=auto", "Results of the nets together"), ("model=mlp", "Results of epoch 1")],
)
def test_the_title_of_the_results(command, setting, title):
    _, out, _ = command("task=binary", setting, "trainer.max_epochs=1", "report=false", "hydra.run.dir=run")
    assert title in out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["model=mlp", "model.encoding=ple"],
            "encoding=ple has no effect: no feature has more than two values",
        ),
        (["model.nets=[mlp,tabm_ple]"], "The net tabm_ple has no effect"),
        (["model=mlp", "model.dropout=1"], "dropout=1 sets all units to 0"),
        (["model=mlp", "model.encoding=plee"], "Did you mean 'ple'?"),
        (["model.nets=[linear]"], "To train it alone, set model=linear."),
    ],
    ids=str,
)
def test_mistakes_leave_no_folder(settings, message, tmp_path, command):
    rows = "".join(f"{i % 2},{i // 2 % 2},{'yes' if i % 3 else 'no'}\n" for i in range(60))
    (tmp_path / "t.csv").write_text("a,b,y\n" + rows)
    code, _, err = command(
        "task=binary", "data=table", "data.path=t.csv", "data.target=y", *settings,
        "ignore_warnings=[duplicate_rows]",
    )  # fmt: skip
    assert code == 1
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
