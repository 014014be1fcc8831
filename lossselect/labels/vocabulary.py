"""Label values <-> indices: vocabularies for single labels and for lists of labels.

NumPy alone. A million labels are one pass through a dict, and lists of labels stay sparse (indices and
offsets): a matrix of 0 and 1 is made of the rows of a batch, never of a data set.
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
    unhashable_error,
)
from lossselect.utils.checks import first_duplicate, shorten, suggestion
from lossselect.utils.warnings import warn

if TYPE_CHECKING:
    from lossselect.labels.sparse_labels import SparseLabels


@dataclass(frozen=True)
class Vocabulary:
    """The labels that there are, in a fixed order: a label's index is its place.

    Args:
        values: Distinct labels, all strings, all integers or all booleans.
        names: What to call them, if not as they are written.

    Raises:
        ValueError: no label, one that comes twice, names that do not match.
        TypeError: labels of several types, or of none that a label can be.

    Example:
        >>> vocabulary = Vocabulary.fit(["2", "10", "2", None])
        >>> vocabulary.values
        ('2', '10')
        >>> vocabulary.encode(["10", "2", None])
        array([   1,    0, -100])
        >>> vocabulary.decode([1, 0, -100])
        ['10', '2', None]
    """

    lacking: ClassVar[str] = "was never seen in training."
    """What is said of a label that the vocabulary lacks."""

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
        """The labels that occur, sorted (as numbers where all of them are numbers).

        Args:
            values: A label per row: a list, an array or a column of a dataframe; None and NaN are missing.
            class_names: The order, where it is not the sorted one. They are the labels themselves, of
                which some may not occur; or names for 0 to C - 1, or for False and True.

        Raises:
            ValueError: all labels are missing, fractions, a label that is not among `class_names`.
            TypeError: labels of several types, lists.
        """
        return cls._from_distinct(distinct_labels(as_entries(values)), class_names)

    @classmethod
    def fit_lists(cls, rows: Iterable[Any], class_names: Sequence[str] | None = None) -> "Vocabulary":
        """The same for a list of labels per row, such as `[["news", "sport"], [], None]`."""
        lists, _ = _split_missing(rows)
        return cls._from_distinct(distinct_labels(list(chain.from_iterable(lists))), class_names)

    @classmethod
    def _from_distinct(cls, found: list[Value], class_names: Sequence[str] | None) -> "Vocabulary":
        if class_names is None:
            return cls(tuple(found))
        names = tuple(map(str, class_names))
        kind = type(found[0]) if found else str
        if kind is bool and {name.lower() for name in names} == {"false", "true"}:
            return cls(tuple(name.lower() == "true" for name in names), names)
        if {str(value) for value in found} <= set(names):
            by_name = {str(value): value for value in found}
            # of labels that do not occur only the name is known: they are of the others' type
            number = found and all(type(value) is int for value in found)
            return cls(
                tuple(by_name.get(n, int(n) if number and is_integer_text(n) else n) for n in names), names
            )
        if kind is bool and len(names) == 2:
            return cls((False, True), names)
        places = [str(i) for i in range(len(names))]
        if kind is str and set(found) <= set(places):
            return cls(tuple(places), names)
        if kind is int and min(found) >= 0 and max(found) < len(names):  # type: ignore[operator]
            return cls(tuple(range(len(names))), names)
        other = next(value for value in found if str(value) not in names)
        raise DataError(
            f"Label {other!r} is not among the class_names: {shorten(names)}.{suggestion(str(other), names)}"
        )

    def __len__(self) -> int:
        return len(self.values)

    def encode(self, values: Iterable[Any], handle_unknown: str = "error") -> np.ndarray:
        """The index of each label, int64 of shape (N,); -100 where it is missing (None, NaN).

        Args:
            values: A label per row.
            handle_unknown: What a label is that the vocabulary lacks: "error", or "ignore" to take it for
                missing, with a warning that counts them.

        Raises:
            ValueError: a label that the vocabulary lacks; says the row.
            TypeError: entries that are lists.
        """
        _check_policy(handle_unknown)
        entries = as_entries(values)
        try:
            return np.fromiter(map(self._index.__getitem__, entries), np.int64, len(entries))
        except KeyError:
            return self._encodesome(entries, handle_unknown)
        except TypeError:
            raise unhashable_error(entries) from None

    def _encodesome(
        self, entries: Sequence[Any], handle_unknown: str, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """As `encode`, where some entries are NaN or not in the vocabulary."""
        found = [self._index.get(entry) for entry in entries]
        others = [i for i, code in enumerate(found) if code is None and not is_missing(entries[i])]
        if others and handle_unknown == "error":
            row = int(rows[others[0]]) if rows is not None else others[0]
            value = entries[others[0]]
            raise UnseenLabelError(f"Row {row}: {self.never_seen(value)}", row=row, value=value)
        if others:
            counts = Counter(entries[i] for i in others).most_common()
            said = [f"{value!r} ({count})" for value, count in counts]
            warn(
                "unseen_label",
                f"Not seen in training, and left out: {len(others)} of {len(entries)} labels, "
                f"{shorten(said)}.",
            )
        return np.array([IGNORE_INDEX if code is None else code for code in found], dtype=np.int64)

    def never_seen(self, value: Any) -> str:
        """The words for a label that the vocabulary lacks."""
        said = f"label {value!r} {self.lacking}"
        if type(value) is not type(self.values[0]) and str(value) in map(str, self.values):
            kind = type(self.values[0]).__name__
            return f"{said} The labels are of type {kind}, this one is of type {type(value).__name__}."
        return f"{said}{suggestion(str(value), self.names)} There are {len(self)}: {shorten(self.names)}."

    def encode_lists(self, rows: Iterable[Any], handle_unknown: str = "error") -> "SparseLabels":
        """The labels of each row as indices; a label that a row has twice counts once.

        Args:
            rows: A list, tuple, set or array of labels per row; None where nothing is known of the row.
            handle_unknown: As for `encode`; ignored, the label is left out of its row.

        Raises:
            ValueError: a label that the vocabulary lacks, or is None; says the row.
            TypeError: a row that is no list, such as a string.
        """
        from lossselect.labels.sparse_labels import (
            SparseLabels,
        )  # imports torch, which nothing else here needs

        _check_policy(handle_unknown)
        lists, missing = _split_missing(rows)
        flat = list(chain.from_iterable(lists))
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        owner = np.repeat(np.arange(len(lists)), lengths)
        try:
            codes = np.fromiter(map(self._index.__getitem__, flat), np.int64, len(flat))
        except KeyError:
            codes = self._encodesome(flat, handle_unknown, owner)
        except TypeError:
            raise unhashable_error(flat, owner) from None
        known = codes != IGNORE_INDEX
        if not known.all():
            hole = next((i for i in np.flatnonzero(~known) if is_missing(flat[i])), None)
            if hole is not None:
                raise DataError(
                    f"Row {owner[hole]} has {flat[hole]!r} among its labels. A row that is not labelled is "
                    "None as a whole, one without labels is an empty list.",
                    row=owner[hole],
                )
        return SparseLabels.from_pairs(owner[known], codes[known], (len(lists), len(self)), missing)

    def decode(self, indices: Any) -> list[Any]:
        """The labels of indices, as they came; None for -100.

        Raises:
            ValueError: an index that there is not.
        """
        given = np.asarray(indices)
        if given.dtype.kind == "f" and (given == given.round()).all():
            given = given.astype(np.int64)
        if given.size and given.dtype.kind not in "iu":
            raise DataTypeError(f"decode takes indices, got {given.dtype}.")
        bad = (given != IGNORE_INDEX) & ((given < 0) | (given >= len(self)))
        if bad.any():
            raise ConfigError(f"There is no label {given[bad][0]}: indices are 0 to {len(self) - 1}.")
        return [None if i == IGNORE_INDEX else self.values[i] for i in given.tolist()]

    def decode_lists(self, labels: "SparseLabels") -> list[list[Value] | None]:
        """The labels of each row, in the vocabulary's order; None where nothing is known."""
        return labels.to_lists(self.values)

    def to_dict(self) -> dict[str, list[Any]]:
        """Plain values, for a checkpoint, of which `Vocabulary(**values)` makes it again."""
        return {"values": list(self.values), "names": list(self.names)}


def _check_policy(handle_unknown: str) -> None:
    if handle_unknown not in ("error", "ignore"):
        raise ConfigError(f"handle_unknown must be 'error' or 'ignore', got {handle_unknown!r}.")


LISTS = (list, tuple, set, frozenset, np.ndarray)


def _split_missing(rows: Iterable[Any]) -> tuple[list[Any], np.ndarray]:
    """Return the rows of labels, empty where they are missing, and which rows are missing."""
    entries = as_entries(rows)
    others = set(map(type, entries)) - {*LISTS, type(None)}
    missing = [is_missing(entry) if others else entry is None for entry in entries]
    lists = [() if absent else entry for entry, absent in zip(entries, missing, strict=True)]
    for i, row in enumerate(lists if others else ()):
        if not hasattr(row, "__iter__") or isinstance(row, str | bytes | Mapping):
            fix = " Split it first: split_delimited(values, '|')." if isinstance(row, str) else ""
            raise DataTypeError(
                f"Row {i} is {row!r}, but each row is a list of labels.{fix}", row=i, value=row
            )
        lists[i] = row if isinstance(row, LISTS) else list(row)
    return lists, np.array(missing, dtype=bool)
