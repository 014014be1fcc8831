"""Conversion of a table's target columns to the task, its classes, and input of `encode` or sparse labels."""

import json
import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import polars as pl

from lossselect.data.label_parsing.cells import (
    check_closed,
    check_commas,
    is_bracketed,
    is_listed,
    parse_literal,
    split_cells,
)
from lossselect.data.label_parsing.indicators import parse_indicators
from lossselect.data.label_parsing.options import LabelOptions, Labels, is_marker, name_column
from lossselect.data.label_parsing.single_label import (
    is_negative,
    negative_error,
    parse_single_labels,
    warn_similar_labels,
)
from lossselect.data.label_parsing.votes import parse_annotators
from lossselect.data.preprocessing.columns import TEXT, CellParser, column_error, restore_integers, set_null
from lossselect.exceptions import DataError
from lossselect.labels.values import as_number, plain_value
from lossselect.labels.vocabulary import Vocabulary
from lossselect.utils.checks import format_setting, shorten, show
from lossselect.utils.warnings import warn

NO_LABEL = re.compile(
    r"\W*(none|nothing|no[\W_]+(finding|label|tag|genre|topic|class|categor|disease|patholog|abnormalit|defect)\w*"
    r"([\W_]+(listed|found|detected|assigned))?)\W*",
    re.IGNORECASE,
)
"""Pattern of words that mean "no label" if no row has them together with a label."""
MAX_NO_LABEL = 100
"""Length of such words; the pattern takes a time that is quadratic in the length."""


def parse_label_columns(columns: Sequence[pl.Series], options: LabelOptions, listed: bool = False) -> Labels:
    """Return the labels of a column of labels, a column of lists of labels, or several columns of 0 and 1.

    `listed` is true if the user set a list of columns, even a list of one column.
    """
    if options.annotators is not None:
        return parse_annotators(columns, options)
    is_list = options.delimiter is not None or options.hierarchy is not None
    if len(columns) > 1 or options.counts or (listed and options.kind == "multilabel" and not is_list):
        return parse_indicators(columns, options)
    column = columns[0]
    options.check_unused(["uncertain"], "a single column")
    if (rows := _read_lists(column, options)) is not None:
        return _parse_lists(column.name, rows, options)
    options.check_unused(["delimiter", "hierarchy", "no_label", "empty"], "a column of single labels")
    if column.dtype == pl.Boolean or column.dtype.is_numeric():
        return parse_single_labels(restore_integers(column), options)
    return parse_single_labels(CellParser().text(column), options)


def _read_lists(column: pl.Series, options: LabelOptions) -> list[Any] | None:
    """Return the lists of labels of a column, None for a missing row; None for a column of single labels."""
    if column.dtype == pl.Boolean or column.dtype.is_numeric():
        return None
    if column.dtype in (pl.List, pl.Array):
        rows = column.to_list()
        return [[] if row is None else row for row in rows] if options.empty == "negative" else rows
    if column.dtype not in (*TEXT, pl.Null):
        raise column_error(column.name, f"is of type {column.dtype}, but labels must be text or integers.")
    text = CellParser().text(column)
    if (tags := _read_tags(text, options)) is not None:
        return tags
    if options.delimiter is not None:
        return _split(text, options)
    lists = _read_brackets(text, options)
    return _split(text, options) if lists is None and options.hierarchy is not None else lists


def _read_tags(text: pl.Series, options: LabelOptions) -> list[Any] | None:
    """Return the labels of cells such as <python><pandas>; None for another column."""
    if options.kind in ("binary", "multiclass") or options.delimiter not in (None, "><", "<", ">"):
        return None
    cells = options.replace_missing(text.fill_null("") if options.empty == "negative" else text)
    known = cells.drop_nulls()
    # if the training labels are tags, each row of another file may have a single one
    names = options.fitted.class_names if options.fitted else ()
    were_tags = options.were_lists and not any(name.startswith("<") for name in names)
    if not known.str.contains("<").any() or not known.str.contains(r"^(<[^<>]+>)*$").all():
        return None
    if not were_tags and not known.str.contains("><").any():
        return None
    return [None if cell is None else re.findall("<([^<>]+)>", cell) for cell in cells.to_list()]


def _has_numbers(row: list[Any]) -> bool:
    return any(isinstance(label, int | float) for label in row)


def _split(text: pl.Series, options: LabelOptions) -> list[Any]:
    """Return the labels of delimited cells; without a delimiter, each cell contains one label."""
    text = text.fill_null("")
    empty = text == ""
    if empty.any() and options.empty is None:
        raise DataError.at(
            empty.arg_max() or 0,
            text.name,
            " is empty. Set data.empty=negative if rows with empty cells have no labels, or "
            "data.empty=missing if their labels are missing.",
        )
    cells = text.to_list()
    if options.delimiter is None:
        rows = [[cell] if cell else [] for cell in cells]
    else:
        rows = split_cells(text.name, cells, str(options.delimiter))
        if not any(len(row) > 1 for row in rows):
            problem = f"No cell of column {text.name!r} contains the delimiter {options.delimiter!r}."
            warn("unused_delimiter", f"{problem} Check data.delimiter.")
    if options.empty != "missing":
        return rows
    return [None if is_empty else row for row, is_empty in zip(rows, empty.to_list(), strict=True)]


def _read_brackets(text: pl.Series, options: LabelOptions) -> list[Any] | None:
    """Return the lists of a column of lists in brackets; None for another column.

    JSON and Python lists are parsed, and [a, b] and {a, b} are split at commas. If the training labels are
    lists, the cells must be lists too.
    """
    cells = text.fill_null("[]") if options.empty == "negative" else text
    sets = r"^(?:frozen)?set\((\{.*\})?\)$"  # as Python writes them
    if cells.str.contains(sets).any():
        cells = cells.str.replace(sets, "${1}").replace("", "[]")
    cells = set_null(options.replace_missing(cells), ["null"])
    known = cells.drop_nulls()
    values = known.unique(maintain_order=True).to_list()
    was_lists = options.were_lists and options.hierarchy is None  # a cell may contain a single path
    opened = [value for value in values if value[0] in "[{"]
    in_brackets = len(opened) == len(values) > 0
    if options.kind in ("binary", "multiclass"):
        lists = {value: parse_literal(value, json.loads) for value in opened}
        if in_brackets and all(isinstance(row, list) for row in lists.values()):
            return [None if cell is None else lists[cell] for cell in cells.to_list()]
        all_closed = in_brackets and all(map(is_bracketed, values))
        if examples := values if all_closed else [*filter(is_listed, opened)]:
            warn(
                "several_labels",
                f"Column {text.name!r} contains labels in brackets, such as {show(examples[0])}. If these "
                "are lists, set task=multilabel.",
            )
        return None
    if was_lists or in_brackets or any(map(is_bracketed, opened)):
        check_closed(text.name, cells.to_list())
    example = next(filter(is_listed, values), "['news', 'sport']" if was_lists else None)
    if example and (other := next((value for value in values if not is_bracketed(value)), None)):
        problem = f" is {show(other)}, but must be a list in brackets such as {show(example)}."
        fix = " Use one notation for all cells, or set task=multiclass if they are classes."
        problem += "" if was_lists else fix
        raise DataError.at(cells.index_of(other), text.name, problem, other)
    if not was_lists and not (in_brackets and all(map(is_bracketed, values))):
        if options.kind == "multilabel" and values and all(map(is_bracketed, values)):
            setting = format_setting("data.delimiter", ",")
            problem = f"contains cells such as {show(values[0])}. If these are lists, set {setting}"
            raise column_error(text.name, f"{problem}, or the text that separates their labels.")
        return None
    lists = {value: parse_literal(value, json.loads) for value in values}
    fitted = options.fitted and options.fitted.vocabulary
    were_texts = fitted and isinstance(fitted.values[0], str)
    if not all(isinstance(row, list) and not (were_texts and _has_numbers(row)) for row in lists.values()):
        check_commas(text.name, values)
        split = iter(split_cells(text.name, cells.fill_null("").to_list(), ","))
        return [None if cell is None else row for cell, row in zip(cells.to_list(), split, strict=True)]
    return [None if cell is None else lists[cell] for cell in cells.to_list()]


def _parse_lists(name: str, rows: list[Any], options: LabelOptions) -> Labels:
    rows = [_clean_row(name, i, row, options) for i, row in enumerate(rows)]
    if options.kind not in ("auto", "multilabel"):
        i = next((i for i, row in enumerate(rows) if row is not None and len(row) != 1), None)
        if i is not None and not any(rows):
            raise column_error(
                name,
                f"contains no labels, but task={options.task} requires one per row. To predict rows without "
                "labels, use lossselect predict.",
            )
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
    if options.no_label:
        rows = _drop_no_label(name, rows, options)
    if options.hierarchy is not None:
        rows = add_ancestors(name, rows, options.hierarchy)
    if vocabulary is None:
        vocabulary = _fit_lists(name, rows, options)
    with name_column(name, "To ignore such labels, set data.handle_unknown=ignore."):
        labels = vocabulary.encode_lists(rows, options.handle_unknown, name)
    reason = f"column {name!r} contains lists" if options.task == "auto" else ""
    return Labels(options.resolve_task("multilabel"), reason, labels, vocabulary.names, vocabulary)


def _drop_no_label(name: str, rows: list[Any], options: LabelOptions) -> list[Any]:
    """Return the labels of each row, [] for a word of data.no_label; warn about a word that no row has."""
    rows, found = [*rows], set()
    for i, row in enumerate(rows):
        words = [label for label in row or () if is_marker(label, options.no_label)]
        if not words:
            continue
        if len(words) < len(row):
            problem = f" contains {words[0]!r}, which means no label (data.no_label), and other labels: "
            raise DataError.at(i, name, f"{problem}{shorten(row)}. Remove one of them.", row)
        rows[i] = []
        found.update(words)
    unmatched = [word for word in options.no_label if not any(is_marker(v, [word]) for v in found)]
    if unmatched and options.fitted is None:
        warn(
            "unmatched_no_label",
            f"No row of column {name!r} has the label {shorten(unmatched)}, which data.no_label declares. "
            "Check how the file writes rows without labels.",
        )
    return rows


def _warn_no_label(name: str, rows: list[Any], labels: Sequence[Any]) -> None:
    """Warn about a label that seems to mean "no label", because no row has it with another label."""
    words = [v for v in labels if len(str(v)) < MAX_NO_LABEL and NO_LABEL.fullmatch(str(v))]
    several = [set(row) for row in rows if row and len(row) > 1] if words else []
    words = [word for word in words if not any(word in row and len(row) > 1 for row in several)]
    if words and several:
        problem = f"{words[0]!r} in column {name!r} counts as a label, but no row has it with another label."
        setting = format_setting("data.no_label", words[0])
        warn("likely_no_label", f"{problem} If it means that a row has no label, set {setting}.")


def add_ancestors(name: str, rows: Sequence[Any], separator: str) -> list[Any]:
    """Return the labels of each row with their ancestors: animal/cat implies animal."""
    if not any(separator in str(label) for row in rows for label in row or ()):
        problem = f"No label of column {name!r} contains {separator!r}."
        warn("unused_delimiter", f"{problem} Check data.hierarchy.")
    known: dict[str, list[str]] = {}
    for i, row in enumerate(rows):
        for label in map(str, row or ()):
            if label in known:
                continue
            parts = [part.strip() for part in label.split(separator)]
            if "" in parts:
                problem = f" has the label {show(label)}, with an empty part before or after {separator!r}."
                raise DataError.at(i, name, f"{problem} Write it as {f'animal{separator}cat'!r}.", label)
            known[label] = [*accumulate(parts, lambda path, part: f"{path}{separator}{part}")]
    return [row if row is None else [path for label in row for path in known[str(label)]] for row in rows]


def _fit_lists(name: str, rows: list[Any], options: LabelOptions) -> Vocabulary:
    _check_no_indicators(name, [row for row in rows if row is not None])
    with name_column(name, "Add it to class_names, or remove it from the file."):
        vocabulary = Vocabulary.fit_lists(rows, options.class_names, name)
    if options.class_names is None:
        if negative := next(filter(is_negative, vocabulary.values), None):
            row = next(i for i, labels in enumerate(rows) if labels and negative in labels)
            raise negative_error(row, name, negative, vocabulary.values)
        warn_similar_labels(name, vocabulary.values)
        _warn_no_label(name, rows, vocabulary.values)
    return vocabulary


def _clean_row(name: str, i: int, row: Any, options: LabelOptions) -> list[Any] | None:
    """Return a row's labels without spaces around them; None if it is missing or has only a marker."""
    if row is None:
        return None
    labels = [label.strip() if isinstance(label, str) else plain_value(label) for label in row]
    if mapping := next((label for label in labels if isinstance(label, dict)), None):
        problem = f" contains {show(mapping)}, but labels must be text or numbers."
        raise DataError.at(
            i, name, f"{problem} Write lists of one of the values, such as the names.", mapping
        )
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
    if all(as_number(label) in (0, 1) for row in rows for label in row) and any(
        len(set(row)) < width for row in rows
    ):
        raise column_error(
            name,
            f"contains rows of {width} zeros and ones, such as {rows[0]}, but lists of labels are expected. "
            "Write one column for each label, and set data.target=[a,b,c].",
        )
