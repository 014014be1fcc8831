"""Reader of libsvm (svmlight) files, and of files of the extreme classification repository.

A row of a libsvm file is `label index:value index:value ...`, or `label,label ...` for several labels. A file
of the extreme classification repository has the same rows and a header, `rows features labels`; its indices
and labels start at 0. The column of a feature is its index in the file, in all files.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lossselect.data.readers.content import KINDS, check_not_url, decompress, find_kind, kind_error
from lossselect.data.readers.sparse_matrices import check_finite, check_same_width, check_width
from lossselect.data.readers.suffixes import ARRAYS, COMPRESSIONS, FORMATS, LIBSVM, SEPARATORS
from lossselect.data.readers.tables import existing_file
from lossselect.exceptions import ConfigError, DataError
from lossselect.utils.checks import first_line, shorten, show
from lossselect.utils.warnings import warn

HEADER = re.compile(rb"\s*(\d+)\s+(\d+)\s+(\d+)\s*")
QUERY = re.compile(rb"[^#]*?\sqid:(\d{1,18})\s")
ROW = re.compile(rb"[^\s:]*( qid:\d+)?( \d+:[-+.\deE]+){2,}\s*")
"""Pattern of a row that is unlike a row of a table."""
MAX_EXACT = 2**53
"""Largest integer up to which the numbers of labels, which are read as floats, are exact."""
MIN_CHANCE = 1e-6
"""Probability of a file without index 0 below which its indices seem to start at 1."""


@dataclass(frozen=True)
class LibsvmRows:
    """The rows of a file.

    Args:
        features: A `scipy.sparse.csr_array` (N, width); a column is an index in the file.
        labels: The labels of all rows, one row after the other.
        bounds: Row i has the labels from `bounds[i]` up to `bounds[i + 1]`.
        queries: The query (qid) of each row if they were requested, else of the first row; empty if the
            rows have no query.
        reading: `width`; `first_index`, 0 if the file has an index 0 or a header, else 1; `rate_of_index_0`,
            the fraction of the rows with it; and `num_labels` of the header, None without a header.
    """

    features: Any
    labels: np.ndarray
    bounds: np.ndarray
    queries: np.ndarray
    reading: Mapping[str, Any]


def is_libsvm(path: str) -> bool:
    """Return whether data=arrays reads the file as libsvm; raise ConfigError for tables and other kinds."""
    check_not_url(path)
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    suffix = next((s for s in reversed(suffixes) if s not in COMPRESSIONS), "")
    if suffix in ARRAYS:
        return False
    if suffix in KINDS:
        raise kind_error(Path(path), KINDS[suffix], "arrays")
    if suffix in FORMATS or SEPARATORS.get(suffix):
        raise ConfigError(
            f"Expected arrays (.npz or .npy) or a libsvm file ({', '.join(LIBSVM)}), got {path}. Set "
            "data=table to read tables."
        )
    return True


def check_is_table(file: Path, start: bytes) -> None:
    """Raise ConfigError for a text file whose first row, in its first bytes, is a row of a libsvm file."""
    lines = ([*start.split(b"\n", 2), b""])[:2]
    if ROW.fullmatch(lines[1] if HEADER.fullmatch(lines[0]) else lines[0]):
        raise ConfigError(
            f"{file} seems to be a libsvm file, with rows such as 'label index:value index:value'. Set "
            "data=arrays to read it, or data.separator=' ' if it is a table."
        )


def read_libsvm(path: str, train: Mapping[str, Any] | None = None, with_queries: bool = False) -> LibsvmRows:
    """Return the rows of a file, which may be compressed.

    Args:
        path: The file.
        train: `LibsvmRows.reading` of the training file, unless this is the training file.
        with_queries: Whether to read the query (qid) of each row.

    Raises:
        ConfigError: the file contains another kind of data.
        DataError: a row is invalid, or the file contradicts its header or the training file.
    """
    from scipy.sparse import csr_array
    from sklearn.datasets import load_svmlight_file

    file = existing_file(path)
    compression = COMPRESSIONS.get(file.suffix.lower())
    if compression is None and (kind := find_kind(file)) != "text":
        raise kind_error(file, kind, "libsvm text")
    with file.open("rb") if compression is None else io.BytesIO(decompress(file, compression)[0]) as opened:
        found = HEADER.fullmatch(opened.readline(200))
        header = [int(number) for number in found.groups()] if found else None
        start = opened.tell() if header else 0
        opened.seek(start)
        try:
            matrix, labels = load_svmlight_file(opened, multilabel=True, zero_based=True)
        except (ValueError, OverflowError):
            opened.seek(start)
            raise _row_error([*_data_lines(opened)], path) from None
        opened.seek(start)
        lines = _data_lines(opened)
        queries = _read_queries(
            lines if with_queries else islice(lines, 1), path, with_queries and train is None
        )
        if not header and any(len(row) != 1 for row in labels):
            opened.seek(start)
            _check_empty_lines(opened, path)
    if not labels:
        raise DataError(f"{path} has no rows. Add at least one.")
    rate = np.count_nonzero(matrix.indices == 0) / len(labels)
    first_index = 0 if header or rate else 1
    if header:
        _check_header(header, matrix, path)
        matrix.resize(header[:2])
    elif train is not None:
        _resize(matrix, train, first_index, path)
    check_width(matrix.shape[1], path)
    if train is not None:
        check_same_width(matrix.shape[1], train["width"], path)
    counts = np.fromiter(map(len, labels), np.int64, len(labels))
    return LibsvmRows(
        check_finite(csr_array(matrix), path),
        np.fromiter(chain.from_iterable(labels), np.float64, counts.sum()),
        np.concatenate([[0], counts.cumsum()]),
        queries,
        {
            "width": matrix.shape[1],
            "first_index": first_index,
            "rate_of_index_0": rate,
            "num_labels": header[2] if header else None,
        },
    )


def _data_lines(opened: BinaryIO) -> Iterator[bytes]:
    """Yield the lines that contain rows, without comments."""
    return (line for full in opened if (line := full.partition(b"#")[0]).strip())


def _row_error(lines: list[bytes], path: str) -> DataError:
    """Return the error for the first invalid row, found by bisection."""
    from sklearn.datasets import load_svmlight_file

    def problem(part: list[bytes]) -> str:
        try:
            load_svmlight_file(io.BytesIO(b"\n".join(part)), multilabel=True, zero_based=True)
        except (ValueError, OverflowError) as error:
            return first_line(error)
        return ""

    first, end = 0, len(lines)
    while end - first > 1:
        middle = (first + end) // 2
        first, end = (first, middle) if problem(lines[first:middle]) else (middle, end)
    text, reason = lines[first].decode(errors="replace").strip(), problem(lines[first:end])[:120]
    return DataError(
        f"Row {first} of {path} is {show(text)}, which cannot be read ({reason}). Expected a row of a libsvm "
        "file, 'label index:value index:value ...', with increasing indices. To read a table, set "
        "data=table.",
        row=first,
        value=text,
    )


def _read_queries(lines: Iterable[bytes], path: str, required: bool) -> np.ndarray:
    """Return the query of each row, empty if the first row has no query and `required` is false."""
    found = [QUERY.match(line) for line in lines]
    row = found.index(None) if None in found else None
    if row is not None and (required or row):
        raise DataError(
            f"Row {row} of {path} has no query (qid), but data.group=qid is set. Write a query in each row.",
            row=row,
        )
    return np.array([int(query[1]) for query in found if query], dtype=np.int64)


def _check_empty_lines(opened: BinaryIO, path: str) -> None:
    """Raise a DataError for an empty line between rows, which may be a row without labels and features."""
    row, empty = 0, None
    for line in opened:
        if not line.strip():
            empty = row if empty is None else empty
        elif line.partition(b"#")[0].strip():
            if empty is not None:
                raise DataError(
                    f"Row {empty} of {path} is an empty line. If it is a row that has neither labels nor "
                    "features, the rows after it would be counted wrongly. Remove the line.",
                    row=empty,
                )
            row += 1


def _check_header(header: Sequence[int], matrix: Any, path: str) -> None:
    """Raise a DataError if the rows contradict the header of the extreme classification repository."""
    num_rows, width, num_labels = header
    where = f"the header of {path} ({num_rows} {width} {num_labels})"
    if min(header) < 1:
        raise DataError(f"Expected numbers of rows, features and labels > 0, got {where}.")
    if matrix.shape[0] != num_rows:
        raise DataError(
            f"Expected {num_rows} rows, as in {where}, got {matrix.shape[0]}. Copy the file again. Rows that "
            "have neither labels nor features cannot be read: remove them, and correct the header."
        )
    if (row := _first_row(matrix, matrix.indices >= width)) is not None:
        index = matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]].max()
        raise DataError(
            f"Row {row} has index {index}, but {where} states {width} features, with indices from 0 to "
            f"{width - 1}. Correct the row or the header.",
            row=row,
            value=int(index),
        )


def _resize(matrix: Any, train: Mapping[str, Any], first_index: int, path: str) -> None:
    """Give the matrix the width of the training file, whose indices must start at the same number."""
    width = train["width"]
    if first_index < train["first_index"]:
        row = _first_row(matrix, matrix.indices == 0)
        raise DataError(
            f"Row {row} of {path} has index 0, but the indices of the training file start at 1. Number the "
            "features of both files in the same way.",
            row=row,
            value=0,
        )
    chance = (1 - train["rate_of_index_0"]) ** matrix.shape[0]  # of a file of these rows without index 0
    if first_index > train["first_index"] and chance < MIN_CHANCE:
        warn(
            "shifted_indices",
            f"No row of {path} has index 0, but {train['rate_of_index_0']:.1%} of the training rows have it. "
            "The indices of the file seem to start at 1, so its values would be those of other features. "
            "Number the features of both files in the same way.",
        )
    if len(unseen := np.unique(matrix.indices[matrix.indices >= width])):
        warn(
            "unseen_feature",
            f"Indices of {path} above {width - 1}, the largest of the training file, are left out: "
            f"{shorten(unseen.tolist())}. Check that both files number the features in the same way.",
        )
    matrix.resize((matrix.shape[0], width))


def _first_row(matrix: Any, entries: np.ndarray) -> int | None:
    """Return the row of the first of these entries, a mask; None if there is none."""
    if not entries.any():
        return None
    return int(np.searchsorted(matrix.indptr, entries.argmax(), side="right")) - 1
