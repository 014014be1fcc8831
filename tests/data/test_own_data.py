"""Tests of user files at the command line: tables, arrays, check_only, and predictions of a new file."""

import csv
import json
import os
import re
import shutil
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from paths import ROOT
from train_cases import train_in

import lossselect as ls
from lossselect.cli import export, predict
from lossselect.data.files import load
from lossselect.run.build import load_data

SHORT = ["trainer.max_epochs=2", "trainer.accelerator=cpu", "hydra.run.dir=run"]


def read_csv(path):
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def files(tmp_path, command):
    """Return the current folder of `command`, with tables and arrays in it."""
    write_files(tmp_path)
    return tmp_path


def write_files(folder):
    generator = np.random.default_rng(0)
    count = 120
    x = generator.normal(size=(count, 3))
    kind = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0.5)
    features = {
        "length": [None if i % 17 == 3 else value for i, value in enumerate(x[:, 0])],
        "width": x[:, 1],
        "colour": generator.choice(["red", "green", "blue"], count),
    }
    tags = [
        [tag for tag, present in zip(("new york", "news", "sport"), row > 0.2, strict=True) if present]
        for row in x
    ]
    tables = {
        "species": ["setosa", "versicolor", "virginica"],
        "grade": [1, 2, 5],
        "flag": [False, True, True],
        "mail": ["ham", "spam", "spam"],
        "half": [1, 2, 2],
    }
    for name, values in tables.items():
        pl.DataFrame({**features, "y": [values[k] for k in kind]}).write_csv(folder / f"{name}.csv")
    pl.DataFrame({**features, "y": ["|".join(t) for t in tags]}).write_csv(folder / "tags.csv")
    pl.DataFrame({**features, "y": [json.dumps(t) for t in tags]}).write_csv(folder / "json.csv")
    pl.DataFrame({**features, "y": tags}).write_parquet(folder / "lists.parquet")
    columns = {name: [int(name in t) for t in tags] for name in ("news", "sport", "new york")}
    pl.DataFrame({**features, **columns}).write_csv(folder / "columns.tsv", separator="\t")
    np.savez(folder / "arrays.npz", X=x, y=np.array(tables["species"])[kind])


def table(name, *more, target="y"):
    suffix = "" if "." in name else ".csv"
    return ["data=table", f"data.path={name}{suffix}", f"data.target={target}", *more]


RUNS = [
    ("multiclass", table("species"), ["setosa", "versicolor", "virginica"]),
    ("multiclass", table("grade"), ["1", "2", "5"]),
    ("binary", table("flag"), ["false", "true"]),
    ("binary", table("mail", "data.positive=spam"), ["ham", "spam"]),
    ("binary", table("half", "data.positive=1"), ["2", "1"]),
    ("multilabel", table("tags", "data.delimiter='|'", "data.empty=negative"), ["new york", "news", "sport"]),
    ("multilabel", table("json"), ["new york", "news", "sport"]),
    ("multilabel", table("lists.parquet"), ["new york", "news", "sport"]),
    ("multilabel", table("columns.tsv", target="[news,sport,new york]"), ["news", "sport", "new york"]),
    ("multiclass", ["data=arrays", "data.path=arrays.npz"], ["setosa", "versicolor", "virginica"]),
]  # fmt: skip


@pytest.mark.parametrize(("task", "data", "names"), RUNS, ids=lambda value: str(value)[:40])
def test_predictions_of_a_run_have_the_labels_of_its_file(task, data, names, files, command):
    code, _, err = command(f"task={task}", *data, *SHORT)
    assert (code, err) == (0, "")
    content = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    assert content["task"]["class_names"] == names
    if (vocabulary := content["TensorData"]["labels"]["vocabulary"]) is not None:
        assert ls.Vocabulary(**vocabulary).names == tuple(names)
    path = data[1].partition("=")[2]
    if path.endswith(".npz"):
        labels = np.load(path)["y"].tolist()
    elif path.startswith("columns"):
        rows = pl.read_csv(path, separator="\t").select(names).rows()
        labels = [[name for name, present in zip(names, row, strict=True) if present] for row in rows]
    else:
        frame = pl.read_parquet(path) if path.endswith("parquet") else pl.read_csv(path, infer_schema=False)
        labels = frame["y"].to_list()
    for row in read_csv("run/predictions.csv"):
        label = labels[int(row["row"])]
        if task != "multilabel":
            assert row["target"] == label
            assert row["prediction"] in names
        else:
            parts = (
                label
                if isinstance(label, list)
                else json.loads(label)
                if label[:1] == "["
                else label.split("|")
            )
            assert json.loads(row["target"]) == [name for name in names if name in parts]
    assert [name for name in read_csv("run/predictions.csv")[0] if name.startswith("p_")] == [
        f"p_{name}" for name in (names[1:] if task == "binary" else names)
    ]


def test_the_plan_states_the_inferred_task(files, command):
    code, out, err = command("task=auto", *table("lists.parquet"), *SHORT)
    assert (code, err) == (0, "")
    assert "task=auto: multilabel with 3 labels (column 'y' contains lists).\n" in out
    code, out, _ = command("task=auto", *table("species"), *SHORT, "loss.pos_weight=3")
    assert code == 1
    code, out, _ = command("task=auto", "data=digits", *SHORT, "logger=none")
    assert code == 0
    assert "task=auto: multiclass with 10 classes (digits: 10 distinct integers, 0 to 9).\n" in out


MISTAKES = [
    (["task=multiclass", *table("speces")], "File not found: speces.csv. Did you mean 'species.csv'?"),
    (["task=multiclass", *table("species", target="z")], "has no column 'z' (data.target). It has: length, width, colour, y."),
    (["task=binary", *table("species")], "task=binary requires two classes, but column 'y' contains 3"),
    (["task=binary", *table("half")], "contains '1' and '2', and the positive class is unknown. Set data.positive=2 or"),
    (["task=binary", *table("mail")], "Set data.positive=spam or data.positive=ham."),
    (["task=multilabel", *table("species")], "Column 'y' contains one label per row, such as 'versicolor'."),
    (["task=multiclass", *table("json")], "contains lists of labels"),
    (["task=multilabel", *table("tags", "data.delimiter='|'")], "is empty. Set data.empty=negative"),
    (["task=auto", *table("tags")], "If these are several labels, set task=multilabel"),
    (["task=auto", *table("mail")], "the positive class is unknown"),
    (["task=auto", "data=yeast", "task.missing=-1", "loss.foo=1"], "Unknown setting 'loss.foo'."),
    (["task=auto", *table("species"), "monitor=val/f1"], "Unknown metric 'val/f1' of monitor."),
    (["task=auto", *table("species"), "loss.pos_weight=2"], "pos_weight is not supported under softmax"),
    (["task=multiclass", *table("species"), "loss.weight={setosa:2,virginca:3}"], "Did you mean 'virginica'?"),
    (["task=multiclass", *table("species"), "+task.class_names=[setosa,versicolor]"], "Row 2 of column 'y': label 'virginica' is not among"),
    (["task=multiclass", "data=table"], "Set data.path=... to the file with the data."),
    (["task=multiclass", "data=table", "data.path=species.csv"], "A target is required. Set data.target=..."),
    (["task=multiclass", *table("species"), "data.path=3"], "data.path must be the path of a file, got 3."),
    (["task=multiclass", *table("species"), "data.handle_unknown=drop"], "data.handle_unknown='drop' is not valid."),
    (["task=multiclass", *table("species"), "data.nan=drop"], "data.nan='drop' is not valid. Choose one of: error, missing."),
    (["task=multiclass", *table("species"), "data.test_fraction=null"], "data.test_fraction must be a number from 0"),
    (["task=multiclass", *table("species"), "data.exclude={a:1}"], "'data.exclude={a:1}' cannot be used as a value: "),
    (["task=multiclass", *table("species"), "data.features=[]"], "data.features must name at least one column or array"),
    (["task=multiclass", *table("species"), "data.delimter=x"], "Unknown setting 'data.delimter'. Did you mean 'delimiter'?"),
    (["task=multiclass", *table("species"), "check_only=maybe"], "check_only must be true or false, got 'maybe'."),
    (["task=multiclass", *table("species"), "ignore_warnings=[one_clas]"], "Unknown warning 'one_clas'. Did you mean 'one_class'?"),
    (["task=multiclass", "data=arrays", "data.path=arrays.npz", "data.target=z"], "has no array 'z' (data.target)."),
    (["task=multiclass", "data.path=species.csv"], "path is a setting of data=arrays, data=litdata and data=table."),
    (["task=multiclass", "data=species.csv"], "data=species.csv is a file. Set data=table data.path=species.csv"),
    (["task=multiclass", "max_epochs=3"], "Unknown setting 'max_epochs'. Set trainer.max_epochs=3."),
    (["task=multiclass", "target=y"], "Set data=table data.path=FILE data.target=y."),
    (["task=multilabel", *table("tags"), "data.delimiter=;"], "needs quotes within quotes: \"data.delimiter=';'\"."),
    (["task=multiclass", *table("species"), "data.delimiter='|'"], "data.delimiter cannot be combined with task=multiclass"),
    (["task=multiclass", "data=table", "data.path=arrays.npz", "data.target=y"], "got arrays.npz. Set data=arrays"),
    (["task=multiclass", "data=table", "data.path=arrays.npz"], "got arrays.npz. Set data=arrays"),
    (["task=multiclass", "data=arrays", "data.path=species.csv"], "got species.csv. Set data=table"),
    (["task=multiclass", *table("species"), "+task.class_names=[setosa,versicolor]"], "Row "),
    (["task=binary", "~data", "+data._target_=x.Y", "check_only=true"], "data._target_=x.Y cannot be created"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: " ".join(value)[:60])
def test_a_mistake_is_one_message_and_nothing_written(arguments, message, files, command):
    before = sorted(files.iterdir())
    code, out, err = command(*arguments, "hydra.run.dir=run")
    assert code == 1
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""
    assert sorted(files.iterdir()) == before


class TestCheckOnly:
    def test_shows_plan_and_counts_and_writes_nothing(self, files, command):
        before = sorted(files.iterdir())
        code, out, err = command("task=multiclass", *table("species"), "check_only=true")
        assert (code, err) == (0, "")
        assert sorted(files.iterdir()) == before
        for text in (
            "multiclass with 3 classes",
            "most to least frequent class",
            "missing: none",
            "virginica",
            "rows",
        ):
            assert text in " ".join(out.split())
        counts = pl.read_csv("species.csv")["y"].value_counts()
        line = next(line.split() for line in out.splitlines() if line.split()[:1] == ["setosa"])
        assert sum(map(int, line[1:])) == counts.filter(pl.col("y") == "setosa")["count"].item()

    @pytest.mark.parametrize("name", ["binary", "multiclass", "multilabel"])
    def test_on_the_built_in_data_sets(self, name, command, tmp_path):
        code, out, _ = command(f"task={name}", "check_only=true")
        assert code == 0
        assert "Nothing was trained or saved." in out
        assert not list(tmp_path.iterdir())

    def test_an_empty_loader(self, command, tmp_path, monkeypatch):
        (tmp_path / "own_empty.py").write_text(
            "from lightning.pytorch import LightningDataModule\n"
            "class Data(LightningDataModule):\n"
            "    class_names, num_features = ('low', 'high'), 4\n"
            "    def train_dataloader(self): return []\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        code, _, err = command("task=binary", "~data", "+data._target_=own_empty.Data", "check_only=true")
        assert code == 1
        assert err.startswith("The training loader is empty (fewer rows than a batch, and drop_last=True?).")

    def test_checks_custom_data_and_nets(self, command, tmp_path, monkeypatch):
        (tmp_path / "own_check.py").write_text(
            "import torch\n"
            "from lightning.pytorch import LightningDataModule\n"
            "from torch.utils.data import DataLoader, TensorDataset\n"
            "class Data(LightningDataModule):\n"
            "    class_names = ('low', 'high')\n"
            "    def train_dataloader(self):\n"
            "        return DataLoader(TensorDataset(torch.randn(8, 4), torch.arange(8) % 2), batch_size=4)\n"
            "def net(num_outputs):\n"
            "    return torch.nn.Sequential(torch.nn.Linear(4, num_outputs), torch.nn.Sigmoid())\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        own = ["~data", "+data._target_=own_check.Data", "~model", "+model._target_=own_check.net"]
        code, _, err = command("task=binary", *own, "check_only=true")
        assert code == 1
        assert err.startswith("The net ends in Sigmoid (net.1), but the loss takes raw logits")
        code, _, err = command("task=auto", *own, "check_only=true")
        assert code == 1
        assert "task=auto does not support custom data" in err


class TestWarnings:
    @pytest.fixture(autouse=True)
    def _shown(self):
        with warnings.catch_warnings():
            warnings.simplefilter("default", ls.LossSelectWarning)
            yield

    def test_are_single_lines_that_can_be_silenced(self, files, command):
        frame = pl.read_csv("species.csv").with_columns(pl.lit(1).alias("same"))
        frame.write_csv("constant.csv")
        arguments = ["task=multiclass", *table("constant"), "check_only=true"]
        code, _, err = command(*arguments)
        assert code == 0
        assert err == (
            "Warning: Columns with a single value in all training rows are left out: same. "
            "(ignore_warnings=[constant_feature] silences this.)\n"
        )
        assert command(*arguments, "ignore_warnings=[constant_feature]")[2] == ""
        assert command(*arguments, "ignore_warnings=constant_feature")[2] == ""

    def test_unseen_labels_are_counted(self, files, command):
        frame = pl.read_csv("species.csv")
        frame.filter(pl.col("y") != "setosa").write_csv("train.csv")
        arguments = [
            "task=multiclass",
            *table("train"),
            "data.test_path=species.csv",
            "ignore_warnings=[duplicate_rows]",
            *SHORT,
        ]
        code, _, err = command(*arguments)
        assert code == 1
        assert re.search(
            r"Row \d+ of column 'y': label 'setosa' was never seen in training.*\(In species\.csv\.\)", err
        )
        code, _out, err = command(*arguments, "data.handle_unknown=ignore")
        assert code == 0
        count = frame.filter(pl.col("y") == "setosa").height
        assert (
            f"{count} of {frame.height} labels of column 'y' were not seen in training and are ignored: 'setosa' ({count})."
            in err
        )
        assert f"missing: {count} in test" in Path("run/plan.json").read_text()


def test_a_monitor_that_cannot_be_computed(files, command):
    frame = pl.read_csv("json.csv")
    frame.with_columns(pl.lit("[]").alias("y")).write_csv("empty.csv")
    arguments = ["task=multilabel", *table("json"), "data.val_path=empty.csv", *SHORT]
    code, _, err = command(*arguments, "monitor=val/average_precision", "ignore_warnings=[duplicate_rows]")
    assert code == 1
    assert (
        "val/average_precision cannot be computed: no label of the validation split has both positives and negatives"
        in err
    )
    assert not Path("run").exists()
    assert (
        command(
            *arguments, "monitor=val/loss", "ignore_warnings=[duplicate_rows,no_positives,untuned_threshold]"
        )[0]
        == 0
    )


def test_a_net_of_another_width(files, command):
    own = ["~model", "+model._target_=torch.nn.Linear", "+model.in_features=9", "+model.out_features=3"]
    code, _, err = command("task=multiclass", *table("species"), *own, "check_only=true")
    assert code == 1
    assert err.startswith(
        "The net fails for a tensor of shape (64, 6), torch.float32: mat1 and mat2 shapes cannot be multiplied"
    )


def test_the_plan_lists_the_feature_columns(files, command):
    _, out, _ = command("task=multiclass", *table("species"), "check_only=true")
    assert "features length, width, colour" in " ".join(out.split())


def test_a_row_without_a_label_has_an_empty_target(files, command):
    hole = pl.int_range(pl.len()) % 3 == 0
    pl.read_csv("species.csv").with_columns(pl.when(~hole).then("y").alias("y")).write_csv("holes.csv")
    code, _, err = command("task=multiclass", *table("holes"), *SHORT)
    assert code == 0, err
    rows = read_csv("run/predictions.csv")
    assert {row["target"] for row in rows if int(row["row"]) % 3 == 0} == {""}
    assert "" not in {row["target"] for row in rows if int(row["row"]) % 3}


SAVED = "Decision (default): the most probable class.\nSaved 120 rows in out.csv\n"


@pytest.fixture(scope="module")
def folder_of_run(tmp_path_factory):
    """Return a folder with the files and a run on species.csv."""
    folder = tmp_path_factory.mktemp("trained")
    write_files(folder)
    train_in(folder, "task=multiclass", *table("species"), *SHORT, "report=false")
    return folder


class TestPredict:
    @pytest.fixture
    def trained(self, folder_of_run, command, tmp_path):
        shutil.copytree(folder_of_run, tmp_path, dirs_exist_ok=True)
        return "run/checkpoints/best.ckpt"

    @pytest.fixture
    def run(self, call):
        return partial(call, predict.main, "predict.py")

    def test_a_run_folder_in_place_of_a_checkpoint(self, trained, run, call):
        for i, checkpoint in enumerate([trained, "run", "run/metrics.json", "run/checkpoints"]):
            assert run(f"checkpoint={checkpoint}", "input=species.csv", f"output={i}.csv")[0] == 0
            assert Path(f"{i}.csv").read_bytes() == Path("0.csv").read_bytes()
        assert call(export.main, "export.py", "checkpoint=run", "format=safetensors")[0] == 0
        assert Path("run/checkpoints/best.safetensors").is_file()
        loaded = [ls.TaskModule.load_from_checkpoint(path) for path in ("run", trained)]
        for weight, other in zip(*(module.state_dict().values() for module in loaded), strict=True):
            assert torch.equal(weight, other)

    @pytest.mark.parametrize("size", [7, 8192])
    @pytest.mark.parametrize("name", ["new.csv", "new.parquet", "new.tsv"])
    def test_predictions_equal_those_of_the_run(self, size, name, trained, run):
        frame = pl.read_csv("species.csv").select("colour", pl.lit("x").alias("more"), "width", "length")
        if name.endswith("parquet"):
            frame.write_parquet(name)
        else:
            frame.write_csv(name, separator="\t" if name.endswith("tsv") else ",")
        code, out, err = run(
            f"checkpoint={trained}",
            f"input={name}",
            "output=out.csv",
            f"batch_size={size}",
            "keep=[more,colour]",
        )
        assert (code, err, out) == (0, "", SAVED)
        got = read_csv("out.csv")
        assert [*got[0]] == ["row", "prediction", "p_setosa", "p_versicolor", "p_virginica", "more", "colour"]
        assert [row["colour"] for row in got] == frame["colour"].to_list()
        for expected in read_csv("run/predictions.csv"):
            row = got[int(expected["row"])]
            assert row["prediction"] == expected["prediction"]
            for key in ("p_setosa", "p_versicolor", "p_virginica"):
                assert float(row[key]) == pytest.approx(float(expected[key]), abs=1e-6)

    def test_of_arrays_and_of_several_labels(self, files, command, run):
        assert command("task=multiclass", "data=arrays", "data.path=arrays.npz", *SHORT)[0] == 0
        np.save("new.npy", np.load("arrays.npz")["X"])
        for name in ("arrays.npz", "new.npy"):
            assert run("checkpoint=run/checkpoints/best.ckpt", f"input={name}", "output=out.csv")[0] == 0
            got = read_csv("out.csv")
            assert all(
                got[int(row["row"])]["prediction"] == row["prediction"]
                for row in read_csv("run/predictions.csv")
            )
        assert command("task=multilabel", *table("json"), *SHORT, "logger=none")[0] == 0
        assert run("checkpoint=run/checkpoints/best.ckpt", "input=species.csv", "output=out.csv")[0] == 0
        assert isinstance(json.loads(read_csv("out.csv")[0]["prediction"]), list)

    def test_arrays_of_another_width_or_name(self, files, command, run):
        x = np.load("arrays.npz")["X"]
        np.savez("named.npz", foo=x, y=np.load("arrays.npz")["y"])
        assert (
            command("task=multiclass", "data=arrays", "data.path=named.npz", "data.features=foo", *SHORT)[0]
            == 0
        )
        settings = ["checkpoint=run/checkpoints/best.ckpt", "output=out.csv"]
        assert run(*settings, "input=named.npz")[0] == 0
        np.savez("wide.npz", foo=np.concatenate([x, x], 1))
        code, _, err = run(*settings, "input=wide.npz")
        assert code == 1
        assert "Expected 3 features per row as in training, got 6 in wide.npz." in err
        code, _, err = run(*settings, "input=named.npz", "separator=;")
        assert code == 1
        assert "A model of arrays has no option 'separator'." in err

    def test_categories_keep_leading_zeros(self, files, command, run):
        frame = pl.read_csv("species.csv").with_columns(pl.Series("zip", ["00100", "00200"] * 60))
        frame.write_csv("zips.csv")
        assert command("task=multiclass", *table("zips", "data.categorical=zip"), *SHORT)[0] == 0
        code, out, err = run("checkpoint=run/checkpoints/best.ckpt", "input=zips.csv", "output=out.csv")
        assert (code, out, err) == (0, SAVED, "")
        got = read_csv("out.csv")
        for row in read_csv("run/predictions.csv"):
            assert float(got[int(row["row"])]["p_setosa"]) == pytest.approx(float(row["p_setosa"]), abs=1e-6)

    def test_dates_and_free_text(self, files, command, run):
        days = [f"{1 + i % 28}/{1 + i % 12}/2024 {i % 24}:30" for i in range(120)]
        comments = [
            None if i % 9 == 0 else f"order {i}: {word}, thanks" for i, word in enumerate("ab cd" * 24)
        ]
        more = {"when": days, "comment": comments}
        pl.read_csv("species.csv").with_columns(**{n: pl.Series(v) for n, v in more.items()}).write_csv(
            "m.csv"
        )
        assert command("task=multiclass", *table("m", "data.text=[comment]"), *SHORT)[0] == 0
        arguments = ["checkpoint=run/checkpoints/best.ckpt", "output=out.csv", "batch_size=7"]
        assert run("input=m.csv", *arguments) == (0, SAVED, "")
        got = read_csv("out.csv")
        for row in read_csv("run/predictions.csv"):
            assert float(got[int(row["row"])]["p_setosa"]) == pytest.approx(float(row["p_setosa"]), abs=1e-6)
        pl.read_csv("m.csv").with_columns(
            when=pl.when(pl.int_range(pl.len()) == 30).then(pl.lit("1.5.24")).otherwise("when"),
            comment=pl.lit("words that no training row has"),
        ).write_csv("new.csv")
        code, _, err = run("input=new.csv", *arguments)
        assert code == 1
        assert "Row 30 of column 'when' is '1.5.24', but must be a date such as 31.05.2024." in err
        assert len(err.splitlines()) == 1

    def test_unknown_categories_are_counted(self, trained, run):
        pl.read_csv("species.csv").with_columns(pl.lit("pink").alias("colour")).write_csv("new.csv")
        with warnings.catch_warnings():
            warnings.simplefilter("default", ls.LossSelectWarning)
            code, _, err = run(f"checkpoint={trained}", "input=new.csv", "output=out.csv", "batch_size=50")
        assert code == 0
        assert err == (
            "Warning: Some cells are missing in columns that have no missing training cells, or have a category "
            "that no training row has: 120 in column 'colour' of new.csv. The net gets the column's mean or no "
            "category for them.\n"
        )

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("width,colour\n1,red\n", "new.csv has no column 'length' (a feature of the model)."),
            ("length,width,colour\n1,2,red\n1,x,red\n", "Column 'width' contains numbers, but row 1 is 'x'."),
            (
                "length,width,colour\n1,2,red\n1,inf,red\n",
                "Row 1 of column 'width' is inf, but features must be finite",
            ),
            (
                "length,width,colour\n1,2,red\n1,2\n",
                "Row 1 of new.csv (line 3) has 2 cells, but the header has 3.",
            ),
            ("length,width,colour\n", "new.csv has no rows."),
            ("", "new.csv is empty."),
        ],
    )
    def test_an_invalid_input_leaves_no_output(self, content, message, trained, run, tmp_path):
        Path("new.csv").write_text(content)
        before = sorted(tmp_path.iterdir())
        code, out, err = run(f"checkpoint={trained}", "input=new.csv", "output=out.csv", "batch_size=1")
        assert (code, out) == (1, "")
        assert message in err
        assert len(err.splitlines()) == 1
        assert sorted(tmp_path.iterdir()) == before

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ["input=species.csv", "output=out.csv"],
                "checkpoint is required. For example: checkpoint=best.ckpt",
            ),
            (
                ["checkpoint=none.ckpt", "input=species.csv", "output=out.csv"],
                "Checkpoint not found: none.ckpt.",
            ),
            (["checkpoint=species.csv", "input=species.csv", "output=out.csv"], "species.csv ("),
            (
                ["checkpoint={}", "input=X.npy", "output=out.csv"],
                "Expected a table with its columns, got X.npy",
            ),
            (
                ["checkpoint={}", "input=species.csv", "output=out.csv", "keep=[colr]"],
                "has no column 'colr' (keep)",
            ),
            (["chekpoint=x"], "lossselect predict has no option 'chekpoint'. Did you mean 'checkpoint'?"),
            (["x"], "'x' is not a setting."),
            (
                ["checkpoint={}", "input=semi.csv", "output=out.csv", "separator=|"],
                "If ';' separates the columns, set \"data.separator=';'\".",
            ),
            (["checkpoint={}", "input=none.csv", "output=out.csv"], "File not found: none.csv."),
            (["checkpoint={}", "input=species.csv", "output=out.txt"], "output=out.txt must end in .csv."),
            (["checkpoint={}", "input=species.csv", "output=species.csv"], "is the input file."),
            (
                ["checkpoint={}", "input=species.csv", "output=no/out.csv"],
                "The folder no of output=no/out.csv does not exist.",
            ),
            (
                ["checkpoint={}", "input=species.csv", "output=out.csv", "device=quantum"],
                "device=quantum cannot be used",
            ),
            (
                ["checkpoint={}", "input=species.csv", "output=out.csv", "batch_size=0"],
                "batch_size must be an integer",
            ),
            (["checkpoint={}", "input=species.csv", "output=out.csv", "keep=z"], "has no column 'z'"),
            (["checkpoint={}", "input=species.csv", "output=out.csv", "keep=[z"], "has no column 'z'"),
        ],
        ids=lambda value: " ".join(value)[-60:],
    )
    def test_invalid_settings(self, arguments, message, trained, run):
        Path("semi.csv").write_text("length;width;colour\n1;2;red\n")
        code, out, err = run(*(argument.format(trained) for argument in arguments))
        assert (code, out) == (1, "")
        assert message in err
        assert not Path("out.csv").exists()

    def test_a_checkpoint_of_other_data(self, command, run, files):
        assert command("task=binary", *SHORT)[0] == 0
        code, _, err = run("checkpoint=run/checkpoints/best.ckpt", "input=species.csv", "output=out.csv")
        assert code == 1
        assert "species.csv has no column 'mean radius' (a feature of the model)." in err

    def test_help(self, run):
        for arguments in ([], ["--help"]):
            code, out, _ = run(*arguments)
            assert code == 0
            assert "no incomplete output is left." in out


# --- an invalid target is rejected on every path

REJECTED = [
    (ls.Multiclass(3), [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]),
    (ls.Multiclass(3), [0, 3]),
    (ls.Multiclass(3), [0, -1]),
    (ls.Multiclass(3), [0.5, 1.0]),
    (ls.Multiclass(3), [[0.5, 0.4, 0.0], [1.0, 0.0, 0.0]]),
    (ls.Binary(), [1, 2]),
    (ls.Binary(), [-1, 1]),
    (ls.Binary(), [0, 255]),
    (ls.Binary(), [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]),
    (ls.Multilabel(3), [0, 2]),
    (ls.Multilabel(3), [[0, 2, 0], [1, 0, 0]]),
    (ls.Multilabel(3), [[0, -1, 0], [1, 0, 0]]),
    (ls.Multilabel(3), [[0, 1], [1, 0]]),
]


@pytest.mark.parametrize(("task", "target"), REJECTED, ids=str)
def test_an_invalid_target_is_rejected_on_every_path(task, target, tmp_path, command):
    import lightning.pytorch as L
    from torch.utils.data import DataLoader, TensorDataset

    net, inputs, labels = torch.nn.Linear(4, task.num_outputs), torch.randn(2, 4), torch.tensor(target)
    before = net.weight.clone()
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    np.savez("d.npz", X=np.random.default_rng(0).normal(size=(40, 4)), y=np.array(target * 20))
    paths = {
        "encode": lambda: task.encode(target),
        "check_task": lambda: ls.check_task(task, target),
        "loss": lambda: ls.select_loss(task)(net(inputs), labels),
        "metrics": lambda: ls.make_metrics(task).update(task.probabilities(net(inputs)), labels),
        "fit": lambda: trainer.fit(
            ls.TaskModule(task, net), DataLoader(TensorDataset(inputs, labels), batch_size=2)
        ),
    }
    for name, path in paths.items():
        with pytest.raises((TypeError, ValueError)):
            path()
        assert torch.equal(net.weight, before), name
    if not (
        task.name == "multiclass"
        and labels.ndim == 1
        and labels.min() >= 0
        and not labels.is_floating_point()
    ):
        # integers in a file are classes, whichever numbers they are; all other targets are rejected there too
        width = [] if task.name == "binary" else [f"+task.class_names=[{','.join('abc')}]"]
        assert command(f"task={task.name}", "data=arrays", "data.path=d.npz", *width, *SHORT)[0] == 1
        assert not Path("run").exists()


def test_a_run_reads_its_file_once(files, command, monkeypatch):
    """The current folder, whose times change with the run folder, is not a file of the data."""
    read, original = [], load.load_own_data
    monkeypatch.setattr(load, "load_own_data", lambda **options: read.append(1) or original(**options))
    code, _, err = command("task=binary", *table("flag"), *SHORT)
    assert (code, len(read)) == (0, 1), err


class TestAFileThatChanges:
    """A file that is modified between runs of one process, as in a notebook or a sweep, is read again."""

    def config(self, **data):
        path = ROOT / "configs" / "data" / f"{data['name']}.yaml"
        settings = yaml.safe_load(path.read_text())
        return OmegaConf.create({"data": {**settings, **data, "seed": 0}, "task": {"name": "binary"}})

    def write(self, path, label, start=0):
        rows = [f"{start + i},{label if i % 2 else 'no'}" for i in range(20)]
        path.write_text("\n".join(["a,y", *rows]) + "\n")

    def test_a_table_that_is_overwritten_with_the_same_size(self, tmp_path):
        path = tmp_path / "t.csv"
        config = self.config(name="table", path=str(path), target="y", positive="no")
        self.write(path, "yes")
        size = path.stat().st_size
        first = load_data(config)
        assert load_data(config) is first  # a file that has not changed is read once
        assert first.task.class_names == ("yes", "no")
        self.write(path, "may")
        assert path.stat().st_size == size
        assert load_data(config).task.class_names == ("may", "no")

    @pytest.mark.parametrize("pattern", ["", "/part-*.jsonl"])
    def test_a_file_of_a_folder_or_a_pattern_that_is_overwritten(self, pattern, tmp_path):
        config = self.config(name="table", path=f"{tmp_path}{pattern}", target="y", positive="no")
        for label in ("yes", "may"):
            for part in range(2):
                values = np.arange(20 * part, 20 * part + 20) ** 0.5
                frame = pl.DataFrame({"a": values, "y": [label, "no"] * 10})
                frame.write_ndjson(tmp_path / f"part-{part}.jsonl")
            assert load_data(config).task.class_names == (label, "no")

    def test_another_file_with_the_same_modification_time(self, tmp_path):
        path = tmp_path / "t.csv"
        config = self.config(name="table", path=str(path), target="y", positive="no")
        self.write(path, "yes")
        times = path.stat()
        load_data(config)
        self.write(path, "may")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as cp -p sets it
        assert load_data(config).task.class_names == ("may", "no")

    @pytest.mark.parametrize("split", ["val_path", "test_path"])
    def test_the_file_of_another_split(self, split, tmp_path):
        paths = {"path": tmp_path / "t.csv", split: tmp_path / "other.csv"}
        for start, path in enumerate(paths.values()):
            self.write(path, "yes", 20 * start)
        settings = {key: str(path) for key, path in paths.items()}
        config = self.config(name="table", target="y", positive="no", **settings)
        rows = load_data(config).splits.rows[split.removesuffix("_path")]
        lines = paths[split].read_text().splitlines()
        paths[split].write_text("\n".join(lines[:-4]) + "\n")
        assert len(load_data(config).splits.rows[split.removesuffix("_path")]) == len(rows) - 4

    def test_the_labels_of_a_mapped_array(self, tmp_path):
        np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 2)))
        np.save(tmp_path / "y.npy", np.arange(40) % 2)
        config = self.config(name="arrays", path=str(tmp_path / "x.npy"), target=str(tmp_path / "y.npy"))
        before = load_data(config).splits.labels
        np.save(tmp_path / "y.npy", 1 - np.arange(40) % 2)
        assert np.array_equal(load_data(config).splits.labels, 1 - before)

    def test_the_same_name_in_another_folder(self, tmp_path, monkeypatch):
        config = self.config(name="table", path="t.csv", target="y", positive="no")
        for label in ("yes", "may"):
            (tmp_path / label).mkdir()
            self.write(tmp_path / label / "t.csv", label)
            monkeypatch.chdir(tmp_path / label)
            assert load_data(config).task.class_names == (label, "no")
