"""Label values: valid and missing ones, and their order."""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from lossselect.exceptions import DataError, DataTypeError

IGNORE_INDEX = -100
"""Marker of a missing label in a target of class indices, as in `torch.nn.CrossEntropyLoss`."""

Value = str | int | bool
Rows = Sequence[int] | np.ndarray

LISTS = (list, tuple, Set, np.ndarray)
"""Types of the list of labels of a row."""


def label_form(target: Any) -> str | None:
    """Return "names" for strings, "lists" for lists or sets of strings, else None.

    The first entry that is neither missing nor an empty list decides. If there is no such entry, empty lists
    imply "lists".
    """
    if isinstance(target, str | bytes | Mapping | Set) or not hasattr(target, "__iter__"):
        return None
    target = as_list(target)
    numeric = isinstance(getattr(target, "dtype", None), np.dtype) and target.dtype.kind not in "OUT"
    if numeric or getattr(target, "ndim", 1) != 1:
        return None
    _, first = first_known(target)
    if first is None:
        return None if all(map(is_missing, target)) else "lists"
    if isinstance(first, str):
        return "names"
    listed = isinstance(first, LISTS) and getattr(first, "ndim", 1) == 1
    return "lists" if listed and isinstance(next(iter(first)), str) else None


def first_known(entries: Iterable[Any]) -> tuple[int | None, Any]:
    """Return row and value of the first entry that is neither missing nor an empty list."""
    for row, entry in enumerate(entries):
        if not (is_missing(entry) or (isinstance(entry, LISTS) and len(entry) == 0)):
            return row, entry
    return None, None


def sorted_values(values: Iterable[Value]) -> list[Value]:
    """Sort labels; if all strings are numbers, such as "10" and "2", sort them as numbers."""
    values = list(values)
    if values and all(isinstance(value, str) and as_number(value) is not None for value in values):
        return sorted(values, key=lambda value: (as_number(value), value))
    return sorted(values)


def as_number(text: Any) -> float | int | None:
    """Convert a string to a number, integers exactly; None for other text, "nan", "inf" and "1_000"."""
    try:
        if isinstance(text, int) or (isinstance(text, str) and re.fullmatch(r"\s*[+-]?[0-9]+\s*", text)):
            return int(text) if len(str(text)) <= MAX_DIGITS else None
        value = float(text)
    except (TypeError, ValueError):  # also for some of the characters that \s matches, such as \x1f
        return None
    return value if math.isfinite(value) and "_" not in str(text) else None


MAX_DIGITS = 300
"""Maximum length of a number; a longer one is an identifier, and exceeds float64."""


def plain_value(value: Any) -> Any:
    """Convert NumPy scalars to Python, and floats such as 3.0 to int."""
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and math.isfinite(value) and value == value // 1 else value


def is_missing(value: Any) -> bool:
    """Return whether an entry is None, NaN, or pandas' NA or NaT."""
    if isinstance(value, float | np.floating):
        return bool(np.isnan(value))
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def as_entries(values: Any) -> list[Any]:
    """Return the entries as Python objects, one per row."""
    if isinstance(values, str | bytes | Mapping | Set):
        raise DataTypeError(
            f"Labels must be a list with one entry per row, got {type(values).__name__} {values!r}."
        )
    if getattr(values, "ndim", 1) != 1:
        raise DataError(f"Labels must have one entry per row, got an array of shape {tuple(values.shape)}.")
    if isinstance(values, list):
        return values
    return values.tolist() if hasattr(values, "tolist") else list(as_list(values))


def as_list(values: Any) -> Any:
    """Return a column of a dataframe as a list, and anything else unchanged."""
    return values.to_list() if hasattr(values, "to_list") else values


def normalize_label(value: Any) -> Any:
    """Return a key that is equal for labels that differ only in case, spaces or number format."""
    number = as_number(value)
    if number is not None:
        return number
    if not isinstance(value, str):
        return value
    letters = unicodedata.normalize("NFKC", value).casefold()
    return " ".join("".join(c for c in letters if unicodedata.category(c) != "Cf").split())


def distinct_labels(entries: list[Any], rows: Rows, column: str | None) -> list[Value]:
    """Return the distinct labels, sorted and checked; `rows` and `column` are named in errors."""
    try:
        labels = [plain_value(entry) for entry in set(entries) if not is_missing(entry)]
    except TypeError:
        raise_for_unhashable(entries, rows, column)
        raise
    if not labels:
        raise DataError(
            "All labels are missing. Add labels." if entries else "Expected at least one label, got none."
        )
    # True == 1, so the set contains only one of them
    examples = [next(e for e in entries if type(e) is kind) for kind in set(map(type, entries))]
    check_same_type([*labels, *(plain_value(e) for e in examples if not is_missing(e))], entries, rows)
    return sorted_values(labels)


def check_same_type(values: Iterable[Any], entries: Sequence[Any], rows: Rows) -> None:
    """Raise an error unless all values are strings, all integers, or all booleans; it names entry and row."""
    examples = {type(value): value for value in values}
    for kind, value in examples.items():
        if kind is float:
            raise DataError(f"Labels must be strings or integers, not quantities, got {value!r}.")
        if kind not in (str, int, bool):
            raise DataTypeError(
                f"Labels must be strings, integers or booleans, got {kind.__name__} {value!r}."
            )
    if len(examples) > 1:
        kinds = [type(plain_value(entry)) for entry in entries]
        first = sorted(kinds.index(kind) for kind in examples)[:2]
        found = " and ".join(
            f"{plain_value(entries[i])!r} ({kinds[i].__name__} in row {rows[i]})" for i in first
        )
        raise DataTypeError(f"Labels must be of one type, got {found}. Convert all to strings.")


def raise_for_unhashable(entries: Iterable[Any], rows: Rows, column: str | None) -> None:
    """Raise a DataTypeError that names the row of the first entry that is a list or a dict."""
    for row, entry in zip(rows, entries, strict=True):
        if type(entry).__hash__ is None or isinstance(entry, LISTS):
            problem = f" has the {type(entry).__name__} {entry!r} in place of a single label."
            fix = "If rows have several labels, set task=multilabel, or call fit_lists and encode_lists."
            raise DataTypeError.at(row, column, f"{problem} {fix}", entry)
