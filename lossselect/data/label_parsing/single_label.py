"""One label a row: the task, its classes, and each row's index."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from lossselect.data.label_parsing.options import LabelOptions, Labels
from lossselect.data.label_parsing.vocabularies import (
    find_delimiter,
    find_markers,
    first_row,
    fit_binary,
    fit_multiclass,
    get_binary_names,
    sort_labels,
    suggest_missing,
)
from lossselect.data.preprocessing.columns import column_error, row_error, set_null
from lossselect.exceptions import DataError
from lossselect.labels.values import IGNORE_INDEX, as_number, plain_value, spelling_variants
from lossselect.labels.vocabulary import Vocabulary
from lossselect.tasks.infer import infer_task
from lossselect.utils.checks import format_setting, shorten
from lossselect.utils.warnings import warn


def parse_single_labels(column: pl.Series, options: LabelOptions, fitted: Labels | None = None) -> Labels:
    """Return the labels of a column with one label a row; `fitted` are those of the train split."""
    column = replace_missing(column, options.missing)
    name, values = column.name, column.drop_nulls().unique(maintain_order=True).to_list()
    if not values and fitted:
        return replace(fitted, values=np.full(len(column), np.nan))
    if not values:
        raise DataError(
            f"All labels of column {name!r} are missing: there is nothing to learn from.", column=name
        )
    reason = ""
    if options.task == "auto":
        task, why = _infer(name, values, options)
        options, reason = replace(options, task=task), f"column {name!r} holds {why}"
    if options.kind == "multilabel":
        raise column_error(
            name,
            f"holds one label a row, such as {values[0]!r}. For task=multilabel give several columns of 0 "
            "and 1 (data.target=[a,b,c]), or say what stands between the labels of a cell (data.delimiter). "
            "One of several classes a row: task=multiclass.",
        )
    # probabilities of the positive class, which have no vocabulary
    soft = _are_soft(values) if fitted is None else fitted.vocabulary is None
    if options.kind == "binary" and options.positive is None and soft:
        if (invalid := next((value for value in values if not _is_probability(value)), None)) is not None:
            problem = f"is {invalid!r}, but the labels are probabilities between 0 and 1."
            raise row_error(first_row(column, invalid), name, problem, invalid)
        probabilities = column.cast(pl.Float64).to_numpy()
        return Labels(options.task, reason, probabilities, get_binary_names(options), None)
    vocabulary = fitted.vocabulary if fitted else None
    if vocabulary is None:
        fit = fit_binary if options.kind == "binary" else fit_multiclass
        vocabulary = fit(column, sort_labels(values), options)
    codes = _encode(column, vocabulary, options.handle_unknown)
    missing = codes == IGNORE_INDEX
    encoded = np.where(missing, np.nan, codes) if missing.any() else codes
    return Labels(options.task, reason, encoded, vocabulary.names, vocabulary)


def replace_missing(column: pl.Series, markers: Sequence[Any]) -> pl.Series:
    """Return the labels with null in place of the markers: -1 matches "-1" and "-1.0" too."""
    if not markers:
        return column
    return set_null(column, [value for value in column.unique().drop_nulls() if is_marker(value, markers)])


def is_marker(value: Any, markers: Sequence[Any]) -> bool:
    """Return whether a label is one of the markers, as text or as a number."""
    for marker in markers:
        is_nan = isinstance(marker, float) and math.isnan(marker)  # as YAML reads the name NaN
        if str(value) == str(marker) or (is_nan and str(value).lower() == "nan"):
            return True
        if as_number(marker) is not None and as_number(value) == as_number(marker):
            return True
    return False


def _infer(name: str, values: list[Any], options: LabelOptions) -> tuple[str, str]:
    """Return the task that the distinct labels look like, and why."""
    if delimiter := find_delimiter(values):
        example = next(value for value in values if delimiter in value)
        raise column_error(
            name,
            f"holds labels such as {example!r}: several of them, with {delimiter!r} between? Then say "
            f"task=multilabel {format_setting('data.delimiter', delimiter)}; if not, task=multiclass.",
        )
    if options.positive is not None and len(values) == 2:
        return "binary", f"{shorten(sorted(map(str, values)))}, of which {options.positive!r} is positive"
    if markers := find_markers(values):
        raise column_error(
            name,
            f"holds {markers[0]!r}: does it mark a missing label ({suggest_missing(markers[0])}), or is it a "
            "class (task=multiclass)?",
        )
    try:
        return infer_task(values)
    except ValueError as error:
        raise DataError(
            f"No task can be told from column {name!r}. {error} Say task=..., or choose another data.target.",
            column=name,
        ) from None


def _are_soft(values: Sequence[Any]) -> bool:
    return all(map(_is_probability, values)) and any(as_number(value) not in (0, 1) for value in values)


def _is_probability(value: Any) -> bool:
    number = as_number(value)
    return number is not None and 0 <= number <= 1


def _encode(column: pl.Series, vocabulary: Vocabulary, handle_unknown: str) -> np.ndarray:
    """Return the index of each row's label, looked up once for each distinct label: rows may be millions."""
    values = column.unique().drop_nulls().to_list()
    codes = {label_text(value): i for i, value in enumerate(vocabulary.values)}
    index: dict[Any, int] = {}
    for value in values:
        # the same label may be a number in one file and text in another, and 1.0 in one with missing cells
        known = next((text for text in spelling_variants(label_text(value)) if text in codes), None)
        if known is not None:
            index[value] = codes[known]
    unknown = [value for value in values if value not in index]
    if unknown and not index:
        raise DataError(
            f"None of the labels of column {column.name!r} ({shorten(values)}) is one of training's: "
            f"{shorten(vocabulary.names)}. Write them alike.",
            column=column.name,
        )
    if unknown and handle_unknown != "ignore":
        row, value = min((first_row(column, value), value) for value in unknown)
        raise DataError(
            f"Row {row} of column {column.name!r}: {vocabulary.describe_unseen(value)} To take such labels "
            "for "
            "missing: data.handle_unknown=ignore.",
            row=row,
            column=column.name,
        )
    if unknown:
        count = int(column.is_in(unknown).sum())
        warn(
            "unseen_label",
            f"Not seen in training, and left out: {count} of the labels of column {column.name!r}, "
            f"{shorten(unknown)}.",
        )
    mapped = column.replace_strict(
        pl.Series([*index], dtype=column.dtype),
        pl.Series([*index.values()], dtype=pl.Int64),
        default=IGNORE_INDEX,
        return_dtype=pl.Int64,
    )
    return mapped.fill_null(IGNORE_INDEX).to_numpy(writable=True)


def label_text(value: Any) -> str:
    """Return a label as text: 1 and 1.0 as "1", True as "true"."""
    value = plain_value(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
