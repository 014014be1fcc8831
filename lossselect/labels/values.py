"""Label values as they come: what is one, which are missing, in which order they stand."""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from lossselect.exceptions import DataError, DataTypeError

IGNORE_INDEX = -100
"""What a missing label is in a target of class indices, as in `torch.nn.CrossEntropyLoss`."""

Value = str | int | bool
"""What a label may be."""


def label_form(target: Any) -> str | None:
    """ "names" where the entries are strings, "lists" where they are lists or sets of strings, else None.

    Looks at the first entry that is not missing; where all are, at whether there are empty lists.
    """
    if isinstance(target, str | bytes | Mapping | Set) or not hasattr(target, "__iter__"):
        return None
    target = as_list(target)
    if getattr(target, "ndim", 1) != 1:
        return None
    if isinstance(getattr(target, "dtype", None), np.dtype) and target.dtype.kind not in "OUT":
        return None
    _, first = first_known(target)
    if first is None:
        return "lists" if any(_is_empty(entry) for entry in target) else None
    if isinstance(first, str):
        return "names"
    listed = isinstance(first, list | tuple | Set | np.ndarray) and getattr(first, "ndim", 1) == 1
    return "lists" if listed and isinstance(next(iter(first)), str) else None


def first_known(entries: Iterable[Any]) -> tuple[int | None, Any]:
    """Row and value of the first entry that is neither missing nor an empty list."""
    for row, entry in enumerate(entries):
        if not (is_missing(entry) or _is_empty(entry)):
            return row, entry
    return None, None


def _is_empty(entry: Any) -> bool:
    return isinstance(entry, list | tuple | Set | np.ndarray) and len(entry) == 0


def sorted_values(values: Iterable[Value]) -> list[Value]:
    """Sorted; strings that all write numbers ("10", "2") by the numbers."""
    values = list(values)
    if values and all(isinstance(value, str) and as_number(value) is not None for value in values):
        return sorted(values, key=lambda value: (as_number(value), value))
    return sorted(values)


def as_number(text: Any) -> float | int | None:
    """The number that a string writes, whole ones exactly; None for "nan", "inf" and "1_000"."""
    if isinstance(text, int) or (isinstance(text, str) and re.fullmatch(r"\s*[+-]?[0-9]+\s*", text)):
        return int(text.strip() if isinstance(text, str) else text) if len(str(text)) <= MAX_DIGITS else None
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and "_" not in str(text) else None


MAX_DIGITS = 300
"""Of a number; a longer one is an identifier, and no float64."""


def spelling_variants(text: str) -> tuple[str, ...]:
    """How the same label may be written in another file: "1" and "1.0" are one, "v1" and "v1.0" are two."""
    whole = re.fullmatch(r"([+-]?[0-9]+)(\.0+)?", text)
    return (text, whole[1], f"{whole[1]}.0") if whole else (text,)


def is_integer_text(text: str) -> bool:
    """Whether a string is how a whole number is written: "7", not "007" or "7.0"."""
    number = as_number(text)
    return number is not None and number == number // 1 and str(int(number)) == text


def plain_value(value: Any) -> Any:
    """Python's own number for NumPy's, an int for 3.0."""
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and math.isfinite(value) and value == value // 1 else value


def is_missing(value: Any) -> bool:
    """Whether an entry is None, NaN or what pandas has for them."""
    if isinstance(value, float | np.floating):
        return bool(np.isnan(value))
    return value is None or type(value).__name__ in ("NAType", "NaTType")  # pandas' own


def as_entries(values: Any) -> list[Any]:
    """One entry a row, as Python's objects."""
    if isinstance(values, str | bytes | Mapping):
        raise DataTypeError(f"Labels are a list, an entry a row; got {type(values).__name__} {values!r}.")
    if isinstance(values, Set):
        raise DataTypeError("Labels are a list, an entry a row; a set has no order.")
    if getattr(values, "ndim", 1) != 1:
        raise DataError(f"Labels are one entry a row, got an array of shape {tuple(values.shape)}.")
    return values if isinstance(values, list) else _to_list(values)


def as_list(values: Any) -> Any:
    """A dataframe's column as a list; its entries may be columns themselves."""
    return values.to_list() if hasattr(values, "to_list") and not isinstance(values, np.ndarray) else values


def _to_list(values: Any) -> list[Any]:
    return values.tolist() if hasattr(values, "tolist") else list(as_list(values))


def normalize_label(value: Any) -> Any:
    """What labels that a person may take for the same have in common: letters without case and spaces."""
    number = as_number(value)
    if number is not None or not isinstance(value, str):
        return number if number is not None else value
    letters = unicodedata.normalize("NFKC", value).casefold()
    return " ".join("".join(c for c in letters if unicodedata.category(c) != "Cf").split())


def distinct_labels(entries: list[Any]) -> list[Value]:
    """The distinct labels, sorted and checked."""
    try:
        found = {entry for entry in set(entries) if not is_missing(entry)}
    except TypeError:
        raise unhashable_error(entries) from None
    if any(value in (0, 1) for value in found if not isinstance(value, str)):
        # True == 1: in a set either stands for both
        kinds = {kind: next(e for e in entries if type(e) is kind) for kind in set(map(type, entries))}
        check_same_type(
            (plain_value(example) for example in kinds.values() if not is_missing(example)), entries
        )
    known = [plain_value(value) for value in found]
    if not known:
        raise DataError(
            "All labels are missing: there is nothing to learn from." if entries else "There are no labels."
        )
    check_same_type(known, entries)
    return sorted_values(known)


def check_same_type(values: Iterable[Any], entries: Sequence[Any]) -> None:
    """TypeError or ValueError unless the labels are all strings, all integers or all booleans.

    Args:
        values: The labels, or an example of each type.
        entries: All rows, to say in which one a label is.
    """
    examples: dict[type, Any] = {}
    for value in values:
        examples.setdefault(type(value), value)
    for kind, value in examples.items():
        if kind is float:
            raise DataError(f"Label {value!r} is a fraction: a quantity, not one of several classes.")
        if kind not in (str, int, bool):
            raise DataTypeError(f"Labels are strings, integers or booleans, got {kind.__name__} {value!r}.")
    if len(examples) > 1:
        found = sorted((_first(entries, value), kind.__name__, value) for kind, value in examples.items())
        said = " and ".join(f"{value!r} ({kind} in row {row})" for row, kind, value in found[:2])
        raise DataTypeError(f"Labels are all of one type, but there are {said}. Make them all strings.")


def _first(entries: Sequence[Any], value: Any) -> int:
    return next(i for i, entry in enumerate(entries) if type(plain_value(entry)) is type(value))


def unhashable_error(entries: Sequence[Any], owner: np.ndarray | None = None) -> TypeError:
    """The error for entries among which is a list; `owner` tells the row of each."""
    i = next(i for i, entry in enumerate(entries) if not _hashable(entry))
    row = i if owner is None else owner[i]
    return DataTypeError(
        f"Row {row} is {entries[i]!r}, a {type(entries[i]).__name__}. Rows with several labels: fit_lists, "
        "encode_lists, and task=multilabel.",
        row=row,
        value=entries[i],
    )


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
