"""Tables: their rows, their columns, and the settings for reading them. Rows are counted from 0."""

import errno
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from polars.selectors import by_name

from lossselect.data.readers.suffixes import Format
from lossselect.exceptions import ConfigError, DataError, FileMissingError, OptionTypeError
from lossselect.labels.values import as_number
from lossselect.utils.atomic_write import check_regular_file
from lossselect.utils.checks import (
    check_choice,
    check_int,
    first_duplicate,
    first_line,
    format_setting,
    shorten,
    show,
    suggestion,
)

QUOTES = {"double": '"', "single": "'", "none": None}
"""Quotes around cells, by name, because quotes are difficult to write at the command line."""
TEXT_EXPANSION = 4
"""Estimated memory of a table and its features, relative to the size of its file."""
CELL_BYTES = 24
"""Estimated memory of a cell and its feature in bytes: two copies as float64, one as float32, and others."""
GROUP_BYTES = 1 << 28
"""Maximum size of the columns or rows of a file that are read at once, unless one column is larger."""
UNNAMED = re.compile(r"__index_level_\d+__|__UNNAMED__\d+")
"""Names that pandas gives to an index in Parquet, and Polars to a column without a name in Excel."""


@dataclass(frozen=True)
class TableOptions:
    """Settings for reading a table; `sheet` is for Excel, `skip_lines` for both, all others for text files.

    Args:
        separator: Separator of columns; " " is any number of blanks. None: the usual one of the suffix, or
            the one that gives each line the same number of cells.
        encoding: An encoding of Python.
        header: Whether the first line contains the names of the columns; None: yes, but training checks
            that they do not look like a row.
        decimal: "," if numbers are written as 1,5.
        comment: Start of lines to leave out.
        quote: Quotes around cells that contain the separator: "double", "single", or "none".
        skip_lines: Number of lines before the header.
        sheet: Name of the sheet of an Excel file; None for its only sheet.
    """

    separator: str | None = None
    encoding: str = "utf-8"
    header: bool | None = None
    decimal: str = "."
    comment: str | None = None
    quote: str = "double"
    skip_lines: int = 0
    sheet: str | None = None

    @classmethod
    def select(cls, settings: Mapping[str, Any]) -> "TableOptions":
        """Create the options from those among other settings."""
        return cls(**{field.name: settings[field.name] for field in fields(cls) if field.name in settings})

    def __post_init__(self) -> None:
        if not isinstance(self.encoding, str):
            raise OptionTypeError(f"data.encoding must be a name such as 'latin-1', got {self.encoding!r}.")
        try:
            "".encode(self.encoding)
        except (LookupError, TypeError):
            raise ConfigError(
                f"data.encoding={self.encoding!r} is not valid. Set an encoding of Python, such as utf-8 "
                "or latin-1."
            ) from None
        separator = self.separator or None
        if separator == "\\t":  # a tab, as it is typed at the command line
            separator = "\t"
        if separator is not None and not isinstance(separator, str):
            raise ConfigError(f"data.separator must be text such as ';', got {separator!r}.")
        object.__setattr__(self, "separator", separator)
        if not isinstance(self.header, bool | None):
            raise OptionTypeError(f"data.header must be true, false or null, got {self.header!r}.")
        check_choice("data.decimal", str(self.decimal), (".", ","))
        check_choice("data.quote", str(self.quote), QUOTES)
        check_int("data.skip_lines", self.skip_lines, 0)
        if self.decimal == "," == separator:
            raise ConfigError(
                "data.decimal=',' requires another separator of columns. Set data.separator=';'."
            )
        if self.comment is not None and (not isinstance(self.comment, str) or not self.comment.strip()):
            raise ConfigError(f"data.comment must be the start of a line, such as '#', got {self.comment!r}.")


def check_columns(names: Iterable[str], header: list[str], source: str, path: str) -> None:
    """Raise a DataError for names that the header lacks; `source` is the setting with the names."""
    known = {*header}
    missing = [name for name in names if name not in known]
    if not missing:
        return
    position = f"column {missing[0]}"  # of a file without a header
    similar = suggestion(position if position in known else str(missing[0]), header)
    message = f"{path} has no column {missing[0]!r} ({source}).{similar}"
    if source == "data.target" and Path(str(missing[0])).is_file():
        separator = "," if path.endswith(".csv") else " "
        paste = f"paste -d {separator!r} {shlex.quote(path)} {shlex.quote(str(missing[0]))} > joined.txt"
        raise DataError(
            f"{message} Labels must be in the same file. To append them as the last column, run: {paste}"
        )
    if len(missing) > 1:
        message += f" It also lacks {shorten([*map(show, missing[1:])], 6)}."
    message += f" It has: {shorten(header)}."
    if header[0].startswith(("#", "%", "//")):
        comment = format_setting("data.comment", header[0][0])
        message += f" If its first lines are comments, set {comment}."
    elif any(map(UNNAMED.fullmatch, header)):
        message += " If a title comes before the names, set data.skip_lines, such as data.skip_lines=1."
    elif any(as_number(column) is not None for column in header):
        message += f" {header_hint(len(header))}"
    elif len(header) == 1 and (candidates := [s for s in ";\t|, " if s in header[0]]):
        separator = format_setting("data.separator", candidates[0])
        message += f" If {candidates[0]!r} separates the columns, set {separator}."
    raise DataError(message)


def header_hint(width: int) -> str:
    """Return a sentence about a file of `width` columns that may have no header."""
    names = f"its columns are then 'column 0' to 'column {width - 1}'"
    return f"If the file has no header, set data.header=false; {names}."


def drop_rows(frame: pl.LazyFrame, rows: list[int]) -> pl.LazyFrame:
    """Return a frame without some rows, by their index; it may have an additional column."""
    return frame.with_row_index("\x00row").filter(~pl.first().is_in(rows)) if rows else frame


def existing_file(path: str) -> Path:
    """Return the path of an existing regular file; raise a FileMissingError if there is none."""
    check_regular_file(path)
    file = Path(path)
    if not file.is_file():
        names = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        raise FileMissingError(f"File not found: {file}.{suggestion(file.name, names) or ' Check the path.'}")
    return file


class Table:
    """Rows and named columns of a table; the subclass reads text.

    Args:
        file: The file, folder or pattern, for messages.
        format: The format.
        rows: Function that scans or parses the rows; it is called once.
        files: All files of the table.
        size: Size of the files, after decompression.
    """

    separator_hint = ""
    """Sentence for errors about the columns, if their separator was detected."""
    unnamed: tuple[str, ...] = ()
    """Names given to columns whose name is empty in the file, or an index of pandas."""

    def __init__(
        self, file: Path, format: Format, rows: Callable[[], pl.LazyFrame], files: Sequence[Path], size: int
    ) -> None:
        self.file, self.format, self.files, self.size = file, format, files, size
        with self._errors():
            self._scan = rows()
            self.header = self._scan.collect_schema().names()
        self.unnamed = tuple(filter(UNNAMED.fullmatch, self.header))
        self._check_header()

    def read(
        self, columns: Sequence[str], as_text: Iterable[str] = (), as_written: Sequence[str] = ()
    ) -> pl.DataFrame:
        """Return all rows; the columns `as_text` of a text file stay text: "007" does not become 7.

        In the columns `as_written`, a decimal comma is not replaced either.
        """
        with self._errors():
            frame = self._read(columns, as_text, as_written)
        if frame.height == 0:
            raise DataError(f"{self.file} has no rows. Add at least one.")
        return frame[columns]

    def batches(self, columns: Sequence[str], size: int) -> Iterator[pl.DataFrame]:
        """Yield `size` rows at a time; the cells of a text file are text."""
        with self._errors():
            for frame in self._rows().select(by_name(*columns)).collect_batches(chunk_size=size):
                yield frame[columns]

    @property
    def memory(self) -> int:
        """Estimated size in bytes of the memory that the table and its features take."""
        size = TEXT_EXPANSION * self.size
        if not (self.format.by_columns or self.format.in_memory):  # counting the rows takes long
            return size
        with self._errors():
            num_rows = int(self._rows().select(pl.len()).collect().item())
        return max(size, num_rows * len(self.header) * CELL_BYTES)

    def convert(
        self, columns: Sequence[str], path: Path, as_text: Iterable[str] = (), as_written: Sequence[str] = ()
    ) -> None:
        """Write columns into a Parquet file with constant memory; see `read` for the arguments.

        Raises:
            OSError: the disk is full.
        """
        with self._errors():
            self._rows().select(by_name(*columns)).sink_parquet(path, compression="lz4")

    def check_unused(self, options: TableOptions, prefix: str = "data.") -> None:
        """Raise ConfigError for a setting that has no effect; `prefix` belongs to its name in the message."""
        for name, value in vars(options).items():
            if name not in self.format.settings and value != getattr(TableOptions, name):
                setting = f"{prefix}{name}"
                raise ConfigError(
                    f"{setting} has no effect: {self.file} is {self.format.name}. Remove {setting}."
                )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Convert the errors of Polars to a DataError or ConfigError, or to an OSError for a full disk."""
        try:
            yield
        except (pl.exceptions.PolarsError, OSError, UnicodeError) as error:
            for code in (errno.ENOSPC, errno.EDQUOT):
                if getattr(error, "errno", 0) == code or f"(os error {code})" in str(error):
                    raise OSError(code, os.strerror(code)) from None
            raise self._explain(error) from None

    def _check_header(self) -> None:
        names, file = self.header, self.file
        if not names or names == [""]:
            raise DataError(
                f"{file} has no header: its first line is empty. Write the column names in the first line."
            )
        if (name := first_duplicate(names)) is not None:
            raise DataError(
                f"{file} has more than one column {name!r}. Give each a unique name. "
                f"{header_hint(len(names))}",
                column=name,
            )
        if patterns := [name for name in names if name == "*" or (name[:1] == "^" and name[-1:] == "$")]:
            problem = "which Polars would read as a pattern. Rename the column"
            raise DataError(f"{file} has a column {patterns[0]!r}, {problem}.", column=patterns[0])

    def _rows(self) -> pl.LazyFrame:
        return self._scan

    def _read(
        self, columns: Sequence[str], as_text: Iterable[str], as_written: Sequence[str]
    ) -> pl.DataFrame:
        return self._rows().select(by_name(*columns)).collect()

    def _explain(self, error: Exception) -> ValueError:
        return DataError(
            f"{self.file} cannot be read as {self.format.name} ({first_line(error)}). Write or copy it again."
        )


class TableColumns:
    """Columns of a table in memory."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame, self.columns = frame, frame.columns

    def __len__(self) -> int:
        return self.frame.height

    def groups(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yield frames with all rows, which together have these columns."""
        if columns:
            yield self.frame.select(columns)

    def cells(self, column: str, rows: np.ndarray) -> pl.Series:
        """Return a column's cells in rows with ascending indices."""
        return self.frame[column].gather(rows)


class FileColumns(TableColumns):
    """Columns of a table in a file that may be larger than the memory.

    Args:
        table: The table.
        columns: Names of the columns.
        num_rows: The number of rows of the table.
    """

    def __init__(self, table: Table, columns: Sequence[str], num_rows: int) -> None:
        self.table, self.columns, self.num_rows = table, [*columns], num_rows

    def __len__(self) -> int:
        return self.num_rows

    def groups(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yield frames with all rows, which together have these columns."""
        size = max(1, GROUP_BYTES // (8 * self.num_rows))
        for start in range(0, len(columns), size):
            yield self.table.read(columns[start : start + size])

    def batches(self) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield frames of some rows with all columns, and the index of their first row."""
        first, size = 0, max(1, GROUP_BYTES // (32 * len(self.columns)))
        for frame in self.table.batches(self.columns, size):
            yield first, frame
            first += frame.height

    def cells(self, column: str, rows: np.ndarray) -> pl.Series:
        """Return a column's cells in rows with ascending indices."""
        found = [
            frame[column].gather(np.asarray(rows[start:end]) - first)
            for first, frame in FileColumns(self.table, [column], self.num_rows).batches()
            for start, end in [np.searchsorted(rows, (first, first + frame.height))]
        ]
        return pl.concat(found).rename(column)
