"""Look things up by name, check options, and say what was meant when one is wrong.

Needs neither torch nor lightning: the command line uses it before either is imported.
"""

import difflib
import math
import numbers
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.utils.renamed import RENAMED

T = TypeVar("T")


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return a sentence such as " Did you mean 'focal'?", or "" if no name is close."""
    stem = re.split(r"[./]", name)[-1]
    new = name.removesuffix(stem) + RENAMED.get(stem, stem)
    names = [*names]
    if new != name and new in names:
        return f" It was renamed to {new!r}."
    lower = {known.lower(): known for known in names}
    begun = [known for low, known in lower.items() if name and low.startswith(name.lower())]
    if begun:
        return f" Did you mean {begun[0]!r}?"
    close = difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.6)
    return f" Did you mean {lower[close[0]]!r}?" if close else ""


def lookup(table: Mapping[str, T], name: str, kind: str) -> T:
    """The entry called `name`; ValueError naming the entries there are, and the nearest."""
    if not isinstance(name, str) or name not in table:
        raise ConfigError(
            f"There is no {kind} {name!r}.{suggestion(str(name), table)} Choose one of: {', '.join(table)}."
        )
    return table[name]


def format_setting(key: str, value: Any, plain: bool = True) -> str:
    """A setting as it is typed at the command line: "data.positive=yes", in quotes where it needs them.

    Args:
        key: Its name.
        value: What it is to be; a list is one.
        plain: Whether letters and digits alone may stand without quotes.
    """
    listed = isinstance(value, list | tuple)
    parts = [str(entry) for entry in (value if listed else [value])]
    if plain and all(re.fullmatch(r"[\w.+-]+", part) and part.lower() != "null" for part in parts):
        return f"{key}=[{','.join(parts)}]" if listed else f"{key}={parts[0]}"
    if any(re.search(r"[$`!\\]", part) for part in parts) and "'" not in "".join(parts):
        # which a shell would not leave alone in double quotes
        parts = ['"' + part.replace('"', '\\"') + '"' for part in parts]
        return f"'{key}=[{','.join(parts)}]'" if listed else f"'{key}={parts[0]}'"
    parts = ["'" + part.replace("'", "\\'") + "'" for part in parts]
    return f'"{key}=[{",".join(parts)}]"' if listed else f'"{key}={parts[0]}"'


def check_options(given: Iterable[str], allowed: Iterable[str], owner: str) -> None:
    """ValueError for the first option that `owner` does not have."""
    allowed = list(allowed)
    for name in given:
        if name not in allowed:
            has = f"Its options: {', '.join(allowed)}." if allowed else "It has no options."
            raise ConfigError(f"{owner} has no option {name!r}.{suggestion(name, allowed)} {has}")


def shorten(names: Sequence[Any], most: int = 8) -> str:
    """The names in a line, or the first of them and how many there are."""
    return ", ".join(map(str, names[:most])) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def first_duplicate(values: Iterable[Any]) -> Any:
    """The first of the values that has been there before; None where there is none."""
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def split_name(spec: Mapping[str, Any], kind: str) -> tuple[str, dict[str, Any]]:
    """`{"name": "focal", "gamma": 2}` -> `("focal", {"gamma": 2})`."""
    if "name" not in spec:
        raise ConfigError(f"The {kind} is given as {dict(spec)}, which lacks a 'name'.")
    return str(spec["name"]), {key: value for key, value in spec.items() if key != "name"}


def check_float(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """`value` as a finite float between `least` and `most`; NumPy's numbers are numbers too."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if real and least <= value <= most and math.isfinite(value):
        return float(value)
    bounds = "" if least == -math.inf else f" of at least {least}"
    bounds = bounds if most == math.inf else f" between {least} and {most}"
    raise (ConfigError if real else OptionTypeError)(f"{name} must be a number{bounds}, got {value!r}.")


def check_int(name: str, value: Any, least: int, most: float = math.inf) -> int:
    """`value` as an int between `least` and `most`."""
    bounds = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
    message = f"{name} must be a whole number {bounds}, got {value!r}."
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise OptionTypeError(message)
    if not least <= operator.index(value) <= most:
        raise ConfigError(message)
    return operator.index(value)
