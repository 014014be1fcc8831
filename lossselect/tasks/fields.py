"""Checks of the fields of a task."""

import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.utils.checks import check_float, first_duplicate, shorten


def check_class_names(names: Sequence[str] | None, count: int, task: str) -> tuple[str, ...] | None:
    """Check class names and return them as a tuple of `count` distinct strings; None for None."""
    if names is None:
        return None
    if not _is_ordered(names):
        raise OptionTypeError(
            f"class_names must be a list of {count} names in the order of the outputs, got "
            f"{type(names).__name__} {names!r}."
        )
    checked = tuple(map(str, names))
    if len(checked) != count:
        raise ConfigError(
            f"{task.capitalize()} requires {count} class_names, got {len(checked)}: {shorten(checked)}."
        )
    if len(set(checked)) < count:
        raise ConfigError(f"class_names must be distinct, but {first_duplicate(checked)!r} occurs twice.")
    return checked


def check_numbers(
    name: str, values: Any, count: int, minimum: float = -math.inf, maximum: float = math.inf
) -> tuple[float, ...]:
    """Check and return `count` numbers within bounds."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if not _is_ordered(values):
        raise OptionTypeError(f"{name} must be a list of {count} numbers, got {values!r}.")
    checked = tuple(check_float(f"{name}[{i}]", x, minimum, maximum) for i, x in enumerate(values))
    if len(checked) != count:
        raise ConfigError(f"{name} requires one number per output ({count}), got {len(checked)}.")
    return checked


def per_output(
    name: str, value: Any, count: int, minimum: float = -math.inf, maximum: float = math.inf
) -> float | tuple[float, ...]:
    """Check and return one number, or `count` numbers, within bounds."""
    if not _is_ordered(value):
        return check_float(name, value, minimum, maximum)
    return check_numbers(name, value, count, minimum, maximum)


def _is_ordered(values: Any) -> bool:
    """Return whether a value is an ordered collection: iterable, but not a string, mapping, set or scalar."""
    unordered = isinstance(values, str | bytes | Mapping | Set) or getattr(values, "ndim", 1) == 0
    return hasattr(values, "__iter__") and not unordered
