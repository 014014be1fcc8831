"""Names of the columns of a task, and names shortened to fit into figures and tables."""

import os
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def column_name(task: str, column: str) -> str:
    """Return the name of a column of one of several tasks, "" for a single one."""
    if not task:
        return column
    return task if column == "prediction" else f"{task}.{column}"


def shorten_names(names: Sequence[str], max_length: int = 22) -> list[str]:
    """Return names of at most `max_length` characters, which differ if the names do; see `text_width`.

    If a name is too long, words with which all names start are left out, and then the middle of those that
    are still too long. Names that would be equal then are numbered.

    Example:
        >>> shorten_names(["Experiment 7 / plate 3 / well A01", "Experiment 7 / plate 3 / well A02"], 12)
        ['…well A01', '…well A02']
    """
    shown = [" ".join(name.split()) for name in names]
    longest = max(map(text_width, shown), default=0)
    if longest > max_length:
        prefix = os.path.commonprefix(shown) if len({*shown}) > 1 else ""  # noqa: RUF071  # of characters
        starts = [0, *(word.end() for word in re.finditer(r"\W+", prefix))]
        start = next((i for i in starts if longest - text_width(prefix[:i]) < max_length), starts[-1])
        shown = [cut_middle(ELLIPSIS + name[start:] if start > 1 else name, max_length) for name in shown]
    chosen: dict[str, str] = {}  # the name of each text
    for name, text in zip(names, shown, strict=True):
        number = 1
        while chosen.setdefault(text, name) != name:
            number += 1
            mark = f" ({number})"
            text = cut_middle(text.removesuffix(f" ({number - 1})"), max_length - len(mark)) + mark
    texts = {name: text for text, name in chosen.items()}
    return [texts[name] for name in names]


def cut_middle(name: str, max_length: int) -> str:
    """Return a text without its middle if it is too long; see `text_width`."""
    if text_width(name) <= max_length:
        return name
    end = (max_length - 1) // 2
    return _cut(name, max_length - 1 - end) + ELLIPSIS + _cut(name[::-1], end)[::-1]


def text_width(text: str) -> int:
    """Return the number of characters, of which wide ones, such as Chinese characters, count twice."""
    return len(text) if text.isascii() else sum(map(_character_width, text))


def _character_width(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cut(text: str, width: int) -> str:
    return text[: bisect_right([*accumulate(map(_character_width, text))], width)]
