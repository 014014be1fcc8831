"""Checks of the structure of plain values that were read from a file: types, keys and lengths.

A structure is a type or a tuple of types, a dict of required keys and their structures, a list with one
structure for all entries or one per entry, `COUNT`, `DictOf`, `OneOf` or `OptionalOf`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lossselect.exceptions import CheckpointError

COUNT = object()  # an integer >= 0


class DictOf(NamedTuple):
    """A dict with any keys, whose values all have the structure `value`."""

    value: Any


class OneOf(NamedTuple):
    """A dict that has the first of several structures whose keys it contains, or else the first of all."""

    structures: tuple[dict[str, Any], ...]


class OptionalOf(NamedTuple):
    """None, or a value that has the structure `value`."""

    value: Any


def check_structure(value: Any, structure: Any, place: str) -> None:
    """Raise a CheckpointError for the first part of `value` that does not match the structure."""
    if isinstance(structure, OptionalOf):
        if value is not None:
            check_structure(value, structure.value, place)
    elif isinstance(structure, OneOf):
        keys = {*value} if isinstance(value, Mapping) else set()
        matching = (inner for inner in structure.structures if inner.keys() <= keys)
        check_structure(value, next(matching, structure.structures[0]), place)
    elif isinstance(structure, dict | DictOf):
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{place} must be a dict, got {describe_value(value)}")
        entries = structure if isinstance(structure, dict) else dict.fromkeys(value, structure.value)
        for key, inner in entries.items():
            if key not in value:
                raise CheckpointError(f"{place} has no {key!r}")
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
            raise CheckpointError(f"{place} must be >= 0, got {value}")
    else:
        kinds = structure if isinstance(structure, tuple) else (structure,)
        # bool is a subclass of int, but not accepted as one
        is_bool = isinstance(value, bool) and not {bool, object} & {*kinds}
        if is_bool or not isinstance(value, kinds):
            names = [kind.__name__.replace("NoneType", "None") for kind in kinds]
            raise CheckpointError(f"{place} must be {' or '.join(names)}, got {describe_value(value)}")


def describe_value(value: Any) -> str:
    """Describe a value of the wrong type by its type and its first characters."""
    text = repr(value) if isinstance(value, str | int | float | None) else ""
    return f"{type(value).__name__} {text[:40]}".strip() if value is not None else "None"
