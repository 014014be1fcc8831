"""Tables with one row for each label (data.id)."""

import polars as pl
import pytest

from lossselect.exceptions import ConfigError, DataError

IDS, X, LABELS = [], [], []
for i in range(40):
    for label in ("abc"[i % 3], "bcd"[i % 2])[: 1 + (i % 5 > 0)]:
        IDS.append(f"00{i}")
        X.append(float(i * i % 17))
        LABELS.append(label)


def frame(**changes):
    """Return the table; `changes` maps a column to {row: cell}."""
    cells = {"key": [*IDS], "x": [*X], "y": [*LABELS]}
    for column, changed in changes.items():
        for row, cell in changed.items():
            cells[column][row] = cell
    return pl.DataFrame(cells)


def lists_of(splits, names="abcd"):
    return splits.labels.to_lists(names)


@pytest.mark.parametrize("task", ["multilabel", "auto"])
def test_the_labels_of_an_id_become_one_row(load, task):
    splits = load(frame(), task, id="key")
    assert splits.task == "multilabel"
    assert splits.columns == ("x",)
    assert sum(map(len, splits.rows.values())) == len(splits.labels) == 40
    assert lists_of(splits)[:2] == [["a"], ["b", "c"]]


def test_rows_of_an_id_need_not_be_adjacent(load):
    shuffled = frame().sample(fraction=1.0, shuffle=True, seed=0)
    splits = load(shuffled, "multilabel", id="key", target=["y"])
    first = [*dict.fromkeys(shuffled["key"])]
    expected = [
        sorted({label for key, label in zip(IDS, LABELS, strict=True) if key == id_}) for id_ in first
    ]
    assert lists_of(splits) == expected


def test_other_files_and_groups(load):
    table = frame().with_columns(patient=pl.Series([int(key) // 2 for key in IDS]))
    splits = load(
        table, "multilabel", id="key", group="patient", val_path=table[:30].with_columns(patient=100)
    )
    assert splits.columns == ("x",)
    assert len(splits.rows["val"]) == table[:30]["key"].n_unique()


def test_a_cell_without_a_label(load):
    table = frame(y={0: None})
    with pytest.raises(DataError, match=r"Row 0 of column 'y' is empty\. Set data\.empty=negative"):
        load(table, "multilabel", id="key")
    assert lists_of(load(table, "multilabel", id="key", empty="negative"))[0] == []
    assert lists_of(load(table, "multilabel", id="key", empty="missing"))[0] is None
    with pytest.raises(DataError, match=r"Row 2 of column 'y' is empty, but its id"):
        load(frame(y={2: None}), "multilabel", id="key", empty="missing")


def test_no_label(load):
    splits = load(frame(y={0: "none"}), "multilabel", id="key", no_label="none")
    assert lists_of(splits)[0] == []
    with pytest.raises(DataError, match=r"Row 1 of column 'y' contains 'none', .*\(Rows are counted after"):
        load(frame(y={1: "none"}), "multilabel", id="key", no_label="none")


@pytest.mark.parametrize("cell", [-3.0, None])
def test_rows_of_an_id_have_the_same_features(load, cell):
    with pytest.raises(
        DataError, match=r"Row 2 of column 'x' is .*, but row 1 has 1\.0 and the same"
    ) as caught:
        load(frame(x={2: cell}), "multilabel", id="key")
    assert (caught.value.row, caught.value.column) == (2, "x")
    assert "data.exclude=[x]. Each row then counts" in str(caught.value)


def test_all_columns_that_differ_are_named(load):
    table = frame().with_columns(z=pl.int_range(len(IDS)), k=pl.lit(1), w=pl.col("y"))
    with pytest.raises(DataError, match=r"Row 2 of column 'z' is 2, .*data\.exclude=\[z,w\]"):
        load(table, "multilabel", id="key")
    load(frame(x={1: None, 2: None}), "multilabel", id="key")  # both missing


def test_an_empty_id(load):
    with pytest.raises(DataError, match=r"Row 3 of column 'key' is empty"):
        load(frame(key={3: None}), "multilabel", id="key")


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("multiclass", {}, r"data\.id cannot be combined with task=multiclass"),
        ("multilabel", {"target": ["x", "y"]}, r"data\.id applies to lists of labels, but data\.target is 2"),
        ("multilabel", {"delimiter": "|"}, "with data.id each row has one label"),
        ("multilabel", {"features": ["key", "x"]}, r"both data\.id and a feature"),
        ("multilabel", {"target": "key"}, "cannot be both data.target and data.id"),
    ],
)
def test_settings_that_contradict_each_other(load, task, options, message):
    with pytest.raises(ConfigError, match=message):
        load(frame(), task, id="key", **options)


def test_an_unknown_column(load):
    with pytest.raises(DataError, match=r"no column 'ky' \(data\.id\)\. Did you mean 'key'"):
        load(frame(), "multilabel", id="ky")
