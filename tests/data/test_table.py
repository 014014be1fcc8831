import re
import warnings

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lossselect as ls
from lossselect.data.checks import check_splits
from lossselect.data.datamodule import TensorData
from lossselect.data.label_parsing.single_label import LabelOptions
from lossselect.data.label_parsing.table_labels import read_labels
from lossselect.data.load import load_own
from lossselect.data.preprocessing.columns import Reading
from lossselect.data.preprocessing.table_features import Features
from lossselect.data.splits import split_rows
from lossselect.tasks.registry import make_task
from lossselect.training.checkpoints.content import plain

NAN = float("nan")
OPTIONS = {"val_path": None, "test_path": None, "val_fraction": 0.25, "test_fraction": 0.25, "seed": 0}


@pytest.fixture
def load(tmp_path):
    """Writes columns to a file and loads it as splits."""

    def loaded(columns, task="multiclass", name="table", **options):
        of_task = task if isinstance(task, dict) else {"name": task}
        files = {
            "path": columns,
            **{key: options.pop(key) for key in ("val_path", "test_path") if key in options},
        }
        for key, content in files.items():
            frame = content if isinstance(content, pl.DataFrame) else pl.DataFrame(content)
            files[key] = str(tmp_path / f"{key}.csv")
            frame.write_csv(files[key])
        return load_own(name, task=of_task, **{**OPTIONS, "target": "y", **files, **options})

    return loaded


def numbers(count, seed=0):
    return np.random.default_rng(seed).normal(size=count)


def target_of(splits, task):
    return task.decode(task.harden(torch.from_numpy(np.asarray(task.encode(splits.labels)))))


# --- features


def features_of(frame, train=None, **options):
    frame = pl.DataFrame(frame)
    categorical = options.pop("categorical", ())
    train = np.arange(frame.height) if train is None else train
    features = Features.fit(frame, train, Reading(**options), categorical)
    rows, unknown = features.transform(frame, "t.csv")
    return features, rows[torch.arange(frame.height)], unknown


class TestFeatures:
    def test_numbers_are_standardised_by_the_train_rows_alone(self):
        x = numbers(20) * 5 + 3
        _, got, _ = features_of({"x": x}, train=np.arange(10))
        np.testing.assert_allclose(got[:, 0], (x - x[:10].mean()) / x[:10].std(), rtol=1e-6)

    def test_missing_numbers_are_the_mean_with_an_indicator(self):
        features, got, _ = features_of({"x": [1.0, None, 3.0, None]}, train=np.arange(3))
        assert features.names == ["x", "x missing"]
        np.testing.assert_allclose(got, [[-1, 0], [0, 1], [1, 0], [0, 1]])

    def test_missing_numbers_without_one_in_train_are_the_mean(self):
        features, got, _ = features_of({"x": [1.0, 3.0, None]}, train=np.arange(2))
        assert features.names == ["x"]
        np.testing.assert_allclose(got, [[-1], [1], [0]])

    def test_categories_are_one_hot_and_unknown_ones_nothing(self):
        features, got, unknown = features_of({"c": ["b", "a", None, "b", "z"]}, train=np.arange(4))
        assert features.names == ["c=a", "c=b", "c missing"]
        np.testing.assert_array_equal(got, [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]])
        assert unknown == {"c": 1}

    def test_booleans_and_numbers_in_text_are_numbers(self):
        features, got, _ = features_of({"b": [True, False], "t": ["1", " 3 "]})
        assert [type(column).__name__ for column in features.numbers] == ["Number", "Number"]
        np.testing.assert_allclose(got, [[1, -1], [-1, 1]])

    def test_cells_that_mean_missing(self):
        features, got, _ = features_of({"x": ["1", "?", "3"]}, null_values=("?",))
        assert features.names == ["x", "x missing"]
        np.testing.assert_allclose(got, [[-1, 0], [0, 1], [1, 0]])

    def test_codes_may_be_categories(self):
        features, _, _ = features_of({"zip": [8001, 1010, 8001]}, categorical=["zip"])
        assert features.names == ["zip=1010", "zip=8001"]

    def test_a_single_row_and_some_rows(self):
        frame = pl.DataFrame({"x": [1.0, 3.0, 2.0], "c": ["a", "b", "a"]})
        features = Features.fit(frame, np.arange(3), Reading())
        rows, _ = features.transform(frame, "t")
        assert rows[1].shape == (3,)
        assert torch.equal(rows[torch.tensor([1])][0], rows[1])
        assert rows.shape == (3, len(features.names))

    def test_names_of_ours_may_be_names_of_theirs(self):
        features, got, _ = features_of({"x": [1.0, None], "x missing": [3.0, 5.0], "0": [1.0, 2.0]})
        assert got.shape == (2, len(features.names)) == (2, 4)

    def test_plain_values_make_it_again(self):
        frame = {"x": [1.0, None, 2.0], "c": ["a", None, "b"]}
        features, got, _ = features_of(frame, null_values=("?",), nan="missing")
        again = Features.from_dict(plain(features.to_dict()))
        assert again == features
        rows, _ = again.transform(pl.DataFrame(frame), "t")
        assert torch.equal(rows[torch.arange(3)], got)

    def test_columns_may_come_in_another_order_and_with_others(self):
        frame = pl.DataFrame({"x": [1.0, 3.0], "c": ["a", "b"]})
        features = Features.fit(frame, np.arange(2), Reading())
        other = pl.DataFrame({"more": [0, 0], "c": ["a", "b"], "x": [1.0, 3.0]})
        assert torch.equal(
            features.transform(other, "t")[0][torch.arange(2)],
            features.transform(frame, "t")[0][torch.arange(2)],
        )

    def test_nan_may_mean_missing(self):
        features, _, _ = features_of({"x": [1.0, NAN, 3.0]}, nan="missing")
        assert features.numbers[0].missing
        assert features.numbers[0].mean == 2

    def test_a_sum_that_overflows_is_no_infinity(self):
        big = [1.7e308, 1.7e308, 0.0]
        assert Reading().numbers(pl.Series("x", big)).to_list() == big

    def test_numbers_may_mean_missing(self):
        features, got, _ = features_of({"x": [1, -999, 3], "z": [1.5, -999.0, 2.5]}, null_values=("-999",))
        assert features.names == ["x", "x missing", "z", "z missing"]
        np.testing.assert_allclose(got[1], [0, 1, 0, 1])

    @pytest.mark.parametrize(
        ("frame", "message"),
        [
            ({"x": [1e200, 2e200, 3e200]}, "so large that their standard deviation is none of float64"),
            ({"x": [1.0, float("inf")]}, "Row 1 of column 'x' is inf; no feature can be infinite"),
            (
                {"x": [1.0, 2.0, NAN]},
                "Row 2 of column 'x' is nan; if NaN means 'missing', say data.nan=missing.",
            ),
            (
                {"x": ["1", "2", "n/a"]},
                "Column 'x' holds numbers, but row 2 is 'n/a'. If that means 'missing'",
            ),
            ({"d": ["2024-01-31", "2024-02-01"]}, "column 'd' holds dates, such as '2024-01-31'. Leave out"),
            ({"d": ["31.12.2024", "1.2.2024"]}, "column 'd' holds dates"),
            ({"d": pl.Series(["2024-01-31"]).str.to_date()}, "column 'd' holds dates or times (Date)"),
            (
                {"t": [f"text {i}" for i in range(60)]},
                "column 't' is free text or an identifier (60 distinct values",
            ),
            ({"l": [[1], [2]]}, "column 'l' is of type List(Int64)"),
            (
                {"x": [1, 1], "c": ["a", "a"]},
                "No column tells rows apart: x, c have one value in all train rows.",
            ),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_refuses(self, frame, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            features_of(frame)

    def test_all_that_is_no_feature_is_named_at_once(self):
        with pytest.raises(ValueError, match=r"data\.exclude=\[d,l\]"):
            features_of({"d": ["2024-01-31"] * 2, "l": [[1], [2]], "x": [1, 2]})

    def test_a_number_that_is_far_out_of_what_train_has(self):
        frame = pl.DataFrame({"x": [1.0, 3.0]})
        features = Features.fit(frame, np.arange(2), Reading())
        with pytest.raises(ValueError, match="Row 6 of column 'x' is too large: in units of the train rows'"):
            features.transform(pl.DataFrame({"x": [1.0, 1e300]}), "new.csv", first_row=5)

    def test_a_column_of_another_type_than_in_training(self):
        frame = pl.DataFrame({"x": [1.0, 3.0]})
        features = Features.fit(frame, np.arange(2), Reading())
        with pytest.raises(ValueError, match="Column 'x' holds numbers, but row 102 is 'abc'"):
            features.transform(pl.DataFrame({"x": ["1", "2", "abc"]}), "new.csv", first_row=100)
        with pytest.raises(ValueError, match=r"new\.csv has no column 'x' \(a feature of the model\)"):
            features.transform(pl.DataFrame({"y": [1]}), "new.csv")

    def test_a_constant_column_is_left_out_and_said(self):
        with pytest.warns(ls.GuardWarning, match=r"left out: k, n\. \[constant_feature\]"):
            features, _, _ = features_of({"x": [1, 2], "k": [3, 3], "n": [None, None]})
        assert features.names == ["x"]

    def test_a_constant_is_one_whatever_rounding_leaves(self):
        for value in (0.1, 19.99, 1e-300):
            with ls.allow("constant_feature"):
                features, _, _ = features_of({"x": numbers(60), "k": [value] * 60})
            assert features.names == ["x"]

    @pytest.mark.parametrize(
        "cell",
        ["2020-01-01T10:00:00Z", "2020-01-01 10:00", "10:00:00", "Jan 1 2020", "3. March 2021", "1/2/99"],
    )
    def test_dates_in_many_forms(self, cell):
        with pytest.raises(ValueError, match="column 'd' holds dates"):
            features_of({"x": [1, 2], "d": [cell, cell]})

    @pytest.mark.parametrize(
        "cells", [["51,627", "1,200"], ["$9.50", "$11915.50"], ["37%", "4.5%"], ["-1,5", "2,25"]]
    )
    def test_numbers_with_units(self, cells):
        with pytest.raises(ValueError, match="column 'p' holds numbers with separators or units"):
            features_of({"x": [1, 2], "p": cells})

    def test_a_version_is_no_code(self):
        features = Features.fit(pl.DataFrame({"c": ["v1", "v2", "v1"]}), np.arange(3), Reading())
        rows, unknown = features.transform(pl.DataFrame({"c": ["v1.0", "v2"]}), "t")
        assert rows[torch.arange(2)].tolist() == [[0, 0], [0, 1]]
        assert unknown == {"c": 1}

    def test_codes_that_are_floats(self):
        read = Reading().text
        assert read(pl.Series("c", [1.0, NAN, 2.0])).to_list() == ["1", None, "2"]
        assert read(pl.Series("c", [1.0, float("inf")])).to_list() == ["1.0", "inf"]

    def test_a_code_of_1_may_be_written_as_a_float(self):
        frame = pl.DataFrame({"c": ["1", "2", "007"]})
        features = Features.fit(frame, np.arange(3), Reading(), ["c"])
        rows, unknown = features.transform(pl.DataFrame({"c": ["2.0", "7.0", None]}), "t")
        assert rows[torch.arange(3)].tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
        assert unknown == {"c": 1}

    def test_what_is_no_date(self):
        features, _, _ = features_of({"v": ["1.2.3", "1.2.4"], "m": ["may", "june"]})
        assert [column.name for column in features.categories] == ["v", "m"]

    def test_columns_of_another_kind_in_a_later_table(self):
        frame = pl.DataFrame({"x": [1.0, 3.0], "c": ["1", "b"]})
        features = Features.fit(frame, np.arange(2), Reading())
        dates = pl.Series("x", ["2024-01-31"]).str.to_date()
        with pytest.raises(ValueError, match="Column 'x' is of type Date, where numbers are needed"):
            features.transform(pl.DataFrame([dates, pl.Series("c", ["b"])]), "t")
        with pytest.raises(
            ValueError, match=r"Column 'c' is of type List\(String\), where categories are needed"
        ):
            features.transform(pl.DataFrame({"x": [1.0], "c": [["b"]]}), "t")
        rows, _ = features.transform(pl.DataFrame({"x": [1.0], "c": [1.0]}), "t")
        assert rows[0].tolist() == [-1, 1, 0]

    def test_a_column_that_counts_the_rows_is_said(self):
        with pytest.warns(ls.GuardWarning, match=r"Column 'id' counts the rows.*data.exclude=\[id\]"):
            features_of({"id": range(5, 35), "x": numbers(30)})


# --- labels


def labels_of(column, task="multiclass", fitted=None, **options):
    columns = (
        column if isinstance(column, list) and isinstance(column[0], pl.Series) else [pl.Series("y", column)]
    )
    return read_labels(columns, LabelOptions(task, **options), fitted)


class TestLabelsOfOneClassARow:
    @pytest.mark.parametrize(
        ("column", "options", "names", "values"),
        [
            (["b", "a", "b", "a"], {}, ("a", "b"), [1, 0, 1, 0]),
            (["10", "2", "10", "2"], {}, ("2", "10"), [1, 0, 1, 0]),
            ([5, 1, 5, 2, 1], {}, ("1", "2", "5"), [2, 0, 2, 1, 0]),
            ([" a", "a ", "b", "b"], {}, ("a", "b"), [0, 0, 1, 1]),
            (["a", None, "b", "a"], {}, ("a", "b"), [0, NAN, 1, 0]),
            ([1.0, NAN, 2.0, 2.0], {}, ("1", "2"), [0, NAN, 1, 1]),
            (["NA", "null", "None", "NA"], {}, ("NA", "None", "null"), [0, 2, 1, 0]),
            (["a", "?", "b", "a"], {"missing": ("?",)}, ("a", "b"), [0, NAN, 1, 0]),
            ([0, -1, 1, 0, 2], {"missing": (-1,)}, ("0", "1", "2"), [0, NAN, 1, 0, 2]),
            (["0", "-1", "1", "0", "2"], {"missing": (-1,)}, ("0", "1", "2"), [0, NAN, 1, 0, 2]),
            ([-1, 1, 1], {"class_names": ["-1", "1"]}, ("-1", "1"), [0, 1, 1]),
            ([0, 1, 1], {"class_names": ["no", "yes", "maybe"]}, ("no", "yes", "maybe"), [0, 1, 1]),
            (["b", "a", "a"], {"class_names": ["b", "c", "a"]}, ("b", "c", "a"), [0, 2, 2]),
            ([True, False, True], {}, ("False", "True"), [1, 0, 1]),
        ],
        ids=str,
    )
    def test_multiclass(self, column, options, names, values):
        labels = labels_of(column, **options)
        assert labels.class_names == names
        np.testing.assert_array_equal(labels.values, values)

    @pytest.mark.parametrize(
        ("column", "options", "names", "values"),
        [
            ([0, 1, 1], {}, ("0", "1"), [0, 1, 1]),
            (["0", "1", "1"], {}, ("0", "1"), [0, 1, 1]),
            ([True, False], {}, ("False", "True"), [1, 0]),
            (["true", "false"], {}, ("false", "true"), [1, 0]),
            (["Yes", "No", None], {}, ("No", "Yes"), [1, 0, NAN]),
            (["ham", "spam"], {"positive": "spam"}, ("ham", "spam"), [0, 1]),
            (["ham", "spam"], {"positive": "ham"}, ("spam", "ham"), [1, 0]),
            (["ham", "spam"], {"class_names": ["ham", "spam"]}, ("ham", "spam"), [0, 1]),
            ([1, 2, 2], {"positive": 2}, ("1", "2"), [0, 1, 1]),
            (["1", "2"], {"positive": 1}, ("2", "1"), [1, 0]),
            ([-1, 1], {"positive": 1}, ("-1", "1"), [0, 1]),
            ([0, 255], {"positive": 255, "class_names": ["dark", "light"]}, ("dark", "light"), [0, 1]),
            ([0, 1, -1], {"missing": (-1,)}, ("0", "1"), [0, 1, NAN]),
            ([0.2, 1.0, 0.0], {}, ("0", "1"), [0.2, 1, 0]),
            (["0.2", "1", ""], {}, ("0", "1"), [0.2, 1, NAN]),
            ([0.0, 1.0, NAN], {}, ("0", "1"), [0, 1, NAN]),
        ],
        ids=str,
    )
    def test_binary(self, column, options, names, values):
        labels = labels_of(column, "binary", **options)
        assert labels.class_names == names
        np.testing.assert_array_equal(labels.values, values)

    @pytest.mark.parametrize(
        ("task", "column", "options", "message"),
        [
            (
                "binary",
                [1, 2, 2],
                {},
                "Column 'y' holds 1 and 2: which is the positive class? Say data.positive=2 or",
            ),
            (
                "binary",
                [-1, 1],
                {},
                "If -1 marks missing labels, say data.missing=-1; if it means negative, data.positive=1.",
            ),
            (
                "binary",
                [0, 255],
                {},
                "which is the positive class? Say data.positive=255 or data.positive=0.",
            ),
            ("binary", ["ham", "spam"], {}, "Say data.positive=spam or data.positive=ham."),
            ("binary", [0, 1, -1], {}, "holds 3: -1, 0, 1. If -1 marks missing labels: data.missing=-1."),
            ("binary", ["a", "b", "c"], {}, "needs two classes, but column 'y' holds 3: a, b, c."),
            ("binary", [1, 1], {}, "All labels of column 'y' are 1: there is nothing to tell apart."),
            (
                "binary",
                ["ham", "spam"],
                {"positive": "spma"},
                "data.positive=spma is not among the labels of column",
            ),
            ("binary", [0.2, 1.5], {}, "Column 'y' holds 0.2 and 1.5: which is the positive class?"),
            (
                "binary",
                ["a", "b"],
                {"positive": "a", "class_names": ["x"]},
                "Binary needs 2 class_names, got 1: x.",
            ),
            (
                "multiclass",
                [0.5, 1.5, 2.0],
                {},
                "Row 0 of column 'y' is 0.5: a quantity, not one of several classes.",
            ),
            ("multiclass", ["1", "2.5", "1"], {}, "Row 1 of column 'y' is 2.5: a quantity"),
            ("multiclass", ["1", "2.5", "1"], {}, "if they are grades, say +task.class_names=[1,2.5]."),
            ("multiclass", ["0", "1", "null", "1"], {}, "say \"data.missing='null'\""),
            ("binary", ["<$50K", "$100K"], {}, "Say 'data.positive=\"<$50K\"' or"),
            (
                "multiclass",
                [0, 1, -1, 1],
                {},
                "Row 2 of column 'y' is -1. If that marks a missing label, say data.missing=-1;",
            ),
            ("multiclass", ["1", "x", "1", "2"], {}, "holds numbers and words: '1' in row 0, 'x' in row 1."),
            (
                "multiclass",
                ["a", "a"],
                {},
                "All labels of column 'y' are 'a': there is nothing to tell apart.",
            ),
            (
                "multiclass",
                ["a", "b", "c"],
                {},
                "Each of the 3 labels of column 'y' has one row, as an identifier has",
            ),
            (
                "multiclass",
                [None, None],
                {},
                "All labels of column 'y' are missing: there is nothing to learn from.",
            ),
            ("multiclass", ["", None], {}, "All labels of column 'y' are missing"),
            ("multiclass", ["?", "?"], {"missing": ("?",)}, "All labels of column 'y' are missing"),
            (
                "multiclass",
                ["a", "b", "b"],
                {"class_names": ["a", "x"]},
                "Label 'b' is not among the class_names: a, x.",
            ),
            (
                "multilabel",
                ["a", "b", "b"],
                {},
                "Column 'y' holds one label a row, such as 'a'. For task=multilabel give",
            ),
            ("auto", ["a", "b"], {}, "Say data.positive=b or data.positive=a."),
            ("auto", range(30), {}, "There are 30 distinct whole numbers, 0 to 29: classes or a quantity?"),
            ("auto", [0.5, 3.5, 9.1], {}, "look like a quantity, not like classes."),
            (
                "auto",
                ["a|b", "b|c", "a|c", "a|b|c"],
                {},
                "several of them, with '|' between? Then say task=multilabel",
            ),
            (
                "multiclass",
                pl.Series("y", ["2024-01-31"]).str.to_date(),
                {},
                "Column 'y' is of type Date; labels are",
            ),
            ("bianry", [0, 1], {}, "There is no task 'bianry'. Did you mean 'binary'?"),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_refuses(self, task, column, options, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            labels_of(column, task, **options)

    @pytest.mark.parametrize(
        ("column", "options", "names", "values"),
        [
            (["no", "yes"], {"class_names": ["yes", "no"]}, ("yes", "no"), [1, 0]),
            (["no", "yes"], {"class_names": ["No", "Yes"]}, ("No", "Yes"), [0, 1]),
            (["true", "false"], {"class_names": ["true", "false"]}, ("true", "false"), [0, 1]),
            ([0, 1], {"class_names": ["neg", "pos"]}, ("neg", "pos"), [0, 1]),
            ([0, 1], {"class_names": ["neg", "pos"], "positive": 0}, ("pos", "neg"), [1, 0]),
            ([1.0, 0.0], {"positive": 1}, ("0", "1"), [1, 0]),
            (["1.0", "0.0"], {"positive": 1}, ("0.0", "1.0"), [1, 0]),
        ],
        ids=str,
    )
    def test_binary_names_are_never_swapped(self, column, options, names, values):
        labels = labels_of(column, "binary", **options)
        assert labels.class_names == names
        assert labels.values.tolist() == values

    @pytest.mark.parametrize(
        ("column", "options", "message"),
        [
            (
                ["no", "yes"],
                {"class_names": ["yes", "maybe"]},
                "class_names=['yes', 'maybe'] are not the labels of",
            ),
            (
                ["ham", "spam"],
                {"class_names": ["spam", "junk"], "positive": "spam"},
                "are not the labels of column 'y'",
            ),
            (["no", "yes"], {"class_names": ["yes", "no"], "positive": "yes"}, "but data.positive=yes."),
            (["ham", "spam"], {"class_names": ["a", "b"]}, "which is the positive class?"),
        ],
        ids=str,
    )
    def test_binary_names_that_contradict(self, column, options, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            labels_of(column, "binary", **options)

    def test_the_same_labels_in_a_file_of_another_type(self):
        train = labels_of(["0", "1", "1", "0"])
        np.testing.assert_array_equal(labels_of([1, 0, None], fitted=train).values, [1, 0, NAN])
        train = labels_of([5, 7, 7, 5])
        np.testing.assert_array_equal(labels_of(["7", "5"], fitted=train).values, [1, 0])

    def test_names_for_numbers_in_text(self):
        labels = labels_of(["0", "2", "1", "2"], class_names=["a", "b", "c"])
        assert labels.class_names == ("a", "b", "c")
        assert labels.values.tolist() == [0, 2, 1, 2]

    @pytest.mark.parametrize(
        "column", [["[red]", "[blue]", "[red]"], ["['a']", "['a', 'b']", "['a']"]], ids=str
    )
    def test_labels_in_brackets_may_be_lists(self, column):
        with pytest.warns(ls.GuardWarning, match=r"labels in brackets, such as .*\[several_labels\]"):
            assert labels_of(column).class_names == tuple(sorted(set(column)))
        with pytest.raises(ValueError, match="no JSON list such as"):
            labels_of(column, "auto")

    @pytest.mark.parametrize(
        ("train", "other"),
        [
            (["1", "2", "1", "2"], ["1.0", "2.0"]),
            ([1, 2, 1, 2], ["1.00", "2.0"]),
            (["1.0", "2.0", "2.0"], [1, 2]),
        ],
        ids=str,
    )
    def test_whole_numbers_may_be_written_as_floats_in_another_file(self, train, other):
        np.testing.assert_array_equal(labels_of(other, fitted=labels_of(train)).values, [0, 1])

    def test_a_version_is_no_whole_number(self):
        train = labels_of(["v1", "v2", "v2", "v1"])
        with pytest.raises(ValueError, match=r"Row 1 of column 'y': label 'v1\.0' was never seen"):
            labels_of(["v2", "v1.0"], fitted=train)

    def test_labels_of_very_many_digits(self):
        for digits in (400, 5000):
            labels = labels_of(["9" * digits, "a", "a"], "binary", positive="a")
            assert labels.values.tolist() == [0, 1, 1]

    def test_a_file_of_other_labels_altogether(self):
        train = labels_of(["<=50K", ">50K"], "binary", positive=">50K")
        with pytest.raises(
            ValueError, match=r"None of the labels .* is one of training's: <=50K, >50K\. Write them"
        ):
            labels_of(["<=50K.", ">50K."], "binary", fitted=train)

    def test_long_whole_numbers_are_told_apart(self):
        big = 10**17
        labels = labels_of([str(big + i) for i in (0, 2, 4, 2, 4)], missing=(big,))
        assert labels.class_names == (str(big + 2), str(big + 4))

    @pytest.mark.parametrize("mark", ["?", "N/A", "-"])
    def test_a_label_that_may_be_a_mark(self, mark):
        column = ["a", "b", mark, "a"]
        with pytest.warns(
            ls.GuardWarning, match=r"has a class .*If that marks a missing label.*\[likely_mark\]"
        ):
            labels_of(column)
        with pytest.raises(ValueError, match=r"does it mark a missing label"):
            labels_of(column, "auto")
        with pytest.raises(ValueError, match=r"If .* marks missing labels: "):
            labels_of(["no", "yes", mark], "binary")

    def test_nan_as_a_mark(self):
        labels = labels_of(["NaN", "a", "b", "a"], missing=(NAN,))
        assert labels.class_names == ("a", "b")

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            (["Cat", "cat", "cat"], "'Cat' and 'cat' in column 'y' are two classes."),
            (["7", "007", "7"], "'007' and '7' in column 'y' are two classes."),
            (["caf\u00e9", "cafe\u0301", "x", "x"], "in column 'y' are two classes."),
            (["a b", "a  b", "x", "x"], "in column 'y' are two classes."),
            (["a", "a\u200b", "x", "x"], "in column 'y' are two classes."),
            (
                ["a;b", "b;c", "a;c", "a;b"],
                "If these are several, say task=multilabel \"data.delimiter=';'\".",
            ),
        ],
    )
    def test_labels_that_are_alike_are_said(self, column, message):
        with pytest.warns(ls.GuardWarning, match=re.escape(message)):
            labels_of(column)

    @pytest.mark.parametrize(
        ("column", "options", "task", "reason"),
        [
            (["a", "b", "c", "a"], {}, "multiclass", "column 'y' holds 3 distinct labels: a, b, c"),
            (["0", "1", "1"], {}, "binary", "column 'y' holds 2 distinct values: 0, 1"),
            ([3, 1, 2, 2], {}, "multiclass", "column 'y' holds 3 distinct whole numbers, 1 to 3"),
            (["ham", "spam"], {"positive": "spam"}, "binary", "ham, spam, of which 'spam' is positive"),
            (['["a"]', "[]"], {}, "multilabel", "column 'y' holds lists"),
            (["a|b", ""], {"delimiter": "|", "empty": "negative"}, "multilabel", "column 'y' holds lists"),
        ],
        ids=str,
    )
    def test_auto(self, column, options, task, reason):
        labels = labels_of(column, "auto", **options)
        assert labels.task == task
        assert reason in labels.reason

    @pytest.mark.parametrize(
        ("task", "options", "message"),
        [
            ("multiclass", {"positive": "a"}, "data.positive has no effect on task=multiclass"),
            ("multilabel", {"empty": "missing"}, "data.empty is for cells of delimited labels"),
            ("multiclass", {"unseen": "drop"}, "There is no data.unseen 'drop'"),
        ],
    )
    def test_options_without_effect(self, task, options, message):
        with pytest.raises(ValueError, match=message):
            LabelOptions(task, **options)

    def test_soft_labels_and_a_file_of_hard_ones(self):
        train = labels_of([0.2, 0.9, 0.5], "binary")
        np.testing.assert_array_equal(labels_of([1, 1], "binary", fitted=train).values, [1, 1])

    def test_classes_are_those_of_the_train_file(self):
        train = labels_of(["b", "c", "b"])
        other = labels_of(["c", "b"], fitted=train)
        assert other.values.tolist() == [1, 0]
        with pytest.raises(ValueError, match=r"Row 1 of column 'y': label 'a' was never seen in training\."):
            labels_of(["c", "a"], fitted=train)
        with pytest.warns(ls.GuardWarning, match="left out: 2 of the labels of column 'y', a"):
            other = labels_of(["a", "c", "a"], fitted=train, unseen="ignore")
        np.testing.assert_array_equal(other.values, [NAN, 1, NAN])

    @given(st.lists(st.sampled_from(["x", "y", "z", "10", "9", "é", "a b"]) | st.none(), min_size=4))
    def test_decoding_gives_the_labels_again(self, column):
        known = [label for label in column if label is not None]
        if len(set(known)) < 2 or max(known.count(label) for label in known) == 1:
            return
        with ls.allow("similar_labels"):
            try:
                labels = labels_of(column)
            except ValueError as error:
                assert "numbers and words" in str(error)  # noqa: PT017
                return
        task = make_task("multiclass", class_names=labels.class_names)
        assert task.decode(task.encode(labels.values)) == column


class TestLabelsOfSeveral:
    ROWS = (["b", "a"], [], None, ["b"])

    @pytest.mark.parametrize(
        ("column", "options"),
        [
            (pl.Series("y", ROWS), {}),
            (['["b", "a", "b"]', "[]", None, '["b"]'], {}),
            (["b| a", "", "?", "b"], {"delimiter": "|", "empty": "negative", "missing": ("?",)}),
        ],
        ids=["lists", "JSON", "delimited"],
    )
    def test_lists(self, column, options):
        labels = labels_of(column, "multilabel", **options)
        assert labels.class_names == ("a", "b")
        assert labels.vocabulary.decode_lists(labels.values) == [["a", "b"], [], None, ["b"]]

    def test_lists_of_one_label_each_are_classes(self):
        labels = labels_of(['["b"]', '["a"]', None, '["b"]'], "multiclass")
        assert labels.class_names == ("a", "b")
        np.testing.assert_array_equal(labels.values, [1, 0, NAN, 1])

    def test_columns_are_put_in_the_order_of_class_names(self):
        columns = [pl.Series("a", [1, 1, 0]), pl.Series("b", [0, 1, 0])]
        labels = labels_of(columns, "multilabel", class_names=["b", "a"])
        assert labels.values[0].tolist() == [0, 1]
        assert labels_of(columns, "multilabel", class_names=["x", "y"]).class_names == ("x", "y")
        with pytest.raises(ValueError, match="are partly those of the columns"):
            labels_of(columns, "multilabel", class_names=["b", "x"])

    def test_a_list_of_one_column_is_one_label(self):
        labels = read_labels([pl.Series("a", [1, 0])], LabelOptions("multilabel"), listed=True)
        assert labels.values.tolist() == [[1], [0]]

    def test_marks_in_lists(self):
        for column, options in (
            (["[1, 2]", "[-1]", "[2]", "NA"], {"missing": (-1.0, "NA")}),
            (["1|2", "-1", "2", "NA"], {"missing": (-1.0, "NA"), "delimiter": "|"}),
        ):
            labels = labels_of(column, "multilabel", **options)
            assert labels.class_names == ("1", "2")
            assert labels.values.missing.tolist() == [False, True, False, True]

    def test_an_empty_cell_must_be_said_to_be_something(self):
        with pytest.raises(
            ValueError, match="Row 1 of column 'y' is empty: has it no label, or is it not labelled"
        ):
            labels_of(["a|b", None], "multilabel", delimiter="|")
        for empty, expected in (("missing", None), ("negative", [])):
            labels = labels_of(["a|b", None], "multilabel", delimiter="|", empty=empty)
            assert labels.vocabulary.decode_lists(labels.values)[1] == expected

    def test_columns_of_zeros_and_ones(self):
        columns = [
            pl.Series("b", ["1", "0", None]),
            pl.Series("a", ["true", "false", "1"]),
            pl.Series("c", [0.0, 0.5, 1.0]),
        ]
        labels = labels_of(columns, "multilabel")
        assert labels.class_names == ("b", "a", "c")
        np.testing.assert_array_equal(labels.values, [[1, 1, 0], [0, 0, 0.5], [NAN, 1, 1]])
        assert labels_of(columns, "auto").task == "multilabel"
        one_hot = [pl.Series("a", [1, 0]), pl.Series("b", [0, 1])]
        assert labels_of(one_hot, "auto").task == "multiclass"

    @pytest.mark.parametrize(
        ("column", "task", "options", "message"),
        [
            (
                ['["a"]', "[]"],
                "multiclass",
                {},
                "holds lists of labels, of which row 1 has 0, but task=multiclass",
            ),
            (["[1, 2]", "[-1]"], "multilabel", {}, "Row 1 of column 'y' has label -1. If that marks a row"),
            (
                ["[1, 2]", "[-1, 2]"],
                "multilabel",
                {"missing": (-1,)},
                "Row 1 of column 'y' has labels and a mark",
            ),
            (['["a", ""]', "[]"], "multilabel", {}, "Row 0 of column 'y' has an empty label among its own"),
            (
                ["[1, 0, 1]", "[0, 1, 0]"],
                "multilabel",
                {},
                "holds rows of 3 zeros and ones, such as [1, 0, 1], where",
            ),
            (["['a']", "['b']"], "multilabel", {}, "Strings stand in double quotes."),
            (
                [pl.Series("a", [1, 2]), pl.Series("b", [0, 1])],
                "multilabel",
                {},
                "Row 1, label 'a' of the target is 2",
            ),
            (
                [pl.Series("a", [[1]]), pl.Series("b", [0])],
                "multilabel",
                {},
                "Column 'a' is of type List(Int64), but of",
            ),
            (["[a]", "[b]"], "multilabel", {}, "Row 0 is '[a]', no JSON list"),
            (["[]", "[]"], "multilabel", {}, "Column 'y': There are no labels."),
            (["a|b"], "multilabel", {"delimiter": ""}, "The delimiter must be a string such as '|', got ''."),
            (
                ["a|b", ""],
                "multilabel",
                {"delimiter": "|", "empty": "none"},
                "There is no data.empty 'none'. Choose one of: negative, missing.",
            ),
            (
                [pl.Series("a", [1]), pl.Series("b", [0])],
                "binary",
                {},
                "task=binary has one column of labels, but",
            ),
            (
                [pl.Series("a", [1]), pl.Series("b", [0])],
                "multilabel",
                {"delimiter": "|"},
                "data.delimiter is for one",
            ),
            (
                [pl.Series("a", ["x"]), pl.Series("b", [0])],
                "multilabel",
                {},
                "Row 0 of column 'a' is 'x', but of several target columns each holds 0 and 1",
            ),
            (
                [pl.Series("a", [1]), pl.Series("b", [0])],
                "multilabel",
                {"class_names": ["x"]},
                "There are 2 labels, but 1",
            ),
            ([pl.Series("a", [None]), pl.Series("b", [None])], "multilabel", {}, "All labels are missing"),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_refuses(self, column, task, options, message):
        with pytest.raises((TypeError, ValueError), match=re.escape(message)):
            labels_of(column, task, **options)


# --- splits


class TestSplitRows:
    def test_a_partition_in_proportion(self):
        labels = np.repeat([0, 1], [80, 20])
        rows = split_rows(labels, {"test": 0.2, "val": 0.25}, 0, ("a", "b"))
        assert {split: len(index) for split, index in rows.items()} == {"train": 60, "val": 20, "test": 20}
        assert np.array_equal(np.sort(np.concatenate([*rows.values()])), np.arange(100))
        assert [labels[index].mean() for index in rows.values()] == [0.2, 0.2, 0.2]
        again = split_rows(labels, {"test": 0.2, "val": 0.25}, 0, ("a", "b"))
        assert all(np.array_equal(rows[split], again[split]) for split in rows)

    def test_rare_classes_go_to_train(self):
        labels = np.array([0.0] * 20 + [1.0] * 20 + [2.0, 2.0, 3.0, NAN])
        with pytest.warns(
            ls.GuardWarning, match=r"2 of 4 classes have fewer rows than there are splits \(3\).*: c, d"
        ):
            rows = split_rows(labels, {"test": 0.2, "val": 0.25}, 0, ("a", "b", "c", "d"))
        assert {40, 42, 43} <= set(rows["train"].tolist())
        assert np.array_equal(np.sort(np.concatenate([*rows.values()])), np.arange(44))

    def test_classes_of_two_rows_each_are_split_otherwise(self):
        labels = np.repeat(np.arange(30), 2)
        with pytest.warns(ls.GuardWarning, match="30 of 30 classes have fewer rows than there are splits"):
            rows = split_rows(labels, {"test": 0.2, "val": 0.2}, 0, [*map(str, range(30))])
        assert set(labels[rows["train"]]) == set(range(30))
        assert len(rows["test"]) == 12
        assert len(rows["val"]) == 10

    def test_too_few_rows_to_be_in_proportion(self):
        labels = np.repeat(np.arange(10), 3)
        with pytest.warns(ls.GuardWarning, match="too few to have each class in a split of 6 in proportion"):
            rows = split_rows(labels, {"test": 0.2}, 0, [*"abcdefghij"])
        assert len(rows["test"]) == 6

    def test_many_rows_are_split_at_random_and_train_has_each_class(self):
        labels = np.zeros(300_000, dtype=int)
        labels[-4:] = 1
        for seed in range(5):
            rows = split_rows(labels, {"test": 0.9}, seed, ("a", "b"))
            assert set(labels[rows["train"]]) == {0, 1}
            assert abs(len(rows["test"]) - 270_000) <= 2

    @pytest.mark.parametrize("form", ["matrix", "lists"])
    def test_several_labels(self, form):
        rows = [
            [name for name, there in zip("abc", bits, strict=True) if there] for bits in np.eye(3, dtype=int)
        ] * 20
        lists = ls.Vocabulary(("a", "b", "c")).encode_lists(rows)
        labels = lists if form == "lists" else lists.multi_hot(np.arange(60))
        split = split_rows(labels, {"test": 0.5}, 0, ("a", "b", "c"))
        assert lists.counts(split["test"]).tolist() == [10, 10, 10]

    def test_too_few_rows_for_a_split(self):
        with pytest.raises(
            ValueError, match=r"3 rows \(0 of them kept for train\) are too few for a test split of 0\.1"
        ):
            split_rows(np.array([0, 0, 0]), {"test": 0.1}, 0, ("a",))


# --- all of it


class TestLoad:
    def test_a_table_becomes_splits(self, load):
        y = ["b", "a", "c"] * 20
        splits = load({"x": numbers(60), "c": ["u", "v"] * 30, "y": y})
        assert splits.class_names == ("a", "b", "c")
        assert splits.task == "multiclass"
        assert splits.features.shape == (60, 3)
        task = make_task("multiclass", class_names=splits.class_names)
        assert target_of(splits, task) == y
        counts = check_splits(task, splits)
        assert counts["train"].rows + counts["val"].rows + counts["test"].rows == 60
        assert counts["train"].positives.sum() == counts["train"].rows
        assert counts["train"].imbalance == 12 / 11

    def test_nothing_is_fitted_on_val_and_test(self, load):
        train = {"x": [0.0, 2.0] * 10, "c": ["u", "u", "v", "v"] * 5, "y": ["a", "b"] * 10}
        other = {"y": ["b", "a"], "c": ["u", "w"], "x": [100.0, 2.0], "more": [1, 2]}
        with pytest.warns(ls.GuardWarning, match="of a category that no train row has: 1 in column 'c'"):
            splits = load(train, val_path=other, test_path=other)
        assert splits.preparation["features"]["numbers"][0]["mean"] == 1
        assert [len(splits.rows[split]) for split in ("train", "val", "test")] == [20, 2, 2]
        torch.testing.assert_close(
            splits.features[splits.rows["test"]], torch.tensor([[99.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
        )
        assert splits.labels_of("val").tolist() == [1, 0]

    def test_one_file_of_their_own_leaves_the_other_split_to_the_first(self, load):
        train = {"x": numbers(40), "y": ["a", "b"] * 20}
        splits = load(train, val_path={"x": numbers(4, 1), "y": ["a", "b"] * 2})
        assert [len(splits.rows[split]) for split in ("train", "val", "test")] == [30, 4, 10]

    def test_a_mistake_in_another_file_names_it(self, load):
        train = {"x": [0.0, 2.0] * 10, "y": ["a", "b"] * 10}
        with pytest.raises(ValueError, match=r"label 'c' was never seen.*\(In .*val_path\.csv\.\)"):
            load(train, val_path={"x": [1.0, 2.0], "y": ["a", "c"]})
        with pytest.raises(ValueError, match=r"has no column 'x'.*\(In .*test_path\.csv\.\)"):
            load(train, test_path={"z": [1.0, 2.0], "y": ["a", "b"]})

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"target": "z"}, "has no column 'z' (data.target). It has: x, c, y."),
            ({"exclude": ["z"]}, "has no column 'z' (data.exclude)."),
            ({"features": ["z"]}, "has no column 'z' (data.features)."),
            ({"categorical": "z"}, "has no column 'z' (data.categorical)."),
            ({"features": ["x", "y"]}, "Column 'y' is the target (data.target) and among the features"),
            ({"exclude": ["x", "c"]}, "has no column left to be a feature, beside y, x, c."),
        ],
        ids=str,
    )
    def test_columns_that_cannot_be(self, options, message, load):
        with pytest.raises(ValueError, match=re.escape(message)):
            load({"x": numbers(20), "c": ["u", "v"] * 10, "y": ["a", "b"] * 10}, **options)

    def test_features_may_be_chosen(self, load):
        table = {"x": numbers(20), "z": numbers(20, 1), "d": ["2024-01-01"] * 20, "y": ["a", "b"] * 10}
        assert load(table, exclude="d").features.shape == (20, 2)
        assert load(table, features=["z"]).features.shape == (20, 1)

    def test_lists_stay_lists_until_a_batch_is_taken(self, load):
        tags = ["a|b", "", "b", "c|a"] * 10
        splits = load({"x": numbers(40), "y": tags}, "multilabel", delimiter="|", empty="negative")
        assert isinstance(splits.labels, ls.LabelLists)
        task = make_task("multilabel", class_names=splits.class_names)
        data = TensorData(splits, task, batch_size=8)
        seen = torch.cat([batch.target for batch in data.test_dataloader()])
        expected = [set(filter(None, tags[row].split("|"))) for row in splits.rows["test"].tolist()]
        assert [set(names) for names in task.decode(task.harden(seen))] == expected
        assert data.batches["train"][0].target.shape == (3,)

    def test_a_row_of_empty_cells_is_a_row(self, tmp_path):
        path = tmp_path / "t.csv"
        rows = [f"{i},{i % 5},{i},{'ab'[i % 2]}" for i in range(40)]
        rows[4] = ",,99,"
        path.write_text("\n".join(["f,g,id,y", *rows, "", ""]))
        with ls.allow("row_number"):
            splits = load_own(
                "table", task={"name": "multiclass"}, path=str(path), target="y", exclude="id", **OPTIONS
            )
        assert len(splits.labels) == 40
        assert np.flatnonzero(np.isnan(splits.labels)).tolist() == [4]

    def test_columns_with_odd_names(self, load):
        table = {
            "p_a": numbers(40),
            "row": numbers(40, 1),
            "a=b": numbers(40, 2),
            "\u00e9 .{}": ["a", "b"] * 20,
        }
        splits = load(table, target="\u00e9 .{}")
        assert splits.features.shape == (40, 3)
        for name in ("*", "^y.*$"):
            with pytest.raises(ValueError, match="which Polars would take for a pattern"):
                load({"x": numbers(4), name: ["a", "b"] * 2}, target=name)

    def test_a_column_that_is_the_label_in_other_words_is_said(self, load):
        table = {"x": numbers(40), "kind": ["u", "v", "w", "v"] * 10, "y": ["a", "b", "c", "b"] * 10}
        with pytest.warns(
            ls.GuardWarning, match=r"Column 'kind' has one value for each class.*data.exclude=\[kind\]"
        ):
            load(table)

    def test_cells_that_are_missing_unlike_in_training_are_said(self, load):
        train = {"x": numbers(20), "y": ["a", "b"] * 10}
        with pytest.warns(ls.GuardWarning, match=r"missing where no train row is.*1 in column 'x'"):
            load(train, test_path={"x": [1.5, None], "y": ["a", "b"]})

    def test_a_delimiter_that_no_cell_holds_is_said(self, load):
        with pytest.warns(ls.GuardWarning, match="No cell of column 'y' holds the delimiter ','"):
            load({"x": numbers(40), "y": ["a|b", "b"] * 20}, "multilabel", delimiter=",")

    def test_a_mark_that_no_row_has_is_said(self, load):
        with pytest.warns(ls.GuardWarning, match="No row has the label zzz, given as data.missing"):
            load({"x": numbers(40), "y": ["a", "b"] * 20}, missing="zzz")

    def test_a_missing_mark_of_the_task_counts(self, load):
        splits = load({"x": numbers(40), "y": [0, 1, -1, 1] * 10}, {"name": "binary", "missing": -1})
        assert np.isnan(splits.labels).sum() == 10
        counts = check_splits(ls.Binary(), splits)
        assert sum(count.missing for count in counts.values()) == 10

    def test_codes_are_the_same_in_all_files(self, load):
        table = {
            "zip": ["007", "007", "012", "012"] * 5,
            "city": ["1", "x", "x", "1"] * 5,
            "y": ["a", "b"] * 10,
        }
        splits = load(
            table, categorical=["zip", "city"], test_path={"zip": ["012"], "city": ["1"], "y": ["a"]}
        )
        assert splits.features[splits.rows["test"]].tolist() == [[0, 1, 1, 0]]

    def test_rows_are_those_of_their_file(self, load):
        train = {"x": numbers(20), "y": ["a", "b"] * 10}
        splits = load(train, test_path={"x": [9.0, 8.0], "y": ["a", "b"]})
        assert splits.rows_in_file("test").tolist() == [0, 1]
        assert splits.rows["test"].tolist() == [20, 21]

    def test_arrays_and_files_of_their_own(self, tmp_path):
        x = numbers(80).reshape(40, 2)
        for name, width in (("d", 3), ("v", 2)):
            np.savez(tmp_path / f"{name}.npz", X=x, Y=np.eye(width, dtype=int)[np.arange(40) % width])
        arguments = {**OPTIONS, "val_path": str(tmp_path / "v.npz")}
        with pytest.raises(
            ValueError, match=r"Labels are of shape \(40, 2\), but in training of shape \(40, 3\)"
        ):
            load_own("arrays", task={"name": "multilabel"}, path=str(tmp_path / "d.npz"), **arguments)
        with pytest.raises(
            ValueError, match=r"x\.npy holds features alone, so that other files need a \.npz each"
        ):
            load_own("arrays", task={"name": "multilabel"}, path="x.npy", **arguments)

    def test_arrays(self, tmp_path):
        x, y = numbers(80).reshape(40, 2), np.array(["b", "a"] * 20)
        np.savez(tmp_path / "d.npz", X=x, y=y)
        splits = load_own("arrays", task={"name": "multiclass"}, path=str(tmp_path / "d.npz"), **OPTIONS)
        assert splits.class_names == ("a", "b")
        assert splits.labels.tolist() == [1, 0] * 20
        matrix = np.array([[1, 0, -1], [0, 0, 1]] * 20)
        np.savez(tmp_path / "m.npz", X=x, y=matrix)
        splits = load_own(
            "arrays", task={"name": "multilabel", "missing": -1}, path=str(tmp_path / "m.npz"), **OPTIONS
        )
        np.testing.assert_array_equal(splits.labels[:2], [[1, 0, NAN], [0, 0, 1]])


class TestChecks:
    def splits(self, load, y, **more):
        return load({"x": numbers(len(y)), "y": y, **more})

    def test_duplicates_between_splits(self, load):
        twice = {"x": [1.0, 2.0, 3.0, 4.0] * 10, "y": ["a", "b"] * 20}
        splits = load(twice)
        task = make_task("multiclass", class_names=splits.class_names)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            check_splits(task, splits)
        assert [str(warning.message).partition(":")[0] for warning in said] == [
            "8 of 8 val rows have the same features as a train row",
            "10 of 10 test rows have the same features as a train row",
        ]

    def test_a_row_in_two_files_is_found_whatever_its_type(self, load):
        train = {"x": [*numbers(19), 2.0], "y": ["a", "b"] * 10}
        val = {"x": [0.5, 7.5], "y": ["a", "b"]}
        splits = load(train, val_path=val, test_path={"x": [2, 3], "y": ["a", "b"]})
        task = make_task("multiclass", class_names=splits.class_names)
        with pytest.warns(ls.GuardWarning, match="1 of 2 test rows"):
            check_splits(task, splits)

    def test_one_class_in_a_split(self, load):
        train = {"x": numbers(20), "y": ["a", "b"] * 10}
        splits = load(train, val_path={"x": [1.0], "y": ["a"]})
        task = make_task("multiclass", class_names=splits.class_names)
        with pytest.warns(ls.GuardWarning, match="All val rows are of class 'a': no ranking metric"):
            check_splits(task, splits)

    def test_a_class_that_train_lacks(self, load):
        splits = load(
            {"x": numbers(20), "y": ["a", "b"] * 10}, {"name": "multiclass", "class_names": ["a", "b", "c"]}
        )
        task = make_task("multiclass", class_names=splits.class_names)
        with pytest.warns(ls.GuardWarning, match="No train row has c: the net cannot learn what that is"):
            check_splits(task, splits)

    def test_multilabel_rows_of_one_label_each(self, load):
        eye = np.eye(3, dtype=int)[np.arange(40) % 3]
        columns = {"x": numbers(40), **{name: eye[:, i] for i, name in enumerate("abc")}}
        splits = load(columns, "multilabel", target=[*"abc"])
        task = make_task("multilabel", class_names=splits.class_names)
        with pytest.warns(ls.GuardWarning, match=r"Every row has exactly one label.*task=multiclass"):
            check_splits(task, splits)

    def test_labels_a_row_are_counted_where_they_are_known(self, load):
        tags = ['["a", "b"]', '["b"]', None, None, '["a"]', "[]"] * 8
        splits = load({"x": numbers(48), "y": tags}, "multilabel")
        counts = check_splits(make_task("multilabel", class_names=splits.class_names), splits)
        known = {split: int(count.rows - count.missing / 2) for split, count in counts.items()}
        assert sum(known.values()) == 32
        assert counts["train"].cardinality == counts["train"].positives.sum() / known["train"]

    def test_all_labels_of_a_split_missing(self, load):
        splits = load(
            {"x": numbers(20), "y": ["a", "b"] * 10}, test_path={"x": [9.0, 8.0], "y": [None, None]}
        )
        task = make_task("multiclass", class_names=splits.class_names)
        with pytest.raises(ValueError, match="All labels of the test split are missing"):
            check_splits(task, splits)

    def test_no_warning_for_the_data_that_come_along(self):
        from lossselect.data.toy import load as load_toy

        tasks = {"breast_cancer": ls.Binary(), "digits": ls.Multiclass(10), "yeast": ls.Multilabel(14)}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for name, task in tasks.items():
                fraction = None if name == "yeast" else 0.2
                check_splits(task, load_toy(name, seed=0, val_fraction=0.2, test_fraction=fraction))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_table_is_loaded_right_or_refused(data, tmp_path):
    """Whatever is in the file: what is loaded has finite features and the labels of the file."""
    count = data.draw(st.integers(8, 24))
    cell = st.one_of(
        st.none(),
        st.integers(-3, 3).map(str),
        st.sampled_from(["a", "b", "1.5", "nan", "inf", " a", "", "x,y", '"']),
    )
    column = st.lists(cell, min_size=count, max_size=count)
    frame = pl.DataFrame(
        {name: pl.Series(data.draw(column), dtype=pl.String) for name in ("u", "v", "y")}
    ).with_columns(pl.Series("x", numbers(count)))
    path = tmp_path / "t.csv"
    frame.write_csv(path)
    name = data.draw(st.sampled_from(["binary", "multiclass", "auto"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ls.GuardWarning)
        try:
            splits = load_own("table", task={"name": name}, path=str(path), target="y", **OPTIONS)
        except ValueError as error:
            assert str(error)  # noqa: PT017
            return
    assert splits.features[torch.arange(count)].isfinite().all()
    if splits.labels.dtype == np.int64 or np.isin(splits.labels[~np.isnan(splits.labels)], [0, 1]).all():
        task = make_task(splits.task, class_names=splits.class_names)
        written = [None if not text or not text.strip() else text.strip() for text in frame["y"]]
        if splits.class_names != ("0", "1"):
            assert target_of(splits, task) == written
