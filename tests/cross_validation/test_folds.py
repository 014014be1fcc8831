"""`folds=` and `repeats=` on the command line, from the plan to predictions of a new file."""

import json
import math
import re

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_wine

import lossselect as ls
from lossselect.cli import predict
from lossselect.comparison.record import read_record
from lossselect.data.loading import load_checked
from lossselect.reporting.html import format_cell
from lossselect.training.checkpoints.content import read_best_checkpoint

TABLE = ("task=multiclass", "data=table", "data.path=wine.csv", "data.target=target", "data.group=patient")
SHORT = ("trainer.max_epochs=3", "hydra.run.dir=run")
P = ["p_class_0", "p_class_1", "p_class_2"]


@pytest.fixture
def wine(tmp_path):
    bunch = load_wine()
    columns = {f"x{i}": column for i, column in enumerate(bunch.data.T)}
    labels = [str(bunch.target_names[i]) for i in bunch.target]
    table = pl.DataFrame({**columns, "patient": np.arange(178) // 3, "target": labels})
    table.write_csv(tmp_path / "wine.csv")
    return tmp_path


def read_metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def read_plan(folder):
    lines = json.loads((folder / "plan.json").read_text())["lines"]
    return {line["name"]: line["value"] for line in lines}


def test_folds_of_a_table(command, call, wine):
    code, out, err = command(*TABLE, *SHORT, "folds=3", "report.importance=true")
    assert (code, err) == (0, "")
    assert "3 folds, 3 trainings with the same test rows" in out
    run, names = wine / "run", [f"fold_{k}" for k in range(3)]
    metrics, each = read_metrics(run), [read_metrics(run / name) for name in names]
    values = [part["val/loss"] for part in each]
    assert metrics["val/loss"] == pytest.approx(np.mean(values))
    assert metrics["val/loss_standard_error"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(3))
    assert all(f"{part['val/loss']:.4f}" in out for part in each)

    # each row that is not a test row is predicted once, by a net that was not trained on its group
    oof, test = pl.read_csv(run / "out_of_fold.csv"), pl.read_csv(run / "predictions.csv")
    assert sorted([*oof["row"], *test["row"]]) == list(range(178))
    folds = oof.with_columns(patient=pl.col("row") // 3).group_by("patient").agg(pl.col("fold").n_unique())
    assert folds["fold"].max() == 1
    assert not set(oof["row"] // 3) & set(test["row"] // 3)

    # predictions are those of the mean probabilities
    for name in ("", *names):
        words = (f"checkpoint={run / name}", "input=wine.csv", f"output=p{name}.csv")
        assert call(predict.main, "lossselect predict", *words)[0] == 0
    together = pl.read_csv(wine / "p.csv").select(P).to_numpy()
    by_fold = np.stack([pl.read_csv(wine / f"p{name}.csv").select(P).to_numpy() for name in names])
    assert together == pytest.approx(by_fold.mean(0), abs=1e-6)
    assert together[test["row"]] == pytest.approx(test.select(P).to_numpy(), abs=1e-6)
    assert by_fold[oof["fold"], oof["row"]] == pytest.approx(oof.select(P).to_numpy(), abs=1e-6)
    accuracy = (test["target"] == test["prediction"]).mean()
    assert metrics["test/accuracy"] == pytest.approx(accuracy)

    page = (run / "report.html").read_text()
    assert ">Trainings<" in page
    assert f"<bdi>{format_cell(metrics['val/loss_standard_error'])}</bdi>" in page
    assert pl.read_csv(run / "importance.csv")["column"].len() == 13
    record, members = read_record(run), pl.read_csv(run / "members.csv")
    assert (record.metric, record.value) == ("val/loss", pytest.approx(np.mean(values)))
    assert members["training"].to_list() == [*names, "mean", "standard error"]
    assert members["val/loss"][3] == pytest.approx(np.mean(values))
    assert ls.TaskModule.load_from_checkpoint(run).task.names == ("class_0", "class_1", "class_2")


@pytest.mark.default_net
def test_repeated_folds_with_several_nets(command, tmp_path):
    code, _, err = command("task=binary", *SHORT, "folds=2", "repeats=2")
    assert (code, err) == (0, "")
    plan = read_plan(tmp_path / "run")
    assert plan["repetition"].startswith("2 seeds (0 to 1) x 2 folds, 4 trainings with the same test rows; ")
    assert plan["repetition"].endswith("other counts are those of repeat_0_fold_0")
    assert plan["data"] == read_plan(tmp_path / "run" / "repeat_0_fold_0")["data"]
    run = tmp_path / "run"
    names = [f"repeat_{r}_fold_{k}" for r in range(2) for k in range(2)]
    tests = [pl.read_csv(run / name / "predictions.csv") for name in names]
    together = pl.read_csv(run / "predictions.csv")
    assert all(test["row"].equals(together["row"]) for test in tests)
    mean = np.mean([test["p_benign"] for test in tests], 0)
    assert together["p_benign"].to_numpy() == pytest.approx(mean, abs=1e-6)
    oof = pl.read_csv(run / "out_of_fold.csv")
    assert "fold" not in oof.columns  # each row is in two
    assert len(oof) == 569 - len(together)


def test_repeats_have_the_same_rows_and_other_seeds(command, tmp_path):
    code, _, err = command("task=binary", *SHORT, "repeats=2", "seed=5", "loss.pos_weight=auto")
    assert (code, err) == (0, "")
    run = tmp_path / "run"
    assert not (run / "out_of_fold.csv").exists()
    first, second = (
        [*(run / name / "metrics.json").read_text().split()] for name in ("repeat_0", "repeat_1")
    )
    assert first != second
    assert read_plan(run / "repeat_0")["data"] == read_plan(run / "repeat_1")["data"]
    assert "other counts" not in read_plan(run)["repetition"]
    # the first training is the ordinary run
    code, _, err = command(
        "task=binary", "trainer.max_epochs=3", "hydra.run.dir=one", "seed=5", "loss.pos_weight=auto"
    )
    assert (code, err) == (0, "")
    assert (run / "repeat_0" / "predictions.csv").read_bytes() == (
        tmp_path / "one" / "predictions.csv"
    ).read_bytes()


def test_a_single_fold_is_an_ordinary_run(command, tmp_path):
    assert command("task=binary", *SHORT, "folds=2", "fold=1")[0] == 0
    assert command("task=binary", "trainer.max_epochs=3", "hydra.run.dir=all", "folds=2")[0] == 0
    one, fold = tmp_path / "run" / "predictions.csv", tmp_path / "all" / "fold_1" / "predictions.csv"
    assert one.read_bytes() == fold.read_bytes()


def test_own_nets_are_repeated_but_not_averaged(command, tmp_path):
    (tmp_path / "own.py").write_text(
        "from torch import nn\n\ndef build(num_features, num_outputs):\n"
        "    return nn.Linear(num_features, num_outputs)\n"
    )
    code, out, err = command(
        "task=multiclass", *SHORT, "repeats=2", "~model", "+model._target_=own.build", "trust=[own]"
    )
    assert (code, err) == (0, "")
    assert "are not averaged" in out
    run = tmp_path / "run"
    values = [read_metrics(run / f"repeat_{r}")["test/accuracy"] for r in range(2)]
    assert read_metrics(run)["test/accuracy"] == pytest.approx(np.mean(values))
    assert not (run / "checkpoints").exists()


def test_an_interrupted_run_continues(command, tmp_path, monkeypatch):
    from lossselect.cli import train

    words = ("task=binary", "trainer.max_epochs=2", "folds=3", "model=linear")
    assert command(*words, "hydra.run.dir=whole")[0] == 0
    original, calls = train.train, []

    def stop_at_the_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt("Interrupted.")
        return original(*args)

    monkeypatch.setattr(train, "train", stop_at_the_second)
    assert command(*words, "hydra.run.dir=run")[0] == 130
    assert not (tmp_path / "run" / "metrics.json").exists()
    monkeypatch.setattr(train, "train", original)
    assert command(*words, "hydra.run.dir=run", "resume=auto")[0] == 0
    for name in ("predictions.csv", "out_of_fold.csv", "metrics.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    for other in ("folds=4", "folds=2"):
        code, _, err = command(*words[:2], words[3], other, "hydra.run.dir=run", "resume=auto")
        assert code == 1
        assert f"was trained with folds=3, and this run has {other}" in err
    # without resume, the earlier run is kept
    assert command(*words[:2], words[3], "folds=2", "hydra.run.dir=run")[0] == 0
    assert (tmp_path / "run" / "previous_run.1" / "fold_2" / "checkpoints").is_dir()
    assert not (tmp_path / "run" / "fold_2").exists()


def test_an_error_names_the_training(command, tmp_path):
    diverges = ("optimizer=sgd", "optimizer.lr=1e30", *SHORT)
    code, _, err = command("task=binary", "folds=2", "repeats=2", "model=linear", *diverges)
    start = "repeat_0_fold_0 (training 1 of 4): The loss or its gradient is not finite in step"
    assert (code, err.startswith(start), err.count("\n")) == (1, True, 1), err
    assert read_record(tmp_path / "run").error.startswith(start)
    assert not (tmp_path / "run" / "repeat_0_fold_1").exists()


def test_an_error_in_a_sweep_names_the_job_and_the_training(command):
    words = ("-m", "task=binary", "folds=2", "model=linear", "optimizer=sgd", "optimizer.lr=1e30,1e31")
    code, out, err = command(*words, "trainer.max_epochs=1", "hydra.sweep.dir=sweep")
    start = "fold_0 (training 1 of 2): The loss or its gradient is not finite"
    assert (code, err.count("\n")) == (1, 1), err
    assert err.startswith(f"0-binary: {start}")
    assert re.findall(rf"(?m)^(.*) failed after [\d.]+ s: {re.escape(start)}", out) == [
        "0-binary",
        "1-binary",
    ]


def test_a_smoke_test_trains_once(command, tmp_path):
    code, out, _ = command("task=multiclass", *SHORT, "folds=3", "+trainer.fast_dev_run=true")
    assert code == 0
    assert "fast_dev_run tries only fold_0, the first of 3 trainings." in out
    assert "Smoke test passed" in out
    assert not any((tmp_path / "run").glob("*/checkpoints"))


def test_check_only_writes_nothing(command, tmp_path):
    code, out, _ = command("task=multiclass", "folds=3", "check_only=true")
    assert code == 0
    text = "3 folds, 3 trainings with the same test rows; other counts are those of fold_0"
    assert text in " ".join(out.split())
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["folds=1"], "folds must be an integer >= 2, got 1"),
        (["repeats=many"], "repeats must be an integer >= 2, got 'many'"),
        (["folds=3", "fold=3"], "fold must be an integer from 0 to 2, got 3"),
        (["fold=3"], "fold=3 requires folds"),
        (["folds=3", "fold=1", "repeats=2"], "fold and repeats cannot be combined"),
        (["folds=3", "data.val_fraction=0.2"], "Remove data.val_fraction, or folds"),
        (["folds=3", "resume=last.ckpt"], "Set resume=auto"),
        (["repeats=2", "seed=4294967295"], "got 4294967296"),
        (["folds=3", "+data._target_=own.Data"], "requires data=table, data=arrays or built-in data"),
        (["folds=3", "export=onnx", "+model._target_=own.build"], "export is not available with folds"),
        (["folds=3", "report.learning_curve=true"], "learning_curve is not available with folds or repeats"),
        (["folds=2", "trainer.devices=2", "trainer.accelerator=cpu"], "would use 2 processes"),
    ],
)
def test_wrong_settings(command, tmp_path, words, message):
    code, _, err = command("task=multiclass", "trust=[own]", *words)
    assert (code, "Traceback" in err) == (1, False)
    assert message in err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.time=x0"], "would train on rows that are later"),
        (["data.val_path=wine.csv"], "Remove data.val_path, or folds"),
        (["data.split=part"], "contains validation rows, but folds is also set"),
    ],
)
def test_settings_that_name_validation_rows(command, wine, words, message):
    table = pl.read_csv(wine / "wine.csv")
    parts = [("train", "val", "test")[i % 3] for i in range(len(table))]
    table.with_columns(part=pl.Series(parts)).write_csv(wine / "wine.csv")
    code, _, err = command(*(word for word in TABLE if "group" not in word), "folds=3", *words)
    assert (code, message in err) == (1, True), err


@pytest.mark.filterwarnings("default")
def test_too_few_rows_are_the_only_message(command, tmp_path):
    """Not preceded by warnings about the few rows, which a run without folds has."""
    (tmp_path / "six.csv").write_text("a,b,y\n1,2,u\n1,2,v\n3,1,u\n4,1,v\n4,1,u\n7,1,w\n")
    words = ("task=multiclass", "data=table", "data.path=six.csv", "data.target=y", "check_only=true")
    code, _, err = command(*words, "folds=7")
    message = "4 rows outside the test split are too few for folds=7. Reduce folds, or add rows.\n"
    assert (code, err) == (1, message)
    load_checked.cache_clear()
    code, _, err = command(*words, "folds=2")
    assert (code, "classes have fewer rows than there are splits" in err) == (0, True)


def test_sweeps_compare_means(command, tmp_path):
    words = ("-m", "task=binary", "trainer.max_epochs=2", "folds=2", "model=mlp,linear", "hydra.sweep.dir=s")
    assert command(*words)[0] == 0
    table = pl.read_csv(tmp_path / "s" / "summary.csv")
    assert len(table) == 2
    assert table["val/accuracy"][0] == read_metrics(tmp_path / "s" / "0-binary")["val/accuracy"]


def test_the_average_of_weighted_losses(command, call, wine):
    """Calibration has removed the weights, so loss and decision of the average are those without weights."""
    from lossselect.cli import evaluate

    words = ("loss.weight=balanced", "decision.metric=balanced_accuracy", "folds=2", "trainer.max_epochs=8")
    table = pl.read_csv(wine / "wine.csv").with_columns(
        target=pl.when(pl.col("patient") % 3 > 0).then(pl.lit("class_0")).otherwise(pl.col("target"))
    )
    table.write_csv(wine / "wine.csv")
    assert command(*TABLE, *words, "hydra.run.dir=run")[0] == 0
    run = wine / "run"
    metrics, test = read_metrics(run), pl.read_csv(run / "predictions.csv")
    truth = test["target"].replace_strict({name.removeprefix("p_"): i for i, name in enumerate(P)})
    p = test.select(P).to_numpy()
    log_loss = -np.log(p[np.arange(len(p)), truth.to_numpy()]).mean()
    assert metrics["test/loss"] == pytest.approx(log_loss, rel=1e-4)
    assert not any(name.startswith("test/default_decision") for name in metrics)
    assert any(name.startswith("test/default_decision") for name in read_metrics(run / "fold_0"))
    # fitting another decision does not remove the weights again
    words = ("checkpoint=run", "input=wine.csv", "decision.metric=null", "save=new.ckpt")
    assert call(evaluate.main, "lossselect evaluate", *words)[0] == 0
    assert read_best_checkpoint("new.ckpt")["task"]["shift"] == 0


def test_multilabel_groups(command, tmp_path):
    generator = np.random.default_rng(0)
    columns = {f"x{i}": generator.normal(size=120) for i in range(3)}
    labels = {f"y{i}": (columns[f"x{i}"] > 0.3 * i).astype(int) for i in range(3)}
    groups = np.arange(120) // 4
    pl.DataFrame({**columns, **labels, "group": groups}).write_csv(tmp_path / "t.csv")
    words = ("data=table", "data.path=t.csv", "data.target=[y0,y1,y2]", "data.group=group", "folds=3")
    assert command("task=multilabel", *words, *SHORT)[0] == 0
    oof = pl.read_csv(tmp_path / "run" / "out_of_fold.csv")
    folds = oof.with_columns(group=pl.col("row") // 4).group_by("group").agg(pl.col("fold").n_unique())
    assert folds["fold"].max() == 1


@pytest.mark.parametrize("change", ["seed=1", "data.test_fraction=0.4", "fold=1"])
def test_no_run_resumes_on_other_rows(command, tmp_path, change):
    words = ["task=binary", "model=linear", "folds=2", *SHORT] + ["fold=0"] * (change == "fold=1")
    assert command(*words)[0] == 0
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    others = [word for word in words if word != "fold=0"]
    code, _, err = command(*others, change, "resume=auto")
    expected = {
        "seed=1": "data.seed=0, and this run has data.seed=1",
        "fold=1": "The training rows are not those of",
    }
    assert (code, expected.get(change, "data.test_fraction=0.2, and this run has") in err) == (1, True), err
    if change == "fold=1":
        assert (tmp_path / "run" / "metrics.json").read_bytes() == before


def test_repeats_of_an_own_data_module(command, tmp_path):
    """It may have any attributes, such as a `task` that is not a task."""
    (tmp_path / "own_repeated.py").write_text("""
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

class Data(LightningDataModule):
    num_features, task = 4, "mine"

    def train_dataloader(self):
        x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x, (x[:, :1] > 0).float()), 16, num_workers=0)

    val_dataloader = test_dataloader = train_dataloader
""")
    words = (
        "~data",
        "+data._target_=own_repeated.Data",
        "trust=[own_repeated]",
        "repeats=2",
        "model=linear",
        *SHORT,
    )
    code, _, err = command("task=binary", *words, "ignore_warnings=[unfitted_layers]")
    assert code == 0, err
    assert read_record(tmp_path / "run").task == "binary"
    assert 0 <= read_metrics(tmp_path / "run")["test/accuracy"] <= 1
