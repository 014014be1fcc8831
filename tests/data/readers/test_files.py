import re

import numpy as np
import polars as pl
import pytest

from lossselect.data.readers.arrays import read_arrays, read_features
from lossselect.data.readers.formats import open_table
from lossselect.data.readers.tables import TableOptions, check_columns
from lossselect.exceptions import ConfigError


def read_table(path, columns=None, as_text=(), **options):
    table = open_table(path, TableOptions(**options))
    return table.read(columns or table.header, as_text)


@pytest.fixture
def write(tmp_path):
    def to_file(content, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return to_file


@pytest.mark.parametrize(
    ("content", "name", "options", "rows"),
    [
        ("a,b\n1,x\n2,y\n", "t.csv", {}, [(1, "x"), (2, "y")]),
        ("a,b\r\n1,x\r\n", "t.csv", {}, [(1, "x")]),
        ("\ufeffa,b\n1,x\n", "t.csv", {}, [(1, "x")]),
        ("a\tb\n1\tx\n", "t.tsv", {}, [(1, "x")]),
        ("a;b\n1;x\n", "t.csv", {"separator": ";"}, [(1, "x")]),
        ("a\tb\n1\tx\n", "t.csv", {"separator": r"\t"}, [(1, "x")]),
        ('a,b\n1,"x, y\nz"\n2,\n', "t.csv", {}, [(1, "x, y\nz"), (2, None)]),
        ("a,b\n1,x\n\n2,\n\n", "t.csv", {}, [(1, "x"), (2, None)]),  # empty lines do not count as rows
        ("a,b\n1,é\n".encode("latin-1"), "t.csv", {"encoding": "latin-1"}, [(1, "é")]),
        ("a,b\n1,007\n", "t.csv", {"as_text": ["b"]}, [(1, "007")]),
        ("a,b\n1,NA\n", "t.csv", {"as_text": ["b"]}, [(1, "NA")]),  # NA may be the name of a class
        ("a,b,c\n1,x,9\n", "t.csv", {"columns": ["b", "a"]}, [("x", 1)]),
        ("a,b\n" + "1,x\n" * 10_001 + "z,y\n", "t.csv", {}, [("1", "x")] * 10_001 + [("z", "y")]),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_table_is_read(content, name, options, rows, write):
    assert read_table(write(content, name), **options).rows() == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty."),
        ("\n", "has no header: its first line is empty."),
        ("a,b\n", "has no rows. Add at least one."),
        ("a,b\n\n\n", "has no rows. Add at least one."),
        ("a,b,a\n1,2,3\n", "has more than one column 'a'."),
        ("a,b\n1,2\n3\n", "Row 1 of "),
        ("a,b\n1,2\n3\n", "(line 3) has 1 cell, but the header has 2."),
        ("a,b\n1,2\n3,4,5\n", "(line 3) has 3 cells, but the header has 2."),
        ('a,b\n"1\n2",2\n3\n', "Row 1 of "),
        (b"a,b\n1,x\n2,\xe9\n", "Line 3 of "),
        (b"a,b\n1,x\n2,\xe9\n", "it contains the byte b'\\xe9'. Set the encoding of the file"),
        (b"\xe9,b\n1,x\n", "Line 1 of "),
        ('a,b\n1,"x\n', "Close each quotation mark, or set data.quote=none"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_an_invalid_table(content, message, write):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_table(write(content))


@pytest.mark.parametrize("name", ['b "x"', "b ü"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_name_with_quotation_marks_in_the_header(name, encoding, write):
    quoted = name.replace('"', '""')
    path = write(f'a,"{quoted}",y\n1,007,x\n'.encode(encoding))
    options = {"encoding": encoding}
    assert read_table(path, [name, "y"], [name], **options).rows(named=True) == [{name: "007", "y": "x"}]
    (frame,) = open_table(path, TableOptions(**options)).batches([name], 2)
    assert frame.rows(named=True) == [{name: "007"}]


def test_no_such_file(write, tmp_path):
    write("a\n1\n", "train.csv")
    with pytest.raises(
        FileNotFoundError, match=r"File not found: .*trian\.csv\. Did you mean 'train\.csv'\?"
    ):
        read_table(str(tmp_path / "trian.csv"))
    with pytest.raises(FileNotFoundError, match=r"File not found: nowhere/at/all\.csv"):
        read_table("nowhere/at/all.csv")
    with pytest.raises(ConfigError, match=r"The folder .* has \.csv files"):
        read_table(str(tmp_path))
    with pytest.raises(ConfigError, match=r"the suffixes \.csv, \.tsv, .*, got .*\.odt"):
        read_table(write("", "t.odt"))
    with pytest.raises(ConfigError, match=r"got .*t\.npz\. Set data=arrays"):
        read_table(write("", "t.npz"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"separator": 3}, ValueError, "data.separator must be text such as ';', got 3."),
        ({"quote": "|"}, ValueError, "data.quote='|' is not valid. Choose one of: double, single, none."),
        ({"skip_lines": -1}, ValueError, "data.skip_lines must be an integer >= 0, got -1."),
        ({"encoding": "utf-9"}, ValueError, "data.encoding='utf-9' is not valid"),
        ({"encoding": 8}, TypeError, "data.encoding must be a name such as 'latin-1', got 8."),
    ],
)
def test_invalid_separators_and_encodings(options, error, message, write):
    with pytest.raises(error, match=re.escape(message)):
        read_table(write("a\n1\n"), **options)


def test_parquet(tmp_path):
    path = str(tmp_path / "t.parquet")
    frame = pl.DataFrame({"a": [1, 2], "b": [["x"], []]})
    frame.write_parquet(path)
    assert read_table(path).equals(frame)
    assert read_table(path, columns=["b"]).columns == ["b"]
    assert open_table(path).header == ["a", "b"]
    frame.clear().write_parquet(path)
    with pytest.raises(ValueError, match="has no rows"):
        read_table(path)
    (tmp_path / "t.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match="cannot be read as a Parquet file"):
        open_table(path)


@pytest.mark.parametrize(
    ("names", "header", "message"),
    [
        (
            ["speces"],
            ["species", "x"],
            "f has no column 'speces' (data.target). Did you mean 'species'? It has: ",
        ),
        (["y"], ["5.1", "x"], "It has: 5.1, x. If the file has no header, set data.header=false; its"),
        (["b"], ["a;b"], "If ';' separates the columns, set \"data.separator=';'\"."),
    ],
)
def test_a_missing_column(names, header, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_columns(names, header, "data.target", "f")


class TestBatches:
    @pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
    def test_all_rows_come_in_order(self, name, tmp_path):
        path = tmp_path / name
        frame = pl.DataFrame({"a": range(1000), "b": ["x", None] * 500})
        frame.write_parquet(path) if name == "t.parquet" else frame.write_csv(path)
        parts = list(open_table(str(path)).batches(["b", "a"], 300))
        assert [part.height for part in parts] == [300, 300, 300, 100]
        whole = pl.concat(parts)
        assert whole.columns == ["b", "a"]
        assert whole["a"].cast(pl.Int64).to_list() == list(range(1000))
        assert whole["b"].to_list() == ["x", None] * 500

    def test_a_row_of_empty_cells_is_a_row(self, write):
        (frame,) = open_table(write("a,b\n1,2\n\n,\n3,4\n\n")).batches(["a", "b"], 10)
        assert frame.rows() == [("1", "2"), (None, None), ("3", "4")]
        assert read_table(write("a,b\n1,2\n\n,\n3,4\n")).rows() == [(1, 2), (None, None), (3, 4)]

    def test_another_encoding(self, write):
        path = write("a,b\n1,é\n\n2,x\n3,y\n".encode("latin-1"))
        parts = list(open_table(path, TableOptions(encoding="latin-1")).batches(["b"], 2))
        assert [part["b"].to_list() for part in parts] == [["é", "x"], ["y"]]

    def test_a_byte_order_mark_is_not_part_of_a_name(self, write):
        path = write(b"\xff\xfe" + "a,b\n1,2\n".encode("utf-16-le"))
        assert open_table(path, TableOptions(encoding="utf-16-le")).header == ["a", "b"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("a,b\n1,2\n3\n", "has 1 cell, but the header has 2."),
            ("a,b\n1,2\n3,4,5\n", "has 3 cells, but the header has 2."),
            (b"a,b\n1,2\n3,\xe9\n", "is not encoded in utf-8"),
        ],
    )
    def test_an_invalid_table(self, content, message, write):
        with pytest.raises(ValueError, match=re.escape(message)):
            list(open_table(write(content)).batches(["a", "b"], 2))


class TestArrays:
    def save(self, tmp_path, **arrays):
        np.savez(tmp_path / "d.npz", **arrays)
        return str(tmp_path / "d.npz")

    @pytest.mark.parametrize("names", [("X", "Y"), ("features", "labels"), ("x", "y"), ("data", "target")])
    def test_usual_names(self, names, tmp_path):
        path = self.save(tmp_path, **{names[0]: np.eye(3), names[1]: np.arange(3).reshape(3, 1)})
        inputs, labels, _ = read_arrays(path, None, None)
        assert inputs.shape == (3, 3)
        assert labels.tolist() == [0, 1, 2]
        assert read_features(path).shape == (3, 3)

    def test_other_names_and_two_files(self, tmp_path):
        path = self.save(tmp_path, a=np.eye(2, dtype=np.float16), b=np.array([b"x", b"y"]))
        inputs, labels, _ = read_arrays(path, "a", "b")
        assert inputs.dtype == np.float16
        assert labels.tolist() == ["x", "y"]
        np.save(tmp_path / "x.npy", np.eye(2))
        np.save(tmp_path / "y.npy", np.array([0, 1]))
        inputs, labels, _ = read_arrays(str(tmp_path / "x.npy"), None, str(tmp_path / "y.npy"))
        assert labels.tolist() == [0, 1]

    @pytest.mark.parametrize(
        ("arrays", "names", "message"),
        [
            ({"A": np.eye(2)}, (None, None), "(features, X, x, inputs, data). It has: A. Set data.features"),
            ({"X": np.eye(2)}, (None, "labls"), "has no array 'labls' (data.target)."),
            (
                {"X": np.eye(2), "y": np.arange(3)},
                (None, None),
                "Got 2 rows of features, but 3 rows of labels",
            ),
            (
                {"X": np.zeros((2, 2, 2)), "y": np.arange(2)},
                (None, None),
                "Features must be numbers of shape (N, F)",
            ),
            (
                {"X": np.array([["a"]]), "y": np.arange(1)},
                (None, None),
                "Features must be numbers of shape (N, F)",
            ),
            (
                {"X": np.eye(2), "y": np.zeros((2, 2, 2))},
                (None, None),
                "Labels must be numbers or strings of shape (N,), or 0 and 1 of shape (N, L)",
            ),
            (
                {"X": np.eye(2), "y": np.array([["a"] * 2] * 2)},
                (None, None),
                "or 0 and 1 of shape (N, L), got <U1 of shape (2, 2)",
            ),
            (
                {"X": np.eye(2), "x": np.eye(2), "y": np.arange(2)},
                (None, None),
                "several possible arrays: X, x. Set data.features=X or data.features=x.",
            ),
            ({"X": np.eye(2), "y": np.array(1)}, (None, None), "got int64 of shape () in "),
            (
                {"X": np.eye(2), "y": np.array([b"\xe9", b"a"])},
                (None, None),
                "contains bytes that are not valid UTF-8",
            ),
            ({"X": np.eye(2), "y": np.array([{}, {}])}, (None, None), "Array 'y' of "),
        ],
        ids=str,
    )
    def test_invalid_arrays(self, arrays, names, message, tmp_path):
        with pytest.raises(ValueError, match=re.escape(message)):
            read_arrays(self.save(tmp_path, **arrays), *names)

    def test_invalid_files(self, tmp_path):
        (tmp_path / "d.npz").write_text("x")
        with pytest.raises(ValueError, match="cannot be read as a NumPy file"):
            read_arrays(str(tmp_path / "d.npz"), None, None)
        with pytest.raises(FileNotFoundError, match=r"Did you mean 'd\.npz'\?"):
            read_arrays(str(tmp_path / "dd.npz"), None, None)
        np.save(tmp_path / "x.npy", np.eye(2))
        with pytest.raises(ValueError, match=r"x\.npy contains only features.*data\.target=labels\.npy"):
            read_arrays(str(tmp_path / "x.npy"), None, None)
        with pytest.raises(ConfigError, match=r"got x\.csv\. Set data=table"):
            read_arrays("x.csv")
