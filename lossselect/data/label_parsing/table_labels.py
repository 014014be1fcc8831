"""Conversion of a table's target columns to the task, its classes, and input of `encode` or sparse labels."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from lossselect.data.label_parsing.array_labels import parse_label_matrix
from lossselect.data.label_parsing.cells import parse_literal, split_cells
from lossselect.data.label_parsing.options import LabelOptions, Labels, is_marker, name_column
from lossselect.data.label_parsing.single_label import (
    is_negative,
    negative_error,
    parse_single_labels,
    warn_similar_labels,
)
from lossselect.data.preprocessing.columns import (
    TEXT,
    CellParser,
    column_error,
    parse_numbers,
    restore_integers,
    set_null,
)
from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.values import plain_value
from lossselect.labels.vocabulary import Vocabulary
from lossselect.utils.checks import shorten
from lossselect.utils.warnings import warn


def parse_label_columns(columns: Sequence[pl.Series], options: LabelOptions, listed: bool = False) -> Labels:
    """Return the labels of a column of labels, a column of lists of labels, or several columns of 0 and 1.

    `listed` is true if the user set a list of columns, even a list of one column.
    """
    if len(columns) > 1 or (listed and options.kind == "multilabel"):
        return _parse_indicators(columns, options)
    column = columns[0]
    if column.dtype == pl.Boolean or column.dtype.is_numeric():
        return parse_single_labels(restore_integers(column), options)
    if column.dtype in (pl.List, pl.Array):
        return _parse_lists(column.name, column.to_list(), options)
    if column.dtype not in (*TEXT, pl.Null):
        raise column_error(column.name, f"is of type {column.dtype}, but labels must be text or integers.")
    text = CellParser().text(column)
    if options.delimiter is not None:
        return _parse_lists(column.name, _split(text, options), options)
    rows = _parse_json(options.replace_missing(text), options)
    if rows is not None:
        return _parse_lists(column.name, rows, options)
    return parse_single_labels(text, options)


def _split(text: pl.Series, options: LabelOptions) -> list[Any]:
    text = text.fill_null("")
    empty = text == ""
    if empty.any() and options.empty is None:
        raise DataError.at(
            empty.arg_max() or 0,
            text.name,
            " is empty. Set data.empty=negative if rows with empty cells have no labels, or "
            "data.empty=missing if their labels are missing.",
        )
    rows = split_cells(text.name, text.to_list(), str(options.delimiter))
    if not any(len(row) > 1 for row in rows):
        problem = f"No cell of column {text.name!r} contains the delimiter {options.delimiter!r}."
        warn("unused_delimiter", f"{problem} Check data.delimiter.")
    if options.empty != "missing":
        return rows
    return [None if is_empty else row for row, is_empty in zip(rows, empty.to_list(), strict=True)]


def _parse_json(text: pl.Series, options: LabelOptions) -> list[Any] | None:
    """Return the lists of a column of JSON; None for another column, unless the training labels are lists."""
    known = text.drop_nulls()
    in_brackets = known.str.starts_with("[").all() and known.str.ends_with("]").all() and len(known) > 0
    if not in_brackets and not (options.fitted and isinstance(options.fitted.values, SparseLabels)):
        return None
    text = set_null(text, ["null"])
    rows = [cell and parse_literal(cell, json.loads) for cell in text.to_list()]
    row = next((row for row in (text.is_not_null()).arg_true() if not isinstance(rows[row], list)), None)
    if row is None:
        return rows
    if options.kind in ("binary", "multiclass"):
        warn(
            "several_labels",
            f"Column {text.name!r} contains labels in brackets, such as {known[0]!r}. If these are lists, "
            'write them as JSON, ["a", "b"], and set task=multilabel.',
        )
        return None
    quotes = " Write strings in double quotes." if known.str.contains("'").any() else ""
    problem = f' is {text[row]!r}, but must be a JSON list such as ["news", "sport"].{quotes}'
    raise DataError.at(row, text.name, problem, text[row])


def _parse_lists(name: str, rows: list[Any], options: LabelOptions) -> Labels:
    rows = [_clean_row(name, i, row, options) for i, row in enumerate(rows)]
    if options.kind not in ("auto", "multilabel"):
        i = next((i for i, row in enumerate(rows) if row is not None and len(row) != 1), None)
        if i is not None:
            raise column_error(
                name,
                f"contains lists of labels. Row {i} has {len(rows[i])} labels, but task={options.task} "
                "requires exactly one per row. If rows have several labels, set task=multilabel.",
                row=i,
                value=rows[i],
            )
        column = pl.Series(name, [row and row[0] for row in rows], strict=False)
        if column.dtype.is_nested():
            raise column_error(
                name, f"contains lists of {column.dtype}, but labels must be text or integers."
            )
        return parse_single_labels(column, options)
    vocabulary = options.fitted.vocabulary if options.fitted else None
    if vocabulary is None:
        vocabulary = _fit_lists(name, rows, options)
    with name_column(name, "To ignore such labels, set data.handle_unknown=ignore."):
        labels = vocabulary.encode_lists(rows, options.handle_unknown, name)
    reason = f"column {name!r} contains lists" if options.task == "auto" else ""
    return Labels(options.resolve_task("multilabel"), reason, labels, vocabulary.names, vocabulary)


def _fit_lists(name: str, rows: list[Any], options: LabelOptions) -> Vocabulary:
    _check_no_indicators(name, [row for row in rows if row is not None])
    with name_column(name, "Add it to class_names, or remove it from the file."):
        vocabulary = Vocabulary.fit_lists(rows, options.class_names, name)
    if options.class_names is None:
        if negative := next(filter(is_negative, vocabulary.values), None):
            row = next(i for i, labels in enumerate(rows) if labels and negative in labels)
            raise negative_error(row, name, negative, vocabulary.values)
        warn_similar_labels(name, vocabulary.values)
    return vocabulary


def _clean_row(name: str, i: int, row: Any, options: LabelOptions) -> list[Any] | None:
    """Return a row's labels without spaces around them; None if it is missing or has only a marker."""
    if row is None:
        return None
    labels = [label.strip() if isinstance(label, str) else plain_value(label) for label in row]
    if "" in labels:
        problem = " contains an empty label. Remove it; for a row without labels, write an empty list."
        raise DataError.at(i, name, problem)
    if not options.missing or not any(is_marker(label, options.missing) for label in labels):
        return labels
    if len(labels) > 1:
        problem = f" contains labels and a marker of missing labels: {shorten(labels)}."
        fix = "Remove the marker: the labels of a row are either all known or all missing."
        raise DataError.at(i, name, f"{problem} {fix}")
    return None


def _check_no_indicators(name: str, rows: list[list[Any]]) -> None:
    """Raise a DataError for rows such as [1, 0, 1] and [0, 1, 0], which are not lists of labels."""
    width = len(rows[0]) if rows else 0
    if width < 2 or any(len(row) != width for row in rows):
        return
    if all(label in (0, 1) for row in rows for label in row) and any(len(set(row)) < width for row in rows):
        raise column_error(
            name,
            f"contains rows of {width} zeros and ones, such as {rows[0]}, but lists of labels are expected. "
            "Write one column for each label, and set data.target=[a,b,c].",
        )


def _parse_indicators(columns: Sequence[pl.Series], options: LabelOptions) -> Labels:
    names = [column.name for column in columns]
    if options.delimiter is not None:
        raise ConfigError(
            f"data.delimiter applies to one label column, but data.target has {len(names)}. Remove "
            "data.delimiter, or set a single data.target."
        )
    if options.kind == "binary":
        raise ConfigError(
            f"task=binary requires one label column, but data.target has {len(names)}: {shorten(names)}. Set "
            "a single data.target. If rows have several labels, set task=multilabel."
        )
    matrix = np.stack([_to_floats(options.replace_missing(column)) for column in columns], axis=1)
    return parse_label_matrix(matrix, names, options, f"columns {shorten(names)} contain")


def _to_floats(column: pl.Series) -> np.ndarray:
    """Return a column of 0 and 1 as float64, NaN where missing."""
    rule = "but each of several target columns must contain 0 and 1 (or true and false)."
    if column.dtype in TEXT:
        text = CellParser().text(column)
        column, row = parse_numbers(text)
        if row is not None:
            raise DataError.at(row, text.name, f" is {text[row]!r}, {rule}", text[row])
    elif not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        raise column_error(column.name, f"is of type {column.dtype}, {rule}")
    return column.cast(pl.Float64).to_numpy(writable=True)
