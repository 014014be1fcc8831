"""Checks of a task's fields."""

import numbers
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.utils.checks import check_float, first_duplicate, shorten


def is_ordered(values: Any) -> bool:
    """Whether a value has entries in an order: it is iterable, but not a string, mapping or set."""
    return hasattr(values, "__iter__") and not isinstance(values, str | bytes | Mapping | Set)


def check_class_names(names: Sequence[str] | None, count: int, task: str) -> tuple[str, ...] | None:
    """Return class names as a tuple of `count` distinct strings; None for None."""
    if names is None:
        return None
    if not is_ordered(names):
        raise OptionTypeError(
            f"class_names must be a list of {count} names in the order of the outputs, got "
            f"{type(names).__name__} {names!r}."
        )
    checked = tuple(map(str, names))
    if len(checked) != count:
        raise ConfigError(
            f"{task.capitalize()} needs {count} class_names, got {len(checked)}: {shorten(checked)}."
        )
    if len(set(checked)) < count:
        raise ConfigError(f"class_names must differ, but {first_duplicate(checked)!r} comes twice.")
    return checked


def per_output(name: str, value: Any, count: int, check: Callable[..., float]) -> float | tuple[float, ...]:
    """Return one number, or one for each output, checked; `check` takes a number and " for output 3"."""
    if isinstance(value, numbers.Real) or getattr(value, "ndim", 1) == 0:
        return check(value)
    if not is_ordered(value):
        raise OptionTypeError(f"{name} must be a number or a list of numbers, got {value!r}.")
    checked = tuple(check(entry, f" for output {i}") for i, entry in enumerate(value))
    if len(checked) != count:
        raise ConfigError(f"{name} must be one number or one per output ({count}), got {len(checked)}.")
    return checked


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def check_temperature(value: Any, which: str = "") -> float:
    """Return a temperature as a float above 0."""
    temperature = check_float(f"temperature{which}", _plain(value), 0)
    if temperature == 0:
        raise ConfigError(f"temperature{which} must be above 0.")
    return temperature


def check_shift(value: Any, which: str = "") -> float:
    """Return a shift as a finite float."""
    return check_float(f"shift{which}", _plain(value))


def check_threshold(value: Any, which: str = "") -> float:
    """Return a threshold as a float in [0, 1]."""
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise OptionTypeError(f"threshold must be a number or a list of numbers, got {value!r}{which}.")
    threshold = float(value)
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold must be a probability in [0, 1], got {threshold:g}{which}.")
    return threshold
