"""The structure of plain values that come from a file: types, keys and lengths.

A structure is a type or a tuple of types, a dict with the structures of required keys, a list with the
structure of all entries, `COUNT`, `DictOf`, `TupleOf` or `OptionalOf`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

NONE = type(None)
COUNT = object()  # a whole number that is not negative


class DictOf(NamedTuple):
    """A dict with any keys, all of whose values have a structure."""

    value: Any


class TupleOf(NamedTuple):
    """A list or a tuple of a given length, all of whose entries have a structure."""

    value: Any
    length: int


class OptionalOf(NamedTuple):
    """None, or a value that has a structure."""

    value: Any


def find_mismatch(value: Any, structure: Any, place: str) -> str | None:
    """Return a sentence about the first part of `value` that does not have the structure, or None."""
    if isinstance(structure, OptionalOf):
        return None if value is None else find_mismatch(value, structure.value, place)
    if isinstance(structure, TupleOf):
        if mismatch := find_mismatch(value, [structure.value], place):
            return mismatch
        expected, length = structure.length, len(value)
        return None if length == expected else f"{place} must have {expected} entries, got {length}"
    if isinstance(structure, DictOf):
        structure = dict.fromkeys(value, structure.value) if isinstance(value, dict) else {}
    if isinstance(structure, dict):
        if not isinstance(value, Mapping):
            return f"{place} must be a dict, got {describe_value(value)}"
        for key, inner in structure.items():
            if key not in value:
                return f"{place} lacks {key!r}"
            if mismatch := find_mismatch(value[key], inner, f"{place}[{key!r}]"):
                return mismatch
        return None
    if isinstance(structure, list):
        if not isinstance(value, list | tuple):
            return f"{place} must be a list, got {describe_value(value)}"
        entries = (find_mismatch(entry, structure[0], f"{place}[{i}]") for i, entry in enumerate(value))
        return next(filter(None, entries), None)
    if structure is COUNT:
        negative = isinstance(value, int) and value < 0
        return f"{place} must not be negative, got {value}" if negative else find_mismatch(value, int, place)
    kinds = structure if isinstance(structure, tuple) else (structure,)
    # a bool is an int, but not one that is meant
    if isinstance(value, kinds) and not (isinstance(value, bool) and not {bool, object} & {*kinds}):
        return None
    names = ["None" if kind is NONE else kind.__name__ for kind in kinds]
    return f"{place} must be {' or '.join(names)}, got {describe_value(value)}"


def describe_value(value: Any) -> str:
    """Return how messages call a value that has the wrong type."""
    text = repr(value) if isinstance(value, str | int | float | None) else ""
    return f"{type(value).__name__} {text[:40]}".strip() if value is not None else "None"
