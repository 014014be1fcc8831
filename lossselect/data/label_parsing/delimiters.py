"""Recognition of cells with several labels: the text that separates them, blanks included."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from lossselect.labels.values import as_number
from lossselect.utils.checks import format_setting

MARKERS = ("?", "-", "--", "n/a", "#n/a", "nan", "<na>", "unknown", "missing")
"""Labels that may mean "missing", without NA, None and null, which may be the names of classes."""
DELIMITERS = ("|", ";", ",", "/")


def find_delimiter(values: Sequence[Any], task: str = "auto") -> str | None:
    """Return the text that seems to separate several labels in the distinct `values`, or None.

    A blank is often part of a name, so it counts only if the cells look like sets of labels. With
    task=multilabel, for which some delimiter is required, the same evidence suffices as for the others.
    """
    texts = [value for value in values if isinstance(value, str) and value.lower() not in MARKERS]
    delimiters = (*DELIMITERS, "&", "+", " ") if task == "multilabel" else DELIMITERS
    found = next((delimiter for delimiter in delimiters if _splits_often(texts, delimiter)), None)
    has_lines = any("\t" in text or "\n" in text for text in texts)
    return found or (" " if not has_lines and _are_lists([text.split() for text in texts]) else None)


def delimiter_settings(delimiter: str) -> str:
    """Return the settings for cells whose labels are separated by `delimiter`, without the task."""
    setting = format_setting("data.delimiter", delimiter)
    hierarchy = format_setting("data.hierarchy", delimiter)
    return f"{setting}, or for paths of a hierarchy {hierarchy}" if delimiter == "/" else setting


def _splits_often(texts: Sequence[str], delimiter: str) -> bool:
    """Return whether a delimiter splits at least a third of the texts, and some parts recur."""
    count = sum(delimiter in text.strip(delimiter) for text in texts)
    parts = [{part.strip() for part in text.split(delimiter)} for text in texts]
    return count * 3 >= len(texts) > 0 < count and sum(map(len, parts)) > len(set().union(*parts))


def _are_lists(cells: Sequence[list[str]]) -> bool:
    """Return whether cells, split at blanks, are lists of labels rather than names of several words."""
    several = [cell for cell in cells if len(cell) > 1]
    if several and all(as_number(part) is not None for cell in cells for part in cell):
        return True
    if any(len(set(cell)) < len(cell) for cell in several):
        return False
    counts = Counter(part for cell in cells for part in cell)
    recurring = [cell for cell in several if all(counts[part] > 1 for part in cell)]
    # a name that is written with underscores does not contain blanks
    if any("_" in part for cell in several for part in cell):
        return any(counts[part] > 1 for cell in several for part in cell)
    if len(counts) >= len(cells):
        return False  # few labels form many sets, but each name of several words usually adds a word
    if max(map(len, recurring), default=0) > 2:
        return len(several) * 3 >= len(cells) and len({len(cell) for cell in cells}) > 1
    alone = {cell[0] for cell in cells if len(cell) == 1}
    return bool(recurring) and all(alone.issuperset(cell) for cell in several)
