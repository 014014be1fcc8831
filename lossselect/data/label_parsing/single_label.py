"""One label a row: the task, its classes, and each row's index."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from lossselect.data.label_parsing.options import LabelOptions, Labels
from lossselect.data.label_parsing.vocabularies import (
    MARKS,
    binary_names,
    binary_vocabulary,
    likely_delimiter,
    multiclass_vocabulary,
    row_of,
)
from lossselect.exceptions import DataError
from lossselect.labels.values import IGNORE_INDEX, as_number, plain_value, spelling_variants
from lossselect.labels.vocabulary import Vocabulary
from lossselect.tasks.infer import infer_task
from lossselect.utils.checks import format_setting, shorten
from lossselect.utils.warnings import warn


def labels_of_column(column: pl.Series, options: LabelOptions, fitted: Labels | None = None) -> Labels:
    """The labels of a column that holds one a row.

    Raises:
        ValueError: labels that do not fit the task, or of which more must be said.
    """
    column = mark_missing(column, options.missing)
    name, known = column.name, column.drop_nulls()
    if known.is_empty() and fitted:
        return replace(fitted, values=np.full(len(column), np.nan))
    if known.is_empty():
        raise DataError(
            f"All labels of column {name!r} are missing: there is nothing to learn from.", column=name
        )
    counts: dict[Any, int] = dict(zip(*known.value_counts().get_columns(), strict=True))
    reason = ""
    if options.task == "auto":
        task, why = _inferred(name, [*counts], options)
        options, reason = replace(options, task=task), f"column {name!r} holds {why}"
    if options.kind == "multilabel":
        raise DataError(
            f"Column {name!r} holds one label a row, such as {known[0]!r}. For task=multilabel give several "
            "columns of 0 and 1 (data.target=[a,b,c]), or say what stands between the labels of a cell "
            "(data.delimiter). One of several classes a row: task=multiclass.",
            column=name,
        )
    # probabilities of the positive class, which have no vocabulary
    soft = _are_soft([*counts]) if fitted is None else fitted.vocabulary is None
    if options.kind == "binary" and options.positive is None and soft:
        if odd := [value for value in counts if not _in_unit(value)]:
            raise DataError(
                f"Row {row_of(column, odd[0])} of column {name!r} is {odd[0]!r}, but the labels are "
                "probabilities between 0 and 1.",
                row=row_of(column, odd[0]),
                column=name,
                value=odd[0],
            )
        return Labels(options.task, reason, column.cast(pl.Float64).to_numpy(), binary_names(options), None)
    pick = binary_vocabulary if options.kind == "binary" else multiclass_vocabulary
    vocabulary = (fitted and fitted.vocabulary) or pick(column, counts, options)
    codes = _codes(column, vocabulary, options.handle_unknown)
    values = np.where(codes == IGNORE_INDEX, np.nan, codes) if (codes == IGNORE_INDEX).any() else codes
    return Labels(options.task, reason, values, vocabulary.names, vocabulary)


def mark_missing(column: pl.Series, marks: Sequence[Any]) -> pl.Series:
    """Null where a label is one of the marks: -1 marks "-1" and "-1.0" too."""
    found = [value for value in column.unique().drop_nulls() if is_mark(value, marks)] if marks else []
    return column.set(column.is_in(found), None) if found else column


def is_mark(value: Any, marks: Sequence[Any]) -> bool:
    """Whether a label is one of the marks, as text or as a number."""
    for mark in marks:
        nan = isinstance(mark, float) and math.isnan(mark)  # as YAML reads the name NaN
        if str(value) == str(mark) or (nan and str(value).lower() == "nan"):
            return True
        if as_number(mark) is not None and as_number(value) == as_number(mark):
            return True
    return False


def _inferred(name: str, values: list[Any], options: LabelOptions) -> tuple[str, str]:
    if delimiter := likely_delimiter(values):
        example = next(value for value in values if delimiter in value)
        raise DataError(
            f"Column {name!r} holds labels such as {example!r}: several of them, with {delimiter!r} between? "
            f"Then say task=multilabel {format_setting('data.delimiter', delimiter)}; if not, "
            "task=multiclass.",
            column=name,
        )
    if options.positive is not None and len(values) == 2:
        return "binary", f"{shorten(sorted(map(str, values)))}, of which {options.positive!r} is positive"
    if marks := [value for value in values if str(value).lower() in MARKS]:
        raise DataError(
            f"Column {name!r} holds {marks[0]!r}: does it mark a missing label "
            f"({format_setting('data.missing', marks[0])}), or is it a class (task=multiclass)?",
            column=name,
        )
    try:
        return infer_task(values)
    except ValueError as error:
        raise DataError(
            f"No task can be told from column {name!r}. {error} Say task=..., or choose another data.target.",
            column=name,
        ) from None


def _are_soft(values: Sequence[Any]) -> bool:
    return all(map(_in_unit, values)) and any(as_number(value) not in (0, 1) for value in values)


def _in_unit(value: Any) -> bool:
    number = as_number(value)
    return number is not None and 0 <= number <= 1


def _codes(column: pl.Series, vocabulary: Vocabulary, handle_unknown: str) -> np.ndarray:
    """The index of each row's label: found once for each label that there is, as rows may be millions."""
    values = column.unique().drop_nulls().to_list()
    places = {as_written(value): i for i, value in enumerate(vocabulary.values)}
    index: dict[Any, int] = {}
    for value in values:
        # the same label may be a number in one file and text in another, and 1.0 in one with a hole
        written = as_written(value)
        same = next((form for form in spelling_variants(written) if form in places), None)
        if same is not None:
            index[value] = places[same]
    others = [value for value in values if value not in index]
    if others and not index:
        raise DataError(
            f"None of the labels of column {column.name!r} ({shorten(values)}) is one of training's: "
            f"{shorten(vocabulary.names)}. Write them alike.",
            column=column.name,
        )
    if others and handle_unknown != "ignore":
        rows = {row_of(column, value): value for value in others}
        row = min(rows)
        raise DataError(
            f"Row {row} of column {column.name!r}: {vocabulary.describe_unseen(rows[row])} "
            "To take such labels "
            "for missing: data.handle_unknown=ignore.",
            row=row,
            column=column.name,
        )
    if others:
        count = int(column.is_in(others).sum())
        warn(
            "unseen_label",
            f"Not seen in training, and left out: {count} of the labels of column {column.name!r}, "
            f"{shorten(others)}.",
        )
    known = [value for value in values if value in index]
    mapped = column.replace_strict(
        pl.Series(known, dtype=column.dtype),
        pl.Series([index[value] for value in known], dtype=pl.Int64),
        default=IGNORE_INDEX,
        return_dtype=pl.Int64,
    )
    return mapped.fill_null(IGNORE_INDEX).to_numpy(writable=True)


def as_written(value: Any) -> str:
    """A label as text: 1 and 1.0 as "1", True as "true"."""
    value = plain_value(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
