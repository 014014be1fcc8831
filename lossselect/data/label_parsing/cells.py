"""Parsing of cells with several labels, as people write them: a|b, ['a', 'b'], {a, b}."""

import ast
import json
import re
import warnings
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

from lossselect.data.label_parsing.delimiters import DELIMITERS, find_delimiter
from lossselect.data.label_parsing.single_label import label_text
from lossselect.data.preprocessing.columns import column_error
from lossselect.exceptions import DataError
from lossselect.utils.checks import format_setting, show
from lossselect.utils.warnings import warn

BRACKETS = {"[": "]", "(": ")", "{": "}"}
QUOTES = ("'", '"')
QUOTED = re.compile(r"'(?:\\.|[^'\\])*'" r'|"(?:\\.|[^"\\])*"')


def split_cells(name: str, cells: Sequence[str], delimiter: str) -> list[list[str]]:
    """Return the labels of each cell of column `name`, without spaces around them and without empty labels.

    If all non-empty cells are in brackets, the brackets are not part of the labels: Python and JSON lists are
    parsed, and other text is split within the brackets. If all labels are in quotes, the quotes are not part
    of the labels.
    """
    check_closed(name, cells)
    bracketed = [is_bracketed(cell) for cell in cells]
    bare = next((row for row, cell in enumerate(cells) if cell and not bracketed[row]), None)
    if bare is None and any(bracketed):
        rows = [_parse_brackets(name, row, cell, delimiter) for row, cell in enumerate(cells)]
    else:
        rows = [split_delimited(cell, delimiter) for cell in cells]
        for row, labels in enumerate(rows):
            if bracketed[row] and len(labels) > 1:
                problem = f"labels in brackets, but row {bare} is {show(cells[bare or 0])}, without brackets."
                raise _cell_error(name, row, cells[row], f"{problem} Use one notation for all cells.")
    _warn_split_brackets(name, cells, rows, delimiter)
    rows = _strip_quotes(name, cells, rows)
    _warn_other_delimiter(name, cells, rows, delimiter)
    return rows


def _cell_error(name: str, row: int, cell: str, problem: str) -> DataError:
    return DataError.at(row, name, f" is {show(cell)}, {problem}", cell)


def is_bracketed(cell: str) -> bool:
    """Return whether a cell starts with a bracket that its last character closes."""
    if len(cell) < 2 or BRACKETS.get(cell[0]) != cell[-1]:
        return False
    inner = QUOTED.sub("", cell)
    depths = [*accumulate((character == cell[0]) - (character == cell[-1]) for character in inner)]
    return depths[-1] == 0 and 0 not in depths[:-1]


def is_listed(cell: str) -> bool:
    """Return whether a cell is in brackets and has a comma; (18, 25) may be an interval."""
    return cell[:1] in ("[", "{") and "," in cell and is_bracketed(cell)


def check_closed(name: str, cells: Sequence[str | None]) -> None:
    """Raise a DataError for the first cell with [ or { at its start, or ] or } at its end, but not both.

    "[18, 25)" is an interval.
    """
    for row, cell in enumerate(cells):
        if not cell or (cell[0] not in "[{" and cell[-1] not in "]}"):
            continue
        for start, end in (("[", "]"), ("{", "}")):
            if not (cell.startswith(start) or cell.endswith(end)) or is_bracketed(cell):
                continue
            text = QUOTED.sub("", cell)
            surplus = text.count(start) - text.count(end)
            if surplus > 0 and cell.startswith(start) and not cell.endswith(")"):
                problem = f"but the bracket {start!r} is never closed. Add {end!r}, or remove {start!r}."
                raise _cell_error(name, row, cell, problem)
            if surplus < 0 and cell.endswith(end) and not cell.startswith("("):
                problem = f"but the bracket {end!r} is never opened. Add {start!r}, or remove {end!r}."
                raise _cell_error(name, row, cell, problem)


def check_commas(name: str, cells: Sequence[str]) -> None:
    """Raise a DataError if another text than a comma seems to separate the labels in brackets."""
    bare = [cell for cell in cells if parse_literal(cell, json.loads, ast.literal_eval) is None]
    if not bare or any("," in cell for cell in bare) or any(QUOTED.search(cell) for cell in bare):
        return
    if (delimiter := find_delimiter([cell[1:-1].strip() for cell in bare])) is not None:
        example = next(cell for cell in bare if delimiter in cell[1:-1].strip())
        settings = [format_setting("data.delimiter", text) for text in (delimiter, ",")]
        problem = f"contains lists such as {show(example)}. If {delimiter!r} separates the labels, set"
        raise column_error(name, f"{problem} {settings[0]}. If it is part of a label, set {settings[1]}.")


def _warn_split_brackets(name: str, cells: Sequence[str], rows: list[list[str]], delimiter: str) -> None:
    """Warn about a delimiter that splits text within brackets, as in array(['a', 'b'])."""
    for row, (cell, labels) in enumerate(zip(cells, rows, strict=True)):
        is_list = is_bracketed(cell) and QUOTED.search(cell)  # its labels are known
        for label in labels if len(labels) > 1 and not is_list else ():
            if any(label.count(start) != label.count(end) for start, end in BRACKETS.items()):
                problem = f"Row {row} of column {name!r} is {show(cell)}, and data.delimiter={delimiter!r}"
                fix = "If the brackets are not part of the labels, remove them from the file."
                warn("split_brackets", f"{problem} splits off the label {label!r}. {fix}")
                return


def _parse_brackets(name: str, row: int, cell: str, delimiter: str) -> list[str]:
    """Return the labels of a cell in brackets, or of an empty cell."""
    quoted = [*QUOTED.finditer(cell)]
    between = [cell[left.end() : right.start()].strip() for left, right in pairwise(quoted)]
    if "" in between:  # as NumPy prints an array; Python would concatenate the two strings
        if delimiter.strip() or any(between):
            problem = f"quoted labels without {delimiter!r} between them."
            blank = format_setting("data.delimiter", " ")
            fix = f"If blanks separate the labels, set {blank}. If not, write {delimiter!r} between them."
            raise _cell_error(name, row, cell, f"{problem} {fix}")
        texts = [(parse_literal(match[0], ast.literal_eval) or match[0][1:-1]).strip() for match in quoted]
        return [text for text in texts if text]
    values = parse_literal(cell, json.loads, ast.literal_eval)
    if cell.startswith("(") and isinstance(values, str | int | float):
        values = [values]  # in Python, ('a') is a string
    if values and isinstance(values, dict):
        problem = "a mapping. Write the labels as a list, or write a 0/1 column for each label and list the"
        raise _cell_error(name, row, cell, f"{problem} columns in data.target.")
    if not isinstance(values, list | tuple | set):
        return split_delimited(cell[1:-1], delimiter)
    if all(isinstance(label, int | float) and label == label for label in values):
        return split_delimited(cell[1:-1], ",")  # as they are written: 1.0 in [1.0] as in [1.0, a]
    labels = sorted(values, key=str) if isinstance(values, set) else [*values]
    for label in labels:
        if not isinstance(label, str | int | float) or label != label:  # NaN differs from itself
            problem = f"which contains {label!r}, but labels must be text or numbers."
            fix = "Remove it. If the whole row is not labelled, leave the cell empty and set"
            raise _cell_error(name, row, cell, f"{problem} {fix} data.empty=missing.")
    return [text for label in labels if (text := label_text(label).strip())]


def parse_literal(cell: str, *parsers: Callable[[str], Any]) -> Any:
    """Return the value of a cell from the first parser that can read it, else None."""
    for parse in parsers:
        try:
            with warnings.catch_warnings(action="ignore"):  # of Python's parser, about text such as '\\d'
                return parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _strip_quotes(name: str, cells: Sequence[str], rows: list[list[str]]) -> list[list[str]]:
    all_labels = {label for labels in rows for label in labels}
    quoted = {text for text in all_labels if len(text) > 2 and text[0] in QUOTES and text[0] == text[-1]}
    if quoted and quoted == all_labels:
        return [[label[1:-1].strip() for label in labels] for labels in rows]
    if both := sorted(label for label in quoted if label[1:-1].strip() in all_labels):
        row = next(row for row, labels in enumerate(rows) if both[0] in labels)
        problem = f"with quotes around {both[0][1:-1]!r}, which also occurs without quotes."
        raise _cell_error(name, row, cells[row], f"{problem} Write all labels with quotes, or none.")
    return rows


def _warn_other_delimiter(name: str, cells: Sequence[str], rows: list[list[str]], delimiter: str) -> None:
    """Warn about a label that consists of several labels, separated by another delimiter."""
    all_labels = {label for labels in rows for label in labels}
    for other in DELIMITERS:
        for label in sorted(all_labels) if other != delimiter else ():
            parts = [part.strip() for part in label.split(other)]
            if len(parts) > 1 and all_labels.issuperset(parts):
                row = next(row for row, labels in enumerate(rows) if label in labels)
                warn(
                    "several_labels",
                    f"Row {row} of column {name!r} is {show(cells[row])}, and {label!r} counts as one label, "
                    f"although {parts[0]!r} and {parts[1]!r} are labels too. If {other!r} separates labels "
                    f"there, replace it with {delimiter!r}.",
                )
                return


def split_delimited(text: str, delimiter: str) -> list[str]:
    """Return the labels of a text, without spaces around them and without empty labels."""
    return [label for part in text.split(delimiter) if (label := part.strip())]
