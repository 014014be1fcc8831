"""Suffixes and formats of the files that are read. This module imports no other one of the package."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A format of tables.

    Args:
        name: The name of a file in messages, such as "an Excel file".
        kinds: Kinds of content that a file may have (`content.find_kind`), besides "text".
        settings: Settings for reading a table that have an effect.
        by_columns: Whether a few columns are read quickly.
        in_memory: Whether a file is read into memory as a whole.
    """

    name: str
    kinds: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    by_columns: bool = False
    in_memory: bool = False


TEXT = Format(
    "a text file", settings=("separator", "encoding", "header", "decimal", "comment", "quote", "skip_lines")
)
PARQUET = Format("a Parquet file", kinds=("Parquet",), by_columns=True)
ARROW = Format("an Arrow file", kinds=("Arrow",), by_columns=True)
JSON_LINES = Format("a JSON lines file")
JSON = Format("a JSON file", in_memory=True)
# the first bytes of a damaged Excel file are those of a ZIP; its reader raises the error
EXCEL = Format("an Excel file", kinds=("Excel", "ZIP"), settings=("sheet", "skip_lines"), in_memory=True)
ARFF = Format("an ARFF file", settings=("encoding",), in_memory=True)
SEPARATORS = {
    ".csv": ",",
    ".tsv": "\t",
    ".tab": "\t",
    ".psv": "|",
    **dict.fromkeys((".txt", ".dat", ".data"), None),
}
"""Suffixes of text files, and their separators of columns; None if it is detected."""
FORMATS = {
    **dict.fromkeys((".parquet", ".pq"), PARQUET),
    **dict.fromkeys((".feather", ".arrow", ".ipc"), ARROW),
    **dict.fromkeys((".jsonl", ".ndjson"), JSON_LINES),
    ".json": JSON,
    ".xlsx": EXCEL,
    ".arff": ARFF,
}
"""Formats of the other tables, by suffix."""
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz", ".zip": "ZIP"}
"""Compressed files by suffix."""
ARRAYS = (".npz", ".npy")
"""Suffixes of arrays."""
LIBSVM = (".libsvm", ".svm", ".svmlight")
"""Suffixes of libsvm files, which may also have other names."""
