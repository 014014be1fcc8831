"""Conversion of several label columns: 0 and 1, yes and no, x and empty cells, 1 and -1, or votes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from lossselect.data.label_parsing.array_labels import parse_label_matrix
from lossselect.data.label_parsing.options import LabelOptions, Labels
from lossselect.data.label_parsing.single_label import PAIRS
from lossselect.data.preprocessing.columns import TEXT, CellParser, column_error, parse_numbers, set_null
from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.values import as_number
from lossselect.utils.checks import format_setting, shorten, show

MARKS = ("x", "✓", "✔")
"""Texts that mark a positive label in columns whose other cells are empty."""
MAX_MARKER = 20
"""Length up to which a text may be a marker of missing labels."""


def parse_indicators(columns: Sequence[pl.Series], options: LabelOptions) -> Labels:
    """Return the labels of several columns, one for each label or class."""
    names = [column.name for column in columns]
    form = f"{len(names)} columns" if len(names) > 1 else "a list of one column"
    options.check_unused(["delimiter", "no_label", "hierarchy", "id"], form)
    if options.counts and len(names) < 2:
        raise ConfigError(
            f"data.counts requires one column of votes for each class, but data.target is {shorten(names)}. "
            "Set data.target=[a,b,c]."
        )
    if options.kind == "binary":
        raise ConfigError(
            f"task=binary requires one label column, but data.target has {len(names)}: {shorten(names)}. Set "
            "a single data.target. If rows have several labels, set task=multilabel; if each column is a "
            "task, set task=several."
        )
    numbers, marked, empty = zip(*(_read_column(column, options) for column in columns), strict=True)
    matrix, is_empty = np.stack(numbers, axis=1), np.stack(empty, axis=1)
    notation = ""
    if not options.counts:
        notation = _resolve_empty(names, matrix, is_empty, marked, options)
        notation = _resolve_negative(names, matrix, is_empty, options) or notation
    labels = parse_label_matrix(matrix, names, options, f"columns {shorten(names)} contain")
    return replace(labels, notation=notation)


def _read_column(column: pl.Series, options: LabelOptions) -> tuple[np.ndarray, bool | None, np.ndarray]:
    """Return the numbers of a column, NaN where missing, whether it has marks, and which cells are empty.

    Marks become 1. The second value is None if all cells are missing.
    """
    form = (
        "numbers of votes" if options.counts else "0 and 1 (or yes and no, true and false, x and empty cells)"
    )
    rule = f"but each of several target columns must contain {form}."
    name, is_text = column.name, column.dtype in TEXT
    if not (is_text or column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        raise column_error(name, f"is of type {column.dtype}, {rule}")
    text = CellParser().text(column) if is_text else column
    known = options.replace_missing(text)
    numbers, row, is_marked = known, None, False
    if is_text:
        numbers, row = parse_numbers(known)
        if row is not None and not options.counts:
            numbers, row, is_marked = _read_words(known, numbers, row)
        if row is not None:
            fix = f"If it marks a missing label, set {format_setting('data.missing', known[row])}."
            fix = fix if len(known[row]) < MAX_MARKER else ""
            if options.kind != "multilabel":
                fix += (
                    " If each column is the choice of one person, set data.annotators=majority. If each is a "
                    "task, set task=several."
                )
            problem = f" is {show(known[row])}, {rule} {fix}".rstrip()
            raise DataError.at(row, name, problem, known[row])
    values = numbers.cast(pl.Float64).to_numpy(writable=True)
    empty = np.isnan(values)
    marks = None if empty.all() else is_marked
    if known.null_count() > text.null_count():
        # NaN is an empty cell, as pandas writes it, unless it marks missing labels
        empty = text.is_null().to_numpy() | (empty & known.is_not_null().to_numpy())
    return values, marks, empty


def _read_words(text: pl.Series, numbers: pl.Series, row: int) -> tuple[pl.Series, int | None, bool]:
    """Return numbers for words such as yes and no, the first row with any other word, and if it has marks."""
    lower = text.str.to_lowercase()
    values = set(lower.unique().drop_nulls())
    words = {value for value in values if as_number(value) is None}
    if len(values) == 1 and words <= {*MARKS, text.name.strip().lower()}:
        return set_null(lower.is_not_null(), [False]), None, True
    pair = max(PAIRS, key=lambda pair: len(words & {*pair}))
    if words <= {*pair}:
        return lower.replace({pair[0]: "0", pair[1]: "1"}).cast(pl.Float64), None, False
    if words & {*pair}:
        row = lower.is_in([*(words - {*pair})]).arg_max() or 0
    return numbers, row, False


def _resolve_empty(
    names: Sequence[str],
    matrix: np.ndarray,
    is_empty: np.ndarray,
    marked: Sequence[bool | None],
    options: LabelOptions,
) -> str:
    """Set empty cells to 0 where they mean "negative"; return "marks" for columns of x and empty cells.

    In such columns, an empty cell can only mean "negative": the labels would have no negatives otherwise.
    """
    has_marks = all(is_marked is not False for is_marked in marked) and any(marked)
    if options.fitted and options.fitted.notation == "marks":
        has_marks = all(is_marked is not False for is_marked in marked)
    if options.empty == "negative" or (has_marks and options.empty is None):
        matrix[is_empty] = 0
    elif options.empty is None and is_empty.any():
        only_ones = options.fitted is None and bool(((matrix == 1) | np.isnan(matrix)).all())
        for name, is_marked, column in zip(names, marked, is_empty.T, strict=True):
            if (is_marked or (only_ones and is_marked is False)) and column.any():
                row, form = int(column.argmax()), "marks" if is_marked else "1"
                problem = f" is empty, and the other cells of the column are {form}."
                fix = "Set data.empty=negative if empty cells are negative, or data.empty=missing."
                raise DataError.at(row, name, f"{problem} {fix}")
    return "marks" if has_marks else ""


def _resolve_negative(
    names: Sequence[str], matrix: np.ndarray, is_empty: np.ndarray, options: LabelOptions
) -> str:
    """Replace -1 by what it means; return "signs" for columns of 1 and -1, in which it means "negative"."""
    negative = matrix == -1
    if options.uncertain is not None:
        matrix[negative] = {"missing": np.nan, "positive": 1, "negative": 0}[options.uncertain]
        return ""
    if not negative.any():
        return options.fitted.notation if options.fitted else ""
    others = ~negative & ~np.isnan(matrix) & (matrix != 1)
    signs = not others.any() and (options.empty == "missing" or not is_empty.any())
    if options.fitted:
        signs = options.fitted.notation == "signs" and not others.any()
    if not signs:
        row, column = np.argwhere(negative)[0]
        found = "the columns also contain 0" if others.any() else "the columns also have empty cells"
        if options.fitted and options.fitted.notation != "signs" and not others.any():
            found = "the training labels are not 1 and -1"
        raise DataError.at(
            row,
            names[column],
            f" is -1, and {found}. If -1 means uncertain or negative, set data.uncertain to missing, "
            "positive or negative. If it marks a missing label, set data.missing=-1.",
            -1,
        )
    matrix[negative] = 0
    return "signs"
