"""Tables from files: CSV, TSV and Parquet. Rows are counted from 0, without the header."""

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
"""A column's type is inferred from so many rows, unless a later one does not fit it."""


def open_table(path: str, separator: str | None = None, encoding: str = "utf-8") -> "Table":
    """Return the table in a file, whose name implies what kind it is and, by default, `separator`."""
    if Path(path).is_dir():
        raise ConfigError(f"{Path(path)} is a folder; give a file: .csv, .tsv or .parquet.")
    file = existing_file(path)
    suffix = file.suffix.lower()
    if suffix in (".npz", ".npy"):
        raise ConfigError(f"{file} holds arrays: say data=arrays.")
    if suffix not in (*SEPARATORS, *PARQUET):
        raise ConfigError(f"{file} must end in one of {', '.join((*SEPARATORS, *PARQUET))} to be read.")
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty.")
    return Table(file) if suffix in PARQUET else CsvTable(file, separator, encoding)


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


class Table:
    """Rows and named columns of a Parquet file; of a CSV in the subclass."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with self._errors():
            self.header = self._rows().collect_schema().names()
        self._check_header()

    def read(self, columns: Sequence[str], as_text: Iterable[str] = ()) -> pl.DataFrame:
        """Return all rows; columns `as_text` of a CSV remain as they are written: "007" is no 7."""
        with self._errors():
            frame = self._read(columns, as_text)
        if frame.height == 0:
            raise DataError(f"{self.file} has columns, but no rows.")
        return frame[columns]

    def batches(self, columns: Sequence[str], size: int) -> Iterator[pl.DataFrame]:
        """Yield `size` rows at a time; the cells of a CSV are text."""
        with self._errors():
            for frame in self._rows().select(by_name(*columns)).collect_batches(chunk_size=size):
                yield frame[columns]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what Polars cannot read as an error of ours."""
        try:
            yield
        except (pl.exceptions.PolarsError, OSError, UnicodeError) as error:
            raise self._explain(error) from None

    def _check_header(self) -> None:
        names, file = self.header, self.file
        if not names or names == [""]:
            raise DataError(f"{file} has no header: its first line is empty.")
        if len(set(names)) < len(names):
            raise DataError(f"{file} has two columns {first_duplicate(names)!r}: give each its own name.")
        if "" in names:
            raise DataError(
                f"Column {names.index('')} of {file} has no name: name it in the header (a column that "
                "counts the rows, as pandas writes it, is best left out: to_csv(index=False))."
            )
        if patterns := [name for name in names if name == "*" or (name[0] == "^" and name[-1] == "$")]:
            problem = "which Polars would take for a pattern: give it another name"
            raise DataError(f"{file} has a column {patterns[0]!r}, {problem}.", column=patterns[0])

    def _rows(self) -> pl.LazyFrame:
        return pl.scan_parquet(self.file, glob=False)

    def _read(self, columns: Sequence[str], as_text: Iterable[str]) -> pl.DataFrame:
        return self._rows().select(by_name(*columns)).collect()

    def _explain(self, error: Exception) -> ValueError:
        return DataError(f"{self.file} is no Parquet file that can be read: {_first_line(error)}")


class CsvTable(Table):
    """A text file of separated cells; empty lines are no rows."""

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
            with self._errors(), self._records() as records:
                # Python leaves the byte order mark of utf-16-le in the text
                self.header = [name.removeprefix("\ufeff") for name in next(records, [])]
        except csv.Error as error:
            raise DataError(f"The header of {self.file} cannot be read: {error}.") from None
        self._check_header()

    @contextmanager
    def _records(self) -> Iterator[Any]:
        encoding = "utf-8-sig" if self.is_utf8 else self.encoding
        with self.file.open(encoding=encoding, newline="") as file:
            yield csv.reader(file, delimiter=self.separator)

    def _scan(self, **options: Any) -> pl.LazyFrame:
        # Polars reads UTF-8 only
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
        last = self.header[-1]  # it shows lines that end too soon
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
        # a line that ends too soon looks like one that ends in empty cells
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
        # quickly: no line is empty or has too few separators, quoted ones included
        lines = self._scan(has_header=False, separator="\x01", quote_char=None, schema={"line": pl.String})
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


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
