"""Readers of CSV, TSV and Parquet tables. Rows are counted from 0, without the header."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from polars.selectors import by_name

from lossselect.exceptions import ConfigError, DataError, FileMissingError, OptionTypeError
from lossselect.utils.atomic_write import check_regular_file
from lossselect.utils.checks import first_duplicate, format_setting, shorten, suggestion

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
PARQUET = (".parquet", ".pq")
OTHER_SEPARATORS = (";", "\t", "|", ",", " ")
INFERRED_ROWS = 10_000
"""Number of rows from which a column's type is inferred; all rows if a later one does not fit the type."""


def open_table(path: str, separator: str | None = None, encoding: str = "utf-8") -> "Table":
    """Return the table in a file; its suffix determines the kind of table and the default `separator`."""
    if Path(path).is_dir():
        raise ConfigError(
            f"Expected a file, got the folder {Path(path)}. Set the path of a .csv, .tsv or .parquet file."
        )
    file = existing_file(path)
    suffix = file.suffix.lower()
    if suffix in (".npz", ".npy"):
        fix = "Set data=arrays to read arrays (.npz or .npy)."
        raise ConfigError(f"Expected a .csv, .tsv or .parquet file, got {file}. {fix}")
    if suffix not in (*SEPARATORS, *PARQUET):
        raise ConfigError(
            f"Expected a file with one of the suffixes {', '.join((*SEPARATORS, *PARQUET))}, got {file}. "
            "Save the table in one of these formats."
        )
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty. Write it again, with a header and rows.")
    return Table(file) if suffix in PARQUET else CsvTable(file, separator, encoding)


def check_columns(names: Iterable[str], header: list[str], source: str, path: str) -> None:
    """Raise a DataError for the first name that the header lacks; `source` is the setting with the name."""
    known = {*header}
    for name in names:
        if name in known:
            continue
        message = f"{path} has no column {name!r} ({source}).{suggestion(str(name), header)}"
        message += f" It has: {shorten(header)}."
        if len(header) == 1 and (candidates := [s for s in OTHER_SEPARATORS if s in header[0]]):
            separator = format_setting("data.separator", candidates[0])
            message += f" If {candidates[0]!r} separates the columns, set {separator}."
        raise DataError(message)


def existing_file(path: str) -> Path:
    """Return the path of an existing regular file; raise a FileMissingError if there is none."""
    check_regular_file(path)
    file = Path(path)
    if not file.is_file():
        names = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        raise FileMissingError(f"File not found: {file}.{suggestion(file.name, names) or ' Check the path.'}")
    return file


class Table:
    """Rows and named columns of a Parquet file; the subclass reads CSV files."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with self._errors():
            self.header = self._rows().collect_schema().names()
        self._check_header()

    def read(self, columns: Sequence[str], as_text: Iterable[str] = ()) -> pl.DataFrame:
        """Return all rows; the columns `as_text` of a CSV stay text: "007" does not become 7."""
        with self._errors():
            frame = self._read(columns, as_text)
        if frame.height == 0:
            raise DataError(f"{self.file} has no rows. Add at least one.")
        return frame[columns]

    def batches(self, columns: Sequence[str], size: int) -> Iterator[pl.DataFrame]:
        """Yield `size` rows at a time; the cells of a CSV are text."""
        with self._errors():
            for frame in self._rows().select(by_name(*columns)).collect_batches(chunk_size=size):
                yield frame[columns]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Convert the errors of Polars to a DataError or ConfigError."""
        try:
            yield
        except (pl.exceptions.PolarsError, OSError, UnicodeError) as error:
            raise self._explain(error) from None

    def _check_header(self) -> None:
        names, file = self.header, self.file
        if not names or names == [""]:
            raise DataError(
                f"{file} has no header: its first line is empty. Write the column names in the first line."
            )
        if len(set(names)) < len(names):
            raise DataError(
                f"{file} has more than one column {first_duplicate(names)!r}. Give each a unique name."
            )
        if "" in names:
            raise DataError(
                f"Column {names.index('')} of {file} (counted from 0) has no name. Add its name to the "
                "header. If it contains the row numbers that pandas writes, save with to_csv(index=False)."
            )
        if patterns := [name for name in names if name == "*" or (name[0] == "^" and name[-1] == "$")]:
            problem = "which Polars would read as a pattern. Rename the column"
            raise DataError(f"{file} has a column {patterns[0]!r}, {problem}.", column=patterns[0])

    def _rows(self) -> pl.LazyFrame:
        return pl.scan_parquet(self.file, glob=False)

    def _read(self, columns: Sequence[str], as_text: Iterable[str]) -> pl.DataFrame:
        return self._rows().select(by_name(*columns)).collect()

    def _explain(self, error: Exception) -> ValueError:
        return DataError(
            f"{self.file} cannot be read as a Parquet file ({_first_line(error)}). Write or copy it again."
        )


class CsvTable(Table):
    """A text file of separated cells; empty lines do not count as rows."""

    def __init__(self, file: Path, separator: str | None, encoding: str) -> None:
        self.file, self.encoding = file, encoding
        if not isinstance(encoding, str):
            raise OptionTypeError(f"data.encoding must be a name such as 'latin-1', got {encoding!r}.")
        self.separator = SEPARATORS[file.suffix.lower()] if separator in (None, "") else separator
        if self.separator == "\\t":  # a tab, as it is typed at the command line
            self.separator = "\t"
        if not isinstance(self.separator, str) or len(self.separator.encode()) != 1:
            raise ConfigError(f"data.separator must be a single ASCII character, got {separator!r}.")
        self.is_utf8 = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
        try:
            "".encode(encoding)
        except (LookupError, TypeError):
            raise ConfigError(
                f"Unknown data.encoding {encoding!r}. Set an encoding of Python, such as utf-8 or latin-1."
            ) from None
        try:
            with self._errors(), self._records() as records:
                # for utf-16-le, Python leaves the byte order mark in the text
                self.header = [name.removeprefix("\ufeff") for name in next(records, [])]
        except csv.Error as error:
            raise DataError(
                f"The header of {self.file} cannot be read: {error}. Correct its first line."
            ) from None
        self._check_header()

    @contextmanager
    def _records(self) -> Iterator[Any]:
        encoding = "utf-8-sig" if self.is_utf8 else self.encoding
        with self.file.open(encoding=encoding, newline="") as file:
            yield csv.reader(file, delimiter=self.separator)

    def _scan(self, **options: Any) -> pl.LazyFrame:
        # Polars reads only UTF-8
        source = self.file if self.is_utf8 else self.file.read_bytes().decode(self.encoding).encode()
        return pl.scan_csv(source, glob=False, **options)

    def _cells(self, **options: Any) -> pl.LazyFrame:
        return self._scan(separator=self.separator, new_columns=self.header, **options)

    def _rows(self) -> pl.LazyFrame:
        cells = self._cells(infer_schema=False)
        if empty := self._empty_rows():
            return cells.with_row_index("\x00row").filter(~pl.first().is_in(empty))
        return cells

    def _read(self, columns: Sequence[str], as_text: Iterable[str]) -> pl.DataFrame:
        last = self.header[-1]  # read in any case: it is null in lines with too few cells
        used = by_name(*dict.fromkeys([*columns, last]))
        overrides = {name: pl.String for name in as_text if name in self.header}
        try:
            cells = self._cells(infer_schema_length=INFERRED_ROWS, schema_overrides=overrides)
            frame = cells.select(used).collect()
        except pl.exceptions.ComputeError as error:
            if "could not parse" not in str(error):
                raise
            cells = self._cells(infer_schema_length=None, schema_overrides=overrides)
            frame = cells.select(used).collect()
        # Polars fills lines with too few cells, empty lines included, with nulls
        if frame[last].null_count() and (empty := self._empty_rows()):
            return frame.filter(~pl.int_range(pl.len()).is_in(empty))
        return frame

    def _explain(self, error: Exception) -> ValueError:
        if "utf-8" in str(error) or isinstance(error, UnicodeError):
            return self._decoding_error()
        try:
            self._check_lengths()
        except ValueError as length_error:
            return length_error
        quotes = " Check for a quotation mark that is never closed." if '`"' in str(error) else ""
        return DataError(f"{self.file} cannot be read as a table: {_first_line(error)}.{quotes}")

    def _decoding_error(self) -> ValueError:
        with self.file.open("rb") as file:
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
            next(records)
            row = 0
            try:
                for row, cells in enumerate(records):
                    if not cells:
                        empty.append(row)
                    elif len(cells) != len(self.header):
                        count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
                        raise ConfigError(
                            f"Row {row - len(empty)} of {self.file} (line {records.line_num}) has {count}, "
                            f"but the header has {len(self.header)}. Correct that line, or set "
                            "data.separator."
                        )
            except csv.Error as error:
                raise DataError(
                    f"Row {row} of {self.file} cannot be read: {error}. Correct that row.", row=row
                ) from None
        return empty


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
