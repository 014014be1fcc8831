"""The classes of a column of labels, and their order; an error asks for what cannot be inferred."""

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from lossselect.data.label_parsing.options import LabelOptions
from lossselect.data.preprocessing.columns import column_error, row_error
from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.values import as_number, normalize_label, plain_value
from lossselect.labels.vocabulary import Vocabulary
from lossselect.tasks.infer import MAX_CLASSES
from lossselect.utils.checks import format_setting, shorten, suggestion
from lossselect.utils.warnings import warn

PAIRS = (("0", "1"), ("false", "true"), ("no", "yes"), ("n", "y"), ("f", "t"), ("negative", "positive"))
"""Pairs of values of which the second is the positive one without being declared."""
MARKERS = ("?", "-", "--", "n/a", "#n/a", "nan", "<na>", "unknown", "missing")
"""Labels that may mean "missing". (NA, None and null are not among them: they are names as well.)"""
DELIMITERS = ("|", ";", ",", "/")


def suggest_missing(value: Any) -> str:
    """Return the setting that declares a label as a marker for missing ones."""
    return format_setting("data.missing", value)


def suggest_class_names(values: Sequence[Any]) -> str:
    """Return the setting that declares labels, at most 20 of them, as classes."""
    return format_setting("+task.class_names", values[:20])


def get_binary_names(options: LabelOptions) -> tuple[str, str]:
    """Return the names of the negative and the positive class; "0" and "1" if none are declared."""
    names = tuple(map(str, ("0", "1") if options.class_names is None else options.class_names))
    if len(names) != 2:
        raise ConfigError(f"Binary needs 2 class_names, got {len(names)}: {shorten(names)}.")
    return names


def fit_binary(column: pl.Series, values: list[Any], options: LabelOptions) -> Vocabulary:
    """Return the negative and the positive label of a column with the distinct `values`, in order."""
    _check_several(column.name, values, " In a file of positives alone the rest is missing.")
    if len(values) > 2:
        # a third label beside two that go together, or negative whole numbers
        thirds = [v for v in values if len(values) == 3 and _find_pair([w for w in values if w != v])]
        markers = thirds or [v for v in values if is_negative(v) and not as_number(v) % 1]  # type: ignore
        hint = f" If {markers[0]} marks missing labels: {suggest_missing(markers[0])}." if markers else ""
        raise DataError(
            f"task=binary needs two classes, but column {column.name!r} holds {len(values)}: "
            f"{shorten(values)}.{hint} One of several classes: task=multiclass.",
            column=column.name,
        )
    positive = _find_positive(column.name, values, options)
    negative = values[1 - values.index(positive)]
    if options.class_names is None:
        return Vocabulary((negative, positive))
    names = get_binary_names(options)
    lower_names, lower_values = {name.lower() for name in names}, {str(value).lower() for value in values}
    if lower_names == lower_values:
        if names[1].lower() != str(positive).lower():
            raise ConfigError(
                f"class_names={[*names]} are the negative and the positive class, but "
                f"data.positive={positive}."
            )
        return Vocabulary((negative, positive), names)
    # other names are for 0 and 1, or no and yes, in that order, whichever of them is the positive one
    pair = _find_pair(values) or ((negative, positive) if options.positive is not None else None)
    if pair is None or lower_names & lower_values:
        raise ConfigError(
            f"class_names={[*names]} are not the labels of column {column.name!r}: {shorten(values)}. "
            "Give these, the positive one last."
        )
    named = dict(zip(pair, names, strict=True))
    return Vocabulary((negative, positive), (named[negative], named[positive]))


def _find_positive(name: str, values: list[Any], options: LabelOptions) -> Any:
    if options.positive is not None:
        positive = str(options.positive)
        for convert in (str, lambda value: str(value).lower(), as_number):
            matches = [value for value in values if convert(value) == convert(positive) is not None]
            if len(matches) == 1:
                return matches[0]
        texts = sorted(map(str, values))
        raise ConfigError(
            f"data.positive={positive} is not among the labels of column {name!r}: {shorten(texts)}."
            f"{suggestion(positive, texts)}"
        )
    if options.class_names is not None:
        class_names = [str(class_name).lower() for class_name in options.class_names]
        by_name = {str(value).lower(): value for value in values}
        if set(class_names) == set(by_name):
            return by_name[class_names[-1]]
    if pair := _find_pair(values):
        return pair[1]
    first, second = values
    settings = [format_setting("data.positive", value) for value in (second, first)]
    problem = f"holds {first!r} and {second!r}: which is the positive class? Say {' or '.join(settings)}."
    if is_negative(first):
        problem += f" If {first} marks missing labels, say {suggest_missing(first)}; if it means negative, "
        problem += f"{settings[0]}."
    raise column_error(name, problem)


def _find_pair(values: Sequence[Any]) -> tuple[Any, Any] | None:
    """Return the values in the order of a pair of PAIRS, such as 0 and 1; None if they are none of these."""
    by_text: dict[str, Any] = {}
    for value in values:
        number = as_number(str(value))
        by_text[str(int(number)) if number in (0, 1) else str(value).lower()] = value
    return next(((by_text[no], by_text[yes]) for no, yes in PAIRS if set(by_text) == {no, yes}), None)


def is_negative(value: Any) -> bool:
    """Return whether a label is, or writes, a negative number."""
    return (as_number(value) or 0) < 0


def _check_several(name: str, values: list[Any], hint: str = "") -> None:
    if len(values) == 1:
        raise DataError(
            f"All labels of column {name!r} are {values[0]!r}: there is nothing to tell apart.{hint}",
            column=name,
            value=values[0],
        )


def fit_multiclass(column: pl.Series, values: list[Any], options: LabelOptions) -> Vocabulary:
    """Return the labels of a column with the distinct `values`, in order."""
    name = column.name
    if column.dtype.is_float():
        quantity = next(value for value in values if isinstance(value, float))
        problem = f"is {quantity}: a quantity, not one of several classes. Choose another data.target; to "
        problem += "predict a quantity is no classification."
        raise row_error(first_row(column, quantity), name, problem, quantity)
    if options.class_names is None:
        _check_numbers(column, values)
    _check_several(name, values)
    if len(values) > 2 and len(values) == len(column) - column.null_count():
        raise DataError(
            f"Each of the {len(values)} labels of column {name!r} has one row, as an identifier has: there "
            "is nothing to learn from, and nothing to validate. Is it the right data.target?",
            column=name,
        )
    if delimiter := find_delimiter(values):
        example = next(value for value in values if delimiter in value)
        warn(
            "several_labels",
            f"Column {name!r} holds labels such as {example!r}. If these are several, say task=multilabel "
            f"{format_setting('data.delimiter', delimiter)}.",
        )
    warn_similar_labels(name, values)
    if options.class_names is None and (markers := find_markers(values)):
        warn(
            "likely_missing_marker",
            f"Column {name!r} has a class {markers[0]!r}. If that marks a missing label, say "
            f"{suggest_missing(markers[0])}.",
        )
    try:
        return Vocabulary.fit(values, options.class_names)
    except ValueError as error:
        names = {*map(str, options.class_names or ())}
        row = first_row(column, next(value for value in values if str(value) not in names))
        raise DataError(
            f"Row {row} of column {name!r}: {error} Name it too, or mark it as missing: data.missing.",
            row=row,
            column=name,
        ) from None


def _check_numbers(column: pl.Series, values: list[Any]) -> None:
    """Raise a DataError for fractions, negative numbers, and numbers among words."""
    name, numbers = column.name, [value for value in values if as_number(value) is not None]
    fractions = [value for value in numbers if as_number(value) % 1]  # type: ignore[operator]
    if len(numbers) == len(values) and fractions:
        grades = f"; or, if they are grades, say {suggest_class_names(values)}"
        problem = f"is {fractions[0]}: a quantity, not one of several classes. Choose another data.target"
        problem += f"{grades if len(values) <= MAX_CLASSES else ''}."
        raise row_error(first_row(column, fractions[0]), name, problem, fractions[0])
    if negative := next(filter(is_negative, numbers), None):
        problem = (
            f"is {negative}. If that marks a missing label, say {suggest_missing(negative)}; if it is a "
        )
        problem += f"class, say so by {suggest_class_names(values)}."
        raise row_error(first_row(column, negative), name, problem, negative)
    if numbers and len(numbers) < len(values):
        word = next(value for value in values if as_number(value) is None)
        row = first_row(column, word)
        raise column_error(
            name,
            f"holds numbers and words: {numbers[0]!r} in row {first_row(column, numbers[0])}, {word!r} in "
            f"row {row}. If one of them marks a missing label, say {suggest_missing(word)}; if all are "
            f"classes, {suggest_class_names(values)}.",
            row=row,
            value=word,
        )


def warn_similar_labels(name: str, values: Sequence[Any]) -> None:
    """Warn of two labels that a person may take for the same."""
    by_form: dict[Any, Any] = {}
    for value in values:
        other = by_form.setdefault(normalize_label(value), value)
        if other is not value:
            warn(
                "similar_labels",
                f"{other!r} and {value!r} in column {name!r} are two classes. If they are one, mend the "
                "file.",
            )
            return


def find_markers(values: Sequence[Any]) -> list[Any]:
    """Return the labels that may mean "missing"."""
    return [value for value in values if str(value).lower() in MARKERS]


def find_delimiter(values: Sequence[Any]) -> str | None:
    """Return what splits at least a third of the labels into parts some of which are in several labels."""
    texts = [value for value in values if isinstance(value, str) and value.lower() not in MARKERS]
    for delimiter in DELIMITERS:
        count = sum(delimiter in text.strip(delimiter) for text in texts)
        parts = [{part.strip() for part in text.split(delimiter)} for text in texts]
        if count and count * 3 >= len(texts) and sum(map(len, parts)) > len(set().union(*parts)):
            return delimiter
    return None


def first_row(column: pl.Series, value: Any) -> int:
    """Return the first row with that label."""
    return int((column == value).arg_max())


def sort_labels(values: Iterable[Any]) -> list[Any]:
    """Return plain labels: numbers by size, then others by their text."""
    plain = map(plain_value, values)
    return sorted(plain, key=lambda value: (as_number(value) is None, as_number(value) or 0, str(value)))
