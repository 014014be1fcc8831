"""Tests of `lossselect evaluate`: the numbers of a run's test split, other files, and mistakes."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from train_cases import train_in

from lossselect.cli import evaluate, predict
from lossselect.data.toy import DATASETS
from lossselect.training.checkpoints.content import read_best_checkpoint, read_checkpoint

SHORT = [
    "trainer.max_epochs=2", "trainer.accelerator=cpu", "hydra.run.dir=run", "report=false", "logger=none",
    "data.batch_size=16", "ignore_warnings=[duplicate_rows,few_positives,no_positives,rare_class]",
]  # fmt: skip
COUNT = 150


def make_columns():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(COUNT, 3))
    kind = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0.5)
    tags = [
        [t for t, present in zip(("new york", "news", "sport"), row > 0.2, strict=True) if present]
        for row in x
    ]
    return {
        "length": [None if i % 17 == 3 else value for i, value in enumerate(x[:, 0].tolist())],
        "width": x[:, 1],
        "colour": generator.choice(["red", "green", "blue"], COUNT),
        "species": [None if i % 9 == 1 else "abc"[k] for i, k in enumerate(kind.tolist())],
        "half": np.where(kind > 0, 2, 1),
        "tags": ["|".join(names) or None for names in tags],
        "json": [json.dumps(names) for names in tags],
        **{f"is {name}": ["x" if name in names else None for names in tags] for name in ("sport", "news")},
        **{f"votes {i}": (kind == i) * 3 + 1 for i in range(3)},
        **{
            f"ann {i}": ["abc"[k] for k in np.where(generator.random(COUNT) < 0.2, 0, kind)] for i in range(2)
        },
        "when": [f"{1 + i % 28}/{1 + i % 12}/2024" for i in range(COUNT)],
        "comment": [f"order {i}: {word}, thanks" for i, word in enumerate("abcdef" * 25)],
        "zip": [["007", "010", "100"][i % 3] for i in range(COUNT)],
        "weight": generator.integers(1, 5, COUNT),
    }


def write(folder, columns, target, name="data.csv"):
    """Write a table of some features and a target."""
    used = ["length", "width", "colour", *columns, *target]
    pl.DataFrame(make_columns()).select(used).write_csv(folder / name)
    return name


@pytest.fixture
def run(call):
    return partial(call, evaluate.main, "evaluate.py")


def same_results(first, second, rows=True):
    """Compare the results on the test rows of two folders to the last digit."""
    one, other = (json.loads(Path(folder, "metrics.json").read_text()) for folder in (first, second))
    assert {name: value for name, value in one.items() if name.startswith("test/")} == other
    for name in ("per_class.csv", "confusion_matrix.csv"):
        assert Path(first, name).exists() == Path(second, name).exists()
        if Path(first, name).exists():
            assert Path(first, name).read_bytes() == Path(second, name).read_bytes()
    one, other = (
        pl.read_csv(Path(folder, "predictions.csv"), infer_schema=False) for folder in (first, second)
    )
    assert one.drop("row").equals(other.drop("row"))
    assert other["row"].to_list() == [str(i) for i in range(len(other))]


LAYOUTS = [
    ("multiclass", ["species"], "species", ["data.text=[comment]", "data.categorical=[zip]"]),
    ("binary", ["half"], "half", ["data.positive=1", "data.text=[comment]", "data.sample_weight=weight"]),
    ("multilabel", ["tags"], "tags", ["data.delimiter='|'", "data.empty=negative", "data.exclude=[comment]"]),
    ("multilabel", ["json"], "json", ["head=chunked", "decision=none", "data.exclude=[comment]"]),
    ("multilabel", ["is sport", "is news"], "[is sport,is news]", ["+task.class_names=[is news,is sport]", "data.text=comment"]),
    ("multiclass", ["votes 0", "votes 1", "votes 2"], "[votes 0,votes 1,votes 2]", ["data.counts=true", "data.exclude=[comment]"]),
    ("multiclass", ["ann 0", "ann 1"], "[ann 0,ann 1]", ["data.annotators=mean", "data.exclude=[comment]"]),
    ("auto", ["species"], "species", ["data.exclude=[comment]", "metrics=[f1_weighted]", "task.missing=-1"]),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::lossselect.LossSelectWarning")
@pytest.mark.parametrize(
    ("task", "columns", "target", "settings"), LAYOUTS, ids=lambda value: str(value)[:30]
)
def test_the_test_rows_of_a_run_have_the_same_results(
    task, columns, target, settings, command, run, tmp_path
):
    path = write(tmp_path, ["when", "comment", "weight", "zip"], columns)
    code, _, err = command(
        f"task={task}", "data=table", f"data.path={path}", f"data.target={target}", *settings, *SHORT
    )
    assert code == 0, err
    rows = pl.read_csv("run/predictions.csv")["row"].to_list()
    table = pl.read_csv(path, infer_schema=False)[rows]
    table.select(sorted(table.columns, reverse=True)).write_csv("test.csv")
    code, out, err = run("checkpoint=run", "input=test.csv")
    assert (code, err) == (0, "")
    names = ("metrics.json", "per_class.csv", "confusion_matrix.csv", "predictions.csv")
    saved = [name for name in names if Path("run", name).exists()]
    assert out.endswith(f"Saved in evaluation: {', '.join([*saved, 'report.html'])}\n")
    same_results("run", "evaluation")
    renamed = {name: f"t{i}" for i, name in enumerate(columns)}
    pl.read_csv("test.csv", infer_schema=False).rename(renamed).write_csv("renamed.csv")
    assert (
        run("checkpoint=run", "input=renamed.csv", "output=renamed", f"target={[*renamed.values()]}")[0] == 0
    )
    same_results("run", "renamed")


@pytest.mark.filterwarnings("ignore::lossselect.LossSelectWarning")
def test_names_of_labels_in_a_file(command, run, call, tmp_path):
    path = write(tmp_path, [], ["is sport", "is news"])
    pl.read_csv(path).fill_null("o").write_csv(path)
    names = '<label name="is sport"></label><label name="is news"></label>'
    Path("labels.xml").write_text(f"<labels>{names}</labels>")
    lines = Path(path).read_text()
    Path(path).write_text(f"A title\n{lines}")
    settings = [f"data.path={path}", "data.target=labels.xml", "data.skip_lines=1", "data.missing=o"]
    code, _, err = command("task=multilabel", "data=table", *settings, *SHORT)
    assert code == 0, err
    rows = pl.read_csv("run/predictions.csv")["row"].to_list()
    pl.read_csv(path, skip_lines=1, infer_schema=False)[rows].write_csv("test.csv")
    code, _, err = run("checkpoint=run", "input=test.csv", "skip_lines=0")
    assert (code, err) == (0, "")
    same_results("run", "evaluation")
    arguments = ["checkpoint=run", "input=test.csv", "output=out.csv"]
    assert call(predict.main, "predict.py", *arguments, "skip_lines=x")[0] == 1
    assert call(predict.main, "predict.py", *arguments, "skip_lines=0", "quote=double")[0] == 0


def test_arrays_and_sparse_labels(command, run, tmp_path):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(COUNT, 3))
    kind = np.array(["a", "b", "c"])[(x[:, 0] > 0).astype(int) + (x[:, 1] > 0.5)]
    np.savez("all.npz", X=x, kinds=kind, w=np.arange(COUNT))
    settings = ["task=multiclass", "data=arrays", "data.path=all.npz", "data.target=kinds"]
    code, _, err = command(*settings, "data.sample_weight=w", *SHORT)
    assert code == 0, err
    rows = pl.read_csv("run/predictions.csv")["row"].to_numpy()
    np.savez("test.npz", X=x[rows], kinds=kind[rows], w=rows)
    assert run("checkpoint=run", "input=test.npz", "output=all")[::2] == (0, "")
    same_results("run", "all")
    np.savez("bare.npz", X=x[rows], kinds=kind[rows])
    np.save("X.npy", x[rows])
    np.save("y.npy", kind[rows])
    for i, more in enumerate([["input=bare.npz"], ["input=X.npy", "target=y.npy"]]):
        code, out, err = run("checkpoint=run", f"output={i}", *more)
        assert (code, err) == (0, "")
        assert "The loss is unweighted" in out
        one, other = (json.loads(Path(folder, "metrics.json").read_text()) for folder in ("all", str(i)))
        assert one.pop("test/loss") != other.pop("test/loss")
        assert one == other
    code, _, err = run("checkpoint=run", "input=X.npy", "output=none")
    assert code == 1
    assert "X.npy contains only features." in err
    np.savez("wide.npz", X=np.ones((4, 2)), kinds=kind[:4])
    code, _, err = run("checkpoint=run", "input=wide.npz", "output=none")
    assert "Expected 3 features per row as in training, got 2 in wide.npz." in err


@pytest.mark.filterwarnings("ignore::lossselect.LossSelectWarning")
def test_a_table_with_one_row_for_each_label(command, run, tmp_path):
    frame = pl.DataFrame(make_columns()).select(
        "length", "width", pl.col("json").str.json_decode(pl.List(pl.String))
    )
    frame = frame.with_row_index("id").explode("json")
    frame.write_csv("long.csv")
    settings = ["data=table", "data.path=long.csv", "data.target=json", "data.id=id", "data.empty=negative"]
    code, _, err = command("task=multilabel", *settings, *SHORT)
    assert code == 0, err
    ids = frame["id"].unique(maintain_order=True)[pl.read_csv("run/predictions.csv")["row"].to_list()]
    frame.filter(pl.col("id").is_in(ids.implode())).write_csv("test.csv")
    assert run("checkpoint=run", "input=test.csv")[::2] == (0, "")
    same_results("run", "evaluation")
    frame.drop("id").write_csv("test.csv")
    code, _, err = run("checkpoint=run", "input=test.csv", "output=none")
    assert code == 1
    assert "test.csv has no column 'id' (data.id)." in err


@pytest.mark.parametrize(
    ("task", "name"), [("binary", "breast_cancer"), ("multiclass", "digits"), ("multilabel", "yeast")]
)
def test_built_in_data_from_a_table(task, name, command, run, call):
    settings = [setting for setting in SHORT if setting != "data.batch_size=16"]
    code, _, err = command(f"task={task}", *settings)
    assert code == 0, err
    rows = DATASETS[name]()
    columns = dict(zip(rows.columns, rows.features.T, strict=True))
    several = rows.labels.ndim > 1
    labels = dict(zip(rows.class_names, rows.labels.T, strict=True)) if several else {"target": rows.labels}
    table = pl.DataFrame({**labels, **columns})
    table[pl.read_csv("run/predictions.csv")["row"].to_list()].write_csv("test.csv")
    assert run("checkpoint=run", "input=test.csv")[::2] == (0, "")
    same_results("run", "evaluation")
    code, _, err = call(predict.main, "predict.py", "checkpoint=run", "input=test.csv", "output=out.csv")
    assert (code, err) == (0, "")
    expected = pl.read_csv("run/predictions.csv")
    assert pl.read_csv("out.csv")["prediction"].to_list() == expected["prediction"].to_list()
    if name == "breast_cancer":
        named = pl.col("target").replace_strict(dict(enumerate(rows.class_names)))
        pl.read_csv("test.csv").with_columns(named).write_csv("test.csv")
        assert run("checkpoint=run", "input=test.csv", "output=named")[::2] == (0, "")
        same_results("run", "named")


@pytest.fixture(scope="module")
def folder_of_run(tmp_path_factory):
    """Return a folder with data.csv and a run on it."""
    folder = tmp_path_factory.mktemp("trained")
    settings = ["data=table", f"data.path={write(folder, [], ['species'])}", "data.target=species"]
    train_in(folder, "task=multiclass", *settings, *SHORT)
    return folder


@pytest.fixture
def trained(folder_of_run, command, tmp_path):
    """Return a table with the classes a, b and c; a run on it is in the folder run."""
    shutil.copytree(folder_of_run, tmp_path, dirs_exist_ok=True)
    return pl.read_csv("data.csv")


class TestFiles:
    def test_mistakes_leave_nothing(self, trained, run):
        trained.drop("species").write_csv("bare.csv")
        trained.drop("width").write_csv("narrow.csv")
        trained.drop("length", "width").write_csv("narrower.csv")
        trained.head(0).write_csv("empty.csv")
        trained.with_columns(species=pl.lit(None, pl.String)).write_csv("missing.csv")
        trained.with_columns(
            species=pl.when(pl.int_range(pl.len()) == 4).then(pl.lit("z")).otherwise("species")
        ).write_csv("z.csv")
        trained.rename({"species": "kind"}).write_csv("renamed.csv")
        Path("exists").mkdir()
        before = sorted(Path().iterdir())
        for arguments, message in [
            (["input=bare.csv"], "bare.csv has no column 'species', which contains the labels. It has: length, width, colour. If"),
            (["input=data.csv", "target=width"], "Column 'width' (target) is a feature of the model"),
            (["input=bare.csv"], "To predict rows without labels, use lossselect predict."),
            (["input=narrow.csv"], "narrow.csv has no column 'width' (a feature of the model). It has:"),
            (["input=narrower.csv"], "'length' (a feature of the model). It also lacks 'width'. It has:"),
            (["input=empty.csv"], "empty.csv has no rows."),
            (["input=missing.csv"], "All labels of the test split are missing."),
            (["input=z.csv"], "Row 4 of column 'species': label 'z' was never seen in training."),
            (["input=z.csv"], "To ignore such labels, set data.handle_unknown=ignore."),
            (["input=z.csv", "handle_unknown=drop"], "data.handle_unknown='drop' is not valid."),
            (["input=renamed.csv", "target=kin"], "renamed.csv has no column 'kin'"),
            (["input=renamed.csv", "target=[a,b]"], "target must name 1 column"),
            (["input=data.csv", "threshold=0.3"], "the model predicts the most probable class, without a threshold."),
            (["input=data.csv", "output=exists"], "output=exists already exists."),
            (["input=data.csv", "output=data.csv"], "output=data.csv already exists."),
            (["input=data.csv", "output=no/where"], "The folder no of output=no/where does not exist."),
            (["input=data.csv", "batch_size=0"], "batch_size must be an integer >= 1"),
            (["input=data.csv", "header=maybe"], "header must be true or false"),
            (["input=none.csv"], "File not found: none.csv."),
            (["input=data.npz"], "Expected a table with its columns, got data.npz"),
            (["input=data.csv", "keep=a"], "lossselect evaluate has no option 'keep'."),
            (["input=data.csv", "checkpoint=model.onnx"], "lossselect evaluate requires a checkpoint (.ckpt) or a run folder, got the exported model model.onnx. "
                "To predict with it: lossselect predict checkpoint=model.onnx"),
        ]:  # fmt: skip
            code, out, err = run("checkpoint=run", *arguments)
            assert (code, out) == (1, ""), arguments
            assert message in err
            assert "Traceback" not in err
            assert sorted(Path().iterdir()) == before

    @pytest.mark.filterwarnings("always::lossselect.LossSelectWarning")
    def test_labels_that_no_training_row_has_are_ignored_if_declared(self, trained, run):
        known = trained.drop_nulls("species")
        known.write_csv("known.csv")
        assert run("checkpoint=run", "input=known.csv", "output=known")[::2] == (0, "")
        unknown = trained.with_columns(pl.col("species").fill_null("z"))
        unknown.write_csv("unknown.csv")
        for setting, output in (("handle_unknown=ignore", "ignored"), ("data.missing=z", "marked")):
            code, _, err = run("checkpoint=run", "input=unknown.csv", f"output={output}", setting)
            assert code == 0
            assert ("were not seen in training and are ignored: 'z'" in err) == (output == "ignored")
            one, other = (
                json.loads(Path(folder, "metrics.json").read_text()) for folder in ("known", output)
            )
            assert one == pytest.approx(other, rel=1e-6)
            assert (
                pl.read_csv(f"{output}/predictions.csv")["target"].null_count()
                == unknown["species"].eq("z").sum()
            )

    @pytest.mark.filterwarnings("always::lossselect.LossSelectWarning")
    def test_a_single_class_in_a_renamed_column(self, trained, run):
        trained.filter(pl.col("species") == "a").rename({"species": "kind"}).write_csv("a.csv")
        code, _, err = run("checkpoint=run", "input=a.csv", "target=kind")
        assert code == 0
        assert "All rows of the test split have class 'a'" in err
        metrics = json.loads(Path("evaluation/metrics.json").read_text())
        assert metrics["test/auroc"] is None
        assert pl.read_csv("evaluation/confusion_matrix.csv")["a"].to_list()[1:] == [0, 0]

    def test_a_checkpoint_without_settings_of_labels(self, trained, run):
        content = read_checkpoint("run/checkpoints/best.ckpt")
        for change, message in [
            (lambda data: data.pop("labels"), "does not contain how a file is read"),
            (lambda data: data["labels"].update(form="tree"), "Unknown label format 'tree'."),
            (lambda data: data["labels"].update(target=[]), "it names no target column"),
            (lambda data: data.update(batch_size="x"), "TensorData['batch_size'] must be int"),
        ]:
            data = json.loads(json.dumps(content["TensorData"]))
            change(data)
            torch.save({**content, "TensorData": data}, "d.ckpt")
            code, out, err = run("checkpoint=d.ckpt", "input=data.csv")
            assert (code, out) == (1, "")
            assert message in err


@pytest.mark.filterwarnings("ignore::lossselect.LossSelectWarning")
def test_another_threshold(command, run, call, tmp_path):
    """The metrics and predictions are those of the threshold, and the checkpoint is unchanged."""
    path = write(tmp_path, [], ["half"])
    settings = ["data=table", f"data.path={path}", "data.target=half", "data.positive=2"]
    assert command("task=binary", *settings, *SHORT)[0] == 0
    saved = Path("run/checkpoints/best.ckpt").read_bytes()
    assert call(predict.main, "predict.py", "checkpoint=run", f"input={path}", "output=default.csv")[0] == 0
    probabilities, truth = pl.read_csv("default.csv")["p_2"].to_numpy(), pl.read_csv(path)["half"].to_numpy()
    threshold = float(np.quantile(probabilities, 0.9)) - 1e-6
    code, out, _ = run("checkpoint=run", f"input={path}", f"threshold={threshold}")
    assert code == 0
    assert f"Threshold (set by threshold): 2: {threshold:.3g}." in out
    from sklearn.metrics import accuracy_score, f1_score

    expected = np.where(probabilities >= threshold, 2, 1)
    metrics = json.loads(Path("evaluation/metrics.json").read_text())
    assert metrics["test/accuracy"] == pytest.approx(accuracy_score(truth, expected))
    assert metrics["test/f1"] == pytest.approx(f1_score(truth, expected, pos_label=2))
    assert not any(name.startswith("test/default_decision") for name in metrics)
    assert pl.read_csv("evaluation/predictions.csv")["prediction"].to_list() == expected.tolist()
    arguments = ["checkpoint=run", f"input={path}", "output=out.csv", f"threshold={threshold}"]
    code, out, _ = call(predict.main, "predict.py", *arguments)
    assert (code, out) == (
        0,
        f"Threshold (set by threshold): 2: {threshold:.3g}.\nSaved {COUNT} rows in out.csv\n",
    )
    assert pl.read_csv("out.csv")["prediction"].to_list() == expected.tolist()
    assert Path("run/checkpoints/best.ckpt").read_bytes() == saved
    for main, output in ((evaluate.main, "none"), (predict.main, "none.csv")):
        code, out, err = call(
            main, "main.py", "checkpoint=run", f"input={path}", f"output={output}", "threshold={}"
        )
        assert (code, out) == (1, "")
        assert "a list of numbers or {name: number}, got '{}'." in err
        assert not Path(output).exists()


@pytest.mark.parametrize("main", [evaluate.main, predict.main], ids=["evaluate", "predict"])
def test_a_setting_without_effect_on_a_file(main, command, call, tmp_path):
    """Settings of this command must have an effect; those of the training file need not."""
    path = write(tmp_path, [], ["species"])
    pl.read_csv(path).write_csv("semicolons.csv", separator=";")
    pl.read_csv(path).write_parquet("new.parquet")
    settings = ["data=table", "data.path=semicolons.csv", "data.target=species", "data.separator=';'"]
    assert command("task=multiclass", *settings, *SHORT)[0] == 0
    for file, setting, form in (("new.parquet", "decimal=','", "Parquet"), ("data.csv", "sheet=a", "text")):
        arguments = ["checkpoint=run", f"input={file}", "output=out.csv"]
        code, out, err = call(main, "main.py", *arguments, setting)
        assert (code, out) == (1, "")
        name = setting.partition("=")[0]
        assert f"{name} has no effect: {file} is a {form} file. Remove {name}." in err
        assert f"data.{name}" not in err
        assert not Path("out.csv").exists()
    arguments = ["checkpoint=run", "input=new.parquet", "output=out.csv"]
    assert call(main, "main.py", *arguments)[::2] == (0, "")


def test_a_file_that_is_larger_than_the_memory(trained, run):
    assert run("checkpoint=run", "input=data.csv", "output=small")[0] == 0
    code, _, err = run("checkpoint=run", "input=data.csv", "output=large", "max_memory=0 GB")
    assert (code, "max_memory must be a number >= 0, got '0 GB'" in err) == (1, True)
    memory = ["max_memory=0", "cache=caches"]
    assert run("checkpoint=run", "input=data.csv", "output=large", *memory)[0] == 0
    assert [*Path("caches").glob("*/rows-*")]
    same_results("small", "large")


def test_a_report_of_an_evaluation(trained, run):
    assert run("checkpoint=run", "input=data.csv", "output=<b>")[0] == 0
    page = Path("<b>/report.html").read_text()
    assert (
        "<title>data.csv: multiclass with 3 classes, checkpoint run/checkpoints/best.ckpt, started " in page
    )
    assert f"folder {Path('&lt;b&gt;').resolve()}</title>" in page
    assert f"{COUNT} rows" in page
    assert "missing labels are left out" in page
    assert not Path("<b>/logs").exists()


@pytest.mark.parametrize(
    ("target", "task", "settings"),
    [
        (["half"], "binary", ["decision.metric=f1", "decision.calibration=none"]),
        (["tags"], "multilabel", ["decision.metric=f1_macro", "decision.per_label=false"]),
        (["species"], "multiclass", ["decision.metric=balanced_accuracy"]),
    ],
)
def test_a_decision_fitted_to_the_file(command, run, tmp_path, target, task, settings):
    """It equals that of `fit_decision` on the rows of the file, and can be saved without training."""
    path = write(tmp_path, [], target)
    data = ["data=table", f"data.path={path}", f"data.target={target[0]}"]
    data += ["data.delimiter='|'", "data.empty=negative"] * (task == "multilabel") + ["data.positive=2"] * (
        task == "binary"
    )
    code, _, err = command(f"task={task}", *data, *SHORT)
    assert (code, err) == (0, "")
    saved = Path("run/checkpoints/best.ckpt").read_bytes()
    code, out, err = run("checkpoint=run", f"input={path}", *settings, "save=new.ckpt")
    assert (code, err) == (0, "")
    assert re.search(r"fitted to the \d+ labelled rows of data.csv", out)
    assert "The metrics are computed on the same rows" in out
    assert Path("run/checkpoints/best.ckpt").read_bytes() == saved
    old, new = read_best_checkpoint("run"), read_best_checkpoint("new.ckpt")
    assert new["task"] != old["task"]
    assert all(torch.equal(new["state_dict"][name], value) for name, value in old["state_dict"].items())

    code, out, _ = run("checkpoint=new.ckpt", f"input={path}", "output=again")
    assert code == 0
    assert re.search(r"\(fitted to the \d+ labelled rows of data.csv\)", out)
    first, again = (json.loads(Path(name, "metrics.json").read_text()) for name in ("evaluation", "again"))
    assert first == again
    assert "test/default_decision/accuracy" in first


def test_a_saved_threshold(command, run, tmp_path):
    path = write(tmp_path, [], ["half"])
    settings = ["data=table", f"data.path={path}", "data.target=half", "data.positive=2"]
    assert command("task=binary", *settings, *SHORT)[0] == 0
    assert run("checkpoint=run", f"input={path}", "threshold=0.25", "save=new.ckpt")[0] == 0
    assert read_checkpoint("new.ckpt")["task"]["threshold"] == 0.25
    code, out, _ = run("checkpoint=new.ckpt", f"input={path}", "output=again")
    assert (code, "Threshold (set by threshold): 2: 0.25." in out) == (0, True)
    # null keeps the threshold, and fits only the temperature
    words = ("checkpoint=new.ckpt", f"input={path}", "output=kept", "decision.metric=null")
    code, out, _ = run(*words)
    assert (code, "2: 0.25." in out) == (0, True)
    for words, message in [
        (["save=other.ckpt"], "save has no effect"),
        (["threshold=0.3", "save=new.ckpt"], "save=new.ckpt already exists"),
        (["threshold=0.3", "save=new.pt"], "save=new.pt must end in .ckpt"),
        (["threshold=0.3", "save=no/new.ckpt"], "The folder no of save=no/new.ckpt does not exist"),
        (["threshold=0.3", "decision.metric=f1"], "threshold cannot be combined with decision.metric"),
        (
            ["decision.metric=f2"],
            "decision.metric='f2' is not valid for task=binary. Choose one of: expected_f1, f1, ",
        ),
        (
            ["decision.metric=f1", "decision.recall=0.8"],
            "no effect without decision.metric=precision_at_recall",
        ),
        (["decision.calibration=none"], "decision.calibration requires decision.metric"),
    ]:
        code, _, err = run("checkpoint=run", f"input={path}", "output=other", *words)
        assert (code, message in err) == (1, True), err
        assert not Path("other").exists()
        assert not Path("other.ckpt").exists()
