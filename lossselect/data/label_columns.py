"""The labels of a data set, as a file holds them -> the task, its classes, and what its `encode` takes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from ..infer import infer_task
from ..label_lists import LabelLists, parse_json_lists, split_delimited
from ..labels import Vocabulary
from ..names import some
from .columns import Reading
from .label_column import LabelOptions, Labels, labels_of_column, mark_missing


def read_labels(columns: Sequence[pl.Series], options: LabelOptions, fitted: Labels | None = None) -> Labels:
    """The labels of all rows of a table.

    Args:
        columns: One of labels, of lists of labels, or several of 0 and 1.
        options: What the user says.
        fitted: The train split's labels, whose classes these are too; without, these tell the classes.

    Raises:
        ValueError: labels that are not what the options say; says the row, the value and the fix.
    """
    if len(columns) > 1:
        return _labels_of_columns(columns, options)
    column = columns[0]
    if column.dtype == pl.Boolean or column.dtype.is_numeric():
        return labels_of_column(_numbers(column), options, fitted)
    if column.dtype in (pl.List, pl.Array):
        return _labels_of_lists(column.name, column.to_list(), options, fitted)
    if column.dtype not in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        raise ValueError(
            f"Column {column.name!r} is of type {column.dtype}; labels are text or whole numbers."
        )
    text = column.cast(pl.String).str.strip_chars()
    if options.delimiter is not None:
        return _labels_of_lists(column.name, _split(text, options), options, fitted)
    text = text.set(text == "", None)
    if _holds_json(text) or (fitted and isinstance(fitted.values, LabelLists)):
        return _labels_of_lists(column.name, parse_json_lists(text.to_list()), options, fitted)
    return labels_of_column(text, options, fitted)


def _numbers(column: pl.Series) -> pl.Series:
    """Whole floats, as a gap makes of integers, as integers again; NaN as missing."""
    if not column.dtype.is_float():
        return column
    column = column.fill_nan(None)
    whole = column.is_finite().all() and (column == column.round()).all()
    return column.cast(pl.Int64) if whole else column


def _split(text: pl.Series, options: LabelOptions) -> list[Any]:
    empty = text.is_null() | (text == "")
    if empty.any() and options.empty is None:
        raise ValueError(
            f"Row {empty.arg_max()} of column {text.name!r} is empty: has it no label, or is it not "
            "labelled? Say data.empty=negative for rows without labels, or data.empty=missing."
        )
    marks = text.is_in([str(mark) for mark in options.missing]).fill_null(False)
    gone = marks | empty if options.empty == "missing" else marks
    rows = split_delimited(text.fill_null("").to_list(), str(options.delimiter))
    return [None if missing else row for row, missing in zip(rows, gone.to_list(), strict=True)]


def _holds_json(text: pl.Series) -> bool:
    known = text.drop_nulls()
    return len(known) > 0 and known.str.starts_with("[").all() and known.str.ends_with("]").all()


def _labels_of_lists(name: str, rows: list[Any], options: LabelOptions, fitted: Labels | None) -> Labels:
    rows = [None if row is None else [v.strip() if isinstance(v, str) else v for v in row] for row in rows]
    if options.task not in ("auto", "multilabel"):
        row, most = max(enumerate(rows), key=lambda entry: len(entry[1] or ()))
        raise ValueError(
            f"Column {name!r} holds lists of labels, of which row {row} has {len(most or ())}, but "
            f"task={options.task} has exactly one a row. Several labels per sample: task=multilabel."
        )
    try:
        vocabulary = (fitted and fitted.vocabulary) or Vocabulary.fit_lists(rows, options.class_names)
        lists = vocabulary.encode_lists(rows, options.unseen)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Column {name!r}: {error}") from None
    reason = f"column {name!r} holds lists" if options.task == "auto" else ""
    return Labels("multilabel", reason, lists, vocabulary.names, vocabulary)


def _labels_of_columns(columns: Sequence[pl.Series], options: LabelOptions) -> Labels:
    names = tuple(column.name for column in columns)
    if options.delimiter is not None:
        raise ValueError(f"data.delimiter is for one column of labels, but data.target names {len(names)}.")
    if options.task == "binary":
        raise ValueError(
            f"task=binary has one column of labels, but data.target names {len(names)}: {some(names)}. "
            "Several labels per sample: task=multilabel."
        )
    reading = Reading(nan="missing")
    try:
        matrix = np.stack(
            [reading.numbers(mark_missing(c, options.missing)).to_numpy() for c in columns], axis=1
        )
    except ValueError as error:
        raise ValueError(f"Several target columns hold 0 and 1 each. {error}") from None
    return labels_of_matrix(matrix, names, options, f"columns {some(names)} hold")


def labels_of_matrix(matrix: np.ndarray, names: Sequence[str], options: LabelOptions, what: str) -> Labels:
    """The labels of a matrix with a column for each label, NaN where missing."""
    if options.class_names is not None and len(options.class_names) != len(names):
        raise ValueError(f"There are {len(names)} labels, but {len(options.class_names)} class_names.")
    if np.isnan(matrix).all():
        raise ValueError("All labels are missing: there is nothing to learn from.")
    task, reason = options.task, ""
    if task == "auto":
        task, why = infer_task(matrix)
        reason = f"{what} 0 and 1, and {why}"
    class_names = tuple(map(str, options.class_names or names))
    return Labels(task, reason, matrix.astype(np.float32), class_names, None)
