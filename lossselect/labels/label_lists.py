"""Lists of labels: as sparse indices and offsets, and as the text of a file's cell."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import is_
from typing import Any

import numpy as np

from lossselect.exceptions import ConfigError, DataError, DataTypeError
from lossselect.labels.values import as_entries, is_missing


@dataclass(frozen=True)
class LabelLists:
    """The labels of N rows: row i has `indices[offsets[i]:offsets[i + 1]]`, sorted.

    What a `scipy.sparse.csr_array` is, in NumPy alone (the core needs no more), and with rows of which
    nothing is known. Takes 8 bytes a label that is there; `multi_hot` makes a matrix of some rows.

    Args:
        indices: int64 (labels that are there,), each from 0 to `num_labels` - 1.
        offsets: int64 (N + 1,).
        num_labels: How many labels there are.
        missing: bool (N,), whether nothing is known of a row.
    """

    indices: np.ndarray
    offsets: np.ndarray
    num_labels: int
    missing: np.ndarray

    @classmethod
    def of_pairs(
        cls, rows: np.ndarray, labels: np.ndarray, num_rows: int, num_labels: int, missing: np.ndarray
    ) -> "LabelLists":
        """Of (row, label) pairs in any order, each counted once."""
        keys = rows * num_labels + labels
        keys.sort()
        keys = keys[np.diff(keys, prepend=-1) > 0]  # a tenth of what np.unique takes
        counts = np.bincount(keys // num_labels, minlength=num_rows)
        return cls(keys % num_labels, np.concatenate([[0], counts.cumsum()]), num_labels, missing)

    @classmethod
    def concatenated(cls, parts: Sequence["LabelLists"]) -> "LabelLists":
        """The rows of several, one after another; all of the same labels."""
        starts = np.cumsum([0, *(len(part.indices) for part in parts)])
        offsets = [part.offsets[1:] + start for part, start in zip(parts, starts, strict=False)]
        return cls(
            np.concatenate([part.indices for part in parts]),
            np.concatenate([[0], *offsets]),
            parts[0].num_labels,
            np.concatenate([part.missing for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def counts(self, rows: np.ndarray | None = None) -> np.ndarray:
        """How many of the rows have each label, (num_labels,)."""
        indices = self.indices if rows is None else self.of_rows(rows)[0]
        return np.bincount(indices, minlength=self.num_labels)

    def multi_hot(self, rows: np.ndarray | Sequence[int] | None = None) -> np.ndarray:
        """float32 (rows, num_labels): 1 where a label is there, 0 where not, NaN in a missing row.

        Args:
            rows: Which rows; all by default.
        """
        rows = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        indices, lengths = self.of_rows(rows)
        matrix = np.zeros((len(rows), self.num_labels), dtype=np.float32)
        matrix[np.repeat(np.arange(len(rows)), lengths), indices] = 1
        matrix[self.missing[rows]] = np.nan
        return matrix

    def of_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The labels of some rows one after another, and how many each row has."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        ends = lengths.cumsum()
        # the places of all rows' labels, one row's after another's
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
        return self.indices[np.repeat(starts, lengths) + within], lengths


def split_delimited(values: Iterable[Any], delimiter: str) -> list[list[str] | None]:
    """ "news|sport" -> ["news", "sport"]; None stays None, what is empty between delimiters is left out.

    Raises:
        ValueError: an empty delimiter.
        TypeError: an entry that is no string.

    Example:
        >>> split_delimited(["new york|rome", "", None], "|")
        [['new york', 'rome'], [], None]
    """
    if not isinstance(delimiter, str) or not delimiter:
        raise ConfigError(f"The delimiter must be a string such as '|', got {delimiter!r}.")
    rows: list[list[str] | None] = []
    for i, value in enumerate(values):
        if value is not None and not isinstance(value, str):
            raise DataTypeError(
                f"Row {i} is {value!r}, no string of labels with {delimiter!r} between.", row=i, value=value
            )
        parts = None if value is None else [part.strip() for part in value.split(delimiter)]
        rows.append(parts if parts is None else [part for part in parts if part])
    return rows


def parse_json_lists(values: Iterable[Any]) -> list[list[Any] | None]:
    """'["news", "sport"]' -> ["news", "sport"]; None stays None.

    Raises:
        ValueError: a row that is no JSON list.
    """
    rows: list[list[Any] | None] = []
    for i, value in enumerate(values):
        try:
            row = None if value is None else json.loads(value)
        except (TypeError, ValueError, RecursionError):
            row = value
        if row is not None and not isinstance(row, list):
            raise DataError(
                f'Row {i} is {value!r}, no JSON list such as ["news", "sport"].', row=i, value=value
            )
        rows.append(row)
    return rows


def as_label_rows(rows: Any) -> list[Any]:
    """Rows of labels; an empty one for a missing one."""
    lists: list[Any] = [() if row is None else row for row in as_entries(rows)]
    if set(map(type, lists)) - set(LISTS):
        lists = [() if is_missing(row) else row for row in lists]
    for kind in set(map(type, lists)) - set(LISTS):
        row, value = next((i, entry) for i, entry in enumerate(lists) if type(entry) is kind)
        if not hasattr(value, "__iter__") or isinstance(value, str | bytes | Mapping):
            fix = " Split it first: split_delimited(values, '|')." if isinstance(value, str) else ""
            raise DataTypeError(
                f"Row {row} is {value!r}, but each row is a list of labels.{fix}", row=row, value=value
            )
        lists = [entry if isinstance(entry, LISTS) else list(entry) for entry in lists]
    return lists


LISTS = (list, tuple, set, frozenset, np.ndarray)


def missing_rows(rows: Any) -> np.ndarray:
    """Which rows are missing."""
    entries = as_entries(rows)
    absent = np.fromiter(map(is_, entries, repeat(None)), bool, len(entries))
    if set(map(type, entries)) - {*LISTS, type(None)}:  # NaN, or what pandas has for it
        absent = np.array([is_missing(entry) for entry in entries])
    return absent
