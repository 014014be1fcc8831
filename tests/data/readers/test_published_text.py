"""Text files with headers, quotes, separators and numbers as publishers of data write them."""

import re

import pytest
from table_cases import OPTIONS

import lossselect as ls
from lossselect.data.files.load import load_own_data
from lossselect.data.readers.formats import open_table
from lossselect.data.readers.tables import TableOptions
from lossselect.exceptions import ConfigError, DataError


@pytest.fixture
def rows(tmp_path):
    """Return a function that writes a file and returns its rows."""

    def read(content, name="t.csv", columns=None, **options):
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        table = open_table(str(tmp_path / name), TableOptions(**options))
        return table.read(columns or table.header).rows()

    return read


class TestNames:
    @pytest.mark.parametrize("name", ["adult.test", "sat.trn", "kddcup.data_10_percent", "SMSSpamCollection"])
    def test_any_suffix_of_a_text_file(self, rows, name):
        assert rows("a,b\n1,x\n2,y\n", name) == [(1, "x"), (2, "y")]

    def test_binary_content(self, rows):
        with pytest.raises(ConfigError, match=r"Expected a file with one of the suffixes .*, got .*t\.xyz"):
            rows(b"a,b\0\n1,2\n", "t.xyz")


class TestHeader:
    @pytest.mark.parametrize("sign", ["# ", "% ", "#  "])
    def test_of_numpy(self, rows, sign):
        assert rows(f"{sign}a b\n1.0 2.5\n3.0 4.5\n", "t.txt", ["a", "b"]) == [(1.0, 2.5), (3.0, 4.5)]

    def test_in_the_last_comment(self, rows):
        assert rows("# by me\n# a,b\n1,x\n3,y\n", columns=["a", "b"], comment="#") == [(1, "x"), (3, "y")]

    @pytest.mark.parametrize("content", ["# one, two\na,b\n1,x\n3,y\n", "# a b c\na,b\n1,x\n3,y\n"])
    def test_a_comment_before_the_header(self, rows, content):
        assert rows(content, columns=["a", "b"], comment="#") == [(1, "x"), (3, "y")]

    def test_a_name_that_starts_with_a_sign(self, rows):
        assert rows("#a,b\n1,x\n3,y\n", columns=["#a", "b"]) == [(1, "x"), (3, "y")]

    def test_lines_before_it(self, rows):
        content = 'Table 1, "2020"\n\na,b,y\n1,2,x\n3,4,y\n'
        with pytest.raises(
            ConfigError, match=r"\(line 3\) has 3 cells, .*table starts in line 3, set data.skip_lines=2"
        ):
            rows(content)
        assert rows(content, columns=["a", "y"], skip_lines=2) == [(1, "x"), (3, "y")]

    def test_the_line_with_the_target_is_named(self, tmp_path):
        path = tmp_path / "t.csv"
        path.write_text("Data Source,WDI,\n\na,b,y\n1,2,x\n")
        with pytest.raises(DataError, match=r"no column 'y'.*names are in line 3, set data.skip_lines=2"):
            load_own_data("table", task={"name": "multiclass"}, **OPTIONS, path=str(path), target="y")

    def test_names_of_rows_in_r(self, rows):
        content = '"a" "b"\n"1" 2.5 "x"\n"2" 3.5 "y"\n'
        assert rows(content, "t.txt") == [(1, 2.5, "x"), (2, 3.5, "y")]

    @pytest.mark.parametrize("line", ["2.5,1,'x, y'", "1,2,'x, y'"])
    def test_an_additional_cell_that_is_no_name_of_a_row(self, rows, line):
        with pytest.raises(ConfigError, match=r"has 4 cells, but the header has 3.*data.quote=single"):
            rows(f"a,b,c\n{line}\n{line}\n")


class TestQuotes:
    TEXT = 'y\ttext\n0\t"one\n1\ttwo"\n0\tthree\n'

    def test_that_join_complete_lines(self, rows):
        with pytest.raises(
            DataError, match=r"join lines that have 2 cells each \(1 lines\).*data.quote=none"
        ):
            rows(self.TEXT, "t.tsv")
        assert rows(self.TEXT, "t.tsv", quote="none") == [(0, '"one'), (1, 'two"'), (0, "three")]

    def test_around_several_lines(self, rows):
        assert rows('y\ttext\n0\t"one\ntwo"\n1\tthree\n', "t.tsv") == [(0, "one\ntwo"), (1, "three")]

    def test_of_another_kind(self, rows):
        assert rows("a,b\n1,'x, y'\n2,z\n", quote="single") == [(1, "x, y"), (2, "z")]

    def test_none_between_blanks(self, rows):
        assert rows('a b\n1 "x\n2 y\n', "t.txt", quote="none", separator=" ") == [(1, '"x'), (2, "y")]


class TestSeparators:
    @pytest.mark.parametrize("separator", ["::", "||", "§"])
    def test_of_several_bytes(self, rows, separator):
        content = "a,b\n1,x y\n2,z\n".replace(",", separator)
        assert rows(content, separator=separator) == [(1, "x y"), (2, "z")]

    def test_two_colons_are_recognised(self, rows):
        assert rows("1::Toy Story::A|B\n2::Heat::C\n3::Jumanji::A\n", "movies.dat", header=False)[1] == (
            2,
            "Heat",
            "C",
        )

    def test_blanks_next_to_decimal_commas(self, rows):
        assert rows("a b\n1,5 2,5\n3,5 4,5\n", "t.txt", decimal=",") == [(1.5, 2.5), (3.5, 4.5)]


class TestDecimalCommas:
    def test_points_of_thousands(self, rows):
        assert rows("a;b\n1.234,5;x\n12.345.678,25;y\n7,5;z\n", decimal=",")[1] == ("12345678.25", "y")

    def test_points_that_are_unclear(self, rows):
        with pytest.raises(DataError, match=r"Column 'a' of .* contains '1\.234', and data\.decimal=','"):
            rows("a;b\n1.234;0,5\n15.234;1,5\n", decimal=",")

    def test_points_that_are_decimal_points(self, rows):
        assert rows("a;b\n1.234;0,5\n15.25;1,5\n", decimal=",")[0] == ("1.234", 0.5)


class TestEncodings:
    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    def test_of_two_or_four_bytes(self, rows, encoding):
        content = "a,b\n1,é\n2,y\n".encode(encoding)
        with pytest.raises(
            ConfigError, match=rf"is encoded in {encoding.upper()}. Set data.encoding={encoding}\."
        ):
            rows(content)
        assert rows(content, encoding=encoding) == [(1, "é"), (2, "y")]

    def test_a_pointer_of_git_lfs(self, rows):
        with pytest.raises(ConfigError, match="is a pointer of Git LFS"):
            rows("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def test_labels_in_another_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "X.txt").write_text("1 2\n3 4\n")
    (tmp_path / "y.txt").write_text("0\n1\n")
    message = "run: paste -d ' ' X.txt y.txt > joined.txt"
    with pytest.raises(DataError, match=re.escape(message)):
        load_own_data("table", task={"name": "binary"}, **OPTIONS, path="X.txt", target="y.txt", header=False)


def test_the_labels_of_mulan(tmp_path):
    path, names = tmp_path / "t.csv", tmp_path / "t.xml"
    path.write_text("x,a&b,c\n" + "".join(f"{i / 7},{i % 2},{i % 3 // 2}\n" for i in range(30)))
    names.write_text("<labels><label name=\"a&amp;b\"></label>\n<label name='c'/></labels>")
    options = {**OPTIONS, "path": str(path), "target": str(names)}
    assert load_own_data("table", task={"name": "multilabel"}, **options).class_names == ("a&b", "c")
    names.write_text("<labels/>")
    with pytest.raises(DataError, match="has no label such as"):
        load_own_data("table", task={"name": "multilabel"}, **options)


def test_a_cell_of_10_megabytes(rows):
    text = 'one "two" ' * 1_000_000
    quoted = text.replace('"', '""')
    assert rows(f'a,b\n1,"{quoted}"\n2,\n\n') == [(1, text), (2, None)]
    with pytest.raises(DataError) as caught:
        ls.Vocabulary((text, "b")).encode([f"{text}c"])
    assert len(str(caught.value)) < 1000
