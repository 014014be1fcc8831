"""Readers of tables: text, Parquet, Arrow, JSON lines, Excel and ARFF. Rows are counted from 0."""

import glob
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from polars.selectors import by_name

from lossselect.data.readers.content import (
    COMPRESSIONS,
    check_not_url,
    decompress,
    find_kind,
    kind_by_suffix,
    kind_error,
)
from lossselect.exceptions import ConfigError, DataError, FileMissingError, OptionTypeError
from lossselect.utils.atomic_write import check_regular_file
from lossselect.utils.checks import first_duplicate, format_setting, lookup, shorten, suggestion

SEPARATORS = {
    ".csv": ",",
    ".tsv": "\t",
    ".tab": "\t",
    ".psv": "|",
    **dict.fromkeys((".txt", ".dat", ".data"), None),
}
"""Suffixes of text files, and their separators of columns; None if it is detected."""
FORMATS = {
    **dict.fromkeys((".parquet", ".pq"), "Parquet"),
    **dict.fromkeys((".feather", ".arrow", ".ipc"), "Arrow"),
    **dict.fromkeys((".jsonl", ".ndjson"), "JSON lines"),
    ".xlsx": "Excel",
    ".arff": "ARFF",
}
"""Formats of the other files, by suffix."""
SHARDED = ("Parquet", "Arrow", "JSON lines")
"""Formats of tables that may consist of several files."""


@dataclass(frozen=True)
class TableOptions:
    """Settings for reading a table; all but `sheet` are for text files.

    Args:
        separator: Separator of columns; " " is any number of blanks. None: the usual one of the suffix, or
            the one that gives each line the same number of cells.
        encoding: An encoding of Python.
        header: Whether the first line contains the names of the columns; None: yes, unless it contains only
            numbers, which raises an error.
        decimal: "," if numbers are written as 1,5.
        comment: Start of lines to leave out.
        sheet: Name of the sheet of an Excel file; None for its only sheet.
    """

    separator: str | None = None
    encoding: str = "utf-8"
    header: bool | None = None
    decimal: str = "."
    comment: str | None = None
    sheet: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.encoding, str):
            raise OptionTypeError(f"data.encoding must be a name such as 'latin-1', got {self.encoding!r}.")
        try:
            "".encode(self.encoding)
        except (LookupError, TypeError):
            raise ConfigError(
                f"Unknown data.encoding {self.encoding!r}. Set an encoding of Python, such as utf-8 or "
                "latin-1."
            ) from None
        separator = self.separator or None
        if separator == "\\t":  # a tab, as it is typed at the command line
            separator = "\t"
        if separator is not None and (not isinstance(separator, str) or len(separator.encode()) != 1):
            raise ConfigError(f"data.separator must be a single ASCII character, got {separator!r}.")
        object.__setattr__(self, "separator", separator)
        if not isinstance(self.header, bool | None):
            raise OptionTypeError(f"data.header must be true, false or null, got {self.header!r}.")
        lookup(dict.fromkeys((".", ",")), str(self.decimal), "data.decimal")
        if self.decimal == "," == separator:
            raise ConfigError(
                "data.decimal=',' requires another separator of columns. Set data.separator=';'."
            )
        if self.comment is not None and (not isinstance(self.comment, str) or not self.comment.strip()):
            raise ConfigError(f"data.comment must be the start of a line, such as '#', got {self.comment!r}.")


def open_table(path: str, options: TableOptions | None = None) -> "Table":
    """Return the table in a file, in a folder of files, or in the files that match a pattern.

    Raises:
        ConfigError: a URL, a kind of file that is not read, or a setting that does not fit it.
        DataError: the file is empty, damaged, or has no valid header.
        FileMissingError: there is no such file.
    """
    from lossselect.data.readers.text_tables import TextTable

    options = options or TableOptions()
    check_not_url(path)
    if Path(path).is_dir() or (glob.has_magic(path) and not Path(path).exists()):
        return _open_shards(path)
    file = existing_file(path)
    suffix, compression = file.suffix.lower(), COMPRESSIONS.get(file.suffix.lower())
    if compression is not None:
        suffix = Path(file.stem).suffix.lower()
        suffix = ".csv" if suffix == "" and compression == "ZIP" else suffix
    if suffix in (".npz", ".npy"):
        raise ConfigError(f"Expected a table, got {file}. Set data=arrays to read arrays (.npz or .npy).")
    if suffix not in (*SEPARATORS, *FORMATS):
        raise _suffix_error(file, suffix)
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty. Write it again, with a header and rows.")
    form, kind = FORMATS.get(suffix), find_kind(file)
    is_damaged_excel = form == "Excel" and kind == "ZIP"  # the reader raises the error
    if kind not in (compression or form or "text", "text") and not is_damaged_excel:
        is_utf16 = kind == "UTF-16" and options.encoding.lower().replace("_", "-").startswith("utf-16")
        if not is_utf16:
            raise kind_error(file, kind, f"{form} content" if form else "text")
    content = None if compression is None else decompress(file, compression)
    if form is None:
        return TextTable(file, options, SEPARATORS[suffix], content)
    source: Any = file if content is None else io.BytesIO(content)
    return Table(file, form, lambda: _READERS[form](source, options))


def check_columns(names: Iterable[str], header: list[str], source: str, path: str) -> None:
    """Raise a DataError for the first name that the header lacks; `source` is the setting with the name."""
    for name in names:
        if name in header:
            continue
        message = f"{path} has no column {name!r} ({source}).{suggestion(str(name), header)}"
        message += f" It has: {shorten(header)}."
        if header[0].startswith(("#", "%", "//")):
            comment = format_setting("data.comment", header[0][0])
            message += f" If its first lines are comments, set {comment}."
        elif len(header) == 1 and (candidates := [s for s in ";\t|, " if s in header[0]]):
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
    """Rows and named columns of a table, whose format Polars reads; the subclass reads text."""

    unnamed: tuple[str, ...] = ()
    """Names given to columns whose name is empty in the file."""

    def __init__(self, file: Path, form: str, rows: Callable[[], pl.LazyFrame]) -> None:
        self.file, self.form, self._scan_rows = file, form, rows
        with self._errors():
            self.header = self._rows().collect_schema().names()
        self._check_header()

    def read(self, columns: Sequence[str], as_text: Iterable[str] = ()) -> pl.DataFrame:
        """Return all rows; the columns `as_text` of a text file stay text: "007" does not become 7."""
        with self._errors():
            frame = self._read(columns, as_text)
        if frame.height == 0:
            raise DataError(f"{self.file} has no rows. Add at least one.")
        return frame[columns]

    def batches(self, columns: Sequence[str], size: int) -> Iterator[pl.DataFrame]:
        """Yield `size` rows at a time; the cells of a text file are text."""
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
        if (name := first_duplicate(names)) is not None:
            raise DataError(f"{file} has more than one column {name!r}. Give each a unique name.")
        if patterns := [name for name in names if name == "*" or (name[:1] == "^" and name[-1:] == "$")]:
            problem = "which Polars would read as a pattern. Rename the column"
            raise DataError(f"{file} has a column {patterns[0]!r}, {problem}.", column=patterns[0])

    def _rows(self) -> pl.LazyFrame:
        return self._scan_rows()

    def _read(self, columns: Sequence[str], as_text: Iterable[str]) -> pl.DataFrame:
        return self._rows().select(by_name(*columns)).collect()

    def _explain(self, error: Exception) -> ValueError:
        article = "an" if self.form[0] in "AE" else "a"
        return DataError(
            f"{self.file} cannot be read as {article} {self.form} file ({first_line(error)}). Write or copy "
            "it again."
        )


def _open_shards(path: str) -> Table:
    """Return the table in all files of a folder, or in those that match a pattern, ordered by name."""
    is_folder = Path(path).is_dir()
    names = glob.glob(f"{glob.escape(path)}/**/*" if is_folder else path, recursive=True)
    files = sorted(file for file in map(Path, names) if file.is_file() and file.name[0] not in "._")
    forms = {FORMATS.get(file.suffix.lower(), file.suffix) for file in files}
    form = forms.pop() if len(forms) == 1 else ""
    if form not in SHARDED:
        where = f"The folder {Path(path)}" if is_folder else f"The pattern {path}"
        found = f"has files of other kinds, such as {files[0].name}" if files else "has no files"
        raise ConfigError(
            f"{where} {found}. Set data.path to one file, or to a folder or a pattern of .parquet, .arrow or "
            ".jsonl files of one table."
        )
    return Table(Path(path), form, lambda: _READERS[form](files, TableOptions()))


def _suffix_error(file: Path, suffix: str) -> ConfigError:
    expected = f"a file with one of the suffixes {', '.join((*SEPARATORS, *FORMATS))}"
    kind = kind_by_suffix(file)
    if kind is not None:
        return kind_error(file, kind, expected)
    return ConfigError(f"Expected {expected}, got {file}. Save the table in one of these formats.")


def _scan_parquet(source: Any, options: TableOptions) -> pl.LazyFrame:
    return pl.scan_parquet(source, glob=False)


def _scan_arrow(source: Any, options: TableOptions) -> pl.LazyFrame:
    return pl.scan_ipc(source, glob=False)


def _scan_json_lines(source: Any, options: TableOptions) -> pl.LazyFrame:
    return pl.scan_ndjson(source, infer_schema_length=None)


def _read_excel(source: Any, options: TableOptions) -> pl.LazyFrame:
    try:
        import fastexcel
    except ImportError:
        raise ConfigError(
            "Excel files require the package fastexcel. Install it (pip install fastexcel), or save the "
            "table as a .csv file."
        ) from None
    try:
        sheets = fastexcel.read_excel(
            source.getvalue() if hasattr(source, "getvalue") else source
        ).sheet_names
    except fastexcel.FastExcelError as error:
        raise OSError(str(error)) from None
    if options.sheet is None and len(sheets) > 1:
        raise ConfigError(
            f"{source} has {len(sheets)} sheets: {shorten(sheets)}. Set "
            f"{format_setting('data.sheet', sheets[0])}, or another one."
        )
    if options.sheet is not None:
        lookup(dict.fromkeys(sheets), options.sheet, "data.sheet")
    return pl.read_excel(source, sheet_name=options.sheet or sheets[0], infer_schema_length=None).lazy()


def _read_arff(source: Any, options: TableOptions) -> pl.LazyFrame:
    from scipy.io import arff

    text = source.read_text(encoding=options.encoding) if isinstance(source, Path) else source.read().decode()
    try:
        rows, attributes = arff.loadarff(io.StringIO(text))
    except (arff.ArffError, NotImplementedError, ValueError, IndexError, StopIteration) as error:
        raise OSError(
            f"{first_line(error)}; scipy.io.arff reads numbers and nominal values, but neither text nor "
            "sparse rows"
        ) from None
    columns = []
    for name in attributes.names():
        values = rows[name]
        if values.dtype.kind == "S":
            words = [value.decode() for value in values.tolist()]
            columns.append(pl.Series(name, [None if word == "?" else word for word in words]))
        else:
            columns.append(pl.Series(name, values).fill_nan(None))
    return pl.DataFrame(columns).lazy()


_READERS: dict[str, Callable[[Any, TableOptions], pl.LazyFrame]] = {
    "Parquet": _scan_parquet,
    "Arrow": _scan_arrow,
    "JSON lines": _scan_json_lines,
    "Excel": _read_excel,
    "ARFF": _read_arff,
}


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().partition("\n")[0]
