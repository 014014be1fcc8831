import re
import warnings
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from table_cases import NAN, OPTIONS, numbers

import lossselect as ls
from lossselect.data.checks import check_splits
from lossselect.data.datamodule import TensorData
from lossselect.data.files.load import load_own_data, parse_labels
from lossselect.data.files.source import Source
from lossselect.data.label_parsing.options import LabelOptions
from lossselect.data.readers.text_tables import TextTable
from lossselect.exceptions import DataError, UnseenLabelError
from lossselect.tasks.registry import make_task


def target_of(splits, task):
    return task.decode(task.to_hard_labels(torch.from_numpy(np.asarray(task.encode(splits.labels)))))


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
        with pytest.warns(ls.LossSelectWarning, match=r"category that no training row has: 1 in column 'c'"):
            splits = load(train, val_path=other, test_path=other)
        assert splits.preparation["features"]["numbers"][0]["mean"] == 1
        assert [len(splits.rows[split]) for split in ("train", "val", "test")] == [20, 2, 2]
        torch.testing.assert_close(
            splits.features[splits.rows["test"]], torch.tensor([[99.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
        )
        assert splits.labels[splits.rows["val"].numpy()].tolist() == [1, 0]

    def test_a_validation_file_leaves_the_test_split_to_the_first_file(self, load):
        train = {"x": numbers(40), "y": ["a", "b"] * 20}
        splits = load(train, val_path={"x": numbers(4, 1), "y": ["a", "b"] * 2})
        assert [len(splits.rows[split]) for split in ("train", "val", "test")] == [30, 4, 10]

    def test_errors_in_another_file_name_it(self, load):
        train = {"x": [0.0, 2.0] * 10, "y": ["a", "b"] * 10}
        with pytest.raises(UnseenLabelError, match=r"label 'c' .*\(In .*val_path\.csv\.\)"):
            load(train, val_path={"x": [1.0, 2.0], "y": ["a", "c"]})
        with pytest.raises(ValueError, match=r"has no column 'x'.*\(In .*test_path\.csv\.\)"):
            load(train, test_path={"z": [1.0, 2.0], "y": ["a", "b"]})
        with pytest.raises(
            ValueError, match=r"without labels, use lossselect predict\. \(In .*test_path\.csv"
        ):
            load(train, test_path={"x": [1.0, 2.0]})

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"target": "z"}, "has no column 'z' (data.target). It has: x, c, y."),
            ({"exclude": ["z"]}, "has no column 'z' (data.exclude)."),
            ({"features": ["z"]}, "has no column 'z' (data.features)."),
            ({"categorical": "z"}, "has no column 'z' (data.categorical)."),
            ({"features": ["x", "y"]}, "Column 'y' is the target (data.target) and among the features"),
            ({"exclude": ["x", "c"]}, "has no feature column left after removing y, x, c."),
        ],
        ids=str,
    )
    def test_invalid_columns(self, options, message, load):
        with pytest.raises(ValueError, match=re.escape(message)):
            load({"x": numbers(20), "c": ["u", "v"] * 10, "y": ["a", "b"] * 10}, **options)

    def test_a_marker_of_missing_labels_in_another_file(self, load):
        train = {"x": numbers(40), "p": [0, 1] * 20, "q": [1, 0, 1, 1] * 10}
        test = {"x": numbers(6, 1), "p": [-1, 0, 1] * 2, "q": [-1, 1, 0] * 2}
        splits = load(train, "multilabel", target=["p", "q"], test_path=test, missing=-1)
        assert np.isnan(splits.labels[40]).all()
        with pytest.warns(
            ls.LossSelectWarning, match=r"label -1, which data.missing marks.*unmatched_missing"
        ):
            load(train, "multilabel", target=["p", "q"], missing=-1)
        with pytest.warns(ls.LossSelectWarning, match=r"label -1, which data.uncertain declares"):
            load(train, "multilabel", target=["p", "q"], uncertain="missing")

    def test_several_columns_of_numbers_and_words(self, load):
        table = {"x": numbers(40), "y": ["a", "b"] * 20}
        table |= {
            name: [word if i == 5 else str(i % 7) for i in range(40)]
            for name, word in (("p", "?"), ("q", "-"))
        }
        fixes = r"'p' contains numbers, but row 5 is '\?'.*2 columns .*data.null_values=\['\?','-'\].* or data.categorical=\[p,q\]"
        with pytest.raises(DataError, match=fixes):
            load(table)

    def test_features_may_be_chosen(self, load):
        table = {"x": numbers(20), "z": numbers(20, 1), "d": ["2024-01-01"] * 20, "y": ["a", "b"] * 10}
        assert load(table, exclude="d").features.shape == (20, 2)
        assert load(table, features=["z"]).features.shape == (20, 1)

    def test_lists_stay_sparse_until_a_batch_is_indexed(self, load):
        tags = ["a|b", "", "b", "c|a"] * 10
        splits = load({"x": numbers(40), "y": tags}, "multilabel", delimiter="|", empty="negative")
        assert isinstance(splits.labels, ls.SparseLabels)
        task = make_task("multilabel", class_names=splits.class_names)
        data = TensorData(splits, task, batch_size=8)
        seen = torch.cat([batch.target for batch in data.test_dataloader()])
        expected = [set(filter(None, tags[row].split("|"))) for row in splits.rows["test"].tolist()]
        assert [set(names) for names in task.decode(task.to_hard_labels(seen))] == expected
        assert data.batches["train"][0].target.shape == (3,)

    def test_a_row_of_empty_cells_is_a_row(self, tmp_path):
        path = tmp_path / "t.csv"
        rows = [f"{i},{i % 5},{i},{'ab'[i % 2]}" for i in range(40)]
        rows[4] = ",,99,"
        path.write_text("\n".join(["f,g,id,y", *rows, "", ""]))
        with ls.ignore_warnings("index_column"):
            splits = load_own_data(
                "table", task={"name": "multiclass"}, path=str(path), target="y", exclude="id", **OPTIONS
            )
        assert len(splits.labels) == 40
        assert np.flatnonzero(np.isnan(splits.labels)).tolist() == [4]

    def test_a_label_named_like_its_column(self, tmp_path):
        path = tmp_path / "t.parquet"  # which has a header, unlike some text files
        pl.DataFrame({"x": numbers(40), "spam": ["spam", "ham"] * 20}).write_parquet(path)
        splits = load_own_data("table", task={"name": "multiclass"}, path=str(path), target="spam", **OPTIONS)
        assert splits.class_names == ("ham", "spam")

    def test_weights_after_blanks(self, tmp_path):
        rows = "".join(f"{i}, {'ab'[i % 2]}, {i % 3}.5\n" for i in range(20))
        (tmp_path / "t.csv").write_text("x, y, w\n" + rows)
        options = {"path": str(tmp_path / "t.csv"), "target": "y", "sample_weight": "w", **OPTIONS}
        splits = load_own_data("table", task={"name": "multiclass"}, **options)
        assert splits.weights[:4].tolist() == [0.5, 1.5, 2.5, 0.5]

    def test_weights_that_are_lists(self, tmp_path):
        table = pl.DataFrame({"x": numbers(40), "w": [[1.0]] * 40, "y": ["a", "b"] * 20})
        table.write_parquet(tmp_path / "t.parquet")
        options = {"path": str(tmp_path / "t.parquet"), "target": "y", "sample_weight": "w", **OPTIONS}
        with pytest.raises(ValueError, match=r"Column 'w' is of type List\(Float64\), but weights must be"):
            load_own_data("table", task={"name": "multiclass"}, **options)

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
            with pytest.raises(ValueError, match="which Polars would read as a pattern"):
                load({"x": numbers(4), name: ["a", "b"] * 2}, target=name)

    def test_a_column_that_is_a_copy_of_the_label_warns(self, load):
        table = {"x": numbers(40), "kind": ["u", "v", "w", "v"] * 10, "y": ["a", "b", "c", "b"] * 10}
        with pytest.warns(
            ls.LossSelectWarning,
            match=r"Each value of column 'kind' occurs in a single class.*data.exclude=\[kind\]",
        ):
            load(table)

    def test_a_column_whose_values_determine_the_class_warns(self, load):
        """A diagnosis, for example, of which one value means that the target is 1."""
        kinds = ["melanoma", "naevus", "keratosis"] * 100
        table = {"x": numbers(300), "kind": kinds, "y": [int(kind == "melanoma") for kind in kinds]}
        with pytest.warns(ls.LossSelectWarning, match="Each value of column 'kind' occurs in a single class"):
            load(table, "binary")
        for rows in (300, 45):  # another row with the value, or too few rows to tell
            other = {name: cells[:rows] for name, cells in table.items()}
            other["y"] = [*other["y"][:-1], 1] if rows == 300 else other["y"]
            load(other, "binary")

    def test_codes_with_leading_zeros_warn(self, load):
        codes = [f"{i * 37 % 999:05}" for i in range(60)]
        table = {"x": numbers(60), "zip": codes, "y": ["a", "b", "c"] * 20}
        with pytest.warns(ls.LossSelectWarning, match=r"such as 00000, .* data\.categorical=\[zip\]"):
            load(table)
        load(table, categorical=["zip"])
        for cells in ([f"{i % 12 + 1:02}" for i in range(60)], [f"0.{i + 10}" for i in range(60)]):
            load({**table, "zip": cells})

    def test_codes_are_recognised_in_few_rows_of_wide_tables(self, load, monkeypatch):
        counts = []
        first_cells = TextTable.first_cells
        monkeypatch.setattr(TextTable, "first_cells", lambda *a: counts.append(a[1]) or first_cells(*a))
        monkeypatch.setattr("lossselect.data.files.table_source.CODE_CELLS", 30)
        load({"x": numbers(60), "z": numbers(60), "y": ["a", "b", "c"] * 20})
        assert counts[-1] == 1 + 30 // 3

    def test_missing_cells_in_a_column_without_missing_training_cells_warn(self, load):
        train = {"x": numbers(20), "y": ["a", "b"] * 10}
        with pytest.warns(ls.LossSelectWarning, match=r"no missing training cells.*1 in column 'x'"):
            load(train, test_path={"x": [1.5, None], "y": ["a", "b"]})

    def test_a_delimiter_that_no_cell_contains_warns(self, load):
        with pytest.warns(ls.LossSelectWarning, match="No cell of column 'y' contains the delimiter ','"):
            load({"x": numbers(40), "y": ["a|b", "b"] * 20}, "multilabel", delimiter=",")

    def test_a_marker_that_no_row_has_warns(self, load):
        with pytest.warns(ls.LossSelectWarning, match="No row has the label zzz"):
            load({"x": numbers(40), "y": ["a", "b"] * 20}, missing="zzz")

    def test_the_missing_marker_of_the_task_counts(self, load):
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

    def test_rows_are_counted_in_their_file(self, load):
        train = {"x": numbers(20), "y": ["a", "b"] * 10}
        splits = load(train, test_path={"x": [9.0, 8.0], "y": ["a", "b"]})
        assert splits.rows_in_file("test").tolist() == [0, 1]
        assert splits.rows["test"].tolist() == [20, 21]

    def test_arrays_in_several_files(self, tmp_path):
        x = numbers(80).reshape(40, 2)
        for name, width in (("d", 3), ("v", 2)):
            np.savez(tmp_path / f"{name}.npz", X=x, Y=np.eye(width, dtype=int)[np.arange(40) % width])
        arguments = {**OPTIONS, "val_path": str(tmp_path / "v.npz")}
        with pytest.raises(ValueError, match=r"shape \(N, 3\) as in training, got \(40, 2\)"):
            load_own_data("arrays", task={"name": "multilabel"}, path=str(tmp_path / "d.npz"), **arguments)
        np.savez(tmp_path / "v.npz", X=x, y=np.arange(40) % 3)
        with pytest.raises(ValueError, match=r"shape \(N, 3\) as in training, got \(40,\)"):
            load_own_data("arrays", task={"name": "multiclass"}, path=str(tmp_path / "d.npz"), **arguments)
        path = str(tmp_path / "x.npy")
        np.save(path, x)
        with pytest.raises(ValueError, match=r"x\.npy contains only features"):
            load_own_data("arrays", task={"name": "multilabel"}, path=path, **arguments)

    def test_arrays(self, tmp_path):
        x, y = numbers(80).reshape(40, 2), np.array(["b", "a"] * 20)
        np.savez(tmp_path / "d.npz", X=x, y=y)
        splits = load_own_data("arrays", task={"name": "multiclass"}, path=str(tmp_path / "d.npz"), **OPTIONS)
        assert splits.class_names == ("a", "b")
        assert splits.labels.tolist() == [1, 0] * 20
        matrix = np.array([[1, 0, -1], [0, 0, 1]] * 20)
        np.savez(tmp_path / "m.npz", X=x, y=matrix)
        splits = load_own_data(
            "arrays", task={"name": "multilabel", "missing": -1}, path=str(tmp_path / "m.npz"), **OPTIONS
        )
        np.testing.assert_array_equal(splits.labels[:2], [[1, 0, NAN], [0, 0, 1]])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_table_is_loaded_correctly_or_raises(data, tmp_path):
    """A random table is either loaded with finite features and the labels of the file, or raises an error."""
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
        warnings.simplefilter("ignore", ls.LossSelectWarning)
        try:
            splits = load_own_data("table", task={"name": name}, path=str(path), target="y", **OPTIONS)
        except ValueError as error:
            assert str(error)  # noqa: PT017
            return
    assert splits.features[torch.arange(count)].isfinite().all()
    if splits.labels.dtype == np.int64 or np.isin(splits.labels[~np.isnan(splits.labels)], [0, 1]).all():
        task = make_task(splits.task, class_names=splits.class_names)
        written = [None if not text or not text.strip() else text.strip() for text in frame["y"]]
        if splits.class_names != ("0", "1"):
            assert target_of(splits, task) == written


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.eye(4, 2), r"shape \(N, 3\) as in training, got \(4, 2\)"),
        ([pl.Series("y", [0, 2, 2, 0])], r"shape \(N, 3\) as in training, got \(4,\)"),
    ],
    ids=["another width", "classes"],
)
def test_labels_of_another_form_than_those_of_training(labels, expected):
    # the classes 0 and 2 would become the first two of three
    options = LabelOptions("multiclass")
    fitted = parse_labels(Source("train.npz", None, np.eye(3), {}), options, listed=False)
    with pytest.raises(DataError, match=expected):
        parse_labels(Source("new.npz", None, labels, {}), replace(options, fitted=fitted), listed=False)
