"""The structure of plain values that come from a file: types, keys and lengths.

A structure is a type or a tuple of types, a dict with the structures of required keys, a list with the
structure of all entries or one for each of several, `COUNT`, `DictOf` or `OptionalOf`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lossselect.exceptions import CheckpointError

COUNT = object()  # a whole number that is not negative


class DictOf(NamedTuple):
    """A dict with any keys, all of whose values have a structure."""

    value: Any


class OptionalOf(NamedTuple):
    """None, or a value that has a structure."""

    value: Any


def check_structure(value: Any, structure: Any, place: str) -> None:
    """Raise a CheckpointError about the first part of `value` that does not have the structure."""
    if isinstance(structure, OptionalOf):
        if value is not None:
            check_structure(value, structure.value, place)
    elif isinstance(structure, dict | DictOf):
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{place} must be a dict, got {describe_value(value)}")
        entries = structure if isinstance(structure, dict) else dict.fromkeys(value, structure.value)
        for key, inner in entries.items():
            if key not in value:
                raise CheckpointError(f"{place} lacks {key!r}")
            check_structure(value[key], inner, f"{place}[{key!r}]")
    elif isinstance(structure, list):
        if not isinstance(value, list | tuple):
            raise CheckpointError(f"{place} must be a list, got {describe_value(value)}")
        structures = structure * len(value) if len(structure) == 1 else structure
        if len(value) != len(structures):
            raise CheckpointError(f"{place} must have {len(structures)} entries, got {len(value)}")
        for i, pair in enumerate(zip(value, structures, strict=True)):
            check_structure(*pair, f"{place}[{i}]")
    elif structure is COUNT:
        check_structure(value, int, place)
        if value < 0:
            raise CheckpointError(f"{place} must not be negative, got {value}")
    else:
        kinds = structure if isinstance(structure, tuple) else (structure,)
        # a bool is an int, but not one that is meant
        is_bool = isinstance(value, bool) and not {bool, object} & {*kinds}
        if is_bool or not isinstance(value, kinds):
            names = [kind.__name__.replace("NoneType", "None") for kind in kinds]
            raise CheckpointError(f"{place} must be {' or '.join(names)}, got {describe_value(value)}")


def describe_value(value: Any) -> str:
    """Return how messages call a value that has the wrong type."""
    text = repr(value) if isinstance(value, str | int | float | None) else ""
    return f"{type(value).__name__} {text[:40]}".strip() if value is not None else "None"
