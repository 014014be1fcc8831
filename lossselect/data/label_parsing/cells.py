"""Cells that hold several labels, as people write them: a|b, ['a', 'b'], {a, b}."""

import ast
import json
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from lossselect.data.label_parsing.single_label import as_written
from lossselect.data.label_parsing.vocabularies import DELIMITERS
from lossselect.exceptions import ConfigError, DataError, DataTypeError
from lossselect.utils.warnings import warn

BRACKETS = {"[": "]", "(": ")", "{": "}"}
QUOTES = ("'", '"')
QUOTED = re.compile(r"'(?:\\.|[^'\\])*'" r'|"(?:\\.|[^"\\])*"')


def split_cells(name: str, cells: Sequence[str], delimiter: str) -> list[list[str]]:
    """Return the labels of each cell, without spaces around them.

    What is empty between delimiters is no label. Where each cell that is not empty stands in brackets, the
    brackets are no part of the labels: a list of Python's or JSON's is read as one, any other is split within
    the brackets. Where each label stands in quotes, these are no part of it either.

    Args:
        name: Of the column, for messages.
        cells: Without spaces around them; empty where there is no label.
        delimiter: What stands between the labels of a cell.

    Raises:
        ValueError: brackets or quotes around the labels of some rows alone, or what is no label within them.
    """
    wrapped = [_in_brackets(cell) for cell in cells]
    bare = next((row for row, cell in enumerate(cells) if cell and not wrapped[row]), None)
    if bare is None and any(wrapped):
        rows = [_of_brackets(name, row, cell, delimiter) for row, cell in enumerate(cells)]
    else:
        rows = [row or [] for row in split_delimited(cells, delimiter)]
        for i, row in enumerate(rows):
            if wrapped[i] and len(row) > 1:
                raise DataError(
                    f"Row {i} of column {name!r} is {cells[i]!r}, labels in brackets, but row {bare} is "
                    f"{cells[bare or 0]!r}, which has no brackets. Use one notation for all cells.",
                    row=i,
                    column=name,
                    value=cells[i],
                )
        _warn_of_split_brackets(name, cells, rows, delimiter)
    rows = _without_quotes(name, cells, rows)
    _warn_of_other_delimiter(name, cells, rows, delimiter)
    return rows


def _in_brackets(cell: str) -> bool:
    """Whether a cell's first character is a bracket that its last character closes."""
    if len(cell) < 2 or BRACKETS.get(cell[0]) != cell[-1]:
        return False
    depth = 0
    for place, sign in enumerate(cell):
        depth += (sign == cell[0]) - (sign == cell[-1])
        if depth == 0:
            return place == len(cell) - 1
    return False


def _warn_of_split_brackets(
    name: str, cells: Sequence[str], rows: Sequence[Sequence[str]], delimiter: str
) -> None:
    """Warn of a delimiter that splits what brackets enclose, as in array(['a', 'b'])."""
    for i, row in enumerate(rows):
        for label in row if len(row) > 1 else ():
            if any(label.count(start) != label.count(end) for start, end in BRACKETS.items()):
                warn(
                    "split_brackets",
                    f"Row {i} of column {name!r} is {cells[i]!r}, of which "
                    f"data.delimiter={delimiter!r} makes the label {label!r}. If the brackets are not part "
                    "of the labels, remove them from the file.",
                )
                return


def _of_brackets(name: str, row: int, cell: str, delimiter: str) -> list[str]:
    values: Any = None
    quoted = [*QUOTED.finditer(cell)]
    between = [cell[one.end() : other.start()].strip() for one, other in pairwise(quoted)]
    if "" in between:  # as NumPy prints an array; Python would make one string of two
        if delimiter.strip() or any(between):
            raise DataError(
                f"Row {row} of column {name!r} is {cell!r}, labels in quotes with no {delimiter!r} between. "
                "Write it there, or say what stands between them by data.delimiter.",
                row=row,
                column=name,
                value=cell,
            )
        texts = [re.sub(r"\\(.)", r"\1", one[0][1:-1]).strip() for one in quoted]
        return [text for text in texts if text]
    for read in (json.loads, ast.literal_eval):  # which evaluate nothing but literals
        if values is None and cell:
            try:
                values = read(cell)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                values = None
    if cell.startswith("(") and isinstance(values, str | int | float):
        values = [values]  # ('a') is no tuple in Python
    if values and isinstance(values, dict):
        raise DataError(
            f"Row {row} of column {name!r} is {cell!r}, a mapping. Write the labels as a list, or give each "
            "label a column of 0 and 1 and list these in data.target.",
            row=row,
            column=name,
            value=cell,
        )
    if not isinstance(values, list | tuple | set):
        return split_delimited([cell[1:-1]], delimiter)[0] or []
    labels = sorted(values, key=str) if isinstance(values, set) else [*values]
    for label in labels:
        if not isinstance(label, str | int | float) or label != label:  # NaN is not itself
            raise DataError(
                f"Row {row} of column {name!r} is {cell!r}, in which {label!r} is no label: labels are text "
                "or numbers. Leave it out of the file; a row that is not labelled is an empty cell.",
                row=row,
                column=name,
                value=cell,
            )
    return [text for label in labels if (text := as_written(label).strip())]


def _without_quotes(name: str, cells: Sequence[str], rows: list[list[str]]) -> list[list[str]]:
    labels = {label for row in rows for label in row}
    quoted = {label for label in labels if len(label) > 2 and label[0] in QUOTES and label[0] == label[-1]}
    if not quoted:
        return rows
    if quoted == labels:
        return [[label[1:-1].strip() for label in row] for row in rows]
    if both := [label for label in quoted if label[1:-1].strip() in labels]:
        i = next(i for i, row in enumerate(rows) if both[0] in row)
        raise DataError(
            f"Row {i} of column {name!r} is {cells[i]!r}, with quotes around {both[0][1:-1]!r}, which stands "
            "without quotes in other rows. Write all labels alike.",
            row=i,
            column=name,
            value=cells[i],
        )
    return rows


def _warn_of_other_delimiter(name: str, cells: Sequence[str], rows: list[list[str]], delimiter: str) -> None:
    """Warn of a label that is several labels with another sign between."""
    labels = {label for row in rows for label in row}
    for other in DELIMITERS:
        for label in sorted(labels) if other != delimiter else ():
            parts = [part.strip() for part in label.split(other)]
            if len(parts) > 1 and labels.issuperset(parts):
                i = next(i for i, row in enumerate(rows) if label in row)
                warn(
                    "several_labels",
                    f"Row {i} of column {name!r} is {cells[i]!r}, and {label!r} counts as one label, "
                    f"though {parts[0]!r} and {parts[1]!r} are labels of other rows. If {other!r} stands "
                    f"between labels there, write {delimiter!r} instead.",
                )
                return


def split_delimited(values: Iterable[Any], delimiter: str) -> list[list[str] | None]:
    """ "news|sport" -> ["news", "sport"]; None stays None, what is empty between delimiters is left out.

    Raises:
        ValueError: an empty delimiter.
        TypeError: an entry that is no string.

    Example:
        >>> split_delimited(["new york|rome", "", None], "|")
        [['new york', 'rome'], [], None]
    """
    if not isinstance(delimiter, str) or not delimiter:
        raise ConfigError(f"The delimiter must be a string such as '|', got {delimiter!r}.")
    rows: list[list[str] | None] = []
    for i, value in enumerate(values):
        if value is not None and not isinstance(value, str):
            raise DataTypeError(
                f"Row {i} is {value!r}, no string of labels with {delimiter!r} between.", row=i, value=value
            )
        parts = None if value is None else [part.strip() for part in value.split(delimiter)]
        rows.append(parts if parts is None else [part for part in parts if part])
    return rows


def parse_json_lists(values: Iterable[Any]) -> list[list[Any] | None]:
    """'["news", "sport"]' -> ["news", "sport"]; None stays None.

    Raises:
        ValueError: a row that is no JSON list.
    """
    rows: list[list[Any] | None] = []
    for i, value in enumerate(values):
        try:
            row = None if value is None else json.loads(value)
        except (TypeError, ValueError, RecursionError):
            row = value
        if row is not None and not isinstance(row, list):
            raise DataError(
                f'Row {i} is {value!r}, no JSON list such as ["news", "sport"].', row=i, value=value
            )
        rows.append(row)
    return rows
