"""Checks of options, numbers and packages, and lookup of names with suggestions; does not import torch."""

import difflib
import math
import numbers
import operator
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, TypeVar

from lossselect.exceptions import ConfigError, OptionTypeError

T = TypeVar("T")

SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}
"""Names of the splits in messages."""


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return a sentence such as " Did you mean 'focal'?", or "" if no name is close."""
    if len(name) > 100:  # text, which takes long to compare
        return ""
    lower = {known.lower(): known for known in names}
    close = [known for known in lower if name and known.startswith(name.lower())]
    close = close or difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.6)
    return f" Did you mean {lower[close[0]]!r}?" if close else ""


def lookup(table: Mapping[str, T], name: str, kind: str, place: str = "") -> T:
    """Return the entry called `name`; for an unknown name, raise a ConfigError that lists all names.

    `kind` and `place` are those of the message, such as "label" and " in threshold".
    """
    if isinstance(name, str) and name in table:
        return table[name]
    raise _unknown(f"Unknown {kind} {name!r}{place}", name, table)


def check_choice(setting: str, value: Any, choices: Iterable[str], place: str = "") -> None:
    """Raise a ConfigError that lists the choices unless `value` is one of them.

    `place` is where the choices apply, such as " for task=binary".
    """
    if not isinstance(value, str) or value not in (choices := [*choices]):
        raise _unknown(f"{setting}={value!r} is not valid{place}", value, choices)


def _unknown(problem: str, name: Any, names: Iterable[str]) -> ConfigError:
    names = [*names]
    return ConfigError(f"{problem}.{suggestion(str(name), names)} Choose one of: {', '.join(names)}.")


def format_setting(key: str, value: Any, plain: bool = True) -> str:
    """Return a setting as typed on the command line, such as "data.positive=yes".

    Values with special characters are quoted; if `plain` is false, all values are.
    """
    is_list = isinstance(value, list | tuple)
    parts = [str(entry) for entry in (value if is_list else [value])]
    outer = ""
    if not plain or not all(re.fullmatch(r"[\w.+-]+", part) and part.lower() != "null" for part in parts):
        # a shell expands these characters within double quotes
        expands = re.search(r"[$`!\\]", "".join(parts)) and "'" not in "".join(parts)
        outer, inner = ("'", '"') if expands else ('"', "'")
        parts = [inner + part.replace(inner, f"\\{inner}") + inner for part in parts]
    text = f"[{','.join(parts)}]" if is_list else parts[0]
    return f"{outer}{key}={text}{outer}"


def check_options(options: Iterable[str], allowed: Iterable[str], owner: str) -> None:
    """Raise ConfigError for the first option that `owner` does not have."""
    allowed = list(allowed)
    for name in options:
        if name not in allowed:
            has = f"Its options: {', '.join(allowed)}." if allowed else "It has no options."
            raise ConfigError(f"{owner} has no option {name!r}.{suggestion(name, allowed)} {has}")


def shorten(names: Sequence[Any], limit: int = 8) -> str:
    """Join names by commas; if there are more than `limit`, list the first ones and give the total.

    The middle of a long name is left out.
    """
    texts = [text if len(text) <= 120 else f"{text[:95]}...{text[-20:]}" for text in map(str, names[:limit])]
    return ", ".join(texts) + (f", ... ({len(names)} in all)" if len(names) > limit else "")


def as_list(setting: Any) -> list[Any]:
    """Return a setting as a list: one value, several, or none for None."""
    is_several = isinstance(setting, Sequence) and not isinstance(setting, str)
    return [*setting] if is_several else [] if setting is None else [setting]


def show(value: Any, limit: int = 120) -> str:
    """Return the representation of a cell; the middle of a long one is left out."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 25]}...{text[-20:]}"


def first_duplicate(values: Iterable[Any]) -> Any:
    """Return the first value that occurs more than once; None if there is none."""
    return next((value for value, count in Counter(values).items() if count > 1), None)


def split_name(spec: Mapping[str, Any], kind: str) -> tuple[str, dict[str, Any]]:
    """Split `{"name": "focal", "gamma": 2}` into `("focal", {"gamma": 2})`."""
    if "name" not in spec:
        raise ConfigError(f"The {kind} {dict(spec)} has no 'name'. Add the key 'name'.")
    return str(spec["name"]), {key: value for key, value in spec.items() if key != "name"}


def check_float(
    name: str,
    value: Any,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    bounds: str | None = None,
) -> float:
    """Return a number, or a scalar array or tensor, as a finite float.

    `bounds` describes minimum and maximum in the message, such as " > 0".

    Raises:
        ConfigError: out of bounds, or not finite.
        OptionTypeError: not a number.
    """
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_real and minimum <= value <= maximum and math.isfinite(value):
        return float(value)
    if bounds is None:
        bounds = "" if minimum == -math.inf else f" >= {minimum}"
        bounds = bounds if maximum == math.inf else f" from {minimum} to {maximum}"
    raise (ConfigError if is_real else OptionTypeError)(f"{name} must be a number{bounds}, got {value!r}.")


def check_positive(name: str, value: Any) -> float:
    """Return `check_float` of a number that must be > 0."""
    return check_float(name, value, math.ulp(0.0), bounds=" > 0")


def check_int(name: str, value: Any, minimum: int, maximum: float = math.inf) -> int:
    """Return `value` as an int.

    Raises:
        ConfigError: out of bounds.
        OptionTypeError: not an integer.
    """
    is_int = hasattr(value, "__index__") and not isinstance(value, bool)
    if is_int and minimum <= operator.index(value) <= maximum:
        return operator.index(value)
    bounds = f">= {minimum}" if maximum == math.inf else f"from {minimum} to {maximum}"
    error = ConfigError if is_int else OptionTypeError
    raise error(f"{name} must be an integer {bounds}, got {value!r}.")


def is_installed(package: str) -> bool:
    """Return whether a package is installed, without importing it; a folder without code does not count."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, without a full stop; torch's C++ code adds a stack."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
