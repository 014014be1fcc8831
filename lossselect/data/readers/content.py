"""The content of a file: its kind by the first bytes, decompression, and advice for other kinds."""

import bz2
import gzip
import io
import lzma
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import polars as pl

from lossselect.data.readers.suffixes import COMPRESSIONS
from lossselect.exceptions import ConfigError, DataError
from lossselect.utils.checks import first_line
from lossselect.utils.devices import free_memory

MAX_MEMORY_SHARE = 0.25
"""Fraction of the free memory that the content of a file may take; the table needs the rest."""
START_BYTES = 1 << 16
"""Number of bytes by which the kind of a file is recognised."""
ZSTD_BLOCK = 1 << 17
"""Maximum size of the content of a compressed block."""
AS_CSV = "Save it as a .csv file"
"""Advice for a file that is not text and does not fit into memory."""

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "ZIP",
    b"ARROW1": "Arrow",
    b"\x93NUMPY": "NumPy",
    b"\x89HDF\r\n": "HDF5",
    b"MATLAB 5.0": "MATLAB",
    b"SQLite format 3\x00": "SQLite",
    b"\xd0\xcf\x11\xe0": "old Excel",
    b"%PDF": "PDF",
    b"version https://git-lfs": "Git LFS",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"\xff\xfe\0\0": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""Kinds of files by their first bytes."""
_SUFFIXES = {
    "Parquet": ".parquet",
    "Arrow": ".arrow",
    "Excel": ".xlsx",
    "NumPy": ".npy",
    "NumPy archive": ".npz",
}
_IMAGES = "Read images with your own data module, as in examples/images."
CONVERSIONS = {
    "HDF5": "pandas.read_hdf({old!r}).to_parquet({new!r})",
    "pickle": "pandas.read_pickle({old!r}).to_parquet({new!r})",
    "MATLAB": "m = scipy.io.loadmat({old!r}); numpy.savez('data.npz', X=m['X'], y=m['y'].ravel())",
    "SQLite": "polars.read_database('SELECT * FROM t', sqlite3.connect({old!r})).write_parquet({new!r})",
    "old Excel": "pandas.read_excel({old!r}).to_parquet({new!r})",
    "SPSS, SAS or Stata": "pandas.read_stata({old!r}).to_parquet({new!r})  # or read_sas, read_spss",
    "R": "In R: arrow::write_parquet(readRDS({old!r}), {new!r})",
    "XML": "pandas.read_xml({old!r}).to_parquet({new!r})",
}
"""A line of code that converts a file of a kind that is not read."""
KINDS = {
    **dict.fromkeys((".h5", ".hdf5", ".hdf"), "HDF5"),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), "pickle"),
    **dict.fromkeys((".sqlite", ".db"), "SQLite"),
    **dict.fromkeys((".sav", ".dta", ".sas7bdat"), "SPSS, SAS or Stata"),
    **dict.fromkeys((".rds", ".rdata"), "R"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp"), "image"),
    **dict.fromkeys((".tar", ".tgz", ".7z", ".rar"), "archive"),
    ".mat": "MATLAB",
    ".xls": "old Excel",
    ".xml": "XML",
    ".pdf": "PDF",
}
"""Kinds of files that are not read, by suffix."""

_DAMAGED = (
    *(OSError, EOFError, zlib.error, zipfile.BadZipFile, lzma.LZMAError, pl.exceptions.PolarsError),
    *(RuntimeError, NotImplementedError),  # a password, or a method of compression that Python lacks
)


def check_not_url(path: str) -> None:
    """Raise a ConfigError for a URL."""
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", path):
        raise ConfigError(
            f"{path} is a URL, but data are read from files. Download the file, and set its path."
        )


def find_kind(file: Path) -> str:
    """Return the kind of a file by its first bytes; "text" if these are not known."""
    start = read_start(file)[:512]
    kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "text")
    if kind == "ZIP":
        names = _zip_names(file)
        if "xl/workbook.xml" in names:
            return "Excel"
        return "NumPy archive" if names and all(name.endswith(".npy") for name in names) else "ZIP"
    if kind != "text":
        return kind
    if found := re.match(rb"PAR1(?=[\0-\x1f])|BZh\d1AY&SY", start):
        return "Parquet" if found[0] == b"PAR1" else "bzip2"
    for zeros, name in ((0, "UTF-16-BE"), (1, "UTF-16-LE")):  # Latin letters without a byte order mark
        others, letters = start[zeros::2], start[1 - zeros :: 2]
        if 0 not in letters and others.count(0) * 2 > len(others):
            return name
    if re.match(rb"\x80[\2-\5]", start):
        return "pickle"
    return "web page" if re.match(rb"\s*<(!doctype html|html)", start, re.IGNORECASE) else kind


def read_start(file: Path, content: bytes | None = None) -> bytes:
    """Return the first bytes of a file; `content` is that of a compressed file."""
    if content is not None:
        return content[:START_BYTES]
    with file.open("rb") as opened:
        return opened.read(START_BYTES)


def is_text(start: bytes) -> bool:
    """Return whether the first bytes of a file of an unknown suffix are text in an encoding like ASCII."""
    return (
        bool(start) and not re.search(rb"[\0-\x08\x0e-\x1e]", start) and start[:4] not in (b"%PDF", b"PAR1")
    )


def kind_error(file: Path, kind: str, expected: str) -> ConfigError:
    """Return the error for a file of another kind than the expected one, with the fix."""
    stem = (
        file.name.removesuffix(file.suffix) if file.suffix.lower() in (*KINDS, *COMPRESSIONS) else file.stem
    )
    if kind.startswith("UTF"):
        return ConfigError(f"{file} is encoded in {kind}. Set data.encoding={kind.lower()}.")
    if kind == "Git LFS":
        return ConfigError(f"{file} is a pointer of Git LFS, not the data. Download them with: git lfs pull.")
    if kind == "archive":
        return ConfigError(f"{file} is an archive of files. Extract it, and set the path of one of them.")
    if kind == "web page":
        return ConfigError(
            f"Expected {expected}, but {file} is a web page (HTML). Download the file to which it refers."
        )
    compression = next((suffix for suffix, name in COMPRESSIONS.items() if name == kind), None)
    if suffix := compression or _SUFFIXES.get(kind):
        new = f"{file.name}{suffix}" if compression else f"{stem}{suffix}"
        fix = f"Rename it to {new}."
        if kind.startswith("NumPy"):
            fix += " Then set data=arrays."
    elif kind in ("PNG", "JPEG", "image"):
        fix = _IMAGES
    elif kind in CONVERSIONS:
        code = CONVERSIONS[kind].format(old=file.name, new=f"{stem}.parquet")
        danger = " Do so only if you trust the file: a pickle can run code." if kind == "pickle" else ""
        fix = f"Convert it, for example with: {code}.{danger}"
    else:
        fix = "Save the table as a .csv or .parquet file."
    return ConfigError(f"Expected {expected}, but {file} contains {kind} data. {fix}")


def decompress(file: Path, kind: str) -> tuple[bytes, str]:
    """Return the content of a compressed file and its name without the suffix of the compression.

    Raises:
        DataError: the file is damaged, too large for the memory, or an archive of several files.
    """
    readers: dict[str, Any] = {"gzip": gzip, "bzip2": bz2, "xz": lzma}
    if find_kind(file) != kind:
        raise DataError(f"{file} is not a {kind} file. Rename it, or write or copy it again.")
    try:
        if kind == "ZIP":
            with zipfile.ZipFile(file) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
                names = [name for name in names if not name.startswith("__MACOSX/")]
                if len(names) != 1:
                    raise DataError(
                        f"{file} contains {len(names)} files. Extract it, and set the path of one of them."
                    )
                with archive.open(names[0]) as opened:
                    return _read_all(opened, file), names[0]
        if kind == "zstd":  # which Python 3.14 is the first to have
            return _read_zstd(file), file.stem
        with readers[kind].open(file) as opened:
            return _read_all(opened, file), file.stem
    except _DAMAGED as error:
        fix = "Write or copy it again"
        if kind == "zstd":
            fix = f"If it is not encoded in UTF-8, decompress it with zstd -d. If it is, {fix.lower()}"
        raise DataError(f"{file} cannot be decompressed ({first_line(error)}). {fix}.") from None


def _read_all(opened: Any, file: Path) -> bytes:
    """Return the content of an open file if it fits into memory; a small file may contain any amount."""
    limit = _memory_limit()
    content = bytes(opened.read(-1 if limit is None else limit + 1))
    check_fits(file, len(content))
    return content


def _read_zstd(file: Path) -> bytes:
    """Return the content of a compressed text file in UTF-8 if it fits into memory."""
    check_fits(file, _zstd_bound(file))  # Polars decompresses all of it
    lines = scan_lines(file).collect()["line"]
    return "\n".join([*lines.fill_null(""), ""]).encode()


def _zstd_bound(file: Path) -> int:
    """Return the maximum size of the content of a zstd file, by the headers of its blocks (RFC 8878)."""
    bound = 0
    with file.open("rb") as opened:
        while len(start := opened.read(5)) == 5:
            if start[1:4] == b"\x2a\x4d\x18":  # a frame to skip, with its size
                opened.seek(int.from_bytes(start[4:] + opened.read(3), "little"), io.SEEK_CUR)
                continue
            flags, is_last = start[4], 0
            is_single = flags >> 5 & 1
            header = 1 - is_single + (0, 1, 2, 4)[flags & 3] + (is_single, 2, 4, 8)[flags >> 6]
            opened.seek(header, io.SEEK_CUR)
            while not is_last and len(block := opened.read(3)) == 3:
                number = int.from_bytes(block, "little")
                is_last, kind, size = number & 1, number >> 1 & 3, number >> 3
                bound += ZSTD_BLOCK if kind == 2 else size
                opened.seek(1 if kind == 1 else size, io.SEEK_CUR)  # a repeated byte, or all
            opened.seek(4 * (flags >> 2 & 1), io.SEEK_CUR)  # the checksum
    return bound


def scan_lines(source: Any) -> pl.LazyFrame:
    """Return the lines of a text file in UTF-8, in the column "line"; an empty line is null or ""."""
    options: Any = {"has_header": False, "quote_char": None, "schema": {"line": pl.String}, "glob": False}
    return pl.scan_csv(source, separator="\x01", **options)


def check_fits(file: Path, size: int, form: str = "a compressed file", fix: str = "Decompress it") -> None:
    """Raise a DataError if `size` bytes of content are too many for a file that is read as a whole.

    `form` and `fix` are for the message: what is read as a whole, and what to do other than to convert it.
    """
    limit = _memory_limit()
    if limit is not None and size > limit:
        raise DataError(
            f"{file} contains more than {limit / 1e9:,.1f} GB, a quarter of the free memory, but {form} is "
            f"read into memory as a whole. {fix}, or convert it to a .parquet file."
        )


def _memory_limit() -> int | None:
    free = free_memory()
    return None if free is None else int(MAX_MEMORY_SHARE * free)


def _zip_names(file: Path) -> list[str]:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return []
