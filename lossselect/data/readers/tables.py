"""Tables from files: CSV, TSV and Parquet, each mistake in a file being one message.

Rows are counted from 0, without the header, as the rows of a target are.
"""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import polars as pl
from polars import selectors

from lossselect.exceptions import ConfigError, DataError, FileMissingError, OptionTypeError
from lossselect.utils.atomic_write import check_regular_file
from lossselect.utils.checks import first_duplicate, format_setting, shorten, suggestion

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
PARQUET = (".parquet", ".pq")
OTHER_SEPARATORS = (";", "\t", "|", ",", " ")
ROW = "\x00row"
"""A column of ours beside the file's."""
INFERRED_ROWS = 10_000
"""Of how many rows a column's type is told, unless a later one does not fit it."""


def read_table(
    path: str,
    *,
    separator: str | None = None,
    encoding: str = "utf-8",
    as_text: Iterable[str] = (),
    columns: Iterable[str] | None = None,
) -> pl.DataFrame:
    """The rows of a file; lines that are empty are none.

    Args:
        path: A .csv, .tsv or .parquet with a header.
        separator: Between the cells of a line, where it is not the one that the name implies.
        encoding: Of the text.
        as_text: Columns to leave as they are written: "007" is no 7.
        columns: Those to read; all by default.

    Raises:
        FileNotFoundError: no such file; names those that are like it.
        ValueError: a file that is no table; says the row and the fix.
    """
    file = _existing(path)
    if file.suffix.lower() in PARQUET:
        return _parquet(file, columns)
    cells = CsvFormat(file, separator, encoding)
    header = cells.header()
    frame = cells.read(header, {name: pl.String for name in as_text if name in header}, columns)
    if frame.height == 0:
        raise DataError(f"{file} has a header, but no rows.")
    return frame


def table_batches(
    path: str, columns: list[str], size: int, *, separator: str | None = None, encoding: str = "utf-8"
) -> Iterator[pl.DataFrame]:
    """Some rows of a file at a time, of a CSV all cells as text; empty lines are none.

    Args:
        path: As for `read_table`.
        columns: Those to read, which are there.
        size: How many rows at a time.
        separator, encoding: As for `read_table`.

    Raises:
        FileNotFoundError, ValueError: as `read_table`; some batches may have come before.
    """
    file = _existing(path)
    if file.suffix.lower() in PARQUET:
        scan = pl.scan_parquet(file, glob=False).select(selectors.by_name(*columns))
        for frame in scan.collect_batches(chunk_size=size):
            yield frame[columns]
        return
    cells = CsvFormat(file, separator, encoding)
    try:
        yield from cells.batches(columns, size)
    except pl.exceptions.PolarsError as error:
        raise cells.explained(error) from None


def columns_of(path: str, separator: str | None = None, encoding: str = "utf-8") -> list[str]:
    """The names in a file's header."""
    file = _existing(path)
    if file.suffix.lower() in PARQUET:
        return [*_parquet_schema(file)]
    return CsvFormat(file, separator, encoding).header()


def check_columns(wanted: Iterable[str], header: list[str], asked_by: str, path: str) -> None:
    """ValueError for the first of the wanted columns that the header lacks, naming the nearest."""
    for name in wanted:
        if name in header:
            continue
        message = f"{path} has no column {name!r} ({asked_by}).{suggestion(str(name), header)}"
        message += f" It has: {shorten(header)}."
        if len(header) == 1 and (found := [s for s in OTHER_SEPARATORS if s in header[0]]):
            separator = format_setting("data.separator", found[0])
            message += f" Is {found[0]!r} what stands between the cells? Say {separator}."
        raise DataError(message)


def _existing(path: str) -> Path:
    file = Path(path)
    check_regular_file(file)
    if not file.is_file():
        if file.is_dir():
            raise ConfigError(f"{file} is a folder; give a file: .csv, .tsv or .parquet.")
        there = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        raise FileMissingError(f"There is no file {file}.{suggestion(file.name, there)}")
    if file.suffix.lower() in (".npz", ".npy"):
        raise ConfigError(f"{file} holds arrays: say data=arrays.")
    if file.suffix.lower() not in (*SEPARATORS, *PARQUET):
        raise ConfigError(f"{file} must end in one of {', '.join((*SEPARATORS, *PARQUET))} to be read.")
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty.")
    return file


def _parquet_schema(file: Path) -> dict[str, Any]:
    try:
        return dict(pl.read_parquet_schema(file))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{file} is no Parquet file that can be read: {_first_line(error)}") from None


def _parquet(file: Path, columns: Iterable[str] | None) -> pl.DataFrame:
    _check_names([*_parquet_schema(file)], file)
    try:
        frame = pl.read_parquet(file, columns=None if columns is None else [*columns], glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{file} is no Parquet file that can be read: {_first_line(error)}") from None
    if frame.height == 0:
        raise DataError(f"{file} has columns, but no rows.")
    return frame


class CsvFormat:
    """How a file of lines is written, and what goes wrong in reading it."""

    def __init__(self, file: Path, separator: str | None, encoding: str) -> None:
        self.file, self.encoding = file, encoding
        self.separator = SEPARATORS[file.suffix.lower()] if separator in (None, "") else separator
        if not isinstance(encoding, str):
            raise OptionTypeError(f"data.encoding must be a name such as latin-1, got {encoding!r}.")
        if self.separator == "\\t":  # as one types a tab
            self.separator = "\t"
        if not isinstance(self.separator, str) or len(self.separator.encode()) != 1:
            raise ConfigError(f"data.separator must be one character, got {separator!r}.")
        self.is_utf8 = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
        try:
            "".encode(encoding)
        except (LookupError, TypeError):
            raise ConfigError(f"There is no text encoding {encoding!r}: utf-8 and latin-1 are two.") from None

    def _open(self) -> IO[str]:
        encoding = "utf-8-sig" if self.is_utf8 else self.encoding
        return self.file.open(encoding=encoding, newline="")

    def _records(self, file: IO[str]) -> Iterator[list[str]]:
        return csv.reader(file, delimiter=self.separator)

    def header(self) -> list[str]:
        """The names of the columns."""
        try:
            with self._open() as file:
                names = next(self._records(file), [])
        except UnicodeError:
            raise self._not_decoded() from None
        except csv.Error as error:
            raise DataError(f"The header of {self.file} cannot be read: {error}.") from None
        _check_names(names, self.file)
        return names

    def read(
        self,
        header: list[str],
        types: dict[str, Any],
        columns: Iterable[str] | None,
    ) -> pl.DataFrame:
        """The rows, without empty lines."""
        options: dict[str, Any] = {
            "separator": self.separator,
            "glob": False,
            "encoding": "utf8" if self.is_utf8 else self.encoding,
            "schema_overrides": types,
            # the last one shows lines that end too soon
            "columns": None if columns is None else [*dict.fromkeys([*columns, header[-1]])],
        }
        try:
            try:
                frame = pl.read_csv(self.file, infer_schema_length=INFERRED_ROWS, **options)
            except pl.exceptions.ComputeError as error:
                if "could not parse" not in str(error):
                    raise
                frame = pl.read_csv(self.file, infer_schema_length=None, **options)
        except (pl.exceptions.PolarsError, UnicodeError) as error:
            raise self.explained(error) from None
        if frame[header[-1]].null_count():
            # a line that ends too soon looks like one that ends in empty cells
            blank = self._blank_rows(len(header))
            if blank:
                frame = frame.filter(~pl.int_range(pl.len()).is_in(blank))
        return frame if columns is None else frame[[*columns]]

    def batches(self, columns: list[str], size: int) -> Iterator[pl.DataFrame]:
        """Some rows at a time, as text."""
        header = self.header()
        blank = self._blank_rows(len(header))
        if not self.is_utf8:
            types = dict.fromkeys(header, pl.String)
            yield from self.read(header, types, columns).iter_slices(size)
            return
        scan = pl.scan_csv(self.file, separator=self.separator, infer_schema=False, glob=False)
        if blank:
            scan = scan.with_row_index(ROW).filter(~pl.col(ROW).is_in(blank))
        for frame in scan.select(selectors.by_name(*columns)).collect_batches(chunk_size=size):
            yield frame[columns]

    def explained(self, error: Exception) -> ValueError:
        """What is wrong with the file that could not be read."""
        if "utf-8" in str(error) or isinstance(error, UnicodeError):
            return self._not_decoded()
        try:
            header = self.header()
            if "unable to find column" in str(error) and (quoted := [name for name in header if '"' in name]):
                return DataError(
                    f"{self.file} has a column {quoted[0]!r}, whose quotation marks Polars does not read in "
                    "a header: give it another name.",
                    column=quoted[0],
                )
            self._check_lengths(len(header))
        except ValueError as found:
            return found
        quotes = " Is a quotation mark opened and never closed?" if '`"' in str(error) else ""
        return DataError(f"{self.file} cannot be read as a table: {_first_line(error)}.{quotes}")

    def _not_decoded(self) -> ValueError:
        with self.file.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode(self.encoding)
                except UnicodeError as error:
                    start = getattr(error, "start", 0)
                    bad = line[start : start + 1]
                    return ConfigError(
                        f"Line {number} of {self.file} is not written in {self.encoding}: it holds the byte "
                        f"{bad!r}. Say how the file is written, such as data.encoding=latin-1."
                    )
        return ConfigError(f"{self.file} is not written in {self.encoding}: say data.encoding=...")

    def _blank_rows(self, width: int) -> list[int]:
        """Which rows, as Polars counts them, are empty lines; ValueError for one that ends too soon."""
        if self.is_utf8 and not self._has_short_lines(width):
            return []
        return self._check_lengths(width)

    def _has_short_lines(self, width: int) -> bool:
        """Whether any line is empty or has too few separators, quoted ones included; a no is sure."""
        lines = pl.scan_csv(
            self.file,
            has_header=False,
            separator="\x01",
            quote_char=None,
            schema={"line": pl.String},
            glob=False,
        )
        short = pl.col("line").str.count_matches(self.separator, literal=True).fill_null(-1) < width - 1
        empty = pl.col("line").is_null() | (pl.col("line").str.strip_chars_end("\r") == "")
        return bool(lines.select((short | empty).any()).collect(engine="streaming").item())

    def _check_lengths(self, width: int) -> list[int]:
        """Which rows are empty lines; ValueError for one that has more or fewer cells than the header."""
        blank = []
        with self._open() as file:
            records = self._records(file)
            next(records)
            row = 0
            try:
                for row, cells in enumerate(records):
                    if not cells:
                        blank.append(row)
                    elif len(cells) != width:
                        line = records.line_num  # type: ignore[attr-defined]
                        raise ConfigError(
                            f"Row {row - len(blank)} of {self.file} (line {line}) has {_cells(len(cells))}, "
                            f"but the header has {width}. Mend that line, or name the separator "
                            "(data.separator)."
                        )
            except csv.Error as error:
                raise DataError(f"Row {row} of {self.file} cannot be read: {error}.", row=row) from None
        return blank


def _check_names(names: list[str], file: Path) -> None:
    if not names or names == [""]:
        raise DataError(f"{file} has no header: its first line is empty.")
    if len(set(names)) < len(names):
        raise DataError(f"{file} has two columns {first_duplicate(names)!r}: give each its own name.")
    if patterns := [name for name in names if name == "*" or (name.startswith("^") and name.endswith("$"))]:
        raise DataError(
            f"{file} has a column {patterns[0]!r}, which Polars would take for a pattern: give it "
            "another name.",
            column=patterns[0],
        )
    if "" in names:
        raise DataError(
            f"Column {names.index('')} of {file} has no name: name it in the header (a column that counts "
            "the rows, as pandas writes it, is best left out: to_csv(index=False))."
        )


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
