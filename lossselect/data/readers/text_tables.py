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
from polars import selectors
from polars.selectors import by_name

from lossselect.data.readers.tables import Table, TableOptions, first_line
from lossselect.exceptions import ConfigError, DataError

INFERRED_ROWS = 10_000
"""Number of rows from which a column's type is inferred; all rows if a later one does not fit the type."""
OTHER_SEPARATORS = ("\t", ";", "|", ",")
SAMPLE_LINES = 20
SAMPLE_BYTES = 1 << 16
DECIMAL_COMMA = r"^(\s*[+-]?\d*),(\d+(?:[eE][+-]?\d+)?\s*)$"


class TextTable(Table):
    """A text file of separated cells; empty lines do not count as rows.

    Files that Polars does not read as they are (compressed, in another encoding, with comments, with runs of
    blanks between columns, ...) are converted in memory.

    Args:
        file: The file.
        options: See `TableOptions`.
        separator: The usual separator of this kind of file; None if there is none.
        content: The content of a compressed file.
    """

    def __init__(
        self, file: Path, options: TableOptions, separator: str | None = ",", content: bytes | None = None
    ) -> None:
        self.file, self.files, self.form, self.options = file, [file], "CSV", options
        self.encoding = options.encoding
        self.content, self.skipped = content, 0
        try:
            self._decode()
            self._drop_lines()
            self.separator = options.separator or self._find_separator(separator)
            if self.separator == " ":
                self._collapse_blanks()
            with self._records() as records:
                first, second = next(records, list[str]()), next(records, None)
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
        with self._open_bytes() as file:
            start = file.read(SAMPLE_BYTES)
        is_utf8 = self.encoding.lower().replace("_", "-") in ("utf-8", "utf8")
        has_cr_only = b"\r" in start and b"\n" not in start and is_utf8
        if is_utf8 and not has_cr_only:
            return
        with self._open_bytes() as file:
            text = file.read().decode(self.encoding).removeprefix("\ufeff")
        if "\r" in text[:SAMPLE_BYTES] and "\n" not in text[:SAMPLE_BYTES]:
            text = text.replace("\r", "\n")
        self.content = text.encode()

    def _drop_lines(self) -> None:
        """Remove comments, empty lines before the header, and the line sep=; that Excel writes."""
        with self._open_bytes() as file:
            start = file.read(SAMPLE_BYTES).decode("utf-8-sig", errors="replace")
        comment, declared = self.options.comment, re.match(r"sep=(.)\r?\n", start)
        if comment is None and declared is None and not re.match(r"\s*\n", start):
            return
        with self._open_bytes() as file:
            lines = file.read().decode("utf-8-sig").splitlines(keepends=True)
        if declared:
            lines[0] = ""
            if self.options.separator is None:
                self.options = TableOptions(**{**vars(self.options), "separator": declared[1]})
        if comment is not None:
            lines = [*_without_comments(lines, comment)]
        self.skipped = next((i for i, line in enumerate(lines) if line.strip()), 0)
        self.content = "".join(lines[self.skipped :]).encode()

    def _find_separator(self, usual: str | None) -> str:
        """Return the usual separator; another one if that divides each line into equally many cells.

        A file in which the usual separator leaves a single column has no features.
        """
        with self._open_text() as file:
            lines = [line for line in islice(file, SAMPLE_LINES) if line.strip()]
        if usual is not None and len(next(csv.reader(lines, delimiter=usual), [])) > 1:
            return usual
        found = [separator for separator in OTHER_SEPARATORS if _divides(lines, separator)]
        blanks = [re.sub(r",\s+", ",", line.replace("\t", " ").strip()) for line in lines]
        has_blanks = usual is None and _divides(blanks, " ")
        decimal_commas = found == [","] and not re.search(r"\D,|,\D", "".join(lines))
        if found and not (decimal_commas and has_blanks):  # 1,5 2,5 may be two numbers
            return found[0]
        if has_blanks and not found:
            return " "
        if usual is None:
            raise ConfigError(
                f"The separator of the columns of {self.file} is not clear. Its first line is "
                f"{lines[0].strip()[:80] if lines else ''!r}. Set data.separator, such as data.separator=';' "
                "or, for any number of blanks, data.separator=' '."
            )
        return usual

    def _collapse_blanks(self) -> None:
        """Convert runs of blanks and tabs between columns to single tabs."""
        output = io.StringIO()
        writer = csv.writer(output, delimiter="\t", lineterminator="\n")
        with self._open_text() as file:
            lines = (line.replace("\t", " ").strip() + "\n" for line in file)
            writer.writerows(csv.reader(lines, delimiter=" ", skipinitialspace=True))
        self.content, self.separator = output.getvalue().encode(), "\t"

    def _name_columns(self, first: list[str], second: list[str] | None) -> None:
        names = [name.strip() for name in first]
        if self.options.header is False:
            self.header = [f"column {i}" for i in range(len(names))]
            return
        if len(names) > 1 and second and len(second) == len(names) + 1:
            self._add_name(names, at_end=second[-1] == "")
        self.header = [name or f"column {i}" for i, name in enumerate(names)]
        self.unnamed = tuple(f"column {i}" for i, name in enumerate(names) if not name)
        if len(self.unnamed) == len(names):
            self.header = []  # an empty line

    def _add_name(self, names: list[str], at_end: bool) -> None:
        """Add an empty name for a column that has only cells: names of rows as R writes them, or nothing."""
        names.insert(len(names) if at_end else 0, "")
        with self._open_bytes() as file:
            line, rest = file.readline(), file.read()
        separator = self.separator.encode()
        line = line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
        self.content = (line + separator if at_end else separator + line) + b"\n" + rest

    @contextmanager
    def _open_bytes(self) -> Iterator[Any]:
        with io.BytesIO(self.content) if self.content is not None else self.file.open("rb") as file:
            yield file

    @contextmanager
    def _open_text(self) -> Iterator[Any]:
        with self._open_bytes() as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
            yield text

    @contextmanager
    def _records(self) -> Iterator[Any]:
        with self._open_text() as file:
            yield csv.reader(file, delimiter=self.separator)

    def _scan(self, **options: Any) -> pl.LazyFrame:
        return pl.scan_csv(self.file if self.content is None else self.content, glob=False, **options)

    def _cells(self, **options: Any) -> pl.LazyFrame:
        return self._scan(
            separator=self.separator,
            has_header=self.options.header is not False,
            new_columns=self.header,
            decimal_comma=self.options.decimal == ",",
            **options,
        )

    def _rows(self) -> pl.LazyFrame:
        cells = self._cells(infer_schema=False)
        if empty := self._empty_rows():
            cells = cells.with_row_index("\x00row").filter(~pl.first().is_in(empty))
        return self._with_points(cells)

    def _with_points(self, frame: Any, as_written: Sequence[str] = ()) -> Any:
        """Return a frame whose cells of text such as 1,5 are 1.5 if the decimal separator is a comma."""
        if self.options.decimal != ",":
            return frame
        texts = selectors.string() - selectors.by_name(*as_written, require_all=False)
        return frame.with_columns(texts.str.replace(DECIMAL_COMMA, "${1}.${2}"))

    def _read(
        self, columns: Sequence[str], as_text: Iterable[str], as_written: Sequence[str]
    ) -> pl.DataFrame:
        last = self.header[-1]  # read in any case: it is null in lines with too few cells
        used = by_name(*dict.fromkeys([*columns, last]))
        frame = self._with_types(as_text, lambda cells: cells.select(used).collect())
        # Polars fills lines with too few cells, empty lines included, with nulls
        if frame[last].null_count() and (empty := self._empty_rows()):
            frame = frame.filter(~pl.int_range(pl.len()).is_in(empty))
        return self._with_points(frame, as_written)

    def _sink(
        self, columns: Sequence[str], path: Path, as_text: Iterable[str], as_written: Sequence[str]
    ) -> None:
        used, empty = by_name(*columns), self._empty_rows()

        def write(cells: pl.LazyFrame) -> None:
            rows = cells.with_row_index("\x00row").filter(~pl.first().is_in(empty)) if empty else cells
            self._with_points(rows.select(used), as_written).sink_parquet(path, compression="lz4")

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
        quotes = " Check for a quotation mark that is never closed." if '`"' in str(error) else ""
        return DataError(f"{self.file} cannot be read as a table: {first_line(error)}.{quotes}")

    def _decoding_error(self) -> ValueError:
        with self._open_bytes() as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode(self.encoding)
                except UnicodeError as error:
                    start = getattr(error, "start", 0)
                    return ConfigError(
                        f"Line {number} of {self.file} is not encoded in {self.encoding}: it contains the "
                        f"byte {line[start : start + 1]!r}. Set the encoding of the file, for example "
                        "data.encoding=latin-1."
                    )
        return ConfigError(
            f"{self.file} is not encoded in {self.encoding}. Set the encoding of the file, for example "
            "data.encoding=latin-1."
        )

    def _empty_rows(self) -> list[int]:
        """Return the rows, as Polars counts them, that are empty lines; check the lengths of all rows."""
        # a quick test that suffices for most files: every line has enough separators, quoted ones included
        lines = self._scan(has_header=False, separator="\x01", quote_char=None, schema={"line": pl.String})
        line, expected = pl.col("line"), len(self.header) - 1
        short = line.str.count_matches(self.separator, literal=True).fill_null(-1) < expected
        empty = line.is_null() | (line.str.strip_chars_end("\r") == "")
        may_be_empty = lines.select((short | empty).any()).collect(engine="streaming").item()
        return self._check_lengths() if may_be_empty else []

    def _check_lengths(self) -> list[int]:
        """Return the rows that are empty lines; raise ConfigError for a row with another number of cells."""
        empty: list[int] = []
        with self._records() as records:
            if self.options.header is not False:
                next(records)
            row = 0
            try:
                for row, cells in enumerate(records):
                    if not cells:
                        empty.append(row)
                    elif len(cells) != len(self.header):
                        count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
                        name = "header" if self.options.header is not False else "first line"
                        raise ConfigError(
                            f"Row {row - len(empty)} of {self.file} (line {records.line_num + self.skipped}) "
                            f"has {count}, but the {name} has {len(self.header)}. Correct that line, or set "
                            "data.separator."
                        )
            except csv.Error as error:
                raise DataError(
                    f"Row {row} of {self.file} cannot be read: {error}. Correct that row.", row=row
                ) from None
        return empty


def _divides(lines: list[str], separator: str) -> bool:
    """Return whether a separator divides all lines, perhaps without the last one, into equally many cells."""
    rows = [*csv.reader(lines, delimiter=separator, skipinitialspace=separator == " ")]
    widths = {len(row) for row in rows[: len(rows) - 1 or 1]}  # a quoted cell may exceed the sample
    return len(widths) == 1 and widths.pop() > 1


def _without_comments(lines: list[str], comment: str) -> Iterator[str]:
    """Yield the lines, empty in place of comments; a line within a quoted cell is not a comment."""
    is_quoted = False
    for line in lines:
        is_comment = not is_quoted and line.lstrip().startswith(comment)
        is_quoted ^= not is_comment and line.count('"') % 2 == 1
        yield "\n" if is_comment else line
