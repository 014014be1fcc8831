"""Choices of loss, weights and decision on the command line, and errors for invalid choices."""

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from lossselect.cli import predict

SHORT = ["trainer.max_epochs=3", "hydra.run.dir=run", "model.hidden=[16]", "logger=none"]


@pytest.fixture
def grades(tmp_path):
    """Write rows with class 0, 1 or 2, increasing with x; class 2 is rare."""
    generator = np.random.default_rng(1)
    x = generator.normal(size=(300, 4))
    score = x[:, 0] + 0.3 * generator.normal(size=300)
    grade = (score > 0).astype(int) + (score > 1.2)
    frame = pl.DataFrame({f"x{i}": x[:, i] for i in range(4)}).with_columns(
        pl.Series("grade", grade),
        pl.Series("name", np.array(["low", "mid", "high"])[grade]),
        pl.Series("w", np.where(grade == 2, 3.0, 1.0)),
        pl.Series("rare", np.where(grade == 2, "yes", "no")),
    )
    frame.write_csv(tmp_path / "grades.csv")
    return frame


def table(target, *exclude):
    others = {"grade", "name", "w", "rare"} - {target} - set(exclude)
    return [
        "data=table",
        "data.path=grades.csv",
        f"data.target={target}",
        f"data.exclude=[{','.join(sorted(others))}]",
    ]


def check_error(command, *arguments, message):
    """Check that the arguments lead to one message, and that nothing is written."""
    code, _, err = command(*arguments, *SHORT)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert not Path("run").exists()


def planned(name):
    """A choice in the plan of the run, with its reason."""
    lines = json.loads(Path("run/plan.json").read_text())["lines"]
    return next(" | ".join((line["value"], line["why"])) for line in lines if line["name"] == name)


def metrics():
    return json.loads(Path("run/metrics.json").read_text())


def test_ordered_classes(grades, command):
    code, out, err = command("task=multiclass", "task.ordinal=true", *table("grade"), *SHORT)
    assert (code, err) == (0, "")
    assert "multiclass with 3 ordered classes" in out
    assert "the median class" in out
    assert {"test/mean_absolute_error", "test/quadratic_kappa"} <= metrics().keys()
    content = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    assert content["task"]["ordinal"]
    assert content["state_dict"]["net.5.weight"].shape[0] == 2
    with open("run/predictions.csv") as file:
        row = next(csv.DictReader(file))
    assert sum(float(row[f"p_{name}"]) for name in "012") == pytest.approx(1, abs=1e-5)


def test_ordered_class_names_require_their_order(grades, command):
    arguments = ["task=multiclass", "task.ordinal=true", *table("name"), *SHORT]
    code, _, err = command(*arguments)
    assert code == 1
    assert "'high' is not a number. Set +task.class_names=[lowest,...,highest]" in err
    assert not Path("run").exists()
    code, _, err = command(*arguments, "+task.class_names=[low,mid,high]")
    assert (code, err) == (0, "")


def test_balanced_weights_are_numbers_in_plan_and_checkpoint(grades, command):
    code, out, err = command("task=multiclass", "loss.weight=balanced", *table("name"), *SHORT)
    assert (code, err) == (0, "")
    assert "weights weight high: " in " ".join(out.split())
    assert "counted in the training labels (weight=balanced)" in planned("weights")
    weight = torch.load("run/checkpoints/best.ckpt", weights_only=True)["loss"]["weight"]
    assert len(weight) == 3
    assert max(weight) == weight[0]  # "high" is the rare one


@pytest.mark.parametrize(
    "loss", ["logit_adjusted", "one_vs_rest", "generalized_cross_entropy", "auto", "poly1"]
)
def test_every_loss_runs(grades, command, loss):
    code, _, err = command("task=multiclass", f"loss={loss}", *table("name"), *SHORT)
    assert (code, err) == (0, "")


def test_sample_weights(grades, command):
    arguments = ["task=multiclass", *table("name", "w"), *SHORT]
    code, out, err = command(*arguments, "data.sample_weight=w")
    assert (code, err) == (0, "")
    assert "metrics are unweighted" in planned("sample weights")
    assert "w" not in out.split("features", 1)[1].split("rows")[0].split()
    weighted = metrics()
    assert command(*arguments, "data.exclude=[grade,rare,w]")[0] == 0
    assert weighted["test/loss"] != metrics()["test/loss"]


def test_sample_weights_in_arrays(grades, command):
    x, y = grades.select("x0", "x1").to_numpy(), grades["grade"].to_numpy()
    np.savez("a.npz", X=x, y=y, w=grades["w"].to_numpy())
    arguments = ["task=multiclass", "data=arrays", "data.path=a.npz", *SHORT]
    assert command(*arguments, "data.sample_weight=w")[0] == 0
    code, _, err = command(*arguments, "data.sample_weight=v")
    assert code == 1
    assert "a.npz has no array 'v' (data.sample_weight)." in err


@pytest.mark.parametrize("value", ["-1", "abc", "", "inf"])
def test_invalid_sample_weights(grades, command, value):
    text = grades.with_columns(pl.col("w").cast(pl.String)).with_columns(
        pl.when(pl.int_range(pl.len()) == 7).then(pl.lit(value)).otherwise("w").alias("w")
    )
    text.write_csv("grades.csv", quote_style="never")
    code, _, err = command("task=multiclass", *table("name", "w"), "data.sample_weight=w", *SHORT)
    assert code == 1
    assert "Row 7 of grades.csv has the weight" in err


def test_the_decision_is_tuned_saved_and_used(grades, command, monkeypatch, capsys):
    allowed = "ignore_warnings=[few_positives]"
    code, out, err = command("task=binary", "decision.metric=f1", allowed, *table("rare"), *SHORT)
    assert (code, err) == (0, "")
    assert "a threshold tuned for f1; calibrated by a temperature" in " ".join(out.split())
    content = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    threshold, temperature = content["task"]["threshold"], content["task"]["temperature"]
    assert f"threshold     {threshold:.3g}" in out
    assert f"temperature   {temperature:.3g}" in out
    assert "no, yes (the positive one)" in out
    assert threshold != 0.5
    assert temperature != 1
    assert content["base_task"]["threshold"] == 0.5
    results = metrics()
    assert "test/default_decision/f1" in results
    assert "test/default_decision/auroc" not in results
    rows = pl.read_csv("run/predictions.csv")
    assert ((rows["p_yes"] >= threshold) == (rows["prediction"] == "yes")).all()
    table_of_classes = pl.read_csv("run/per_class.csv")
    assert table_of_classes["threshold"].to_list() == [threshold]
    assert table_of_classes["f1"][0] == pytest.approx(results["test/f1"])

    monkeypatch.setattr(
        sys,
        "argv",
        ["predict.py", "checkpoint=run/checkpoints/best.ckpt", "input=grades.csv", "output=out.csv"],
    )
    predict.main()
    assert capsys.readouterr().err == ""
    predicted = pl.read_csv("out.csv")
    assert ((predicted["p_yes"] >= threshold) == (predicted["prediction"] == "yes")).all()
    merged = predicted.join(rows, on="row")
    assert merged["p_yes"].to_numpy() == pytest.approx(merged["p_yes_right"].to_numpy(), abs=1e-6)


def test_a_custom_threshold_is_kept(grades, command):
    code, out, _ = command("task=binary", "task.threshold=0.3", *table("rare"), *SHORT)
    assert code == 0
    assert "1 if the probability is >= 0.3" in out
    task = torch.load("run/checkpoints/best.ckpt", weights_only=True)["task"]
    assert task["threshold"] == 0.3
    assert task["temperature"] != 1


def test_nothing_is_tuned_without_a_decision(grades, command):
    assert command("task=binary", "decision=none", *table("rare"), *SHORT)[0] == 0
    content = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    assert content["base_task"] is None
    assert content["task"]["threshold"] == 0.5
    assert not [name for name in metrics() if "base_task" in name]


def test_class_factors_are_tuned_for_a_metric(grades, command):
    code, out, _ = command("task=multiclass", "decision.metric=balanced_accuracy", *table("name"), *SHORT)
    assert code == 0
    assert "with class factors tuned for balanced_accuracy" in " ".join(out.split())
    assert len(torch.load("run/checkpoints/best.ckpt", weights_only=True)["task"]["prior_correction"]) == 3
    matrix = pl.read_csv("run/confusion_matrix.csv")
    assert matrix["true"].to_list() == ["high", "low", "mid"]
    assert matrix.drop("true").to_numpy().sum() == 60


def test_top_k_and_min_labels(command):
    for setting in ("task.top_k=3", "task.min_labels=3"):
        code, _out, err = command(
            "task=multilabel", setting, "trainer.max_epochs=1", "hydra.run.dir=run", "logger=none"
        )
        assert (code, err) == (0, "")
        rows = [json.loads(row) for row in pl.read_csv("run/predictions.csv")["prediction"]]
        assert {len(row) for row in rows} == {3} if "top_k" in setting else min(map(len, rows)) >= 3
        rule = "the 3 most probable labels" if "top_k" in setting else "at least 3 label"
        assert rule in planned("decision")


def test_mixup(grades, command):
    arguments = ["task=multiclass", *table("name"), *SHORT]
    code, _out, err = command(*arguments, "mix=mixup", "mix.alpha=1")
    assert (code, err) == (0, "")
    assert "mixup of the training batches" in planned("mix")
    mixed = metrics()["test/loss"]
    assert command(*arguments)[0] == 0
    assert metrics()["test/loss"] != mixed


def test_the_head_is_initialised_from_the_class_frequencies(grades, command):
    for setting, is_initialised in ((), True), (("bias_init=null",), False):
        _, out, _ = command("task=multiclass", *setting, *table("name"), *SHORT, "check_only=true")
        assert ("the class frequencies in the training rows" in out) == is_initialised


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loss.weight=[1,2]"], "weight must have one value per output, shape (3,) for multiclass with 3 classes"),
        (["loss.weight=[1,-2,1]"], "weight must be finite and >= 0, got -2 for 'low'"),
        (["loss.weight={high:2,hihg:3}"], "Unknown name 'hihg' in weight. Did you mean 'high'?"),
        (["loss.weight=[0,0,0]"], "weight is 0 for all outputs"),
        (["loss.weight=ballanced"], "weight='ballanced' is not valid. Did you mean 'balanced'?"),
        (["loss.beta=0.9"], "beta has no effect without weight=effective_number"),
        (["loss.label_smoothing=1"], "label_smoothing must be < 1, got 1"),
        (["loss=focal", "loss.gamma=-1"], "gamma must be a number >= 0, got -1"),
        (["loss=asymmetric"], "Loss 'asymmetric' has no softmax form, which task=multiclass requires"),
        (["loss=dice"], "Loss 'dice' compares regions"),
        (["loss=zlpr"], "Loss 'zlpr' has no softmax form"),
        (["loss=auto", "+loss.gamma=2"], "Loss 'auto' has no option 'gamma'"),
        (["loss=logit_adjusted", "loss.prior=[0.5,0.5]"], "prior must have one value per output, shape (3,)"),
        (["bias_init=prio"], "bias_init='prio' is not valid. Did you mean 'prior'?"),
        (["mix=mixup", "mix.alpha=0"], "alpha must be a number > 0, got 0"),
        (["mix=cutmix"], "got inputs of shape (2, 4). Set mix=mixup"),
        (["decision.metric=f1_micro"], "decision.metric='f1_micro' is not valid for task=multiclass."),
        (["decision.calibration=platt"], "calibration='platt' is not valid"),
        (["decision.recall=2"], "recall must be a number from 0 to 1, got 2"),
        (["decision.recall=0.5"], "recall=0.5 has no effect without decision.metric=precision_at_recall"),
        (["decision.metric=f1_macro", "decision.shrinkage=5"], "shrinkage=5 has no effect"),
        (["data.sample_weight=[w,x0]"], "data.sample_weight must be one column, got 2: w, x0."),
        (["callbacks.early_stopping.patience=3"], "callbacks.early_stopping.patience has no effect: the run trains"),
        (["decision.shrinkage=-1"], "shrinkage must be a number >= 0"),
        (["decision.per_label=maybe"], "per_label must be true or false, got 'maybe'"),
        (["+decision.k=3"], "decision has no option 'k'"),
        (["decision=none", "decision.metric=f1"], "decision.metric cannot be combined with decision=none, which has no settings."),
        (["+task.threshold=0.3"], "task=multiclass has no option 'threshold'"),
    ],
)  # fmt: skip
def test_errors_of_a_multiclass_task(grades, command, arguments, message):
    check_error(command, "task=multiclass", *arguments, *table("name"), message=message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task.threshold=1.5"], "threshold must be a number from 0 to 1, got 1.5"),
        (["task.threshold=[0.5,0.5]"], "threshold requires one number per output (1), got 2"),
        (["task.threshold=0.3", "decision.metric=f1"], "The threshold 0.3 cannot be combined with decision.metric=f1"),
        (["loss.weight=balanced"], "Set pos_weight=auto to weight"),
        (["loss.pos_weight=-2"], "pos_weight must be finite and >= 0, got -2 for 'yes'"),
        (["loss=zlpr", "loss.pos_weight=auto"], "Loss 'zlpr' does not support pos_weight"),
        (["decision.calibration=per_label"], "calibration=per_label is only for multilabel"),
        (["decision.shrinkage=5"], "shrinkage=5 has no effect"),
    ],
)  # fmt: skip
def test_errors_of_a_binary_task(grades, command, arguments, message):
    check_error(command, "task=binary", *arguments, *table("rare"), message=message)


def test_a_class_called_true_has_its_column(command):
    x = np.random.default_rng(0).normal(size=(200, 2))
    verdict = np.array(["true", "false", "mixed"])[(x[:, 0] > 0).astype(int) + (x[:, 1] > 0)]
    pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "verdict": verdict}).write_csv("tf.csv")
    assert command("task=multiclass", "data=table", "data.path=tf.csv", "data.target=verdict", *SHORT)[0] == 0
    matrix = pl.read_csv("run/confusion_matrix.csv")
    assert matrix.columns == ["true class", "false", "mixed", "true"]
    assert matrix["true class"].to_list() == ["false", "mixed", "true"]


def test_the_last_checkpoint_is_the_same_model(grades, command):
    assert command("task=binary", *table("rare"), *SHORT)[0] == 0
    best, last = (torch.load(f"run/checkpoints/{n}.ckpt", weights_only=True) for n in ("best", "last"))
    assert best["task"] == last["task"]
    assert last["base_task"] is not None


@pytest.mark.parametrize("monitor", ["callbacks.early_stopping.monitor=val/loss", "monitor=val/loss"])
def test_early_stopping_that_stops(grades, command, monitor):
    """No epoch improves by 10, so patience=1 ends the run after the second one."""
    settings = ["callbacks.early_stopping.patience=1", "+callbacks.early_stopping.min_delta=10", monitor]
    assert command("task=binary", *table("rare"), *SHORT, "trainer.max_epochs=8", *settings)[0] == 0
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["epoch"] == 1


@pytest.fixture
def rare(tmp_path):
    """Return the settings for 1,500 rows; an eighth are positive, and the classes overlap."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(1500, 3))
    positive = generator.random(1500) < 1 / (1 + np.exp(2.8 - 1.5 * x[:, 0] + x[:, 1]))
    columns = {f"x{i}": x[:, i] for i in range(3)}
    pl.DataFrame({**columns, "bad": positive.astype(int)}).write_csv(tmp_path / "rare.csv")
    return ["task=binary", "data=table", "data.path=rare.csv", "data.target=bad", *SHORT]


LINE = (
    r"f1 is (0\.\d\d) at threshold (0\.\d+), but (0\.\d\d) at the current ([0-9.]+)\. Set decision\.metric=f1"
)


def test_the_binary_threshold_is_one_half_and_another_one_is_suggested(rare, command):
    code, out, err = command(*rare, "trainer.max_epochs=10")
    assert (code, err) == (0, "")
    assert torch.load("run/checkpoints/best.ckpt", weights_only=True)["task"]["threshold"] == 0.5
    (found,) = re.findall(LINE, out)
    assert float(found[0]) > float(found[2]) + 0.02
    assert float(found[1]) < 0.45
    assert found[3] == "0.5"
    at_half, (_, out, _) = metrics(), command(*rare, "trainer.max_epochs=10", "decision.metric=f1")
    assert not re.findall(LINE, out)
    assert metrics()["test/f1"] > at_half["test/f1"]
    assert metrics()["test/accuracy"] < at_half["test/accuracy"]


def test_pos_weight_leaves_probabilities_calibrated(rare, command):
    code, out, err = command(*rare, "trainer.max_epochs=10", "loss.pos_weight=10")
    assert (code, err) == (0, "")
    assert "1 if the logit is >= 0, which pos_weight implies" in " ".join(out.split())
    assert "after the shift of the logits by pos_weight is removed" in planned("decision")
    p = pl.read_csv("run/predictions.csv")["p_1"]
    truth = pl.read_csv("rare.csv")["bad"]
    assert p.mean() == pytest.approx(truth.mean(), abs=0.03)
    assert metrics()["test/f1"] == metrics()["test/default_decision/f1"]  # the decisions of the net itself
    assert metrics()["test/brier_score"] < metrics()["test/default_decision/brier_score"] - 0.03
    _, out, _ = command(*rare, "loss.pos_weight=10", "decision=none")
    assert "probabilities are not calibrated, as pos_weight shifts the logits" in planned("decision")


def test_a_marker_of_missing_features_is_not_a_class(tmp_path, command):
    kinds = ["a", "b", "a", "b", "NA"] * 30
    pl.DataFrame({"x": [(i * 37 % 150) / 7 for i in range(150)], "kind": kinds}).write_csv(tmp_path / "t.csv")
    table = ["task=binary", "data=table", "data.path=t.csv", "data.target=kind", "data.positive=b"]
    code, out, err = command(*table, "data.null_values=[NA]", "check_only=true")
    assert (code, err) == (0, "")
    assert "a, b (the positive one)" in out
