"""Vocabularies, which convert labels and lists of labels to indices and back.

Lists of labels are stored sparsely: only the rows of a batch become a 0/1 matrix.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lossselect.exceptions import ConfigError, DataError, DataTypeError, UnseenLabelError
from lossselect.labels.values import (
    IGNORE_INDEX,
    LISTS,
    Rows,
    Value,
    as_entries,
    as_number,
    check_same_type,
    distinct_labels,
    is_missing,
    plain_value,
    raise_for_unhashable,
)
from lossselect.utils.checks import first_duplicate, shorten, show, suggestion
from lossselect.utils.warnings import warn

if TYPE_CHECKING:
    from lossselect.labels.sparse_labels import SparseLabels


INTEGER = re.compile("0|-?[1-9][0-9]{,299}")


@dataclass(frozen=True)
class Vocabulary:
    """Labels in a fixed order; the index of a label is its position.

    Args:
        values: Distinct labels, all strings, all integers or all booleans.
        names: Display names of the labels; by default the labels as strings.

    Raises:
        DataError: no label, or a repeated one.
        DataTypeError: labels of several types, or of an unsupported type.
        ConfigError: repeated names, or another number of names than of labels.

    Example:
        >>> vocabulary = Vocabulary.fit(["2", "10", "2", None])
        >>> vocabulary.values
        ('2', '10')
        >>> vocabulary.encode(["10", "2", None])
        array([   1,    0, -100])
        >>> vocabulary.decode([1, 0, -100])
        ['10', '2', None]
    """

    unseen_message: ClassVar[str] = "was never seen in training."
    """End of the message about an unknown label."""

    values: tuple[Value, ...]
    names: tuple[str, ...] = ()
    _index: dict[Any, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        values = tuple(plain_value(value) for value in self.values)
        check_same_type(values, values, range(len(values)))
        if not values:
            raise DataError("Expected at least one label, got none.")
        index = {value: i for i, value in enumerate(values)}
        if len(index) < len(values):
            raise DataError(f"Labels must be distinct, but {first_duplicate(values)!r} occurs twice.")
        names = tuple(map(str, self.names or values))
        if len(names) != len(values):
            raise ConfigError(f"names must have one entry per label ({len(values)}), got {len(names)}.")
        if len(set(names)) < len(names):
            raise ConfigError(f"names must be distinct, but {first_duplicate(names)!r} occurs twice.")
        index[None] = IGNORE_INDEX
        for name, value in {"values": values, "names": names, "_index": index}.items():
            object.__setattr__(self, name, value)  # the dataclass is frozen

    @classmethod
    def fit(
        cls, values: Iterable[Any], class_names: Sequence[str] | None = None, column: str | None = None
    ) -> "Vocabulary":
        """Create a vocabulary of the labels that occur, sorted (as numbers if all of them are numbers).

        Args:
            values: One label per row: a list, an array or a column of a dataframe; None and NaN are missing.
            class_names: The labels in the order of their indices, if it is not the sorted order; some may not
                occur. Or names of the labels 0 to C - 1, or of False and True.
            column: Name of the column of labels, for messages.

        Raises:
            DataError: no labels, or only missing ones; fractions.
            UnseenLabelError: a label that is not among `class_names`.
            DataTypeError: labels of several types, lists.
        """
        entries = as_entries(values)
        return cls._fit(entries, range(len(entries)), class_names, column)

    @classmethod
    def fit_lists(
        cls, rows: Iterable[Any], class_names: Sequence[str] | None = None, column: str | None = None
    ) -> "Vocabulary":
        """Create a vocabulary like `fit`, from a list of labels per row: `[["news", "sport"], [], None]`."""
        entries, owners, _ = _flatten(rows, column)
        return cls._fit(entries, owners, class_names, column)

    @classmethod
    def _fit(
        cls, entries: list[Any], rows: Rows, class_names: Sequence[str] | None, column: str | None
    ) -> "Vocabulary":
        labels = distinct_labels(entries, rows, column)
        if class_names is None:
            return cls(tuple(labels))
        names, kind = tuple(map(str, class_names)), type(labels[0])
        if kind is bool and {name.lower() for name in names} == {"false", "true"}:
            return cls(tuple(name.lower() == "true" for name in names), names)
        by_name: dict[str, Any] = {str(label): label for label in labels}
        if by_name.keys() <= set(names):
            if kind is int:  # labels that do not occur are known only by name
                by_name |= {name: int(name) for name in names if INTEGER.fullmatch(name)}
            return cls(tuple(by_name.get(name, name) for name in names), names)
        indices: Iterable[Value] = (False, True) if kind is bool else range(len(names))
        if kind is not bool and {*map(as_number, names)} == {*range(len(names))}:  # 1.0 names the label 1
            indices = [int(float(name)) for name in names]
        indices = tuple(map(str, indices) if kind is str else indices)
        if set(labels) <= set(indices) and len(indices) == len(names):
            return cls(indices, names)
        other = next(name for name in by_name if name not in names)
        row = next(row for row, entry in zip(rows, entries, strict=True) if str(plain_value(entry)) == other)
        problem = f": label {by_name[other]!r} is not among the class_names: {shorten(names)}."
        raise UnseenLabelError.at(row, column, problem + suggestion(other, names), by_name[other])

    def __len__(self) -> int:
        return len(self.values)

    def encode(
        self, values: Iterable[Any], handle_unknown: str = "error", column: str | None = None
    ) -> np.ndarray:
        """Return the index of each label, int64 (N,); -100 where it is missing (None, NaN).

        Args:
            values: One label per row.
            handle_unknown: "error" to raise for an unknown label, or "ignore" to treat it as missing, with a
                warning that counts unknown labels.
            column: Name of the column of labels, for messages.

        Raises:
            UnseenLabelError: an unknown label; names the row.
            DataTypeError: entries that are lists.
            ConfigError: another value of `handle_unknown`.
        """
        entries = as_entries(values)
        return self._encode(entries, range(len(entries)), handle_unknown, column)

    def _encode(self, entries: list[Any], rows: Rows, handle_unknown: str, column: str | None) -> np.ndarray:
        """Return the indices of labels; `rows` contains the row of each entry."""
        if handle_unknown not in ("error", "ignore"):
            raise ConfigError(f"handle_unknown must be 'error' or 'ignore', got {handle_unknown!r}.")
        try:
            return np.fromiter(map(self._index.__getitem__, entries), np.int64, len(entries))
        except KeyError:
            pass  # some entries are NaN or not in the vocabulary
        except TypeError:
            raise_for_unhashable(entries, rows, column)
            raise
        codes = [self._index.get(entry) for entry in entries]
        unseen = [i for i, code in enumerate(codes) if code is None and not is_missing(entries[i])]
        if unseen and handle_unknown == "error":
            value = entries[unseen[0]]
            problem = f": {self.describe_unseen(value)}"
            raise UnseenLabelError.at(rows[unseen[0]], column, problem, value)
        if unseen:
            counts = Counter(entries[i] for i in unseen).most_common()
            of_column = "" if column is None else f" of column {column!r}"
            warn(
                "unseen_label",
                f"{len(unseen)} of {len(entries)} labels{of_column} were not seen in training and are "
                f"ignored: {shorten([f'{value!r} ({count})' for value, count in counts])}.",
            )
        return np.array([IGNORE_INDEX if code is None else code for code in codes], dtype=np.int64)

    def describe_unseen(self, value: Any) -> str:
        """Return the message about an unknown label."""
        message = f"label {show(value)} {self.unseen_message}"
        if type(value) is not type(self.values[0]) and str(value) in map(str, self.values):
            kind = type(self.values[0]).__name__
            return f"{message} The known labels are of type {kind}, but it is of type {type(value).__name__}."
        return f"{message}{suggestion(str(value), self.names)} Known labels: {shorten(self.names)}."

    def encode_lists(
        self, rows: Iterable[Any], handle_unknown: str = "error", column: str | None = None
    ) -> "SparseLabels":
        """Convert the labels of each row to indices; a repeated label counts once.

        Args:
            rows: A list, tuple, set or array of labels per row; None if all labels of a row are unknown.
            handle_unknown: As for `encode`; an ignored label is left out of its row.
            column: Name of the column of labels, for messages.

        Raises:
            UnseenLabelError: an unknown label; names the row.
            DataError: a label that is None; names the row.
            DataTypeError: a row that is not a list, such as a string.
            ConfigError: another value of `handle_unknown`.
        """
        from lossselect.labels.sparse_labels import SparseLabels  # imports torch, which is slow

        entries, owners, missing = _flatten(rows, column)
        codes = self._encode(entries, owners, handle_unknown, column)
        known = codes != IGNORE_INDEX
        for i in np.flatnonzero(~known):
            if is_missing(entries[i]):
                fix = "Give None in place of the list for an unlabelled row, and [] for a row without labels."
                raise DataError.at(owners[i], column, f" has {entries[i]!r} among its labels. {fix}")
        return SparseLabels.from_pairs(owners[known], codes[known], (len(missing), len(self)), missing)

    def decode(self, indices: Any) -> list[Any]:
        """Return the labels of indices; None for -100.

        Raises:
            ConfigError: an index out of range.
            DataTypeError: indices that are not integers.
        """
        array = np.asarray(indices)
        if array.dtype.kind == "f" and (array == array.round()).all():
            array = array.astype(np.int64)
        if array.dtype.kind not in "iu":
            raise DataTypeError(f"decode expects integer indices, got {array.dtype}.")
        bad = (array != IGNORE_INDEX) & ((array < 0) | (array >= len(self)))
        if bad.any():
            raise ConfigError(f"Index {array[bad][0]} is out of range: it must be from 0 to {len(self) - 1}.")
        return [None if i == IGNORE_INDEX else self.values[i] for i in array.tolist()]

    def decode_lists(self, labels: "SparseLabels") -> list[list[Value] | None]:
        """Return the labels of each row, in the order of the vocabulary; None for a missing row."""
        return labels.to_lists(self.values)

    def to_dict(self) -> dict[str, list[Any]]:
        """Return plain values for a checkpoint; `Vocabulary(**values)` recreates the vocabulary."""
        return {"values": list(self.values), "names": list(self.names)}


def _flatten(rows: Iterable[Any], column: str | None) -> tuple[list[Any], np.ndarray, np.ndarray]:
    """Return the labels of all rows, the row of each label, and a mask of missing rows."""
    lists = as_entries(rows)[:]
    missing = np.zeros(len(lists), dtype=bool)
    for i, row in enumerate(lists):
        if isinstance(row, LISTS):
            continue
        if is_missing(row):
            lists[i], missing[i] = (), True
        elif hasattr(row, "__iter__") and not isinstance(row, str | bytes | Mapping):
            lists[i] = list(row)
        else:
            fix = " Split it first: [value.split('|') for value in values]." if isinstance(row, str) else ""
            raise DataTypeError.at(
                i, column, f" is {row!r}, but each row must be a list of labels.{fix}", row
            )
    sizes = np.fromiter(map(len, lists), np.int64, len(lists))
    return list(chain.from_iterable(lists)), np.repeat(np.arange(len(lists)), sizes), missing
