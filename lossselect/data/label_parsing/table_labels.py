"""The target columns of a table -> the task, its classes, and what its `encode` takes, or sparse labels."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from lossselect.data.label_parsing.array_labels import parse_label_matrix
from lossselect.data.label_parsing.cells import split_cells
from lossselect.data.label_parsing.options import LabelOptions, Labels
from lossselect.data.label_parsing.single_label import is_marker, parse_single_labels, replace_missing
from lossselect.data.label_parsing.vocabularies import (
    is_negative,
    suggest_class_names,
    suggest_missing,
    warn_similar_labels,
)
from lossselect.data.preprocessing.columns import (
    TEXT,
    column_error,
    parse_numbers,
    restore_integers,
    row_error,
)
from lossselect.exceptions import ConfigError, DataError, UnseenLabelError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.values import plain_value
from lossselect.labels.vocabulary import Vocabulary
from lossselect.utils.checks import shorten
from lossselect.utils.warnings import warn


def parse_label_columns(
    columns: Sequence[pl.Series], options: LabelOptions, fitted: Labels | None = None, listed: bool = False
) -> Labels:
    """Return the labels of a column of labels or of lists of labels, or of several columns of 0 and 1.

    `fitted` are the labels of the train split, whose classes are used; `listed` is whether the user named a
    list of columns, perhaps of one.
    """
    if len(columns) > 1 or (listed and options.kind == "multilabel"):
        return _parse_indicators(columns, options, fitted)
    column = columns[0]
    if column.dtype == pl.Boolean or column.dtype.is_numeric():
        return parse_single_labels(restore_integers(column), options, fitted)
    if column.dtype in (pl.List, pl.Array):
        return _parse_lists(column.name, column.to_list(), options, fitted)
    if column.dtype not in (*TEXT, pl.Null):
        raise column_error(column.name, f"is of type {column.dtype}; labels are text or whole numbers.")
    text = column.cast(pl.String).str.strip_chars()
    if options.delimiter is not None:
        return _parse_lists(column.name, _split(text, options), options, fitted)
    text = text.set(text == "", None)
    rows = _parse_json(replace_missing(text, options.missing), options, fitted)
    if rows is not None:
        return _parse_lists(column.name, rows, options, fitted)
    return parse_single_labels(text, options, fitted)


def _split(text: pl.Series, options: LabelOptions) -> list[Any]:
    """Return the lists of delimited labels."""
    text = text.fill_null("")
    empty = text == ""
    if empty.any() and options.empty is None:
        raise row_error(
            empty.arg_max() or 0,
            text.name,
            "is empty: has it no label, or is it not labelled? Say data.empty=negative for rows without "
            "labels, or data.empty=missing.",
        )
    rows = split_cells(text.name, text.to_list(), str(options.delimiter))
    if not any(len(row) > 1 for row in rows):
        message = f"No cell of column {text.name!r} holds the delimiter {options.delimiter!r}."
        warn("unused_delimiter", message)
    if options.empty != "missing":
        return rows
    return [None if is_empty else row for row, is_empty in zip(rows, empty.to_list(), strict=True)]


def _parse_json(text: pl.Series, options: LabelOptions, fitted: Labels | None) -> list[Any] | None:
    """Return the lists of a column of JSON; None for another column, unless the train split has lists."""
    known = text.drop_nulls()
    in_brackets = known.str.starts_with("[").all() and known.str.ends_with("]").all() and len(known) > 0
    if not in_brackets and not (fitted and isinstance(fitted.values, SparseLabels)):
        return None
    rows: list[Any] = []
    for row, cell in enumerate(text.to_list()):
        try:
            rows.append(cell if cell is None else json.loads(cell))
        except (ValueError, RecursionError):
            rows.append(cell)
        if isinstance(rows[-1], list | None):
            continue
        if options.kind in ("binary", "multiclass"):
            warn(
                "several_labels",
                f"Column {text.name!r} holds labels in brackets, such as {known[0]!r}. If these are lists, "
                'write them as JSON, ["a", "b"], and say task=multilabel.',
            )
            return None
        message = f'Column {text.name!r}: Row {row} is {cell!r}, no JSON list such as ["news", "sport"].'
        quotes = " Strings stand in double quotes." if known.str.contains("'").any() else ""
        raise DataError(f"{message}{quotes}", column=text.name)
    return rows


def _parse_lists(name: str, rows: list[Any], options: LabelOptions, fitted: Labels | None) -> Labels:
    """Return the labels of a column of lists."""
    rows = [_clean_row(name, i, row, options) for i, row in enumerate(rows)]
    known = [row for row in rows if row is not None]
    if options.kind not in ("auto", "multilabel"):
        i = next((i for i, row in enumerate(rows) if row is not None and len(row) != 1), None)
        if i is not None:
            raise column_error(
                name,
                f"holds lists of labels, of which row {i} has {len(rows[i])}, but task={options.task} has "
                "exactly one a row. Several labels per sample: task=multilabel.",
                row=i,
                value=rows[i],
            )
        column = pl.Series(name, [row and row[0] for row in rows], strict=False)
        return parse_single_labels(column, options, fitted)
    if fitted is None:
        _check_no_indicators(name, known)
    try:
        vocabulary = (fitted and fitted.vocabulary) or Vocabulary.fit_lists(rows, options.class_names)
        labels = vocabulary.encode_lists(rows, options.handle_unknown)
    except DataError as error:
        unseen = isinstance(error, UnseenLabelError)
        hint = " To leave such labels out: data.handle_unknown=ignore." if unseen else ""
        raise DataError(f"Column {name!r}: {error}{hint}", row=error.row, column=name) from None
    if fitted is None and options.class_names is None:
        _check_not_negative(name, rows, vocabulary.values)
        warn_similar_labels(name, vocabulary.values)
    reason = f"column {name!r} holds lists" if options.task == "auto" else ""
    return Labels(options.resolve_task("multilabel"), reason, labels, vocabulary.names, vocabulary)


def _clean_row(name: str, i: int, row: Any, options: LabelOptions) -> list[Any] | None:
    """Return a row's labels without spaces around them; None if it is missing or has a marker alone."""
    if row is None:
        return None
    labels = [label.strip() if isinstance(label, str) else plain_value(label) for label in row]
    if "" in labels:
        problem = "has an empty label among its own: leave it out. A row without labels is an empty list."
        raise row_error(i, name, problem)
    if not options.missing or not any(is_marker(label, options.missing) for label in labels):
        return labels
    if len(labels) > 1:
        problem = f"has labels and a mark for a missing one: {shorten(labels)}."
        raise row_error(i, name, f"{problem} A row is labelled as a whole or not at all.")
    return None


def _check_not_negative(name: str, rows: list[Any], values: Sequence[Any]) -> None:
    """Raise a DataError for a negative number among the labels: it may mean "missing"."""
    negative = next((value for value in values if is_negative(value)), None)
    if negative is None:
        return
    row = next(i for i, labels in enumerate(rows) if labels and negative in labels)
    problem, names = f"has label {negative}", suggest_class_names(values)
    if all(len(labels) == 1 for labels in rows if labels and negative in labels):
        problem += f". If that marks a row that is not labelled, say {suggest_missing(negative)}; if it is a "
        problem += f"label, {names}."
    else:
        problem += " among its own. If that is no label, leave it out of the file; if it is one, "
        problem += f"{names}."
    raise row_error(row, name, problem, negative)


def _check_no_indicators(name: str, rows: list[list[Any]]) -> None:
    """Raise a DataError for rows such as [1, 0, 1] and [0, 1, 0], which are no lists of labels."""
    width = len(rows[0]) if rows else 0
    if width < 2 or any(len(row) != width for row in rows):
        return
    if all(label in (0, 1) for row in rows for label in row) and any(len(set(row)) < width for row in rows):
        raise column_error(
            name,
            f"holds rows of {width} zeros and ones, such as {rows[0]}, where lists of labels are looked for. "
            "Give each label a column of its own, and name them: data.target=[a,b,c].",
        )


def _parse_indicators(columns: Sequence[pl.Series], options: LabelOptions, fitted: Labels | None) -> Labels:
    """Return the labels of a column for each label."""
    names = [column.name for column in columns]
    if options.delimiter is not None:
        raise ConfigError(f"data.delimiter is for one column of labels, but data.target names {len(names)}.")
    if options.kind == "binary":
        raise ConfigError(
            f"task=binary has one column of labels, but data.target names {len(names)}: {shorten(names)}. "
            "Several labels per sample: task=multilabel."
        )
    matrix = np.stack([_to_floats(replace_missing(column, options.missing)) for column in columns], axis=1)
    return parse_label_matrix(matrix, names, options, f"columns {shorten(names)} hold", fitted)


def _to_floats(column: pl.Series) -> np.ndarray:
    """Return a column of 0 and 1 as float64, NaN where missing."""
    numbers, row = column, None
    if column.dtype in TEXT:
        text = column.cast(pl.String).str.strip_chars()
        numbers, row = parse_numbers(text.set(text == "", None))
    elif not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        problem = f"is of type {column.dtype}, but of several target columns each holds 0 and 1."
        raise column_error(column.name, problem)
    if row is not None:
        problem = "but of several target columns each holds 0 and 1 (or true and false)."
        raise row_error(row, column.name, f"is {column[row]!r}, {problem}", column[row])
    return numbers.cast(pl.Float64).to_numpy(writable=True)
