"""Reader of tables in text: CSV and its relatives, as programs and people write them."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
from polars.selectors import by_name

from lossselect.data.readers.content import START_BYTES, check_fits, read_start, scan_lines
from lossselect.data.readers.separators import (
    UNIT_SEPARATOR,
    allow_long_cells,
    check_points,
    find_separator,
    is_plain,
    replace_commas,
    split_lines,
    without_comments,
)
from lossselect.data.readers.suffixes import TEXT
from lossselect.data.readers.tables import QUOTES, Table, TableOptions, drop_rows
from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.values import as_number
from lossselect.utils.checks import first_line

INFERRED_ROWS = 10_000
"""Number of rows from which a column's type is inferred; all rows if a later one does not fit the type."""
SAMPLE_LINES = 20
QUOTE_HINT = "Close each quotation mark, or set data.quote=none if they are part of the text."


class TextTable(Table):
    """A text file of separated cells; empty lines do not count as rows.

    Files that Polars does not read as they are (compressed, in another encoding, with comments, with runs of
    blanks between columns, ...) are converted in memory.

    Args:
        file: The file.
        options: See `TableOptions`.
        usual: The usual separator of this kind of file; None if there is none.
        content: The content of a compressed file.
    """

    @allow_long_cells()
    def __init__(self, file: Path, options: TableOptions, usual: str | None, content: bytes | None) -> None:
        self.file, self.files, self.format, self.options = file, [file], TEXT, options
        self.content, self.skipped, self.last_comment = content, 0, ""
        self.quote = QUOTES[options.quote]
        try:
            self._decode()
            self._drop_lines()
            self.separator = self.options.separator or self._find_separator(usual)
            self._restore_header()
            mark = (self.quote or "").encode()
            self.has_quotes = bool(mark) and any(mark in block for block in self._blocks())
            if not is_plain(self._blocks() if self.has_quotes else (), self.separator, self.quote):
                self._convert_separator()
            first, second = [*self.first_cells(2), [], []][:2]
        except csv.Error as error:
            raise DataError(
                f"The header of {self.file} cannot be read: {error}. Correct its first line."
            ) from None
        except UnicodeError:
            raise self._decoding_error() from None
        self._name_columns(first, second)
        self._check_header()
        self.size = file.stat().st_size if self.content is None else len(self.content)

    def _decode(self) -> None:
        """Convert another encoding to UTF-8, and line ends of a single CR to LF."""
        start, encoding = read_start(self.file, self.content), self.options.encoding
        is_utf8 = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
        if is_utf8 and (b"\n" in start or b"\r" not in start):
            return
        how = "with line ends of CR" if is_utf8 else f"in {encoding}"
        text = self._load(how).decode(encoding).removeprefix("\ufeff")
        if "\r" in text[:START_BYTES] and "\n" not in text[:START_BYTES]:
            text = text.replace("\r", "\n")
        self.content = text.encode()

    def _drop_lines(self) -> None:
        """Remove comments, empty lines before the header, and the line sep=; that Excel writes."""
        start = read_start(self.file, self.content).decode("utf-8-sig", errors="replace")
        comment, declared = self.options.comment, re.match(r"sep=(.)\r?\n", start)
        skipped = self.options.skip_lines
        if comment is None and declared is None and not skipped and not re.match(r"\s*\n", start):
            return
        # str.splitlines would also divide lines at characters such as U+0085 and U+2028
        text = self._load("with lines to leave out").decode("utf-8-sig")
        lines = [*io.StringIO(text, newline="")]
        lines[:skipped] = [""] * min(skipped, len(lines))
        if declared:
            lines[0] = ""
            if self.options.separator is None:
                self.options = TableOptions(**{**vars(self.options), "separator": declared[1]})
        if comment is not None:
            others = [*without_comments(lines, comment, self.quote)]
            first = next((i for i, line in enumerate(others) if line.strip()), len(others))
            self.last_comment = next((line for line in reversed(lines[:first]) if line.strip()), "")
            lines = others
        self.skipped = next((i for i, line in enumerate(lines) if line.strip()), 0)
        self.content = "".join(lines[self.skipped :]).encode()

    def _find_separator(self, usual: str | None) -> str:
        lines = self._first_lines()
        found = find_separator(lines, usual, self.quote, self.options.decimal)
        if found is None:
            raise ConfigError(
                f"The separator of the columns of {self.file} is not clear. Its first line is "
                f"{lines[0].strip()[:80] if lines else ''!r}. Set data.separator, such as data.separator=';' "
                "or, for any number of blanks, data.separator=' '. If a title comes first, remove it, or set "
                "data.skip_lines, which applies to the files of all splits."
            )
        if found != usual:
            self.separator_hint = f" {found!r} was detected as the separator; data.separator sets another."
        return found

    def _restore_header(self) -> None:
        """Use a comment before a row with numbers as the header if it has a name for each cell.

        `numpy.savetxt` writes such headers. Without data.comment, the sign must be an additional cell:
        "# a b y".
        """
        lines, comment = self._first_lines(), self.last_comment
        line, row = ([comment] * bool(comment) + lines + ["", ""])[:2]
        found = re.match(re.escape(self.options.comment or "") or "[#%]+ ", line.lstrip())
        if self.options.header is False or found is None or not row:
            return
        bare = line.lstrip()[found.end() :].lstrip()
        names, cells, written = ([*next(self._split([text]), [])] for text in (bare, row, line))
        are_names = all(name.strip() and as_number(name) is None for name in names)
        has_numbers = any(as_number(cell) is not None for cell in cells)
        if not (are_names and has_numbers and len(names) == len(cells)):
            return
        if not comment and len(written) == len(cells):  # the sign may be part of the first name
            return
        content = self._load("with a comment as header")
        self.content = bare.encode() + (content if comment else content.partition(b"\n")[2])
        self.skipped -= bool(comment)

    def _convert_separator(self) -> None:
        """Convert runs of blanks and tabs, blanks before quotes, and separators of several bytes."""
        output = io.StringIO()
        form: Any = {"delimiter": UNIT_SEPARATOR, "lineterminator": "\n", "quotechar": self.quote}
        form["quoting"] = csv.QUOTE_NONE if self.quote is None else csv.QUOTE_MINIMAL
        writer = csv.writer(output, **form)
        self.content = self._load("whose separator is more than a single character")
        with self._open_text() as text:
            writer.writerows(self._split(text))
        self.content, self.separator = output.getvalue().encode(), UNIT_SEPARATOR

    def _name_columns(self, first: list[str], second: list[str]) -> None:
        names = [name.strip() for name in first]
        if self.options.header is False:
            self.header = [f"column {i}" for i in range(len(names))]
            return
        if len(names) > 1 and len(second) == len(names) + 1:
            at_end = second[-1] == ""
            if at_end or self._has_row_names():
                self._add_name(names, at_end)
        self.header = [name or f"column {i}" for i, name in enumerate(names)]
        self.unnamed = tuple(f"column {i}" for i, name in enumerate(names) if not name)
        if len(self.unnamed) == len(names):
            self.header = []  # an empty line

    def _has_row_names(self) -> bool:
        """Return whether the first cells of the rows may be names of rows, as R writes them."""
        cells = [row[0] for row in self.first_cells(SAMPLE_LINES - 1)[1:] if row]
        numbers = [as_number(cell) for cell in cells]
        return len({*cells}) == len(cells) and all(n is None or n == n // 1 for n in numbers)

    def _add_name(self, names: list[str], at_end: bool) -> None:
        """Add an empty name for a column that has only cells: names of rows as R writes them, or nothing."""
        names.insert(len(names) if at_end else 0, "")
        line, _, rest = self._load("whose header lacks a name").partition(b"\n")
        separator = self.separator.encode()
        line = line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r")
        self.content = (line + separator if at_end else separator + line) + b"\n" + rest

    def _load(self, how: str) -> bytes:
        """Return the content, to convert it in memory; the file is a text file `how`, for the message."""
        if self.content is not None:
            return self.content
        fix = "Write it as comma-separated text in UTF-8"
        check_fits(self.file, self.file.stat().st_size, f"a text file {how}", fix)
        return self.file.read_bytes()

    @contextmanager
    def _open_bytes(self) -> Iterator[Any]:
        with io.BytesIO(self.content) if self.content is not None else self.file.open("rb") as file:
            yield file

    @contextmanager
    def _open_text(self) -> Iterator[Any]:
        with self._open_bytes() as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
            yield text

    def _split(self, lines: Iterable[str]) -> Any:
        return split_lines(lines, self.separator, self.quote)

    def _first_lines(self) -> list[str]:
        with self._open_text() as file:
            return [line for line in islice(file, SAMPLE_LINES) if line.strip()]

    @allow_long_cells()
    def first_cells(self, count: int) -> list[list[str]]:
        """Return the cells of the first lines."""
        with self._open_text() as file:
            return [*islice(self._split(file), count)]

    @allow_long_cells()
    def find_line(self, name: str) -> int | None:
        """Return the number of lines before one that contains `name`, if the header is not the first line."""
        with self._open_text() as file:
            rows = [[*next(self._split([line]), [])] for line in islice(file, SAMPLE_LINES)]
        return next((i + self.skipped for i, row in enumerate(rows) if name in map(str.strip, row)), None)

    def _cells(self, **options: Any) -> pl.LazyFrame:
        return pl.scan_csv(
            self._source,
            glob=False,
            separator=self.separator,
            has_header=self.options.header is not False,
            new_columns=self.header,
            decimal_comma=self.options.decimal == ",",
            quote_char=self.quote,
            **options,
        )

    @property
    def _source(self) -> Path | bytes:
        return self.file if self.content is None else self.content

    def _rows(self) -> pl.LazyFrame:
        return self._with_points(drop_rows(self._cells(infer_schema=False), self._empty_rows()))

    def batches(self, columns: Sequence[str], size: int) -> Iterator[pl.DataFrame]:
        """Yield `size` rows at a time; the cells are text."""
        with self._errors():
            self._check_points(self._cells(infer_schema=False).select(by_name(*columns)))
        yield from super().batches(columns, size)

    def _with_points(self, frame: Any, as_written: Sequence[str] = ()) -> Any:
        return replace_commas(frame, as_written) if self.options.decimal == "," else frame

    def _check_points(self, frame: pl.LazyFrame, as_written: Sequence[str] = ()) -> None:
        if self.options.decimal == ",":
            check_points(frame, self.file, as_written)

    def _read(
        self, columns: Sequence[str], as_text: Iterable[str], as_written: Sequence[str]
    ) -> pl.DataFrame:
        last = self.header[-1]  # read in any case: it is null in lines with too few cells
        used = by_name(*dict.fromkeys([*columns, last]))
        frame = self._with_types(as_text, lambda cells: cells.select(used).collect())
        self._check_quotes(frame.height)
        # Polars fills lines with too few cells, empty lines included, with nulls
        if frame[last].null_count() and (empty := self._empty_rows()):
            frame = frame.filter(~pl.int_range(pl.len()).is_in(empty))
        self._check_points(frame.lazy(), as_written)
        return self._with_points(frame, as_written)

    def convert(
        self, columns: Sequence[str], path: Path, as_text: Iterable[str] = (), as_written: Sequence[str] = ()
    ) -> None:
        def write(cells: pl.LazyFrame) -> None:
            rows = drop_rows(cells, empty).select(by_name(*columns))
            self._check_points(rows, as_written)
            self._with_points(rows, as_written).sink_parquet(path, compression="lz4")

        with self._errors():
            empty = self._empty_rows()
            height = self._cells(infer_schema=False).select(pl.len()).collect(engine="streaming").item()
            self._check_quotes(height)
            self._with_types(as_text, write)

    def _with_types(self, as_text: Iterable[str], use: Callable[[pl.LazyFrame], Any]) -> Any:
        """Return `use(cells)`, with the types of the first rows or, if these do not fit, of all rows."""
        overrides = {name: pl.String for name in as_text if name in self.header}
        try:
            return use(self._cells(infer_schema_length=INFERRED_ROWS, schema_overrides=overrides))
        except pl.exceptions.ComputeError as error:
            if "could not parse" not in str(error):
                raise
        return use(self._cells(infer_schema_length=None, schema_overrides=overrides))

    def _explain(self, error: Exception) -> ValueError:
        if "utf-8" in str(error) or isinstance(error, UnicodeError):
            return self._decoding_error()
        try:
            self._check_lengths()
        except ValueError as length_error:
            return length_error
        quotes = f" {QUOTE_HINT}" if f"`{self.quote}" in str(error) or "malformed" in str(error) else ""
        return DataError(f"{self.file} cannot be read as a table: {first_line(error)}.{quotes}")

    def _blocks(self) -> Iterator[bytes]:
        """Yield the text in parts that end with a line."""
        with self._open_bytes() as file:
            while block := file.read(1 << 20) + file.readline():
                yield block

    def _check_quotes(self, height: int) -> None:
        """Raise DataError if quotation marks join lines each of which has the cells of a row.

        Lines within a quoted cell have too few separators, at least one of them.
        """
        if not self.has_quotes:
            return
        line, expected = pl.col("line"), len(self.header) - 1
        lines = scan_lines(self._source).filter(line.str.strip_chars_end("\r") != "")
        has_all = line.str.count_matches(self.separator, literal=True) == expected
        complete, count = lines.select(has_all.all(), pl.len()).collect(engine="streaming").row(0)
        joined = count - (self.options.header is not False) - height
        if complete and joined > 0 and expected:
            raise DataError(
                f"In {self.file}, quotation marks join lines that have {expected + 1} cells each ({joined} "
                f"lines). {QUOTE_HINT}"
            )

    def _decoding_error(self) -> ValueError:
        encoding = self.options.encoding
        problem = f"{self.file} is not encoded in {encoding}"
        with self._open_bytes() as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode(encoding)
                except UnicodeError as error:
                    start = getattr(error, "start", 0)
                    byte = line[start : start + 1]
                    problem = f"Line {number} of {problem}: it contains the byte {byte!r}"
                    break
        return ConfigError(
            f"{problem}. Set the encoding of the file, for example data.encoding=cp1252 (Western European)."
        )

    def _empty_rows(self) -> list[int]:
        """Return the rows, as Polars counts them, that are empty lines; check the lengths of all rows."""
        # a quick test that suffices for most files: every line has enough separators, quoted ones included
        line, expected = pl.col("line"), len(self.header) - 1
        short = line.str.count_matches(self.separator, literal=True).fill_null(-1) < expected
        empty = line.is_null() | (line.str.strip_chars_end("\r") == "")
        lines = scan_lines(self._source)
        may_be_empty = lines.select((short | empty).any()).collect(engine="streaming").item()
        return self._check_lengths() if may_be_empty else []

    @allow_long_cells()
    def _check_lengths(self) -> list[int]:
        """Return the rows that are empty lines; raise ConfigError for a row with another number of cells."""
        empty: list[int] = []
        row, has_header = 0, self.options.header is not False
        with self._open_text() as text:
            records = self._split(text)
            try:
                if has_header:
                    next(records)
                for row, cells in enumerate(records):
                    if not cells:
                        empty.append(row)
                    elif len(cells) != len(self.header):
                        count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
                        name = "header" if has_header else "first line"
                        line = records.line_num + self.skipped
                        fix = "Correct that line, or set data.separator."
                        if any(cell.strip()[:1] == "'" for cell in cells):
                            fix += " If single quotes surround cells, set data.quote=single."
                        if row == len(empty) and len(cells) > len(self.header):
                            fix += f" If the table starts in line {line}, set data.skip_lines={line - 1}."
                        raise ConfigError(
                            f"Row {row - len(empty)} of {self.file} (line {line}) has {count}, but the "
                            f"{name} has {len(self.header)}. {fix}{self.separator_hint}"
                        )
            except csv.Error as error:
                raise DataError(
                    f"Row {row} of {self.file} cannot be read: {error}. Correct that row.", row=row
                ) from None
        return empty
