"""Several tasks at the command line: a table with three kinds of labels, from the plan to predictions."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from train_cases import train_in

from lossselect.cli import data, evaluate, export, main, predict
from lossselect.training.checkpoints.content import read_best_checkpoint

COUNT = 240
TARGETS = (
    "data.targets={species: {task: multiclass}, tags: {task: multilabel, delimiter: '|', empty: negative}, "
    "sick: {task: binary, positive: yes, column: is sick}}"
)
TABLE = ["task=several", "data=table", "data.path=a.csv"]
SHORT = [
    "trainer.max_epochs=3",
    "trainer.accelerator=cpu",
    "hydra.run.dir=run",
    "ignore_warnings=[rare_class]",
]


def write_table(folder, rows=COUNT, seed=0, name="a.csv", **columns):
    """Write a table in which a part of the labels of each task is missing."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 3))
    kinds = np.where(x[:, 0] > 0.4, "cat", np.where(x[:, 0] < -0.4, "dog", "owl")).astype(object)
    tags = ["|".join(t for t, on in (("wild", a > 0), ("small", b > 0.3)) if on) for a, b in x[:, 1:]]
    sick = np.where(x[:, 1] > 0, "yes", "no").astype(object)
    kinds[random.random(rows) < 0.3] = None
    sick[random.random(rows) < 0.3] = None
    table = {
        "a": x[:, 0],
        "b": x[:, 1],
        "c": x[:, 2],
        "species": kinds,
        "tags": tags,
        "is sick": sick,
        **columns,
    }
    pl.DataFrame({k: v for k, v in table.items() if v is not None}, strict=False).write_csv(folder / name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of three tasks."""
    folder = tmp_path_factory.mktemp("several")
    write_table(folder)
    train_in(folder, *TABLE, TARGETS, *SHORT, "report.importance=true")
    return folder


def test_files_of_a_run(trained):
    run = trained / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("val/loss", "test/species/accuracy", "test/tags/f1_macro", "test/sick/auroc"):
        assert 0 < metrics[name] < 3, name
    assert "test/default_decision/tags/f1_macro" in metrics
    assert metrics["test/species/accuracy_ci_low"] < metrics["test/species/accuracy"]
    total = sum(metrics[f"test/{name}/loss"] for name in ("species", "tags", "sick"))
    assert metrics["test/loss"] == pytest.approx(total, abs=1e-5)
    predictions = pl.read_csv(run / "predictions.csv")
    assert predictions.columns[:5] == ["row", "species.target", "tags.target", "sick.target", "species"]
    known = predictions.filter(pl.col("species.target").is_not_null())
    accuracy = (known["species"] == known["species.target"]).mean()
    assert accuracy == pytest.approx(metrics["test/species/accuracy"], abs=1e-6)
    classes = pl.read_csv(run / "per_class.csv")
    assert classes["task"].unique(maintain_order=True).to_list() == ["species", "tags", "sick"]
    confusion = pl.read_csv(run / "confusion_matrix.csv").filter(task="species")
    assert confusion["rows"].sum() == len(known)
    page = (run / "report.html").read_text()
    for heading in ("species: 3 classes", "tags: 2 labels", "sick: Positive class"):
        assert heading in page
    importance = dict(pl.read_csv(run / "importance.csv").select("column", "mean").iter_rows())
    assert importance.keys() == {"a", "b", "c"}
    assert min(importance.values()) > 0.1
    content = read_best_checkpoint(run)
    assert list(content["task"]["tasks"]) == ["species", "tags", "sick"]
    assert content["task"]["tasks"]["sick"]["class_names"] == ["no", "yes"]


@pytest.mark.parametrize("model", ["run", "run/model.onnx"])
def test_predict(trained, model, call, monkeypatch):
    monkeypatch.chdir(trained)
    if model.endswith("onnx"):
        code, _, err = call(export.main, "export", "checkpoint=run", f"output={model}")
        assert code == 0, err
    pl.read_csv("a.csv").drop("species", "tags", "is sick").write_csv("new.csv")
    code, out, err = call(predict.main, "predict", f"checkpoint={model}", "input=new.csv", "output=out.csv")
    assert code == 0, err
    assert "sick: Threshold" in out
    written, tested = pl.read_csv("out.csv"), pl.read_csv("run/predictions.csv")
    assert written.columns == [name for name in tested.columns if not name.endswith(".target")]
    same = written[tested["row"]]
    assert same["species", "tags", "sick"].equals(tested["species", "tags", "sick"])
    assert (same["tags.p_wild"] - tested["tags.p_wild"]).abs().max() < 1e-5


def test_evaluate(trained, call, monkeypatch, tmp_path):
    """The test rows in a separate file have the metrics of the run."""
    monkeypatch.chdir(trained)
    tested = pl.read_csv("run/predictions.csv")
    pl.read_csv("a.csv")[tested["row"]].write_csv("test.csv")
    out = tmp_path / "evaluation"
    code, printed, err = call(evaluate.main, "evaluate", "checkpoint=run", "input=test.csv", f"output={out}")
    assert code == 0, err
    found, expected = (json.loads((f / "metrics.json").read_text()) for f in (out, trained / "run"))
    for name in ("test/loss", "test/species/f1_macro", "test/tags/auroc", "test/sick/accuracy"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6)
    changed = tmp_path / "changed"
    code, printed, err = call(
        evaluate.main,
        "evaluate",
        "checkpoint=run",
        "input=test.csv",
        f"output={changed}",
        "threshold={sick: 0.99}",
    )
    assert code == 0, err
    assert "sick: Threshold (set by threshold): yes: 0.99" in printed
    assert "tags: Thresholds (tuned on the validation rows): " in printed
    assert json.loads((changed / "metrics.json").read_text())["test/sick/f1"] < 0.9


def test_the_decision_of_each_task(trained, command, call, tmp_path):
    """Options by task, and a threshold in data.targets, which is not tuned."""
    write_table(tmp_path)
    targets = TARGETS.replace("empty: negative", "empty: negative, threshold: 0.3")
    settings = ("decision.metric={sick: f1_macro, species: f1_macro}", "decision.calibration={sick: none}")
    code, out, err = command(*TABLE, targets, *SHORT, *settings, "report=false")
    assert code == 0, err
    task = read_best_checkpoint(tmp_path / "run")["task"]["tasks"]
    assert task["tags"]["threshold"] == 0.3
    assert task["tags"]["temperature"] != 1
    assert task["sick"]["threshold"] != 0.5
    assert task["sick"]["temperature"] == 1
    assert len(task["species"]["prior_correction"]) == 3

    arguments = ("evaluate", f"checkpoint={trained}/run", f"input={trained}/a.csv")
    changes = ("decision.metric={sick: f1, tags: null}", "decision.calibration=none")
    code, out, err = call(
        evaluate.main, *arguments, f"output={tmp_path}/b", *changes, f"save={tmp_path}/b.ckpt"
    )
    assert code == 0, err
    before, after = (
        read_best_checkpoint(path)["task"]["tasks"] for path in (trained / "run", tmp_path / "b.ckpt")
    )
    assert after["tags"]["threshold"] == before["tags"]["threshold"]
    assert after["sick"]["threshold"] not in (0.5, before["sick"]["threshold"])

    again = (f"checkpoint={tmp_path}/b.ckpt", f"output={tmp_path}/d", "threshold={tags: {wild: 0.7}}")
    code, out, err = call(evaluate.main, "evaluate", arguments[2], *again)
    assert code == 0, err
    assert "tags: Thresholds (set by threshold): small: " in out
    assert f"labelled rows of {trained}/a.csv): yes: " in out

    threshold = "threshold={tags: {wild: 0.9}, sick: 0.2}"
    code, out, err = call(evaluate.main, *arguments, f"output={tmp_path}/c", threshold)
    assert code == 0, err
    assert "wild: 0.9" in out
    assert "yes: 0.2" in out


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("threshold=0.3", "must be a mapping by task such as {species: 0.3}"),
        ("threshold={sick: {yes: x}}", "threshold must be a number from 0 to 1"),
        ("threshold={sic: 0.3}", "Unknown task 'sic' in threshold. Did you mean 'sick'?"),
        ("threshold={species: 0.3}", "threshold=0.3 has no effect"),
        ("decision.metric={sic: f1}", "Unknown task 'sic' in decision.metric. Did you mean 'sick'?"),
        ("decision.metric={sick: f3}", "decision.metric='f3' is not valid for task=binary"),
        ("decision.metric=f1", "decision.metric='f1' is not valid for task=multiclass"),
    ],
)
def test_invalid_decisions(setting, text, trained, call, tmp_path):
    arguments = ("evaluate", f"checkpoint={trained}/run", f"input={trained}/a.csv")
    code, _, err = call(evaluate.main, *arguments, f"output={tmp_path}/out", setting)
    assert code == 1
    assert text in err
    assert not (tmp_path / "out").exists()


def test_folds_and_their_comparison(call, monkeypatch, tmp_path):
    """The averaged net predicts the mean probabilities of each task, and runs are compared by task."""
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path)
    train_in(tmp_path, *TABLE, TARGETS, *SHORT, "folds=2", "report=false", "decision.calibration=none")
    tables = {}
    for name in ("run", "run/fold_0", "run/fold_1"):
        arguments = ("predict", f"checkpoint={name}", "input=a.csv", "output=out.csv")
        code, _, err = call(predict.main, *arguments)
        assert code == 0, err
        tables[name] = pl.read_csv("out.csv")
        Path("out.csv").unlink()
    for column in ("species.p_cat", "tags.p_wild", "sick.p_yes"):
        of_folds = [tables[f"run/fold_{fold}"][column].to_numpy() for fold in (0, 1)]
        assert tables["run"][column].to_numpy() == pytest.approx(np.mean(of_folds, 0), abs=1e-6)
    rows = pl.read_csv("run/out_of_fold.csv")
    first = rows.filter(fold=0)["row", "species.p_cat", "sick.p_yes"]
    expected = tables["run/fold_0"][first["row"]]
    for column in ("species.p_cat", "sick.p_yes"):
        assert first[column].to_numpy() == pytest.approx(expected[column].to_numpy(), abs=1e-6)

    code, out, err = call(main.main, "lossselect", "compare", "run/fold_0", "run/fold_1", "--json")
    assert code == 0, err
    (found,) = json.loads(out)
    assert found["notes"] == []
    counts = {"species": 34, "tags": 48, "sick": 31}
    for run in found["runs"]:
        for task in counts:
            value = run["metrics"][f"test/{task}/accuracy"]
            assert run["intervals"][f"{task}/accuracy"]["value"] == pytest.approx(value)
    other = next(run for run in found["runs"] if run["name"] != found["reference"])
    assert other["common_rows"] == counts
    reference = next(run for run in found["runs"] if run is not other)
    difference = other["metrics"]["test/sick/accuracy"] - reference["metrics"]["test/sick/accuracy"]
    assert other["differences"]["sick/accuracy"]["value"] == pytest.approx(difference)
    code, out, _ = call(main.main, "lossselect", "compare", "run/fold_0", "run/fold_1")
    assert code == 0
    assert "sick: Difference from " in out
    page = Path("compare.html").read_text()
    for text in ("Reliability of tags", "Differences of sick", "species: cat"):
        assert text in page


def test_inferred_tasks(command, tmp_path):
    write_table(tmp_path)
    code, out, err = command(*TABLE, "data.target=[species,is sick]", "explain=true", "data.exclude=[tags]")
    assert code == 0, err
    plan = " ".join(out.split())
    assert "species (multiclass with 3 classes), is sick (binary)" in plan
    assert "species is multiclass (column 'species' contains " in plan
    assert "; is sick is binary (column 'is sick' contains " in plan


def test_the_plan_names_the_loss_and_the_decision_of_each_task(command, tmp_path):
    write_table(tmp_path)
    settings = ("task.losses={tags: focal}", "task.weights={sick: 2}", "+trainer.fast_dev_run=true")
    code, out, err = command(*TABLE, TARGETS, *settings)
    assert code == 0, err
    lines = [line.split("  ") for line in out.splitlines()]
    found = {line[1].strip(): "  ".join(line[2:]).strip() for line in lines if len(line) > 2}
    assert found["tags: loss"] == "focal (sigmoid form)"
    assert found["species: loss"] == "cross_entropy (softmax form)"
    assert found["sick: decision"].startswith("1 if the probability is >= 0.5")
    assert found["weights of tasks"] == "species: 1, tags: 1, sick: 2"
    code, out, err = command(*TABLE, TARGETS, *settings, "explain=json", "monitor=val/loss")
    changes = {line["name"]: line["change"] for line in json.loads(out)["lines"]}
    assert changes["tags: loss"] == "++task.losses.tags=cross_entropy, ++task.losses.tags=auto"
    assert changes["sick: weights"] == "++task.losses.sick={name:cross_entropy,pos_weight:auto}"
    assert changes["tags: weights"].endswith("++task.losses.tags={name:focal,pos_weight:auto}")
    assert changes["sick: decision"] == "++data.targets.sick.threshold=0.3, decision=none"
    assert "monitor=val/species/accuracy" in changes["checkpoint"]


def test_settings_of_some_inferred_tasks(command, tmp_path):
    write_table(tmp_path)
    own = ["++data.targets.tags.delimiter='|'", "++data.targets.tags.empty=negative"]
    code, out, err = command(*TABLE, "data.target=[species,tags]", *own, "explain=true")
    assert code == 0, err
    assert "species (multiclass with 3 classes), tags (multilabel with 2 labels)" in " ".join(out.split())


def test_sample_data(command, tmp_path):
    settings = ("task.weights=uncertainty", "task.losses={digit: focal}", "monitor=val/digit/accuracy")
    code, _, err = command(
        "task=several", "trainer.max_epochs=2", "hydra.run.dir=run", "report=false", *settings
    )
    assert code == 0, err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test/digit/accuracy"] > 0.8
    assert metrics["test/even/accuracy"] > 0.8
    assert metrics["test/segments/f1_micro"] > 0.85
    arguments = read_best_checkpoint(tmp_path / "run")
    assert arguments["loss"]["digit"]["name"] == "focal"
    assert arguments["state_dict"]["criterion.log_variances"].abs().max() > 0


@pytest.mark.default_net
def test_the_default_net(command, tmp_path):
    code, _, err = command("task=several", "trainer.max_epochs=2", "hydra.run.dir=run", "report=false")
    assert code == 0, err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test/digit/accuracy"] > 0.8
    assert pl.read_csv(tmp_path / "run" / "nets.csv")["weight"][-1] == 1


def test_data_overview(call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(data.main, "data", "task=several", "data=digits_questions")
    assert code == 0, err
    assert "digit: 3" in out
    assert "segments: top" in out


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (["data.targets={species: {task: multiclass}, f1: {column: is sick}}"], "must not be called 'f1'"),
        (["data.targets={a/b: {column: species}, sick: {column: is sick}}"], "without slashes"),
        (["data.targets={species: {task: multiclass}}"], "at least two tasks"),
        (
            ["data.targets={species: {task: multiclas}, sick: {column: is sick}}"],
            "Did you mean 'multiclass'?",
        ),
        (["data.targets={species: {delimeter: x}, sick: {column: is sick}}"], "delimeter"),
        (["data.targets={species: {column: kind}, sick: {column: is sick}}"], "'kind'"),
        (["data.target=species"], "at least two tasks"),
        (["data.target=[species,tags]", TARGETS], "data.target=species, tags does not contain it"),
        ([TARGETS, "data.empty=negative"], "set ++data.targets.NAME.empty=negative."),
        ([TARGETS, "data.positive=yes"], "set ++data.targets.NAME.positive=yes."),
        ([TARGETS, "data.id=a"], "data.id requires the labels of one task"),
        ([TARGETS.replace(", empty: negative", "")], "Set ++data.targets.tags.empty=negative if rows"),
        (["data.target=[species,tags]"], 'set ++data.targets.tags.task=multilabel "++data.targets.tags.'),
        ([TARGETS, "data.targets.tags.id=a"], "write plus signs: ++data.targets.tags.id=a"),
        ([TARGETS, "++data.targets.tags.id=a"], "data.targets.tags has no option 'id'"),
        (
            [TARGETS, "task.losses.sick=focal"],
            "To add it to task.losses, write plus signs: ++task.losses.sick=focal",
        ),
        (
            [
                "data.target=[species,is sick]",
                "++data.targets.species.delimiter=x",
                "++data.targets.species.task=binary",
            ],
            "data.targets.species.delimiter cannot be combined with data.targets.species.task=binary. Remove it, "
            "or set ++data.targets.species.task=multilabel.",
        ),
        ([], "A target is required"),
        ([TARGETS, "task.weights={other: 2}"], "Unknown task 'other'"),
        ([TARGETS, "task.losses={other: focal}"], "Unknown task 'other'"),
        ([TARGETS, "task.losses={sick: fcal}"], "Did you mean 'focal'?"),
        ([TARGETS, "task.losses={sick: {gamma: 2}}"], "task.losses.sick must be a name such as focal"),
        ([TARGETS, "task.losses={sick: null}"], "task.losses.sick must be a name such as focal"),
        ([TARGETS, "+task.threshold=0.3"], "task=several has no option 'threshold'"),
        (
            [TARGETS, "decision.recall=0.8", "decision.metric={sick: precision_at_recall}"],
            "can be set by task",
        ),
        ([TARGETS, "loss.pos_weight=2"], "pos_weight is not supported under softmax"),
        ([TARGETS, "monitor=val/species/acuracy"], "Did you mean 'val/species/accuracy'?"),
        ([TARGETS, "metrics={sick: [f1], other: [accuracy]}"], "Unknown task 'other'"),
        ([TARGETS, "head=chunked"], "does not support several tasks"),
        ([TARGETS, "decision.metric={sic: f1}"], "Did you mean 'sick'?"),
        ([TARGETS, "decision.metric=f1"], "is not valid for task=multiclass"),
        ([TARGETS, "decision.recall={sick: 0.8}"], "recall=0.8 has no effect"),
        (
            [TARGETS.replace("positive: yes", "positive: yes, threshold: 0.3"), "decision.metric={sick: f1}"],
            "The threshold 0.3 cannot be combined with decision.metric=f1",
        ),
    ],
)
def test_mistakes(settings, text, command, tmp_path):
    write_table(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    code, _, err = command(*TABLE, *settings, *SHORT)
    assert code == 1
    assert text in err
    assert "Traceback" not in err
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("task", ["auto", "multiclass", "multilabel"])
def test_data_of_several_tasks_need_the_task(task, command):
    code, _, err = command(f"task={task}", "data=digits_questions")
    assert (code, err) == (1, "digits_questions has the labels of several tasks. Set task=several.\n")
    assert not Path("run").exists()


@pytest.mark.filterwarnings("default")
def test_warnings_name_the_task(command, tmp_path):
    write_table(
        tmp_path, species=np.where(np.arange(COUNT) == 3, "cat", np.where(np.arange(COUNT) % 2, "dog", "owl"))
    )
    code, _, err = command(*TABLE, TARGETS, *SHORT[:3], "report=false")
    assert code == 0, err
    printed = " ".join(err.split())
    assert "have no positive in the validation split" in printed
    assert "exclude them: cat. (Task 'species'.)" in printed


def test_a_file_without_a_label_column(trained, call, tmp_path):
    pl.read_csv(trained / "a.csv").drop("is sick").write_csv(tmp_path / "b.csv")
    code, _, err = call(
        evaluate.main,
        "evaluate",
        f"checkpoint={trained}/run",
        f"input={tmp_path}/b.csv",
        f"output={tmp_path}/out",
    )
    assert code == 1
    assert "has no column 'is sick', which contains the labels" in err
    assert "If the labels are in another column, rename it; an empty column leaves a task out." in err


@pytest.mark.filterwarnings("default")
def test_a_task_without_labels_in_the_file_is_not_evaluated(trained, call, tmp_path):
    table = pl.read_csv(trained / "a.csv")
    table.write_csv(tmp_path / "all.csv")
    table.with_columns(pl.lit("").alias("is sick")).write_csv(tmp_path / "some.csv")
    found = {}
    for name in ("all", "some"):
        out = tmp_path / name
        code, _, err = call(
            evaluate.main, "evaluate", f"checkpoint={trained}/run", f"input={out}.csv", f"output={out}"
        )
        assert code == 0, err
        found[name] = json.loads((out / "metrics.json").read_text())
    assert "All labels of the test split are missing, so this task is not evaluated" in err
    assert "(Task 'sick'.)" in err
    assert found["some"]["test/sick/f1"] is None
    total = found["some"]["test/species/loss"] + found["some"]["test/tags/loss"]
    assert found["some"]["test/loss"] == pytest.approx(total)
    for name, value in found["all"].items():
        if name.startswith(("test/species", "test/tags")):
            assert found["some"][name] == value


def test_a_task_without_any_label(command, tmp_path):
    write_table(tmp_path, species=np.full(COUNT, ""))
    code, _, err = command(*TABLE, TARGETS, *SHORT)
    assert code == 1
    assert "All labels of column 'species' are missing." in err
    assert "(Task 'species'.)" in err


def test_targets_of_a_single_task(command, tmp_path):
    write_table(tmp_path)
    code, _, err = command("task=binary", "data=table", "data.path=a.csv", TARGETS)
    assert code == 1
    assert "data.targets describes several tasks. Set task=several" in err


def test_a_checkpoint_of_other_tasks(trained, command, tmp_path):
    write_table(tmp_path)
    targets = TARGETS.replace("sick: {", "ill: {")
    code, _, err = command(
        *TABLE, targets, *SHORT[:2], "hydra.run.dir=new", f"resume={trained}/run/checkpoints/last.ckpt"
    )
    assert code == 1
    assert "was trained for several tasks: species" in err
