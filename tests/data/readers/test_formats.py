"""Formats of tables, and files that are something else than their name says."""

import gzip
import pickle
import re

import numpy as np
import polars as pl
import pytest
from table_cases import OPTIONS

import lossselect as ls
from lossselect.data.files.load import load_own_data
from lossselect.data.readers import content, formats
from lossselect.data.readers.formats import open_table
from lossselect.data.readers.tables import TableOptions, check_columns
from lossselect.exceptions import ConfigError, DataError

FRAME = pl.DataFrame({"a": [1, 2, 3], "b": ["x", None, "é"], "c": [0.5, None, 1.5]})
WRITERS = {
    "t.parquet": pl.DataFrame.write_parquet,
    "t.arrow": pl.DataFrame.write_ipc,
    "t.feather": pl.DataFrame.write_ipc,
    "t.jsonl": pl.DataFrame.write_ndjson,
    "t.ndjson": pl.DataFrame.write_ndjson,
}


@pytest.mark.parametrize("name", WRITERS)
def test_formats_of_polars(tmp_path, name):
    path = str(tmp_path / name)
    WRITERS[name](FRAME, path)
    table = open_table(path)
    assert table.header == ["a", "b", "c"]
    assert table.read(["c", "a", "b"]).equals(FRAME.select("c", "a", "b"))
    assert pl.concat(table.batches(["b", "a"], 2)).equals(FRAME.select("b", "a"))
    (tmp_path / name).write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="cannot be read as"):
        open_table(path).read(["a"])


@pytest.mark.parametrize(
    ("name", "column"), [("t.parquet", "__index_level_0__"), ("t.arrow", "__index_level_0__"), ("t.xlsx", "")]
)
def test_an_index_of_pandas_is_left_out(tmp_path, name, column):
    frame = pl.DataFrame({"x": [0.5, 1, 2] * 20, "y": ["a", "b", "c"] * 20})
    frame = frame.with_columns(pl.Series([7 * i % 61 for i in range(60)]).alias(column))
    if name == "t.xlsx":
        with pytest.importorskip("xlsxwriter").Workbook(tmp_path / name) as book:
            sheet = book.add_worksheet()
            for i, row in enumerate([frame.columns, *frame.rows()]):
                sheet.write_row(i, 0, row)
    else:
        WRITERS[name](frame, str(tmp_path / name))
    options = {**OPTIONS, "path": str(tmp_path / name), "target": "y"}
    with pytest.warns(ls.LossSelectWarning, match=r"no name and a different integer.*index_column"):
        splits = load_own_data("table", task={"name": "multiclass"}, **options)
    assert splits.columns == ("x",)


class TestShards:
    @pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".jsonl"])
    def test_files_of_a_folder_or_a_pattern(self, tmp_path, suffix):
        folder = tmp_path / "data"
        (folder / "part").mkdir(parents=True)
        for i, name in enumerate(["train-1", "train-0", "part/train-2"]):
            WRITERS[f"t{suffix}"](FRAME.with_columns(a=pl.lit(i)), str(folder / f"{name}{suffix}"))
        (folder / "_SUCCESS").touch()
        (folder / f".hidden{suffix}").touch()
        assert open_table(str(folder)).read(["a"])["a"].to_list() == [2, 2, 2, 1, 1, 1, 0, 0, 0]
        pattern = open_table(str(folder / f"train-*{suffix}"))
        assert pattern.read(["a"])["a"].to_list() == [1, 1, 1, 0, 0, 0]
        assert pl.concat(pattern.batches(["a"], 2)).height == 6

    def test_other_folders(self, tmp_path):
        with pytest.raises(ConfigError, match=r"The folder .* has no files"):
            open_table(str(tmp_path))
        (tmp_path / "a.png").touch()
        with pytest.raises(ConfigError, match=r"has files of other kinds, such as a\.png"):
            open_table(str(tmp_path))
        with pytest.raises(ConfigError, match=r"The pattern .*\*\.parquet has no files"):
            open_table(str(tmp_path / "*.parquet"))

    @pytest.mark.parametrize("name", ["", "*.csv"])
    def test_text_files_are_converted_with_the_code_in_the_message(self, tmp_path, monkeypatch, name):
        folder = tmp_path / "it's [1]"
        folder.mkdir()
        for i in range(2):
            FRAME.write_csv(folder / f"{i}.csv")
        monkeypatch.chdir(tmp_path if not name else folder)
        with pytest.raises(ConfigError, match=r"has \.csv files, .*polars\.scan_csv") as caught:
            open_table(name or folder.name)
        code = str(caught.value).partition("with: ")[2].rstrip(".")
        eval(code, {"polars": pl})
        assert open_table("all.parquet").read(["a"]).height == 2 * FRAME.height

    def test_json_lines_of_which_the_first_have_fewer_keys_and_other_types(self, tmp_path):
        (tmp_path / "0.jsonl").write_text('{"x": 1, "y": []}\n' * 3000)
        (tmp_path / "1.jsonl").write_text('{"x": 1.5, "y": ["b"], "z": "k"}\n' * 2000)
        (tmp_path / "2.jsonl").write_text('{"y": null}\n')
        table = open_table(str(tmp_path))
        expected = [(1.0, [], None)] * 3000 + [(1.5, ["b"], "k")] * 2000 + [(None, None, None)]
        assert table.read(["x", "y", "z"]).rows() == expected
        assert pl.concat(table.batches(["x", "y", "z"], 7)).rows() == expected
        table.convert(["x", "y", "z"], tmp_path / "t.parquet")
        assert pl.read_parquet(tmp_path / "t.parquet").rows() == expected

    def test_shards_of_other_columns(self, tmp_path):
        FRAME.write_parquet(tmp_path / "0.parquet")
        FRAME.rename({"b": "other"}).write_parquet(tmp_path / "1.parquet")
        with pytest.raises(DataError, match="cannot be read as a Parquet file"):
            open_table(str(tmp_path)).read(["b"])


class TestExcel:
    pytest.importorskip("fastexcel", reason="fastexcel is not installed")
    xlsxwriter = pytest.importorskip("xlsxwriter", reason="xlsxwriter is not installed")

    def write(self, path, **sheets):
        with self.xlsxwriter.Workbook(path) as book:
            for name, frame in sheets.items():
                frame.write_excel(book, worksheet=name)

    def test_a_sheet(self, tmp_path):
        path = str(tmp_path / "t.xlsx")
        self.write(path, only=FRAME)
        assert open_table(path).read(["a", "b", "c"]).rows() == FRAME.rows()

    def test_several_sheets(self, tmp_path):
        path = str(tmp_path / "t.xlsx")
        self.write(path, first=FRAME, second=FRAME.head(1))
        with pytest.raises(ConfigError, match=r"has 2 sheets: first, second. Set data\.sheet=first"):
            open_table(path)
        assert open_table(path, TableOptions(sheet="second")).read(["a"]).height == 1
        with pytest.raises(ConfigError, match=r"data.sheet='third' is not valid for "):
            open_table(path, TableOptions(sheet="third"))

    def test_a_title(self, tmp_path):
        path = str(tmp_path / "t.xlsx")
        with self.xlsxwriter.Workbook(path) as book:
            sheet = book.add_worksheet()
            sheet.write(0, 0, "A title")
            for i, row in enumerate([("a", "y"), (1, "x"), (2, "z")]):
                sheet.write_row(i + 2, 0, row)
        with pytest.raises(DataError, match=r"no column 'y'.*If a title comes before .*data\.skip_lines"):
            check_columns(["y"], open_table(path).header, "data.target", path)
        table, options = open_table(path, TableOptions(skip_lines=2)), TableOptions(skip_lines=2)
        table.check_unused(options)
        assert table.read(["a", "y"]).rows() == [(1, "x"), (2, "z")]

    def test_a_damaged_file(self, tmp_path):
        path = tmp_path / "t.xlsx"
        self.write(str(path), only=FRAME)
        path.write_bytes(path.read_bytes()[:500])
        with pytest.raises(DataError, match="cannot be read as an Excel file"):
            open_table(str(path))


class TestArff:
    def test_numbers_and_nominal_values(self, tmp_path):
        path = tmp_path / "t.arff"
        path.write_text("@relation r\n@attribute a numeric\n@attribute b {x,y}\n@data\n1,x\n?,y\n2.5,?\n")
        assert open_table(str(path)).read(["a", "b"]).rows() == [(1, "x"), (None, "y"), (2.5, None)]

    @pytest.mark.parametrize("name", ["t.arff", "t.dat"])
    def test_text_ranges_and_quotes(self, tmp_path, name):
        path = tmp_path / name
        path.write_text(
            "@relation r\n@attribute 'a b' real [4.3, 7.9]\n@attribute t string\n@attribute class {'p q', 'it\\'s'}\n"
            "@inputs a\n@data\n% a comment\n1.5, 'x, y', 'p q'\n2,?,'it\\'s'\n\n"
        )
        rows = open_table(str(path)).read(["a b", "t", "class"]).rows()
        assert rows == [(1.5, "x, y", "p q"), (2.0, None, "it's")]

    def test_many_blanks_take_no_time(self, tmp_path):
        path = tmp_path / "t.arff"
        path.write_text(f"@relation r\n@attribute a{' ' * 300_000}numeric{' ' * 300_000}[0,1]\n@data\n1\n")
        assert open_table(str(path)).read(["a"]).rows() == [(1,)]

    def test_escapes_of_weka(self, tmp_path):
        path = tmp_path / "t.arff"
        path.write_text(
            "@relation r\n@attribute t string\n@attribute u string\n@data\n'a\\nb\\tc\\\\n','50\\%\u2028d'\n"
        )
        assert open_table(str(path)).read(["t", "u"]).rows() == [("a\nb\tc\\n", "50%\u2028d")]

    def test_sparse_rows(self, tmp_path):
        path = tmp_path / "t.arff"
        head = "@relation r\n@attribute a numeric\n@attribute b {no,yes}\n@attribute c{0,1}\n@data\n"
        path.write_text(head + "{0 2.5, 2 1}\n{}\n{1 yes,0 ?}\n")
        rows = open_table(str(path)).read(["a", "b", "c"]).rows()
        assert rows == [(2.5, "no", "1"), (0.0, "no", "0"), (None, "yes", "0")]

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (
                "@attribute a numeric\n@data\nfoo\n",
                "Row 0 of column 'a' is 'foo', but the attribute is declared as",
            ),
            ("@attribute a {x,y}\n@data\nx\nz\n", "Row 1 of column 'a' is 'z'"),
            ("@attribute a {x,y}\n@data\n%\nx\nx,y\n", "has 2 cells, but there are 1 attributes: 'x,y'"),
            ("@attribute a numeric\n@data\n{1 5}\n", "lists '1 5', but expected an index below 1 and a cell"),
            ("@attribute a numeric\n@data\n{}\n\n{0 5,0 5}\n", "lists index 0 twice"),
            ("@attribute a numeric\n@attribute a real\n@data\n1,2\n", "more than one attribute 'a'"),
            ("no arff", "no line @data"),
        ],
    )
    def test_invalid_lines(self, tmp_path, lines, message):
        path = tmp_path / "t.arff"
        path.write_text(f"@relation r\n{lines}")
        with pytest.raises(DataError, match=re.escape(message)):
            open_table(str(path)).read(["a"])


class TestJson:
    @pytest.mark.parametrize(
        "content", ['[{"a": 1, "b": "x"}, {"a": 2, "b": null}]', '{"a": 1, "b": "x"}\n{"a": 2, "b": null}\n']
    )
    def test_a_list_or_lines(self, tmp_path, content):
        path = tmp_path / "t.json"
        path.write_text(content)
        assert open_table(str(path)).read(["a", "b"]).rows() == [(1, "x"), (2, None)]

    def test_a_single_object(self, tmp_path):
        path = tmp_path / "instances.json"
        path.write_text('{"images": [{"id": 1}], "annotations": []}')
        with pytest.raises(
            ConfigError, match=r"a single JSON object.*It has: images, annotations\. Convert it"
        ):
            open_table(str(path))


class TestOtherContent:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (gzip.compress(b"a,b\n1,2\n", mtime=0), "contains gzip data. Rename it to t.csv.gz."),
            (b"PK\x03\x04 damaged", "contains ZIP data. Rename it to t.csv.zip."),
            (b"PAR1\x15\x00\x15\x90", "contains Parquet data. Rename it to t.parquet."),
            (b"\x93NUMPY\x01\x00", "Rename it to t.npy. Then set data=arrays."),
            (pickle.dumps([1]), "a pickle can run code"),
            (b"\x89HDF\r\n\x1a\n", "pandas.read_hdf('t.csv').to_parquet('t.parquet')"),
            (b"\xd0\xcf\x11\xe0\xa1\xb1", "pandas.read_excel"),
            (b"MATLAB 5.0 MAT-file", "scipy.io.loadmat"),
            (b"%PDF-1.7", "Save the table as a .csv or .parquet file."),
            (b"\x89PNG\r\n", "examples/images"),
            (b"\n<!DOCTYPE html><html>", "is a web page (HTML)"),
        ],
    )
    def test_of_a_csv(self, tmp_path, content, message):
        path = tmp_path / "t.csv"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=re.escape(message)) as caught:
            open_table(str(path))
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize("name", ["PAR1", "BZh", "PK", "BM"])
    def test_names_like_magic_bytes(self, tmp_path, name):
        path = tmp_path / "t.csv"
        path.write_text(f"{name},b\n1,2\n")
        assert open_table(str(path)).header == [name, "b"]

    def test_archives_of_other_programs(self, tmp_path):
        path = tmp_path / "t.csv"
        with path.open("wb") as file:
            np.savez(file, X=np.zeros(3))
        with pytest.raises(
            ConfigError, match=r"NumPy archive data\. Rename it to t\.npz. Then set data=arrays"
        ):
            open_table(str(path))

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("t.h5", "pandas.read_hdf('t.h5').to_parquet('t.parquet')"),
            ("t.pkl", "a pickle can run code"),
            ("t.joblib", "pandas.read_pickle"),
            ("t.mat", "scipy.io.loadmat('t.mat')"),
            ("t.rds", "readRDS"),
            ("t.jpg", "examples/images"),
            ("t.odt", "Save the table in one of these formats."),
            ("t.tgz", "an archive of files. Extract it"),
        ],
    )
    def test_of_a_kind_that_is_not_read(self, tmp_path, name, message):
        (tmp_path / name).write_bytes(b"a,b\n1,2\0\n")
        with pytest.raises(ConfigError, match=re.escape(message)):
            open_table(str(tmp_path / name))

    @pytest.mark.parametrize("path", ["https://x.org/a.csv", "s3://bucket/a.parquet"])
    def test_a_url(self, path):
        with pytest.raises(ConfigError, match=r"is a URL, but data are read from files. Download the file"):
            open_table(path)


ARFF = "@relation r\n@attribute a numeric\n@attribute b {x,y}\n@data\n" + "1,x\n2,y\n" * 20
ROWS = pl.DataFrame({"a": [1, 2] * 20, "b": ["x", "y"] * 20})


class TestFilesReadAsAWhole:
    """They are parsed once, and must fit into memory."""

    @pytest.fixture(params=["t.arff", "t.json", "t.xlsx"])
    def path(self, request, tmp_path):
        path = tmp_path / request.param
        if path.suffix == ".arff":
            path.write_text(ARFF)
        elif path.suffix == ".json":
            ROWS.write_json(path)
        else:
            pytest.importorskip("fastexcel")
            pytest.importorskip("xlsxwriter")
            ROWS.write_excel(path)
        return str(path)

    def test_parsed_once(self, path, tmp_path, monkeypatch):
        parsers, calls = dict(formats._PARSERS), []
        for form, parse in parsers.items():
            monkeypatch.setitem(
                formats._PARSERS, form, lambda *args, parse=parse: (calls.append(args), parse(*args))[1]
            )
        table = open_table(path)
        assert table.memory >= 40 * 2 * 8
        assert table.read(["b"]).rows() == ROWS.select("b").rows()
        assert pl.concat(table.batches(["a", "b"], 7)).rows() == ROWS.rows()
        table.convert(["a"], tmp_path / "t.parquet")
        assert len(calls) == 1

    def test_too_little_memory(self, path, monkeypatch):
        monkeypatch.setattr(content, "free_memory", lambda: 400)
        with pytest.raises(
            DataError, match=r"a quarter of the free memory, but an? .* file is read .*\.parquet"
        ):
            open_table(path)

    def test_excel_files_expand(self, tmp_path, monkeypatch):
        path = tmp_path / "t.xlsx"
        pytest.importorskip("fastexcel")
        pytest.importorskip("xlsxwriter")
        pl.DataFrame({"a": [1.5] * 20_000}).write_excel(path)
        monkeypatch.setattr(content, "free_memory", lambda: 4 * path.stat().st_size + 4)
        with pytest.raises(DataError, match="an Excel file is read into memory as a whole"):
            open_table(str(path))

    def test_sparse_rows_expand(self, tmp_path, monkeypatch):
        path = tmp_path / "t.arff"
        names = "".join(f"@attribute a{i} numeric\n" for i in range(1000))
        path.write_text(f"@relation r\n{names}@data\n" + "{0 1}\n" * 1000)
        assert open_table(str(path)).read(["a0", "a9"]).row(-1) == (1, 0)
        monkeypatch.setattr(content, "free_memory", lambda: 1_000_000)
        with pytest.raises(DataError, match="an ARFF file is read into memory as a whole"):
            open_table(str(path))

    @pytest.mark.parametrize(
        ("text", "options", "form"),
        [
            ("a,b\n1,é\n", {"encoding": "latin-1"}, "a text file in latin-1"),
            ("a,b\r1,2\r", {}, "a text file with line ends of CR"),
            ("a,b\n# comment\n1,2\n", {"comment": "#"}, "a text file with lines to leave out"),
            ("title\na,b\n1,2\n", {"skip_lines": 1}, "a text file with lines to leave out"),
            ("# a b y\n1 2 3\n", {"separator": " "}, "a text file with a comment as header"),
            ("a b\n1 2\n", {"separator": " "}, "a text file whose separator is more than a single character"),
            ("a,b\n1,2,3\n", {}, "a text file whose header lacks a name"),
            ("a,b\n1,2\n", {}, None),
        ],
    )
    def test_text_that_is_converted(self, tmp_path, monkeypatch, text, options, form):
        path = tmp_path / "t.csv"
        path.write_bytes(text.encode(options.get("encoding", "utf-8")))
        header = open_table(str(path), TableOptions(**options)).header
        assert len(header) >= 2
        monkeypatch.setattr(content, "free_memory", lambda: 16)
        if form is None:
            assert open_table(str(path), TableOptions(**options)).header == header
            return
        with pytest.raises(DataError, match=f"{form} is read into memory as a whole. Write it as comma-"):
            open_table(str(path), TableOptions(**options))
