"""The labels of a data set, as a file holds them -> the task, its classes, and what its `encode` takes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from lossselect.data.label_parsing.cells import parse_json_lists, split_cells
from lossselect.data.label_parsing.options import LabelOptions, Labels
from lossselect.data.label_parsing.single_label import is_mark, labels_of_column, mark_missing
from lossselect.data.label_parsing.vocabularies import warn_of_similar
from lossselect.data.preprocessing.columns import TEXT, numbers_in
from lossselect.exceptions import ConfigError, DataError, UnseenLabelError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.values import as_number, plain_value
from lossselect.labels.vocabulary import Vocabulary
from lossselect.tasks.infer import infer_task
from lossselect.tasks.registry import TASKS, make_task
from lossselect.utils.checks import format_setting, shorten
from lossselect.utils.warnings import warn


def read_labels(
    columns: Sequence[pl.Series],
    options: LabelOptions,
    fitted: Labels | None = None,
    listed: bool = False,
) -> Labels:
    """The labels of all rows of a table.

    Args:
        columns: One of labels, of lists of labels, or several of 0 and 1.
        options: What the user says.
        fitted: The train split's labels, whose classes these are too; without, these tell the classes.
        listed: Whether the user named a list of columns, perhaps of one.

    Raises:
        ValueError: labels that are not what the options say; says the row, the value and the fix.
    """
    if len(columns) > 1 or (listed and options.kind == "multilabel"):
        return _labels_of_columns(columns, options, fitted)
    column = columns[0]
    if column.dtype == pl.Boolean or column.dtype.is_numeric():
        return labels_of_column(_numbers(column), options, fitted)
    if column.dtype in (pl.List, pl.Array):
        return _labels_of_lists(column.name, column.to_list(), options, fitted)
    if column.dtype not in (*TEXT, pl.Null):
        raise DataError(
            f"Column {column.name!r} is of type {column.dtype}; labels are text or whole numbers.",
            column=column.name,
        )
    text = column.cast(pl.String).str.strip_chars()
    if options.delimiter is not None:
        return _labels_of_lists(column.name, _split(text, options), options, fitted)
    text = text.set(text == "", None)
    rows = _json_rows(mark_missing(text, options.missing), options, fitted)
    if rows is not None:
        return _labels_of_lists(column.name, rows, options, fitted)
    return labels_of_column(text, options, fitted)


def _numbers(column: pl.Series) -> pl.Series:
    """Whole floats, as a gap makes of integers, as integers again; NaN as missing."""
    if not column.dtype.is_float():
        return column
    column = column.fill_nan(None)
    whole = column.is_finite().all() and (column == column.round()).all()
    return column.cast(pl.Int64) if whole else column


# --- a list of labels a row


def _split(text: pl.Series, options: LabelOptions) -> list[Any]:
    empty = text.is_null() | (text == "")
    if empty.any() and options.empty is None:
        raise DataError(
            f"Row {empty.arg_max()} of column {text.name!r} is empty: has it no label, or is it not "
            "labelled? Say data.empty=negative for rows without labels, or data.empty=missing.",
            row=empty.arg_max(),
            column=text.name,
        )
    rows = split_cells(text.name, text.fill_null("").to_list(), str(options.delimiter))
    if not any(len(row) > 1 for row in rows):
        warn(
            "unused_delimiter", f"No cell of column {text.name!r} holds the delimiter {options.delimiter!r}."
        )
    gone = empty if options.empty == "missing" else pl.repeat(False, len(text), eager=True)
    return [None if missing else row for row, missing in zip(rows, gone.to_list(), strict=True)]


def _json_rows(text: pl.Series, options: LabelOptions, fitted: Labels | None) -> list[Any] | None:
    """The lists of a column that holds JSON, or must; else None."""
    known = text.drop_nulls()
    brackets = len(known) > 0 and known.str.starts_with("[").all() and known.str.ends_with("]").all()
    must = options.kind == "multilabel" or (fitted and isinstance(fitted.values, SparseLabels))
    if not brackets and not (fitted and isinstance(fitted.values, SparseLabels)):
        return None
    try:
        return parse_json_lists(text.to_list())
    except DataError as error:
        if options.kind in ("binary", "multiclass") and not must:
            warn(
                "several_labels",
                f"Column {text.name!r} holds labels in brackets, such as {known[0]!r}. If these are "
                f"lists, write "
                'them as JSON, ["a", "b"], and say task=multilabel.',
            )
            return None
        quotes = " Strings stand in double quotes." if known.str.contains("'").any() else ""
        raise DataError(f"Column {text.name!r}: {error}{quotes}", column=text.name) from None


def _labels_of_lists(name: str, rows: list[Any], options: LabelOptions, fitted: Labels | None) -> Labels:
    rows = [_checked_row(name, i, row, options) for i, row in enumerate(rows)]
    known = [row for row in rows if row is not None]
    if options.kind not in ("auto", "multilabel"):
        if any(len(row) != 1 for row in known):
            row, found = next((i, row) for i, row in enumerate(rows) if row is not None and len(row) != 1)
            raise DataError(
                f"Column {name!r} holds lists of labels, of which row {row} has {len(found)}, but "
                f"task={options.task} has exactly one a row. Several labels per sample: task=multilabel.",
                column=name,
                row=row,
                value=found,
            )
        column = pl.Series(name, [row and row[0] for row in rows], strict=False)
        return labels_of_column(column, options, fitted)
    if fitted is None:
        _check_no_multi_hot(name, known)
    try:
        vocabulary = (fitted and fitted.vocabulary) or Vocabulary.fit_lists(rows, options.class_names)
        lists = vocabulary.encode_lists(rows, options.handle_unknown)
    except DataError as error:
        hint = (
            " To leave such labels out: data.handle_unknown=ignore."
            if isinstance(error, UnseenLabelError)
            else ""
        )
        raise DataError(f"Column {name!r}: {error}{hint}", row=error.row, column=name) from None
    if fitted is None and options.class_names is None:
        numbers = [value for value in vocabulary.values if (as_number(value) or 0) < 0]
        if numbers:
            row = next(i for i, labels in enumerate(rows) if labels and numbers[0] in labels)
            alone = all(len(labels) == 1 for labels in known if numbers[0] in labels)
            if not alone:
                raise DataError(
                    f"Row {row} of column {name!r} has label {numbers[0]} among its own. If that is no "
                    "label, leave it out of the file; if it is one, "
                    f"{format_setting('+task.class_names', vocabulary.values[:20])}.",
                    row=row,
                    column=name,
                    value=numbers[0],
                )
            raise DataError(
                f"Row {row} of column {name!r} has label {numbers[0]}. If that marks a row that is not "
                f"labelled, say {format_setting('data.missing', numbers[0])}; if it is a label, "
                f"{format_setting('+task.class_names', vocabulary.values[:20])}.",
                row=row,
                column=name,
                value=numbers[0],
            )
        warn_of_similar(name, vocabulary.values)
    reason = f"column {name!r} holds lists" if options.task == "auto" else ""
    return Labels(options.declared("multilabel"), reason, lists, vocabulary.names, vocabulary)


def _checked_row(name: str, i: int, row: Any, options: LabelOptions) -> list[Any] | None:
    """A row's labels without spaces around them; None where it is missing or holds a mark alone."""
    if row is None:
        return None
    labels = [label.strip() if isinstance(label, str) else plain_value(label) for label in row]
    if "" in labels:
        raise DataError(
            f"Row {i} of column {name!r} has an empty label among its own: leave it out. A row without "
            "labels is an empty list.",
            row=i,
            column=name,
        )
    if not options.missing or not any(is_mark(label, options.missing) for label in labels):
        return labels
    if len(labels) > 1:
        raise DataError(
            f"Row {i} of column {name!r} has labels and a mark for a missing one: {shorten(labels)}. A row "
            "is "
            "labelled as a whole or not at all.",
            row=i,
            column=name,
        )
    return None


def _check_no_multi_hot(name: str, rows: list[list[Any]]) -> None:
    """[1, 0, 1] for one row and [0, 1, 0] for the next are no lists of labels."""
    width = len(rows[0]) if rows else 0
    if width < 2 or any(len(row) != width for row in rows):
        return
    if all(label in (0, 1) for row in rows for label in row) and any(len(set(row)) < width for row in rows):
        raise DataError(
            f"Column {name!r} holds rows of {width} zeros and ones, such as {rows[0]}, where lists of "
            "labels are looked for. Give each label a column of its own, and name them: "
            "data.target=[a,b,c].",
            column=name,
        )


# --- a column a label


def _labels_of_columns(columns: Sequence[pl.Series], options: LabelOptions, fitted: Labels | None) -> Labels:
    names = [column.name for column in columns]
    if options.delimiter is not None:
        raise ConfigError(f"data.delimiter is for one column of labels, but data.target names {len(names)}.")
    if options.kind == "binary":
        raise ConfigError(
            f"task=binary has one column of labels, but data.target names {len(names)}: {shorten(names)}. "
            "Several labels per sample: task=multilabel."
        )
    matrix = np.stack([_zeros_and_ones(mark_missing(c, options.missing)) for c in columns], axis=1)
    return labels_of_matrix(matrix, names, options, f"columns {shorten(names)} hold", fitted)


def _zeros_and_ones(column: pl.Series) -> np.ndarray:
    """A target column as float64, NaN where missing."""
    numbers = column
    if column.dtype in TEXT:
        text = column.cast(pl.String).str.strip_chars()
        text = text.set(text == "", None)
        numbers = numbers_in(text)
        if numbers.null_count() > text.null_count():
            row = int((numbers.is_null() & text.is_not_null()).arg_max())  # type: ignore[arg-type]
            raise DataError(
                f"Row {row} of column {column.name!r} is {column[row]!r}, but of several target columns each "
                "holds 0 and 1 (or true and false).",
                row=row,
                column=column.name,
                value=column[row],
            )
    elif not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        raise DataError(
            f"Column {column.name!r} is of type {column.dtype}, but of several target columns each holds "
            "0 and 1.",
            column=column.name,
        )
    return numbers.cast(pl.Float64).to_numpy(writable=True)


def labels_of_matrix(
    matrix: np.ndarray, names: Sequence[str], options: LabelOptions, what: str, fitted: Labels | None = None
) -> Labels:
    """The labels of a matrix with a column for each label, NaN where missing.

    Args:
        matrix: (N, L) of 0 and 1, or values between.
        names: Of the columns.
        options: What the user says; `class_names` that are the columns' names are their order.
        what: The start of the reason for a task that is inferred: "columns a, b hold".
        fitted: The train split's labels.

    Raises:
        ValueError: other values, names that are neither those of the columns nor all others.
    """
    given, order = order_of_labels(names, options)
    if order is not None:
        matrix = matrix[:, order]
    if np.isnan(matrix).all() and fitted is None:
        raise DataError("All labels are missing: there is nothing to learn from.")
    task, reason = options.task, ""
    if task == "auto":
        task, why = infer_task(matrix)
        reason = f"{what} 0 and 1, and {why}"
    # here rows are still those of the file
    make_task(task, class_names=given if TASKS[task].is_sized() else None).encode(matrix)
    return Labels(task, reason, matrix.astype(np.float32, copy=False), tuple(given), None)


def order_of_labels(names: Sequence[str], options: LabelOptions) -> tuple[list[str], list[int] | None]:
    """The labels' names as the user gives them, and the columns' places in that order if it is another one.

    Raises:
        ValueError: names that are neither those of the columns nor all others.
    """
    if options.class_names is None:
        return [*names], None
    given = [*map(str, options.class_names)]
    if len(given) != len(names):
        raise ConfigError(f"There are {len(names)} labels, but {len(given)} class_names.")
    places = {name: place for place, name in enumerate(names)}
    if set(given) == set(names):
        return given, [places[name] for name in given]
    if both := [name for name in given if name in places]:
        raise ConfigError(
            f"class_names={given} are partly those of the columns ({shorten(names)}): {both[0]!r} could be "
            "the "
            "name of two. Give the columns' names in your order, or other names for them in their order."
        )
    return given, None
