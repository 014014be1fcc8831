"""Formats of tables: text, Parquet, Arrow, JSON lines, Excel and ARFF."""

import glob
import io
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from lossselect.data.readers.arff import read_arff
from lossselect.data.readers.content import (
    AS_CSV,
    KINDS,
    check_fits,
    check_not_url,
    decompress,
    find_kind,
    is_text,
    kind_error,
    read_start,
)
from lossselect.data.readers.libsvm import check_is_table
from lossselect.data.readers.suffixes import (
    ARFF,
    ARRAYS,
    ARROW,
    COMPRESSIONS,
    EXCEL,
    FORMATS,
    JSON,
    JSON_LINES,
    LIBSVM,
    PARQUET,
    SEPARATORS,
    TEXT,
    Format,
)
from lossselect.data.readers.tables import Table, TableOptions, existing_file
from lossselect.data.readers.text_tables import TextTable
from lossselect.exceptions import ConfigError, DataError
from lossselect.utils.checks import check_choice, format_setting, shorten


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
    suffix, start = Path(name).suffix.lower(), read_start(file, content)
    if suffix in ARRAYS:
        raise ConfigError(f"Expected a table, got {file}. Set data=arrays to read arrays (.npz or .npy).")
    if suffix in LIBSVM:
        raise ConfigError(f"Expected a table, got {file}. Set data=arrays to read libsvm files.")
    if suffix not in (*SEPARATORS, *FORMATS):
        if suffix in KINDS:
            raise kind_error(file, KINDS[suffix], "a table")
        is_utf16 = content is None and find_kind(file).startswith("UTF")
        if not is_utf16 and not is_text(start):
            raise ConfigError(
                f"Expected a file with one of the suffixes {', '.join((*SEPARATORS, *FORMATS))}, got {file}. "
                "Save the table in one of these formats."
            )
        suffix = ".txt"  # such as adult.test and sat.trn
    if not start:
        raise DataError(f"{file} is empty. Write it again, with a header and rows.")
    if content is None:
        _check_kind(file, FORMATS.get(suffix, TEXT), options)
    if suffix in SEPARATORS and not start.lstrip().lower().startswith(b"@relation"):
        if not options.separator:
            check_is_table(file, start)
        return TextTable(file, options, SEPARATORS[suffix], content)
    form = FORMATS.get(suffix, ARFF)  # KEEL calls ARFF files .dat
    size = file.stat().st_size if content is None else len(content)
    if not form.in_memory:
        source = file if content is None else io.BytesIO(content)
        return Table(file, form, lambda: _SCANNERS[form](source), [file], size)

    def parse() -> pl.LazyFrame:
        check_fits(file, size, form.name, AS_CSV)
        return _PARSERS[form](file.read_bytes() if content is None else content, file, options).lazy()

    return Table(file, form, parse, [file], size)


def _check_kind(file: Path, form: Format, options: TableOptions) -> None:
    """Raise ConfigError if the first bytes of a file are those of another kind than its suffix says."""
    kind = find_kind(file)
    is_utf16 = kind.startswith("UTF") and options.encoding.lower().replace("_", "-").startswith(
        kind[:6].lower()
    )
    if kind not in (*form.kinds, "text") and not is_utf16:
        raise kind_error(file, kind, form.name)


def list_files(path: str) -> list[Path]:
    """Return the files in a folder, or those that match a pattern, without hidden ones, ordered by name."""
    names = glob.glob(f"{glob.escape(path)}/**/*" if Path(path).is_dir() else path, recursive=True)
    return sorted(file for file in map(Path, names) if file.is_file() and file.name[0] not in "._")


def _open_shards(path: str) -> Table:
    """Return the table in all files of a folder, or in those that match a pattern, ordered by name."""
    is_folder, files = Path(path).is_dir(), list_files(path)
    forms = {FORMATS.get(file.suffix.lower()) for file in files}
    form = forms.pop() if len(forms) == 1 else None
    if form is None or form.in_memory:
        where = f"The folder {Path(path)}" if is_folder else f"The pattern {path}"
        if files and {file.suffix.lower() for file in files} == {".csv"}:
            raise ConfigError(
                f"{where} has .csv files, but a table in text must be one file. Convert them, for example "
                f"with: polars.scan_csv({path!r}).sink_parquet('all.parquet')."
            )
        found = f"has files of other kinds, such as {files[0].name}" if files else "has no files"
        raise ConfigError(
            f"{where} {found}. Set data.path to one file, or to a folder or a pattern of .parquet, .arrow or "
            ".jsonl files of one table."
        )
    size = sum(file.stat().st_size for file in files)
    return Table(Path(path), form, lambda: _SCANNERS[form](files), files, size)


def _scan_json_lines(source: Any) -> pl.LazyFrame:
    # Polars takes the columns and types of several files from the first one, and drops other cells
    files = source if isinstance(source, list) else [source]
    scans = [pl.scan_ndjson(file, infer_schema_length=None) for file in files]
    return scans[0] if len(scans) == 1 else pl.concat(scans, how="diagonal_relaxed")


def _parse_json(content: bytes, file: Path, options: TableOptions) -> pl.DataFrame:
    """Return the rows of a list of objects, or of lines with an object each."""
    if content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
        return pl.read_json(content, infer_schema_length=None)
    rows = pl.read_ndjson(content, infer_schema_length=None)
    if rows.height == 1:
        raise ConfigError(
            f"{file} contains a single JSON object, but a table must be a list of objects, or one "
            f"object per line. It has: {shorten(rows.columns)}. Convert it, for example with: "
            "pandas.DataFrame(json.load(open('data.json'))['KEY']).to_parquet('data.parquet')."
        )
    return rows


def _parse_excel(content: bytes, file: Path, options: TableOptions) -> pl.DataFrame:
    try:
        import fastexcel
    except ImportError:
        raise ConfigError(
            "Excel files require the package fastexcel. Install it (pip install fastexcel), or save the "
            "table as a .csv file."
        ) from None
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(content)) as archive:
        check_fits(file, sum(part.file_size for part in archive.infolist()), EXCEL.name, AS_CSV)
    try:
        sheets = fastexcel.read_excel(content).sheet_names
    except fastexcel.FastExcelError as error:
        raise OSError(str(error)) from None
    if options.sheet is None and len(sheets) > 1:
        raise ConfigError(
            f"{file} has {len(sheets)} sheets: {shorten(sheets)}. Set "
            f"{format_setting('data.sheet', sheets[0])}, or another one."
        )
    if options.sheet is not None:
        check_choice("data.sheet", options.sheet, sheets, f" for {file}")
    start: Any = {"header_row": options.skip_lines} if options.skip_lines else None
    return pl.read_excel(
        content, sheet_name=options.sheet or sheets[0], infer_schema_length=None, read_options=start
    )


_SCANNERS: dict[Format, Callable[[Any], pl.LazyFrame]] = {
    PARQUET: partial(pl.scan_parquet, glob=False),
    ARROW: partial(pl.scan_ipc, glob=False),
    JSON_LINES: _scan_json_lines,
}
"""Functions that scan a file, several files, or the content of a compressed file."""
_PARSERS: dict[Format, Callable[[bytes, Path, TableOptions], pl.DataFrame]] = {
    JSON: _parse_json,
    EXCEL: _parse_excel,
    ARFF: lambda content, file, options: read_arff(content.decode(options.encoding), file),
}
"""Functions that parse the content of a file; the file is for messages."""
