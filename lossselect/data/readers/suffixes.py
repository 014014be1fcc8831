"""Suffixes of the files that are read. This module imports no other one."""

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
    ".json": "JSON",
    ".xlsx": "Excel",
    ".arff": "ARFF",
}
"""Formats of the other files, by suffix."""
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz", ".zip": "ZIP"}
"""Compressed files by suffix."""
ARRAYS = (".npz", ".npy")
"""Suffixes of arrays."""
LIBSVM = (".libsvm", ".svm", ".svmlight")
"""Suffixes of libsvm files, which may also have other names."""
