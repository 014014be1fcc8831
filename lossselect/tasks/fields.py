"""Checks of a task's fields."""

import numbers
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.utils.checks import check_float, first_duplicate, shorten


def check_temperature(value: Any, which: str = "") -> float:
    """A temperature, checked."""
    given = check_float(f"temperature{which}", value.item() if hasattr(value, "item") else value, 0)
    if given == 0:
        raise ConfigError(f"temperature{which} must be above 0.")
    return given


def check_class_names(names: Sequence[str] | None, count: int, task: str) -> tuple[str, ...] | None:
    """Return class names as a tuple of `count` distinct strings; None for None."""
    if names is None:
        return None
    if isinstance(names, str | bytes | Mapping | Set) or not hasattr(names, "__iter__"):
        raise OptionTypeError(
            f"class_names must be a list of {count} names in the order of the outputs, got "
            f"{type(names).__name__} {names!r}."
        )
    given = tuple(str(name) for name in names)
    if len(given) != count:
        raise ConfigError(
            f"{task.capitalize()} needs {count} class_names, got {len(given)}: {shorten(given)}."
        )
    if len(set(given)) < count:
        raise ConfigError(f"class_names must differ, but {first_duplicate(given)!r} comes twice.")
    return given


def per_output(name: str, value: Any, count: int, checked: Callable[..., float]) -> float | tuple[float, ...]:
    """One number, or one for each output, checked.

    Args:
        name: What messages call it.
        value: As the user gave it.
        count: How many outputs there are.
        checked: Takes a number, and of several " for output 3".
    """
    if isinstance(value, numbers.Real):
        return checked(value)
    # what has no order, or names of its own, would be taken apart wrongly
    if isinstance(value, str | bytes | Mapping | Set) or not hasattr(value, "__iter__"):
        raise OptionTypeError(f"{name} must be a number or a list of numbers, got {value!r}.")
    if getattr(value, "ndim", 1) == 0:
        return checked(value.item())
    given = tuple(checked(entry, f" for output {i}") for i, entry in enumerate(value))
    if len(given) != count:
        raise ConfigError(f"{name} must be one number or one per output ({count}), got {len(given)}.")
    return given


def check_threshold(value: Any, which: str = "") -> float:
    """Return a threshold as a float in [0, 1]."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise OptionTypeError(f"threshold must be a number or a list of numbers, got {value!r}{which}.")
    given = float(value)
    if not 0 <= given <= 1:
        raise ConfigError(f"threshold must be a probability in [0, 1], got {given:g}{which}.")
    return given
