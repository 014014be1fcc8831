"""CSV files and their relatives, as programs and people write them."""

import bz2
import csv
import gzip
import lzma
import zipfile
from pathlib import Path

import polars as pl
import pytest
from table_cases import OPTIONS

import lossselect as ls
from lossselect.data.files.load import load_own_data
from lossselect.data.readers import content
from lossselect.data.readers.formats import open_table
from lossselect.data.readers.tables import TableOptions
from lossselect.exceptions import ConfigError, DataError


@pytest.fixture
def read(tmp_path):
    """Return a function that writes a file and returns its table, read at once and in batches."""

    def read_content(content, name="t.csv", as_text=(), **options):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        table = open_table(str(path), TableOptions(**options))
        frame = table.read(table.header, as_text)
        batches = pl.concat(table.batches(table.header, 2))
        assert batches.columns == frame.columns
        assert batches.height == frame.height
        return frame

    return read_content


class TestSeparators:
    @pytest.mark.parametrize("name", ["t.csv", "t.txt", "t.dat", "t.data"])
    @pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
    def test_are_recognised(self, read, name, separator):
        content = "a,b c,d\n1,x y,2\n3,z w,4\n".replace(",", separator)
        assert read(content, name).rows() == [(1, "x y", 2), (3, "z w", 4)]

    @pytest.mark.parametrize(
        ("content", "name"),
        [
            ("a;b\n1,5;x\n2,5;y\n", "t.csv"),
            ("a;b\n1,5;x\n2,5;y\n", "t.txt"),
            ("a b\n1,5 x\n2,5 y\n", "t.txt"),
        ],
    )
    def test_decimal_commas_are_no_separators(self, read, content, name):
        assert read(content, name).rows() == [("1,5", "x"), ("2,5", "y")]

    def test_a_blank_after_each_comma(self, read):
        content = "39, State-gov, 77516\n50, Private, 83311\n38, Private, 215646\n"
        frame = read(content, "adult.data", header=False)
        assert frame.columns == ["column 0", "column 1", "column 2"]
        assert frame["column 1"].str.strip_chars().to_list() == ["State-gov", "Private", "Private"]

    @pytest.mark.parametrize("name", ["t.csv", "t.data"])
    def test_a_blank_before_a_quote(self, read, name):
        """The column of AudioSet's labels: Polars would take the quotes for text, and divide the cell."""
        content = 'id, start, labels\nx1, 30.0, "/m/09x0r,/t/dd00088"\nx2, 4, "a"\nx3, 5, b\n'
        assert read(content, name).rows() == [
            ("x1", 30.0, "/m/09x0r,/t/dd00088"),
            ("x2", 4.0, "a"),
            ("x3", 5.0, "b"),
        ]

    @pytest.mark.parametrize("row", ['  "b", 2', 'a, "2"', 'a,  ""'], ids=["first cell", "number", "empty"])
    @pytest.mark.parametrize("length", [1, 50_000])
    def test_blanks_before_a_quote_in_a_later_line(self, read, row, length):
        """Read without conversion, the cells would contain the quotation marks."""
        long = "a" * length
        frame = read("name,size\n" + f"{long},1\n" * 30 + f"{row}\nc,3\n")
        name, size = next(csv.reader([row], skipinitialspace=True))
        assert frame.rows()[29:] == [(long, 1), (name, int(size) if size else None), ("c", 3)]

    def test_doubled_quotes_after_a_comma_need_no_conversion(self, tmp_path):
        (tmp_path / "t.csv").write_text(
            'text,y\n"Good, ""very"" good",1\n"Bad, ""so bad""",0\n"Said: ""x""",1\n'
        )
        table = open_table(str(tmp_path / "t.csv"), TableOptions())
        assert table.content is None
        assert table.read(["text"]).item(1, 0) == 'Bad, "so bad"'

    @pytest.mark.parametrize("options", [{}, {"separator": " "}])
    def test_runs_of_blanks(self, read, options):
        content = '  18.0   8   "chevrolet chevelle"\n 15.0\t8   "buick skylark 320"  \n'
        frame = read(content, "auto.data", header=False, **options)
        assert frame.rows() == [(18.0, 8, "chevrolet chevelle"), (15.0, 8, "buick skylark 320")]

    def test_a_line_with_another_number_of_words(self, read):
        with pytest.raises(ConfigError, match=r"Row 1 of .* \(line 3\) has 3 cells, but the header has 2"):
            read("a  b\n1  2\n3  4  5\n", separator=" ")

    def test_numbers_with_commas_between_blanks_are_ambiguous(self, read):
        with pytest.raises(ConfigError, match=r"separator .* is not clear.*'1,5 2,5'.*data\.separator"):
            read("1,5 2,5\n3,5 4,5\n", "t.txt", header=False)

    def test_a_detected_separator_is_named_in_errors(self, read):
        with pytest.raises(ConfigError, match=r"Row 40 .* has 3 cells.* '\|' was detected as the separator"):
            read("1,b|2\n3,d|4\n" * 20 + "1|2|3\n", "t.data", header=False)

    @pytest.mark.parametrize(
        ("name", "options", "is_detected"),
        [("t.txt", {}, True), ("t.csv", {}, False), ("t.txt", {"separator": ";"}, False)],
    )
    def test_a_missing_target_may_come_from_the_detected_separator(
        self, tmp_path, name, options, is_detected
    ):
        path = tmp_path / name
        path.write_text("a,b;\n1,2;\n3,4;\n")
        settings = {**OPTIONS, "path": str(path), "target": "y", **options}
        with pytest.raises(DataError, match="has no column 'y'") as caught:
            load_own_data("table", task={"name": "multiclass"}, **settings)
        assert ("';' was detected as the separator" in str(caught.value)) == is_detected

    def test_a_text_without_columns(self, read):
        with pytest.raises(ConfigError, match="is not clear"):
            read("some\nwords of\na text\n", "t.txt")

    def test_excel_declares_its_separator(self, read):
        assert read("sep=;\r\na;b\r\n1;2\r\n").rows() == [(1, 2)]


class TestHeaders:
    def test_no_header(self, read):
        frame = read("1,x\n2,y\n", header=False)
        assert frame.rows(named=True) == [{"column 0": 1, "column 1": "x"}, {"column 0": 2, "column 1": "y"}]

    def test_blanks_around_names(self, read):
        assert read("a , b\n1,2\n").columns == ["a", "b"]

    @pytest.mark.parametrize(
        ("content", "names", "rows"),
        [
            (",a\n0,x\n1,y\n", ["column 0", "a"], [(0, "x"), (1, "y")]),  # pandas
            ('"","a"\n"r 1",2\n', ["column 0", "a"], [("r 1", 2)]),  # write.csv of R
            (
                '"a","b"\n"r1",1,2\n"r2",3,4\n',
                ["column 0", "a", "b"],
                [("r1", 1, 2), ("r2", 3, 4)],
            ),  # write.table
            ("\ufeffa,b\nr1,1,2\nr2,3,4\n", ["column 0", "a", "b"], [("r1", 1, 2), ("r2", 3, 4)]),
            ("a,b,\n1,2,\n3,4,\n", ["a", "b", "column 2"], [(1, 2, None), (3, 4, None)]),
            ("a,b\n1,2,\n3,4,\n", ["a", "b", "column 2"], [(1, 2, None), (3, 4, None)]),
        ],
    )
    def test_columns_without_a_name(self, read, content, names, rows):
        frame = read(content)
        assert frame.columns == names
        assert frame.rows() == rows

    def test_a_row_with_too_many_cells(self, read):
        with pytest.raises(ConfigError, match=r"\(line 2\) has 4 cells, but the header has 2"):
            read("a,b\n1,2,3,4\n")


def test_files_of_splits_without_a_header_have_the_same_columns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{'ab'[i % 2]},{i * 7 % 10}.5,{i * 3 % 8}" for i in range(40)]
    Path("train.csv").write_text("\n".join(rows) + "\n")
    Path("test.csv").write_text("a,1.5\nb,2.5\n")
    options = {**OPTIONS, "path": "train.csv", "target": "column 0", "header": False}
    options |= {"test_path": "test.csv"}
    with pytest.raises(DataError, match=r"Expected 3 columns as in training, got 2\. Without a header"):
        load_own_data("table", task={"name": "binary"}, positive="b", **options)


class TestUnnamedColumns:
    @pytest.mark.parametrize(
        "index", [[*range(60)], [*range(60, 0, -1)], [*range(30)] * 2, [*range(10, 70, 2)] * 2]
    )
    def test_an_index_is_left_out(self, load, index):
        frame = pl.DataFrame({"": index, "x": [i * 0.5 for i in range(60)], "y": ["a", "b", "c"] * 20})
        with pytest.warns(
            ls.LossSelectWarning, match=r"no name and a different integer.*'column 0'.*index_column"
        ):
            assert load(frame).columns == ("x",)

    def test_other_columns_are_features(self, load):
        frame = pl.DataFrame({"": [1, 2] * 30, "x": [i * 0.5 for i in range(60)], "y": ["a", "b", "c"] * 20})
        with pytest.warns(
            ls.LossSelectWarning, match=r"no name and is used .* 'column 0'.*data.exclude.*index_column"
        ):
            assert load(frame).columns == ("column 0", "x")
        assert load(frame, exclude=["column 0"]).columns == ("x",)

    def test_an_empty_column_is_left_out(self, load):
        frame = pl.DataFrame({"x": [i * 0.5 for i in range(60)], "y": ["a", "b", "c"] * 20, "": [None] * 60})
        assert load(frame).columns == ("x",)


class TestRowsInPlaceOfTheHeader:
    def columns(self, first, second, labels=("setosa", "other", "c")):
        return pl.DataFrame({first: [i * 0.5 for i in range(60)], second: [*labels] * 20})

    def test_a_number_and_a_label(self, load):
        frame = self.columns("5.1", "setosa")
        with pytest.raises(
            DataError, match=r"'setosa' \(data.target\) contains this label.*data\.header=false"
        ):
            load(frame, target="setosa")
        assert load(frame, target="setosa", header=True).class_names == ("c", "other", "setosa")
        assert load(frame, target="column 1", header=False, handle_unknown="ignore").columns == ("column 0",)

    def test_only_numbers(self, load):
        frame = self.columns("5.1", "7", (7, 8, 9))
        with pytest.raises(DataError, match=r"only numbers \(5.1, 7\)\. Set data\.header=false"):
            load(frame, target="7")
        assert load(frame, target="7", header=True).class_names == ("7", "8", "9")

    @pytest.mark.parametrize(("first", "second"), [("0", "1"), ("1", "2"), ("x", "setosa"), ("400", "kind")])
    def test_names(self, load, first, second):
        assert load(self.columns(first, second), target=second).columns == (first,)


class TestNumbers:
    def test_decimal_commas(self, read):
        frame = read("a;b;c\n1,5;007;x,y\n-,25;1e3;z\n2;1,5e-3;\n", decimal=",", as_text=["b"])
        assert frame.rows() == [(1.5, "007", "x,y"), (-0.25, "1e3", "z"), (2.0, "1.5e-3", None)]

    def test_new_rows_are_read_as_in_training(self, tmp_path):
        path = tmp_path / "t.csv"
        path.write_text("a;b\n1,5;x\n2,5;y\n")
        (batch,) = open_table(str(path), TableOptions(decimal=",")).batches(["a", "b"], 5)
        assert batch.rows() == [("1.5", "x"), ("2.5", "y")]

    def test_a_point_in_new_rows_may_separate_thousands(self, tmp_path):
        path = tmp_path / "t.csv"
        path.write_text("a;b;version\n1,5;x;1.234\n1.234;y;1.234\n")
        table = open_table(str(path), TableOptions(decimal=","))
        assert next(table.batches(["b"], 5)).height == 2
        with pytest.raises(DataError, match=r"Column 'a' .* contains '1\.234', and data\.decimal=','"):
            next(table.batches(["a", "b"], 5))

    def test_lists_of_labels_are_not_numbers(self, tmp_path):
        path = tmp_path / "t.csv"
        path.write_text("x;tags\n" + "1,5;1,2\n2,5;2,3\n3,5;1,3\n" * 10)
        splits = load_own_data(
            "table",
            **{**OPTIONS, "target": "tags", "path": str(path), "delimiter": ",", "decimal": ","},
            task={"name": "multilabel"},
        )
        assert splits.class_names == ("1", "2", "3")

    def test_the_same_separator(self):
        with pytest.raises(ConfigError, match="requires another separator"):
            TableOptions(separator=",", decimal=",")


class TestLines:
    def test_comments(self, read):
        content = "# Iris\n#\na,b\n1,x\n# half\n2,y#1\n"
        assert read(content, comment="#").rows() == [(1, "x"), (2, "y#1")]

    def test_a_line_of_a_quoted_cell_is_no_comment(self, read):
        content = 'a,b\n1,"x\n# y"\n# 2,"z\n3,w\n'
        assert read(content, comment="#").rows() == [(1, "x\n# y"), (3, "w")]

    @pytest.mark.parametrize(("quote", "inches"), [("none", '5"'), ("single", "'5\"'")])
    def test_other_quotes_do_not_hide_a_comment(self, read, quote, inches):
        content = f"a,b\n{inches},x\n# c,d\n3,w\n"
        assert read(content, comment="#", quote=quote).rows() == [('5"', "x"), ("3", "w")]

    def test_a_line_separator_of_unicode_is_part_of_a_cell(self, read):
        assert read("a,b\n1,x\u2028# y\n3,w\n", comment="#").rows() == [(1, "x\u2028# y"), (3, "w")]

    def test_a_row_after_comments_is_counted(self, read):
        with pytest.raises(ConfigError, match=r"Row 1 of .* \(line 4\) has 3 cells"):
            read("# Iris\na,b\n1,2\n3,4,5\n", comment="#")

    def test_empty_lines_before_the_header(self, read):
        assert read("\n\na,b\n1,2\n").rows() == [(1, 2)]

    @pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
    def test_line_ends_of_old_macs(self, read, encoding):
        assert read("a,b\r1,é\r2,y\r".encode(encoding), encoding=encoding).rows() == [(1, "é"), (2, "y")]

    def test_utf16(self, read):
        content = "a,b\n1,é\n"
        with pytest.raises(ConfigError, match=r"is encoded in UTF-16. Set data\.encoding=utf-16"):
            read(content.encode("utf-16"))
        assert read(content.encode("utf-16"), encoding="utf-16").rows() == [(1, "é")]


class TestSettingsWithoutEffect:
    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            (
                "t.parquet",
                {"separator": ";"},
                r"data\.separator has no effect: .*t\.parquet is a Parquet file",
            ),
            ("t.parquet", {"header": False}, r"data\.header has no effect"),
            ("t.parquet", {"encoding": "latin-1"}, r"data\.encoding has no effect"),
            ("t.jsonl", {"decimal": ","}, r"data\.decimal has no effect: .* is a JSON lines file"),
            ("t.csv", {"sheet": "a"}, r"data\.sheet has no effect: .* is a text file"),
        ],
    )
    def test_are_errors_in_training(self, tmp_path, name, options, message):
        frame, path = (
            pl.DataFrame({"x": [i * 0.5 for i in range(60)], "y": ["a", "b", "c"] * 20}),
            tmp_path / name,
        )
        {"t.parquet": frame.write_parquet, "t.jsonl": frame.write_ndjson, "t.csv": frame.write_csv}[name](
            path
        )
        with pytest.raises(ConfigError, match=message):
            load_own_data(
                "table",
                task={"name": "multiclass"},
                **{**OPTIONS, "path": str(path), "target": "y", **options},
            )


def test_long_cells_leave_the_limit_of_csv_unchanged(read):
    limit, cell = csv.field_size_limit(), "x" * 200_000
    assert read(f"a;b\n{cell};1\n\n2;3\n").rows() == [(cell, 1), ("2", 3)]
    assert read(f"a::b\n{cell}::1\n").rows() == [(cell, 1)]
    assert csv.field_size_limit() == limit < 200_000


class TestCompression:
    @pytest.mark.parametrize(
        ("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
    )
    def test_compressed_files(self, read, suffix, compress):
        content = b'a;b\n1;"x\ny"\n\n2;\n'
        assert read(compress(content), f"t.csv{suffix}").rows() == [(1, "x\ny"), (2, None)]
        assert read(compress(b'{"a": 1}\n{"a": 2}\n'), f"t.jsonl{suffix}").rows() == [(1,), (2,)]

    def test_zstandard(self, tmp_path):
        path = str(tmp_path / "t.csv.zst")
        frame = pl.DataFrame({"a": [1, 2], "b": ["x\ny", None]})
        frame.write_csv(path, compression="zstd")
        assert open_table(path).read(["a", "b"]).equals(frame)

    def test_an_archive(self, tmp_path):
        for count in (1, 2):
            path = tmp_path / f"{count}.zip"
            with zipfile.ZipFile(path, "w") as archive:
                for i in range(count):
                    archive.writestr(f"{i}.csv", "a,b\n1,2\n")
        assert open_table(str(tmp_path / "1.zip")).read(["a"]).rows() == [(1,)]
        with pytest.raises(DataError, match=r"contains 2 files. Extract it"):
            open_table(str(path))

    @pytest.mark.parametrize(
        "write", [pl.DataFrame.write_parquet, pl.DataFrame.write_ndjson, pl.DataFrame.write_csv]
    )
    def test_other_formats_in_an_archive(self, tmp_path, write):
        name = {"write_parquet": "a.parquet", "write_ndjson": "a.jsonl"}.get(write.__name__, "a.csv")
        write(pl.DataFrame({"a": [1, 2], "b": ["x", "y"]}), tmp_path / name)
        with zipfile.ZipFile(tmp_path / "t.csv.zip", "w") as archive:
            archive.write(tmp_path / name, f"folder/{name}")
        assert open_table(str(tmp_path / "t.csv.zip")).read(["a", "b"]).rows() == [(1, "x"), (2, "y")]

    @pytest.mark.parametrize("name", ["t.csv.gz", "t.csv.zst", "t.zip"])
    def test_a_file_that_is_not_compressed(self, tmp_path, name):
        (tmp_path / name).write_text("a,b\n1,2\n")
        with pytest.raises(DataError, match=r"is not a .* file\. Rename it"):
            open_table(str(tmp_path / name))

    def test_more_content_than_memory(self, tmp_path, monkeypatch):
        (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 1000))
        monkeypatch.setattr("lossselect.data.readers.content.free_memory", lambda: 8000)
        with pytest.raises(
            DataError, match=r"a compressed file is read into memory as a whole\. Decompress it"
        ):
            open_table(str(tmp_path / "t.csv.gz"))

    def test_a_small_zstandard_file_with_more_content_than_memory(self, tmp_path, monkeypatch):
        """Each of its blocks repeats a byte 100,000 times."""
        path, blocks = tmp_path / "t.csv.zst", [100_000 << 3 | 1 << 1 | last for last in [0] * 99 + [1]]
        path.write_bytes(
            b"\x28\xb5\x2f\xfd\0\x58" + b"".join(head.to_bytes(3, "little") + b"x" for head in blocks)
        )
        assert open_table(str(path)).header == ["x" * 10_000_000]
        monkeypatch.setattr(content, "free_memory", lambda: 39_000_000)
        monkeypatch.setattr(content, "scan_lines", lambda _: pytest.fail("decompressed"))
        with pytest.raises(DataError, match=r"contains more than 0\.0 GB, a quarter of the free memory"):
            open_table(str(path))

    @pytest.mark.parametrize("copies", [1, 3])
    def test_the_size_of_zstandard_content(self, tmp_path, copies):
        frame = pl.DataFrame({"a": range(100_000), "b": ["x,y", ""] * 50_000, "c": ["a\n\nb", "é"] * 50_000})
        frame.write_csv(tmp_path / "t.csv.zst", compression="zstd")
        assert open_table(str(tmp_path / "t.csv.zst")).read(["a", "b", "c"]).equals(frame)
        size, skipped = len(frame.write_csv().encode()), b"\x50\x2a\x4d\x18\x02\0\0\0ab"
        path = tmp_path / "frames.zst"
        path.write_bytes((skipped + (tmp_path / "t.csv.zst").read_bytes()) * copies)
        assert copies * size <= content._zstd_bound(path) < copies * (size + (1 << 17))
        path.write_bytes(path.read_bytes()[:-100])
        assert content._zstd_bound(path) > 0

    def test_another_encoding(self, tmp_path):
        (tmp_path / "t.csv.gz").write_bytes(gzip.compress("a,b\n1,é\n".encode("latin-1")))
        table = open_table(str(tmp_path / "t.csv.gz"), TableOptions(encoding="latin-1"))
        assert table.read(["b"]).rows() == [("é",)]

    def test_a_damaged_file(self, read):
        content = gzip.compress(b"a,b\n" + b"1,2\n" * 1000)
        with pytest.raises(DataError, match="cannot be decompressed"):
            read(content[: len(content) // 2], "t.csv.gz")
