"""Tables from files: CSV, TSV and Parquet. Rows are counted from 0, without the header."""

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from polars import selectors

from lossselect.exceptions import ConfigError, DataError, FileMissingError, OptionTypeError
from lossselect.utils.atomic_write import check_regular_file
from lossselect.utils.checks import first_duplicate, format_setting, shorten, suggestion

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
PARQUET = (".parquet", ".pq")
OTHER_SEPARATORS = (";", "\t", "|", ",", " ")
ROW = "\x00row"
"""Name of a column that numbers the rows."""
INFERRED_ROWS = 10_000
"""A column's type is inferred from so many rows, unless a later one does not fit it."""


def read_table(
    path: str,
    *,
    separator: str | None = None,
    encoding: str = "utf-8",
    as_text: Iterable[str] = (),
    columns: Iterable[str] | None = None,
) -> pl.DataFrame:
    """Return the rows of a file, without empty lines.

    The file's name implies `separator`; columns `as_text` remain as they are written: "007" is no 7.
    """
    file = _existing_table(path)
    columns = None if columns is None else [*columns]
    if file.suffix.lower() in PARQUET:
        _check_names(columns_of(path), file)
        frame = _parquet(pl.read_parquet, file, columns=columns, glob=False)
    else:
        frame = _CsvFile(file, separator, encoding).read(as_text, columns)
    if frame.height == 0:
        raise DataError(
            f"{file} has {'columns' if file.suffix.lower() in PARQUET else 'a header'}, but no rows."
        )
    return frame


def table_batches(
    path: str, columns: list[str], size: int, *, separator: str | None = None, encoding: str = "utf-8"
) -> Iterator[pl.DataFrame]:
    """Yield the existing `columns` of a file, `size` rows at a time; the cells of a CSV are text."""
    file = _existing_table(path)
    if file.suffix.lower() in PARQUET:
        yield from _scan_batches(pl.scan_parquet(file, glob=False), columns, size)
    else:
        yield from _CsvFile(file, separator, encoding).batches(columns, size)


def columns_of(path: str, separator: str | None = None, encoding: str = "utf-8") -> list[str]:
    """Return the names in a file's header."""
    file = _existing_table(path)
    if file.suffix.lower() in PARQUET:
        return [*_parquet(pl.read_parquet_schema, file)]
    return _CsvFile(file, separator, encoding).header


def check_columns(names: Iterable[str], header: list[str], source: str, path: str) -> None:
    """Raise a DataError for the first name that the header lacks; `source` is what named it."""
    for name in names:
        if name in header:
            continue
        message = f"{path} has no column {name!r} ({source}).{suggestion(str(name), header)}"
        message += f" It has: {shorten(header)}."
        if len(header) == 1 and (candidates := [s for s in OTHER_SEPARATORS if s in header[0]]):
            separator = format_setting("data.separator", candidates[0])
            message += f" Is {candidates[0]!r} what stands between the cells? Say {separator}."
        raise DataError(message)


def existing_file(path: str) -> Path:
    """Return the path of a regular file."""
    check_regular_file(path)
    file = Path(path)
    if not file.is_file():
        names = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        raise FileMissingError(f"There is no file {file}.{suggestion(file.name, names)}")
    return file


def _existing_table(path: str) -> Path:
    if Path(path).is_dir():
        raise ConfigError(f"{Path(path)} is a folder; give a file: .csv, .tsv or .parquet.")
    file = existing_file(path)
    if file.suffix.lower() in (".npz", ".npy"):
        raise ConfigError(f"{file} holds arrays: say data=arrays.")
    if file.suffix.lower() not in (*SEPARATORS, *PARQUET):
        raise ConfigError(f"{file} must end in one of {', '.join((*SEPARATORS, *PARQUET))} to be read.")
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty.")
    return file


def _parquet(read: Any, file: Path, **options: Any) -> Any:
    try:
        return read(file, **options)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{file} is no Parquet file that can be read: {_first_line(error)}") from None


def _scan_batches(scan: pl.LazyFrame, columns: list[str], size: int) -> Iterator[pl.DataFrame]:
    for frame in scan.select(selectors.by_name(*columns)).collect_batches(chunk_size=size):
        yield frame[columns]


class _CsvFile:
    """A text file of separated cells."""

    def __init__(self, file: Path, separator: str | None, encoding: str) -> None:
        self.file, self.encoding = file, encoding
        if not isinstance(encoding, str):
            raise OptionTypeError(f"data.encoding must be a name such as latin-1, got {encoding!r}.")
        self.separator = SEPARATORS[file.suffix.lower()] if separator in (None, "") else separator
        if self.separator == "\\t":  # as a tab is typed
            self.separator = "\t"
        if not isinstance(self.separator, str) or len(self.separator.encode()) != 1:
            raise ConfigError(f"data.separator must be one character, got {separator!r}.")
        self.is_utf8 = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
        try:
            "".encode(encoding)
        except (LookupError, TypeError):
            raise ConfigError(f"There is no text encoding {encoding!r}: utf-8 and latin-1 are two.") from None
        try:
            with self._records() as records:
                self.header: list[str] = next(records, [])
        except UnicodeError:
            raise self._decoding_error() from None
        except csv.Error as error:
            raise DataError(f"The header of {self.file} cannot be read: {error}.") from None
        _check_names(self.header, self.file)

    @contextmanager
    def _records(self) -> Iterator[Any]:
        encoding = "utf-8-sig" if self.is_utf8 else self.encoding
        with self.file.open(encoding=encoding, newline="") as file:
            yield csv.reader(file, delimiter=self.separator)

    def read(self, as_text: Iterable[str], columns: list[str] | None) -> pl.DataFrame:
        """Return the rows, without empty lines."""
        last = self.header[-1]
        options: dict[str, Any] = {
            "separator": self.separator,
            "glob": False,
            "encoding": "utf8" if self.is_utf8 else self.encoding,
            "schema_overrides": {name: pl.String for name in as_text if name in self.header},
            # the last one shows lines that end too soon
            "columns": None if columns is None else [*dict.fromkeys([*columns, last])],
        }
        try:
            try:
                frame = pl.read_csv(self.file, infer_schema_length=INFERRED_ROWS, **options)
            except pl.exceptions.ComputeError as error:
                if "could not parse" not in str(error):
                    raise
                frame = pl.read_csv(self.file, infer_schema_length=None, **options)
        except (pl.exceptions.PolarsError, UnicodeError) as error:
            raise self._explain(error) from None
        # a line that ends too soon looks like one that ends in empty cells
        if frame[last].null_count() and (empty := self._empty_rows()):
            frame = frame.filter(~pl.int_range(pl.len()).is_in(empty))
        return frame if columns is None else frame[columns]

    def batches(self, columns: list[str], size: int) -> Iterator[pl.DataFrame]:
        """Yield `size` rows at a time, as text."""
        if not self.is_utf8:
            self._check_lengths()
            yield from self.read(self.header, columns).iter_slices(size)
            return
        scan = pl.scan_csv(self.file, separator=self.separator, infer_schema=False, glob=False)
        try:
            if empty := self._empty_rows():
                scan = scan.with_row_index(ROW).filter(~pl.col(ROW).is_in(empty))
            yield from _scan_batches(scan, columns, size)
        except pl.exceptions.PolarsError as error:
            raise self._explain(error) from None

    def _explain(self, error: Exception) -> ValueError:
        """Return the error for a file that Polars cannot read."""
        if "utf-8" in str(error) or isinstance(error, UnicodeError):
            return self._decoding_error()
        if "unable to find column" in str(error) and (quoted := [n for n in self.header if '"' in n]):
            return DataError(
                f"{self.file} has a column {quoted[0]!r}, whose quotation marks Polars does not read in "
                "a header: give it another name.",
                column=quoted[0],
            )
        try:
            self._check_lengths()
        except ValueError as length_error:
            return length_error
        quotes = " Is a quotation mark opened and never closed?" if '`"' in str(error) else ""
        return DataError(f"{self.file} cannot be read as a table: {_first_line(error)}.{quotes}")

    def _decoding_error(self) -> ValueError:
        with self.file.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode(self.encoding)
                except UnicodeError as error:
                    start = getattr(error, "start", 0)
                    return ConfigError(
                        f"Line {number} of {self.file} is not written in {self.encoding}: it holds the byte "
                        f"{line[start : start + 1]!r}. Say how the file is written, such as "
                        "data.encoding=latin-1."
                    )
        return ConfigError(f"{self.file} is not written in {self.encoding}: say data.encoding=...")

    def _empty_rows(self) -> list[int]:
        """Return the rows, as Polars counts them, that are empty lines; check the lengths of all."""
        if not self.is_utf8:
            return self._check_lengths()
        # quickly: no line is empty or has too few separators, quoted ones included
        lines = pl.scan_csv(
            self.file,
            has_header=False,
            separator="\x01",
            quote_char=None,
            schema={"line": pl.String},
            glob=False,
        )
        line, expected = pl.col("line"), len(self.header) - 1
        short = line.str.count_matches(self.separator, literal=True).fill_null(-1) < expected
        empty = line.is_null() | (line.str.strip_chars_end("\r") == "")
        may_be_empty = lines.select((short | empty).any()).collect(engine="streaming").item()
        return self._check_lengths() if may_be_empty else []

    def _check_lengths(self) -> list[int]:
        """Return the rows that are empty lines; raise a ConfigError for one of another length."""
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
                            f"but the header has {len(self.header)}. Mend that line, or name the separator "
                            "(data.separator)."
                        )
            except csv.Error as error:
                raise DataError(f"Row {row} of {self.file} cannot be read: {error}.", row=row) from None
        return empty


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


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
