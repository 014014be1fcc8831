"""Columns of free text as features."""

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from table_cases import numbers

import lossselect as ls
from lossselect.data.datamodule import TensorData
from lossselect.data.preprocessing import text as text_module
from lossselect.data.preprocessing.columns import Category, CellParser, Number
from lossselect.data.preprocessing.preparation import Preparation
from lossselect.data.preprocessing.scaling import Standard
from lossselect.data.preprocessing.table_features import Features
from lossselect.data.preprocessing.table_rows import TableRows
from lossselect.data.readers.tables import TableColumns, TableOptions
from lossselect.exceptions import CheckpointError, ConfigError, DataError
from lossselect.tasks.registry import make_task
from lossselect.training.checkpoints.content import to_plain

COMMENTS = [
    "The parcel is late",
    "the parcel is broken",
    None,
    "late, late parcel!",
    "\x00\x1b[31m \ud7ff",
    "new words",
]


def fit(columns, train=None, texts=("comment",), **options):
    frame = pl.DataFrame(columns)
    train = np.arange(len(frame)) if train is None else train
    return frame, Features.fit(TableColumns(frame), train, CellParser(**options), texts=texts)


def rows_of(features, columns):
    frame = pl.DataFrame(columns)
    rows, unknown = features.transform(frame, "new.csv")
    return rows[torch.arange(len(frame))].numpy(), unknown


class TestFeatures:
    def test_the_features_are_those_of_scikit_learn(self):
        frame, features = fit({"comment": COMMENTS}, train=np.arange(4))
        got, unknown = rows_of(features, frame)
        vectorizer = TfidfVectorizer(min_df=2, ngram_range=(1, 2), sublinear_tf=True)
        vectorizer.fit([cell or "" for cell in COMMENTS[:4]])
        expected = vectorizer.transform([cell or "" for cell in COMMENTS]).toarray()
        assert features.names == [f"comment: {term}" for term in vectorizer.get_feature_names_out()]
        assert "comment: the parcel" in features.names
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        assert unknown == {}
        assert not got[[2, 4, 5]].any()

    def test_text_beside_other_columns(self):
        columns = {
            "comment": COMMENTS,
            "x": [1.0, 2.0, None, 4.0, 5.0, 6.0],
            "colour": ["red", "blue", None, "red", "red", "blue"],
            "title": ["a one", "b two", "one", "two", "one", "two"],
        }
        frame, features = fit(columns, texts=["title", "comment"])
        got, _ = rows_of(features, frame)
        parts = [rows_of(fit({name: columns[name]}, texts=())[1], frame)[0] for name in ("x", "colour")]
        parts += [rows_of(fit({n: columns[n]}, texts=[n])[1], frame)[0] for n in ("title", "comment")]
        np.testing.assert_allclose(got, np.concatenate(parts, 1), rtol=1e-6)
        assert got.shape[1] == len(features.names)
        assert features.summary == ["x", "colour", "title (2 words)", "comment (6 words)"]

    def test_rows_of_a_batch(self):
        frame, features = fit({"comment": COMMENTS, "x": range(6)})
        rows, _ = features.transform(frame, "t.csv")
        everything = rows[torch.arange(6)]
        assert torch.equal(rows[torch.tensor([3, 0, 3])], everything[[3, 0, 3]])
        assert torch.equal(rows[1], everything[1])
        both = TableRows.concatenate([rows, rows])
        assert torch.equal(both[torch.tensor([9])], everything[[3]])
        assert rows.words.nnz < 20
        assert not rows.is_movable

    def test_round_trip_through_plain_values(self):
        frame, features = fit({"comment": COMMENTS}, null_values=("late, late parcel!",))
        values = to_plain(features.to_dict())
        again = Features.from_dict(values)
        assert again == features
        np.testing.assert_array_equal(rows_of(again, frame)[0], rows_of(features, frame)[0])
        assert not rows_of(again, frame)[0][3].any()

    def test_words_are_counted_in_limited_numbers(self, monkeypatch):
        monkeypatch.setattr(text_module, "MAX_TERMS", 3)
        monkeypatch.setattr(text_module, "MAX_FITTED", 2)
        monkeypatch.setattr(text_module, "BLOCK_CELLS", 2)
        frame, features = fit({"comment": ["aa bb cc dd"] * 5 + ["zz zz"] * 2})
        assert len(features.names) == 3
        assert rows_of(features, frame)[0].shape == (7, 3)

    def test_text_without_common_words_raises_an_error(self):
        with pytest.raises(DataError, match=r"Column 'comment' has no word.*data\.exclude=\[comment\]"):
            fit({"comment": ["aa", "bb", "c c", None]})

    def test_the_end_of_a_long_cell_is_ignored(self):
        end = "ab " * (text_module.MAX_CHARACTERS // 3)
        _, features = fit({"comment": ["ab cd", "ab cd", end]})
        long = pl.DataFrame({"comment": ["ab", "ab " * 5_000_000 + " cd"]})
        with pytest.warns(
            ls.LossSelectWarning, match=r"1 cells of column 'comment'.* row 11\..*\[long_text\]"
        ):
            rows, _ = features.transform(long, "t.csv", first_row=10)
        assert rows[torch.arange(2)][:, features.names.index("comment: cd")].tolist() == [0, 0]


class TestCheckpoints:
    @pytest.mark.parametrize(
        ("place", "value"),
        [
            (("texts", 0, "idf"), [1.0]),
            (("texts", 0, "idf"), [float("nan")] * 6),
            (("texts", 0, "terms"), ["ab"] * 6),
            (("texts", 0, "terms"), b"pickled"),
            (("dates", 0, "origin"), "2024"),
            (("dates", 0, "parts", 0, "name"), "century"),
            (("dates", 0, "parts"), []),
            (("dates", 0, "parts", 1, "std"), 0),
            (("categories", 0, "values"), ["a", "a"]),
        ],
    )
    def test_a_damaged_preparation_raises_an_error(self, place, value):
        days = ["2024-01-01", "2024-02-02", "2024-02-03", "2024-02-04", None, None]
        _, features = fit({"comment": COMMENTS, "when": days, "kind": [*"abbaab"]})
        values = Preparation("table", features, {**vars(TableOptions()), "width": None}).to_dict()
        Preparation.stored(values, "best.ckpt")
        *path, last = place
        part = values["features"]
        for key in path:
            part = part[key]
        part[last] = value
        with pytest.raises(CheckpointError, match=r"best\.ckpt is damaged"):
            Preparation.stored(values, "best.ckpt")

    def test_a_header_in_a_file_for_a_model_without_one(self):
        cells = {f"column {i}": [*"abcabc"] for i in range(3)}
        features = Features.fit(TableColumns(pl.DataFrame(cells)), np.arange(6), CellParser())
        reading = {**vars(TableOptions()), "header": False, "width": 4}
        preparation = Preparation("table", features, reading)
        preparation.check_first_row(pl.DataFrame({**cells, "column 1": ["new", *"bcabc"]}), "t.csv")
        with pytest.raises(DataError, match=r"first line of t\.csv seems to contain names.*'cap', 'odor'"):
            preparation.check_first_row(
                pl.DataFrame([["cap", "odor", "veil"]], [*cells], orient="row"), "t.csv"
            )

    def test_another_number_of_columns_without_a_header(self):
        """The label is column 0, so that a file without it would be read shifted by one column."""
        columns = {f"column {i}": [*"abcabc"] for i in (1, 2)}
        features = Features.fit(TableColumns(pl.DataFrame(columns)), np.arange(6), CellParser())
        reading = {**vars(TableOptions()), "header": False, "width": 4}
        preparation = Preparation("table", features, reading)
        header = [f"column {i}" for i in range(4)]
        preparation.check_header(header, "t.csv", False)
        with pytest.raises(DataError, match=r"Expected 4 columns as in training, got 3 in t\.csv"):
            preparation.check_header(header[:3], "t.csv", False)
        last = Features((), (Category("column 0", ("a", "b", "c"), False),), CellParser())
        Preparation("table", last, reading).check_header(header[:1], "t.csv", False)

    @pytest.mark.parametrize("name", ["x3", "x01", "y0", "x", "x-1"])
    def test_an_unknown_column_of_an_array(self, name):
        features = Features((Number("x2", Standard(0.0, 1.0), False),), (), CellParser())
        values = Preparation("arrays", features, {"features": None, "width": 3}).to_dict()
        Preparation.stored(values, "best.ckpt")
        values["features"]["numbers"][0]["name"] = name
        with pytest.raises(CheckpointError, match=f"'{name}' is not a column of an array with 3 columns"):
            Preparation.stored(values, "best.ckpt")


class TestLoading:
    def test_a_table_with_text_is_loaded(self, load):
        words = np.array(["good", "bad"])
        y = np.arange(60) % 2
        columns = {
            "comment": [f"{i} {word} film" for i, word in enumerate(words[y])],
            "y": y,
            "x": numbers(60),
        }
        splits = load(columns, task="multiclass", text=["comment"], val_path=columns)
        task = make_task("multiclass", class_names=splits.class_names)
        with ls.ignore_warnings("duplicate_rows"):
            data = TensorData(splits, task)
        inputs, target = next(iter(data.train_dataloader()))
        assert inputs.shape == (len(inputs), splits.features.shape[1])
        good = (
            splits.preparation["features"]["texts"][0]["terms"].index("good") - splits.features.words.shape[1]
        )
        assert torch.equal(inputs[:, good] > 0, target == 0)

    def test_invalid_settings(self, load):
        columns = {"comment": ["a b"] * 60, "y": ["a", "b"] * 30, "x": numbers(60)}
        with pytest.raises(DataError, match=r"has no column 'coment' \(data\.text\).*Did you mean 'comment'"):
            load(columns, text=["coment"])
        with pytest.raises(ConfigError, match=r"both data\.text and data\.categorical"):
            load(columns, text=["comment"], categorical=["comment"])
