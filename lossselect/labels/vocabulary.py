"""Label values <-> indices: vocabularies for single labels and for lists of labels.

Lists of labels stay sparse: only the rows of a batch become a matrix of 0 and 1.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lossselect.exceptions import ConfigError, DataError, DataTypeError, UnseenLabelError
from lossselect.labels.values import (
    IGNORE_INDEX,
    Value,
    as_entries,
    check_same_type,
    distinct_labels,
    is_integer_text,
    is_missing,
    plain_value,
    raise_for_unhashable,
)
from lossselect.utils.checks import first_duplicate, shorten, suggestion
from lossselect.utils.warnings import warn

if TYPE_CHECKING:
    from lossselect.labels.sparse_labels import SparseLabels


@dataclass(frozen=True)
class Vocabulary:
    """The labels in a fixed order: the index of a label is its place.

    Args:
        values: Distinct labels, all strings, all integers or all booleans.
        names: Their display names; by default the labels as strings.

    Raises:
        ValueError: no label, a repeated one, or names that do not match.
        TypeError: labels of several types, or of an unsupported one.

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
    """The end of the message about a label that the vocabulary lacks."""

    values: tuple[Value, ...]
    names: tuple[str, ...] = ()
    _index: dict[Any, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        values = tuple(plain_value(value) for value in self.values)
        check_same_type(values, values)
        if not values:
            raise DataError("There is no label: a vocabulary needs one at least.")
        index = {value: i for i, value in enumerate(values)}
        if len(index) < len(values):
            raise DataError(f"Label {first_duplicate(values)!r} comes twice.")
        names = tuple(map(str, self.names or values))
        if len(names) != len(values):
            raise ConfigError(f"There are {len(values)} labels, but {len(names)} names for them.")
        if len(set(names)) < len(names):
            raise ConfigError(f"Names must differ, but {first_duplicate(names)!r} comes twice.")
        index[None] = IGNORE_INDEX
        for name, value in {"values": values, "names": names, "_index": index}.items():
            object.__setattr__(self, name, value)  # the dataclass is frozen

    @classmethod
    def fit(cls, values: Iterable[Any], class_names: Sequence[str] | None = None) -> "Vocabulary":
        """Create a vocabulary of the labels that occur, sorted (as numbers if all of them are numbers).

        Args:
            values: A label for each row: a list, an array or a column of a dataframe; None and NaN are
                missing.
            class_names: The order, if it is not the sorted one: the labels themselves, of which some may not
                occur; or names for 0 to C - 1, or for False and True.

        Raises:
            ValueError: all labels are missing, fractions, a label that is not among `class_names`.
            TypeError: labels of several types, lists.
        """
        return cls._from_distinct(distinct_labels(as_entries(values)), class_names)

    @classmethod
    def fit_lists(cls, rows: Iterable[Any], class_names: Sequence[str] | None = None) -> "Vocabulary":
        """Do the same for a list of labels for each row, such as `[["news", "sport"], [], None]`."""
        lists, _ = _split_missing(rows)
        return cls._from_distinct(distinct_labels(list(chain.from_iterable(lists))), class_names)

    @classmethod
    def _from_distinct(cls, labels: list[Value], class_names: Sequence[str] | None) -> "Vocabulary":
        if class_names is None:
            return cls(tuple(labels))
        names = tuple(map(str, class_names))
        kind = type(labels[0]) if labels else str
        if kind is bool and {name.lower() for name in names} == {"false", "true"}:
            return cls(tuple(name.lower() == "true" for name in names), names)
        by_name = {str(label): label for label in labels}
        if by_name.keys() <= set(names):
            if kind is int:  # of labels that do not occur only the name is known
                by_name |= {name: int(name) for name in names if is_integer_text(name)}
            return cls(tuple(by_name.get(name, name) for name in names), names)
        if kind is bool and len(names) == 2:
            return cls((False, True), names)
        indices = tuple(map(str, range(len(names))))
        if kind is str and set(labels) <= set(indices):
            return cls(indices, names)
        if kind is int and by_name.keys() <= set(indices):
            return cls(tuple(range(len(names))), names)
        other = next(name for name in by_name if name not in names)
        raise DataError(
            f"Label {by_name[other]!r} is not among the class_names: {shorten(names)}."
            f"{suggestion(other, names)}"
        )

    def __len__(self) -> int:
        return len(self.values)

    def encode(self, values: Iterable[Any], handle_unknown: str = "error") -> np.ndarray:
        """Return the index of each label, int64 (N,); -100 where it is missing (None, NaN).

        Args:
            values: A label for each row.
            handle_unknown: "error" for a label that the vocabulary lacks, or "ignore" to treat it as missing,
                with a warning that counts them.

        Raises:
            ValueError: a label that the vocabulary lacks; names the row.
            TypeError: entries that are lists.
        """
        return self._encode(as_entries(values), handle_unknown)

    def _encode(
        self, entries: list[Any], handle_unknown: str, rows: Sequence[int] | np.ndarray | None = None
    ) -> np.ndarray:
        """Return the indices; `rows` are those of the entries."""
        if handle_unknown not in ("error", "ignore"):
            raise ConfigError(f"handle_unknown must be 'error' or 'ignore', got {handle_unknown!r}.")
        try:
            return np.fromiter(map(self._index.__getitem__, entries), np.int64, len(entries))
        except KeyError:
            pass  # some entries are NaN or not in the vocabulary
        except TypeError:
            raise_for_unhashable(entries, rows)
            raise
        codes = [self._index.get(entry) for entry in entries]
        unseen = [i for i, code in enumerate(codes) if code is None and not is_missing(entries[i])]
        if unseen and handle_unknown == "error":
            row, value = int(unseen[0] if rows is None else rows[unseen[0]]), entries[unseen[0]]
            raise UnseenLabelError(f"Row {row}: {self.describe_unseen(value)}", row=row, value=value)
        if unseen:
            counts = Counter(entries[i] for i in unseen).most_common()
            warn(
                "unseen_label",
                f"Not seen in training, and left out: {len(unseen)} of {len(entries)} labels, "
                f"{shorten([f'{value!r} ({count})' for value, count in counts])}.",
            )
        return np.array([IGNORE_INDEX if code is None else code for code in codes], dtype=np.int64)

    def describe_unseen(self, value: Any) -> str:
        """Return the message about a label that the vocabulary lacks."""
        message = f"label {value!r} {self.unseen_message}"
        if type(value) is not type(self.values[0]) and str(value) in map(str, self.values):
            kind = type(self.values[0]).__name__
            return f"{message} The labels are of type {kind}, this one is of type {type(value).__name__}."
        return f"{message}{suggestion(str(value), self.names)} There are {len(self)}: {shorten(self.names)}."

    def encode_lists(self, rows: Iterable[Any], handle_unknown: str = "error") -> "SparseLabels":
        """Return the labels of each row as indices; a repeated label counts once.

        Args:
            rows: A list, tuple, set or array of labels for each row; None if nothing is known of the row.
            handle_unknown: As for `encode`; an ignored label is left out of its row.

        Raises:
            ValueError: a label that the vocabulary lacks, or is None; names the row.
            TypeError: a row that is not a list, such as a string.
        """
        from lossselect.labels.sparse_labels import SparseLabels  # imports torch, which is slow

        lists, missing = _split_missing(rows)
        flat = list(chain.from_iterable(lists))
        owner = np.repeat(np.arange(len(lists)), np.fromiter(map(len, lists), np.int64, len(lists)))
        codes = self._encode(flat, handle_unknown, owner)
        known = codes != IGNORE_INDEX
        for i in np.flatnonzero(~known):
            if is_missing(flat[i]):
                raise DataError(
                    f"Row {owner[i]} has {flat[i]!r} among its labels. A row that is not labelled is "
                    "None as a whole, one without labels is an empty list.",
                    row=owner[i],
                )
        return SparseLabels.from_pairs(owner[known], codes[known], (len(lists), len(self)), missing)

    def decode(self, indices: Any) -> list[Any]:
        """Return the labels of indices; None for -100.

        Raises:
            ValueError: an index out of range.
        """
        array = np.asarray(indices)
        if array.dtype.kind == "f" and (array == array.round()).all():
            array = array.astype(np.int64)
        if array.size and array.dtype.kind not in "iu":
            raise DataTypeError(f"decode takes indices, got {array.dtype}.")
        bad = (array != IGNORE_INDEX) & ((array < 0) | (array >= len(self)))
        if bad.any():
            raise ConfigError(f"There is no label {array[bad][0]}: indices are 0 to {len(self) - 1}.")
        return [None if i == IGNORE_INDEX else self.values[i] for i in array.tolist()]

    def decode_lists(self, labels: "SparseLabels") -> list[list[Value] | None]:
        """Return the labels of each row, in the vocabulary's order; None if nothing is known."""
        return labels.to_lists(self.values)

    def to_dict(self) -> dict[str, list[Any]]:
        """Return plain values for a checkpoint, the arguments of `Vocabulary(**values)`."""
        return {"values": list(self.values), "names": list(self.names)}


LISTS = (list, tuple, set, frozenset, np.ndarray)


def _split_missing(rows: Iterable[Any]) -> tuple[list[Any], np.ndarray]:
    """Return the rows of labels, empty if missing, and which rows are missing."""
    entries = as_entries(rows)
    others = set(map(type, entries)) - {*LISTS, type(None)}
    missing = [is_missing(entry) if others else entry is None for entry in entries]
    lists = [() if absent else entry for entry, absent in zip(entries, missing, strict=True)]
    for i, row in enumerate(lists if others else ()):
        if not hasattr(row, "__iter__") or isinstance(row, str | bytes | Mapping):
            fix = " Split it first: [value.split('|') for value in values]." if isinstance(row, str) else ""
            raise DataTypeError(
                f"Row {i} is {row!r}, but each row is a list of labels.{fix}", row=i, value=row
            )
        lists[i] = row if isinstance(row, LISTS) else list(row)
    return lists, np.array(missing, dtype=bool)
