"""The labels of a data set, as a file holds them -> the task, its classes, and what its `encode` takes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from ..infer import infer_task
from ..label_lists import parse_json_lists, split_delimited
from ..label_values import some
from ..labels import Vocabulary
from ..names import lookup
from ..tasks import TASKS
from .classes import LabelOptions, Labels, of_values, without
from .columns import Reading


def read_labels(columns: Sequence[pl.Series], options: LabelOptions, fitted: Labels | None = None) -> Labels:
    """The labels of all rows of a table.

    Args:
        columns: One of labels, of lists of labels, or several of 0 and 1.
        options: What the user says.
        fitted: The train split's labels, whose classes these are too; without, these tell the classes.

    Raises:
        ValueError: labels that are not what the options say; says the row, the value and the fix.
    """
    if options.task != "auto":
        lookup(TASKS, options.task, "task")
    known = fitted.vocabulary if fitted else None
    if len(columns) > 1:
        return _of_columns(columns, options)
    column = columns[0]
    if column.dtype == pl.Boolean or column.dtype.is_numeric():
        return of_values(_numbers(column), options, known)
    if column.dtype in (pl.List, pl.Array):
        return _of_lists(column.name, column.to_list(), options, known)
    if column.dtype not in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        raise ValueError(
            f"Column {column.name!r} is of type {column.dtype}; labels are text or whole numbers."
        )
    text = column.cast(pl.String).str.strip_chars()
    if options.delimiter is not None:
        return _of_lists(column.name, _split(text, options), options, known)
    text = text.set(text == "", None)
    if _holds_json(text):
        return _of_lists(column.name, parse_json_lists(text.to_list()), options, known)
    return of_values(text, options, known)


def _numbers(column: pl.Series) -> pl.Series:
    """Whole floats, as a gap makes of integers, as integers again; NaN as missing."""
    if not column.dtype.is_float():
        return column
    column = column.fill_nan(None)
    whole = column.is_finite().all() and (column == column.round()).all()
    return column.cast(pl.Int64) if whole else column


def _split(text: pl.Series, options: LabelOptions) -> list[Any]:
    empty = text.is_null() | (text == "")
    if options.empty not in (None, "negative", "missing"):
        raise ValueError(f"data.empty must be 'negative' or 'missing', got {options.empty!r}.")
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


def _of_lists(name: str, rows: list[Any], options: LabelOptions, fitted: Vocabulary | None) -> Labels:
    rows = [None if row is None else [v.strip() if isinstance(v, str) else v for v in row] for row in rows]
    if options.task not in ("auto", "multilabel"):
        row, most = max(enumerate(rows), key=lambda entry: len(entry[1] or ()))
        raise ValueError(
            f"Column {name!r} holds lists of labels, of which row {row} has {len(most or ())}, but "
            f"task={options.task} has exactly one a row. Several labels per sample: task=multilabel."
        )
    try:
        vocabulary = fitted or Vocabulary.fit_lists(rows, options.class_names)
        lists = vocabulary.encode_lists(rows, options.unseen)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Column {name!r}: {error}") from None
    reason = f"column {name!r} holds lists" if options.task == "auto" else ""
    return Labels("multilabel", reason, lists, vocabulary.names, vocabulary)


def _of_columns(columns: Sequence[pl.Series], options: LabelOptions) -> Labels:
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
        matrix = np.stack([reading.numbers(without(c, options.missing)).to_numpy() for c in columns], axis=1)
    except ValueError as error:
        raise ValueError(f"Several target columns hold 0 and 1 each. {error}") from None
    return of_matrix(matrix, names, options, f"columns {some(names)} hold")


def of_matrix(matrix: np.ndarray, names: Sequence[str], options: LabelOptions, what: str) -> Labels:
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
