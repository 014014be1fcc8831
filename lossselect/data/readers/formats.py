"""Formats of tables: text, Parquet, Arrow, JSON lines, Excel and ARFF."""

import glob
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from lossselect.data.readers.arff import read_arff
from lossselect.data.readers.content import (
    check_not_url,
    decompress,
    find_kind,
    is_text,
    kind_by_suffix,
    kind_error,
)
from lossselect.data.readers.libsvm import check_is_table
from lossselect.data.readers.suffixes import ARRAYS, COMPRESSIONS, FORMATS, LIBSVM, SEPARATORS
from lossselect.data.readers.tables import Table, TableOptions, existing_file
from lossselect.data.readers.text_tables import TextTable
from lossselect.exceptions import ConfigError, DataError
from lossselect.utils.checks import format_setting, lookup, shorten

SHARDED = ("Parquet", "Arrow", "JSON lines")
"""Formats of tables that may consist of several files."""


def open_table(path: str, options: TableOptions | None = None) -> "Table":
    """Return the table in a file, in a folder of files, or in the files that match a pattern.

    Raises:
        ConfigError: a URL, a kind of file that is not read, or a setting that does not fit it.
        DataError: the file is empty, damaged, or has no valid header.
        FileMissingError: there is no such file.
    """
    options = options or TableOptions()
    check_not_url(path)
    if Path(path).is_dir() or (glob.has_magic(path) and not Path(path).exists()):
        return _open_shards(path)
    file = existing_file(path)
    compression = COMPRESSIONS.get(file.suffix.lower())
    content, name = (None, file.name) if compression is None else decompress(file, compression)
    suffix = Path(name).suffix.lower()
    if suffix in ARRAYS:
        raise ConfigError(f"Expected a table, got {file}. Set data=arrays to read arrays (.npz or .npy).")
    if suffix in LIBSVM:
        raise ConfigError(f"Expected a table, got {file}. Set data=arrays to read libsvm files.")
    if suffix not in (*SEPARATORS, *FORMATS):
        if kind_by_suffix(Path(name)) is not None or not is_text(file, content):
            raise _suffix_error(file, name)
        suffix = ".txt"  # such as adult.test and sat.trn
    if file.stat().st_size == 0 or content == b"":
        raise DataError(f"{file} is empty. Write it again, with a header and rows.")
    form = FORMATS.get(suffix)
    if content is None:
        _check_kind(file, form, options)
    if form is None and _starts_as_arff(file, content):
        form = "ARFF"  # KEEL calls them .dat
    elif form is None and not options.separator:
        check_is_table(file, content)
    if form is None:
        return TextTable(file, options, SEPARATORS[suffix], content)
    source: Any = file if content is None else io.BytesIO(content)
    size = file.stat().st_size if content is None else len(content)
    return Table(file, form, lambda: _READERS[form](source, options), [file], size)


def _starts_as_arff(file: Path, content: bytes | None) -> bool:
    if content is None:
        with file.open("rb") as opened:
            content = opened.read(512)
    return content[:512].lstrip().lower().startswith(b"@relation")


def _check_kind(file: Path, form: str | None, options: TableOptions) -> None:
    """Raise ConfigError if the first bytes of a file are those of another kind than its suffix says."""
    kind = find_kind(file)
    is_utf16 = kind.startswith("UTF") and options.encoding.lower().replace("_", "-").startswith(
        kind[:6].lower()
    )
    is_damaged_excel = form == "Excel" and kind == "ZIP"  # the reader raises the error
    if kind not in (form or "text", "text") and not is_utf16 and not is_damaged_excel:
        raise kind_error(file, kind, f"{form} content" if form else "text")


def list_files(path: str) -> list[Path]:
    """Return the files in a folder, or those that match a pattern, without hidden ones, ordered by name."""
    names = glob.glob(f"{glob.escape(path)}/**/*" if Path(path).is_dir() else path, recursive=True)
    return sorted(file for file in map(Path, names) if file.is_file() and file.name[0] not in "._")


def _open_shards(path: str) -> Table:
    """Return the table in all files of a folder, or in those that match a pattern, ordered by name."""
    is_folder, files = Path(path).is_dir(), list_files(path)
    forms = {FORMATS.get(file.suffix.lower(), file.suffix) for file in files}
    form = forms.pop() if len(forms) == 1 else ""
    if form not in SHARDED:
        where = f"The folder {Path(path)}" if is_folder else f"The pattern {path}"
        found = f"has files of other kinds, such as {files[0].name}" if files else "has no files"
        raise ConfigError(
            f"{where} {found}. Set data.path to one file, or to a folder or a pattern of .parquet, .arrow or "
            ".jsonl files of one table."
        )
    size = sum(file.stat().st_size for file in files)
    return Table(Path(path), form, lambda: _READERS[form](files, TableOptions()), files, size)


def _suffix_error(file: Path, name: str) -> ConfigError:
    if (kind := kind_by_suffix(Path(name))) is not None:
        return kind_error(file, kind, "a table")
    return ConfigError(
        f"Expected a file with one of the suffixes {', '.join((*SEPARATORS, *FORMATS))}, got {file}. Save "
        "the table in one of these formats."
    )


def _scan_parquet(source: Any, options: TableOptions) -> pl.LazyFrame:
    return pl.scan_parquet(source, glob=False)


def _scan_arrow(source: Any, options: TableOptions) -> pl.LazyFrame:
    return pl.scan_ipc(source, glob=False)


def _scan_json_lines(source: Any, options: TableOptions) -> pl.LazyFrame:
    # Polars takes the columns and types of several files from the first one, and drops other cells
    files = source if isinstance(source, list) else [source]
    scans = [pl.scan_ndjson(file, infer_schema_length=None) for file in files]
    return scans[0] if len(scans) == 1 else pl.concat(scans, how="diagonal_relaxed")


def _read_json(source: Any, options: TableOptions) -> pl.LazyFrame:
    """Return the rows of a list of objects, or of lines with an object each."""
    content = source.read_bytes() if isinstance(source, Path) else source.getvalue()
    if content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
        return pl.read_json(io.BytesIO(content), infer_schema_length=None).lazy()
    rows = pl.read_ndjson(io.BytesIO(content), infer_schema_length=None)
    if rows.height == 1:
        raise ConfigError(
            f"{source} contains a single JSON object, but a table must be a list of objects, or one "
            "object per line. "
            f"It has: {shorten(rows.columns)}. Convert it, for example with: "
            "pandas.DataFrame(json.load(open('data.json'))['KEY']).to_parquet('data.parquet')."
        )
    return rows.lazy()


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
    content = source.read_bytes() if isinstance(source, Path) else source.getvalue()
    return read_arff(
        content.decode(options.encoding), source if isinstance(source, Path) else "the file"
    ).lazy()


_READERS: dict[str, Callable[[Any, TableOptions], pl.LazyFrame]] = {
    "Parquet": _scan_parquet,
    "Arrow": _scan_arrow,
    "JSON lines": _scan_json_lines,
    "JSON": _read_json,
    "Excel": _read_excel,
    "ARFF": _read_arff,
}
