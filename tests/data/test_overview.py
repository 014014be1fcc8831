import json
import time

import numpy as np
import polars as pl
import pytest
from omegaconf import OmegaConf
from scipy.sparse import csr_array, save_npz

from lossselect.data.checks import check_splits
from lossselect.data.files.load import load_own_data
from lossselect.data.overview import Overview, describe_rows, make_overview, outline
from lossselect.run.settings import packaged_config
from lossselect.tasks.registry import TASKS, make_task

SPLIT = {"val_path": None, "test_path": None, "val_fraction": 0.25, "test_fraction": 0.25, "seed": 0}


def overview_of(splits):
    width = len(splits.class_names) if TASKS[splits.task].is_sized() else None
    task = make_task(splits.task, num_outputs=width, class_names=splits.class_names)
    return make_overview(splits, task, check_splits(task, splits))


def defaults(name):
    return OmegaConf.to_container(packaged_config("data", name))  # ${seed} stays as it is


def outline_of(path, **settings):
    return outline({**defaults("table"), "path": str(path), **settings})


def by_name(overview):
    return {column.name: column for column in overview.columns}


COLUMNS = {
    "": range(40),
    "size": [None, *np.linspace(1, 2, 9)] * 4,
    "city": ["Bern", "Chur"] * 20,
    "day": [f"2024-05-{i % 28 + 1:02d}" for i in range(40)],
    "said": [f"word{i % 5} and {i}" for i in range(40)],
    "same": [7] * 40,
    "out": range(40),
    "person": [f"p{i // 2}" for i in range(40)],
    "w": [1.0] * 40,
    "y": ["a", "b", "c", "a"] * 10,
}


@pytest.mark.filterwarnings("ignore::lossselect.utils.warnings.LossSelectWarning")
def test_what_becomes_of_each_column(load):
    splits = load(COLUMNS, text=["said"], exclude=["out"], group="person", sample_weight="w")
    columns = by_name(overview_of(splits))
    assert {name: column.use for name, column in columns.items()} == {
        "column 0": "index",
        **dict.fromkeys(("size", "city", "day", "said"), "feature"),
        "same": "constant",
        "out": "exclude",
        "person": "group",
        "w": "sample_weight",
        "y": "target",
    }
    size = columns["size"]
    assert (size.kind, size.missing, size.rows, size.distinct, size.values) == ("number", 4, 40, 9, "1 to 2")
    assert size.decision == "standardised; 1 where missing"
    assert size.change == "data.categorical=[size] or data.exclude=[size]"
    assert columns["city"].decision == "one-hot, 2 categories"
    assert columns["city"].values == "'Bern' (50%), 'Chur' (50%)"
    assert columns["day"].decision.startswith("days")
    assert columns["day"].values == "2024-05-01 to 2024-05-28"
    assert "words and pairs of words" in columns["said"].decision
    assert columns["said"].values == columns["person"].values == ""  # texts of persons are not copied
    assert columns["person"].change == "data.group"
    assert (columns["y"].distinct, columns["y"].change) == (3, "data.target")
    assert columns["out"].rows == 0


def test_time_may_be_a_feature_too(load):
    columns = {"x": np.arange(40.0) % 7, "year": np.repeat(np.arange(2000, 2020), 2), "y": ["a", "b"] * 20}
    only = by_name(overview_of(load(columns, time="year", features=["x", "year"])))
    assert only["year"].decision == "the most recent rows form the test split; standardised"


@pytest.mark.filterwarnings("ignore::lossselect.utils.warnings.LossSelectWarning")
def test_large_tables_are_described_alike(load, tmp_path):
    settings = {"text": ["said"], "exclude": ["out"], "group": "person", "sample_weight": "w"}
    in_memory = load(COLUMNS, **settings).overview
    for _ in range(2):  # computed, and from the cache
        assert load(COLUMNS, **settings, max_memory=1e-9, cache=str(tmp_path)).overview == in_memory


def test_labels_and_duplicates_by_split(load):
    columns = {"x": [1.0, 1.0, *range(2, 40)], "y": ["a", "b"] * 19 + ["a", ""]}
    other = {"x": [2.0, 2.0, 99.0, 98.0], "y": ["a", "b", "a", "a"]}
    with pytest.warns(match="1 of 2 rows|2 of 4 rows"):
        found = overview_of(load(columns, val_path=other, test_fraction=0.05))
    assert found.rows == {"train": 38, "val": 4, "test": 2}
    assert found.sampled == 0
    assert found.task == "multiclass"
    assert dict(found.labels)["a"]["val"] == 3
    assert sum(sum(counts.values()) for _, counts in found.labels) + 1 == 44
    assert sum(found.missing_labels.values()) == 1
    assert found.repeated["val"] == 1
    assert found.in_train["val"] == 2


TAGS = ["a|b", "a|b", "c", "a|b|c", "c|d", "", "d", "c"] * 6


@pytest.mark.parametrize("form", ["lists", "columns"])
def test_pairs_of_labels(form, load):
    names = "abcd"
    settings = {"delimiter": "|", "empty": "negative"}
    columns = {"x": np.arange(48.0) ** 2, "y": TAGS}
    if form == "columns":
        columns = {"x": columns["x"], **{name: [int(name in tags) for tags in TAGS] for name in names}}
        settings = {"target": [*names]}
    found = overview_of(load(columns, "multilabel", **settings))
    assert found.pairs[0] == ("a", "b", 18, 1.0)
    assert found.pairs[1] == ("c", "d", 6, 6 / (24 + 12 - 6))
    assert all(both for *_, both, _ in found.pairs)
    together = {
        name: dict(zip([n for n, _ in found.together], row, strict=True)) for name, row in found.together
    }
    assert together["c"] == {"a": 6, "b": 6, "c": 24, "d": 6}


def test_json_has_everything(load):
    found = overview_of(load({"x": np.linspace(0, 1, 40), "y": ["a", "b"] * 20}))
    again = Overview.from_dict(json.loads(found.to_json()))
    assert again.columns == found.columns
    assert again.to_json() == found.to_json()
    assert json.loads(found.to_json(error=None))["error"] is None


def test_arrays(tmp_path):
    np.savez(tmp_path / "d.npz", X=np.arange(120.0).reshape(40, 3) ** 2, y=np.arange(40) % 2)
    splits = load_own_data("arrays", task={"name": "multiclass"}, path=str(tmp_path / "d.npz"), **SPLIT)
    columns = by_name(overview_of(splits))
    assert [*columns] == ["x0", "x1", "x2"]
    assert (columns["x1"].distinct, columns["x1"].values) == (40, "1 to 13924")


def test_statistics_of_large_arrays_are_from_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("lossselect.data.preprocessing.statistics.SAMPLE_ROWS", 400)
    np.save(tmp_path / "X.npy", np.arange(4000.0).reshape(2000, 2))
    np.save(tmp_path / "Y.npy", np.arange(2000) % 3)
    path, target = (str(tmp_path / name) for name in ("X.npy", "Y.npy"))
    splits = load_own_data("arrays", task={"name": "multiclass"}, path=path, target=target, **SPLIT)
    assert overview_of(splits).sampled == 400


def test_sparse_features_are_not_described(tmp_path):
    save_npz(tmp_path / "X.npz", csr_array(np.arange(1.0, 81).reshape(40, 2)))
    np.save(tmp_path / "y.npy", np.arange(40) % 2)
    path, target = str(tmp_path / "X.npz"), str(tmp_path / "y.npy")
    splits = load_own_data("arrays", task={"name": "binary"}, path=path, target=target, **SPLIT)
    assert splits.overview == ()
    assert overview_of(splits).num_features == 2


class TestOutline:
    """Overviews of files that cannot be loaded."""

    def write(self, tmp_path, columns):
        pl.DataFrame(columns).write_csv(tmp_path / "a.csv")
        return tmp_path / "a.csv"

    def test_names_the_settings_that_a_file_needs(self, tmp_path):
        mixed = [*map(str, range(39)), "?"]
        path = self.write(tmp_path, {**COLUMNS, "": range(40), "mixed": mixed})
        columns = by_name(outline_of(path, target="y", group="person"))
        assert columns["said"].use == columns["mixed"].use == "rejected"
        assert "looks like free text" in columns["said"].decision
        assert columns["said"].change.startswith(
            "data.text=[said] or data.categorical=[said] or data.group=said"
        )
        assert "data.null_values" in columns["mixed"].decision
        assert columns["city"].decision == "one-hot, 2 categories"
        assert columns["day"].values == "2024-05-01 to 2024-05-28"
        assert (columns["same"].use, columns["y"].use, columns["person"].use) == (
            "constant",
            "target",
            "group",
        )

    def test_cells_that_are_not_dates_are_named_by_row_and_column(self, tmp_path):
        days = [f"2024-05-{i % 28 + 1:02d}" for i in range(40)]
        path = self.write(tmp_path, {"day": [*days[:39], "soon"], "y": [1, 2] * 20})
        column = by_name(outline_of(path, target="y"))["day"]
        assert column.use == "rejected"
        assert "Row 39 of column 'day' is 'soon'" in column.decision

    def test_target_and_others_may_be_missing(self, tmp_path):
        path = self.write(tmp_path, {"a": [1, 2], "b": [None, None]})
        found = outline_of(path, target="nowhere", split="neither", exclude=["none"])
        assert found.rows == {"all": 2}
        assert {name: column.use for name, column in by_name(found).items()} == {
            "a": "feature",
            "b": "constant",
        }
        assert found.task == ""

    @pytest.mark.parametrize(
        "name", ["^x$y", "a\x1bb", "{0}", "[red]", "=1+1", "count", "cell", "name" * 100]
    )
    def test_weird_names(self, name, tmp_path):
        path = self.write(tmp_path, {name: ["u", "v"] * 20, "y": [1, 2] * 20})
        assert by_name(outline_of(path, target="y"))[name].distinct == 2

    def test_only_the_first_rows_of_a_large_table_are_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr("lossselect.data.overview.SAMPLE_ROWS", 10)
        path = self.write(tmp_path, {"x": np.linspace(0, 1, 40), "z": ["u", "v"] * 20})
        found = outline_of(path, max_memory=1e-9)
        assert found.rows == {"first": 10}
        assert by_name(found)["x"].kind == "number"

    def test_arrays_without_labels(self, tmp_path):
        np.save(tmp_path / "X.npy", np.arange(10).reshape(5, 2))
        settings = {**defaults("arrays"), "path": str(tmp_path / "X.npy")}
        assert [column.use for column in outline(settings).columns] == ["feature"] * 2

    def test_thousands_of_columns_take_seconds(self, tmp_path):
        path = self.write(tmp_path, {f"x{i}": ["1.5", str(i)] for i in range(5000)})
        start = time.perf_counter()
        assert len(outline_of(path, target="x0").columns) == 5000
        assert time.perf_counter() - start < 20


CELLS = {
    "size": [None, *np.linspace(1, 2, 9).tolist()] * 4,
    "count": [i * i % 17 * 1_000_001 for i in range(40)],
    "city": ["Bern", "Chur", None, "Chur"] * 10,
    "day": [None if i == 3 else f"2024-05-{i % 28 + 1:02d}" for i in range(40)],
    "at": [f"2024-05-{i % 28 + 1:02d} {i % 24:02d}:{i:02d}" for i in range(40)],
    "said": [f"word{i % 5}" if i else None for i in range(40)],
}


@pytest.mark.parametrize("scaling", ["standard", "robust", "quantile"])
@pytest.mark.parametrize("memory", [None, 0])
def test_the_cells_of_rows_are_those_of_the_file(scaling, memory, load):
    labels = {"y": ["a", "b", "c", "a"] * 10}
    splits = load({**CELLS, **labels}, text=["said"], scaling=scaling, max_memory=memory)
    rows = splits.rows_in_file("test").tolist()
    found = describe_rows(splits, "test", rows)
    assert found.keys() == CELLS.keys()
    for name, cells in found.items():
        expected = [CELLS[name][row] for row in rows]
        number = name in ("size", "count")
        assert cells == (
            pytest.approx(expected, rel=1e-3 if scaling == "quantile" else 1e-5) if number else expected
        ), name


def test_of_many_columns_the_unusual_cells_are_shown(load):
    random = np.random.default_rng(0)
    columns = {f"x{i}": random.normal(size=40).round(2) for i in range(8)}
    columns["x5"][:] = 1.25
    columns["x5"][::2] = 1.5
    columns["x3"][7] = 90.5
    splits = load({**columns, "y": ["a", "b"] * 20}, val_fraction=0.25, test_fraction=0.25)
    split = next(split for split, rows in splits.rows.items() if 7 in rows)
    (text,) = describe_rows(splits, split, [7])["unusual values"]
    assert text.startswith("x3 = 90.5, ")
    assert text.count(" = ") == 3


def test_the_rows_of_another_file_are_counted_from_its_start(load, tmp_path):
    frame = pl.DataFrame({"x": np.arange(30.0), "y": ["a", "b"] * 15})
    other = frame.with_columns(pl.col("x") + 0.5)
    splits = load(frame, test_path=other, test_fraction=None)
    assert describe_rows(splits, "test", [4])["x"] == [4.5]


def test_a_sparse_matrix_has_no_cells(tmp_path):
    matrix = csr_array(np.random.default_rng(0).integers(0, 2, (40, 5)).astype(float))
    save_npz(tmp_path / "x.npz", matrix)
    np.save(tmp_path / "y.npy", np.arange(40) % 2)
    data = {**defaults("arrays"), **SPLIT, "path": str(tmp_path / "x.npz"), "target": str(tmp_path / "y.npy")}
    splits = load_own_data(**data, task={"name": "binary"})
    assert describe_rows(splits, "test", splits.rows_in_file("test").tolist()) == {}
