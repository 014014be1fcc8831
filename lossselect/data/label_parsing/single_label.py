"""Conversion of a column with one label per row to the task, its ordered classes and each row's index."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from lossselect.data.label_parsing.delimiters import MARKERS, delimiter_settings, find_delimiter
from lossselect.data.label_parsing.options import LabelOptions, Labels, name_column
from lossselect.data.preprocessing.columns import column_error
from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.values import IGNORE_INDEX, as_number, normalize_label, plain_value, sorted_values
from lossselect.labels.vocabulary import Vocabulary
from lossselect.tasks.infer import MAX_CLASSES, infer_task
from lossselect.tasks.registry import make_task
from lossselect.utils.checks import format_setting, shorten, show, suggestion
from lossselect.utils.warnings import warn

PAIRS = (("0", "1"), ("false", "true"), ("no", "yes"), ("n", "y"), ("f", "t"), ("negative", "positive"))
"""Pairs of values whose second one is the positive class unless data.positive is set."""


def parse_single_labels(column: pl.Series, options: LabelOptions) -> Labels:
    """Return the labels of a column with one label per row."""
    fitted = options.fitted
    column = options.replace_missing(column)
    name, values = column.name, column.drop_nulls().unique(maintain_order=True).to_list()
    if not values and fitted:
        return replace(fitted, values=np.full(len(column), np.nan))
    if not values:
        raise DataError(
            f"All labels of column {name!r} are missing. Add labels, or check data.target and data.missing.",
            column=name,
        )
    reason = ""
    if options.task == "auto":
        task, why = _infer(name, values, options)
        options, reason = replace(options, task=task), f"column {name!r} contains {why}"
    if options.kind == "multilabel":
        raise _no_lists_error(name, values)
    is_binary = options.kind == "binary"
    others = [value for value in values if not _is_probability(value)]
    soft = not others and any(as_number(value) not in (0, 1) for value in values)
    # probabilities of the positive class have no vocabulary
    if is_binary and options.positive is None and (soft if fitted is None else fitted.vocabulary is None):
        if others:
            problem = f" is {others[0]!r}, but the training labels are probabilities between 0 and 1."
            fix = "Write a probability, or leave the cell empty if the label is missing."
            raise DataError.at(column.index_of(others[0]), name, f"{problem} {fix}", others[0])
        probabilities = column.cast(pl.Float64).to_numpy()
        names = make_task(options.task, class_names=options.class_names).names
        return Labels(options.task, reason, probabilities, names, None)
    vocabulary = fitted.vocabulary if fitted else None
    if vocabulary is None:
        if len(values) == 1:
            required = "the other class" if is_binary else "other classes"
            raise DataError(
                f"All labels of column {name!r} are {values[0]!r}, but training requires at least two "
                f"classes. Add rows of {required}.",
                column=name,
                value=values[0],
            )
        fit = _fit_binary if is_binary else _fit_multiclass
        vocabulary = fit(column, sorted_values(map(plain_value, values)), options)
    codes = _encode(column, vocabulary, options.handle_unknown)
    missing = codes == IGNORE_INDEX
    encoded = np.where(missing, np.nan, codes) if missing.any() else codes
    return Labels(options.task, reason, encoded, vocabulary.names, vocabulary)


def _no_lists_error(name: str, values: list[Any]) -> DataError:
    """Return the error for task=multilabel and a column of single labels."""
    if delimiter := find_delimiter(values, "multilabel"):
        example = next(value for value in values if delimiter in value)
        problem = f"contains cells such as {show(example)}. If these are several labels, set"
        fix = f"{delimiter_settings(delimiter)}."
    else:
        problem = f"contains one label per row, such as {values[0]!r}. For task=multilabel, set several 0/1"
        fix = (
            "columns (data.target=[a,b,c]) or the text that separates the labels of a cell (data.delimiter)."
        )
    return column_error(name, f"{problem} {fix} If each row has exactly one class, set task=multiclass.")


def _infer(name: str, values: list[Any], options: LabelOptions) -> tuple[str, str]:
    """Return the task that fits the distinct labels, and the reason."""
    if options.positive is not None and len(values) == 2:
        return "binary", f"{shorten(sorted(map(str, values)))}, and {options.positive!r} is positive"
    if doubt := next(_find_doubts(values, options), None):
        raise column_error(name, f"{doubt[1]} If not, set task=multiclass.")
    with name_column(name, "To predict another column, set data.target=COLUMN.", DataError):
        return infer_task(values)


def missing_setting(marker: Any) -> str:
    """Return the settings for a marker of missing labels."""
    setting = format_setting("data.missing", marker)
    if as_number(marker) is not None:
        return setting
    null_values = format_setting("data.null_values", [marker])
    return f"{setting} (with data=table, {null_values} if features contain it too)"


def _is_probability(value: Any) -> bool:
    number = as_number(value)
    return number is not None and 0 <= number <= 1


def _fit_binary(column: pl.Series, values: list[Any], options: LabelOptions) -> Vocabulary:
    """Return the negative and the positive label of a column with the distinct `values`, in order."""
    name, pair = column.name, _find_pair(values)
    if len(values) > 2:
        thirds = [v for v in values if len(values) == 3 and _find_pair([w for w in values if w != v])]
        if len({*map(normalize_label, values)}) < 3:  # Yes, yes and no
            warn_similar_labels(name, values)
            thirds = []
        fix = "Set task=multiclass."
        if markers := thirds or [*filter(is_negative, values)]:
            missing = missing_setting(markers[0])
            fix = f"If {markers[0]} marks missing labels, set {missing}. If not, set task=multiclass."
        raise DataError(
            f"task=binary requires two classes, but column {name!r} contains {len(values)}: "
            f"{shorten(values)}. {fix}",
            column=name,
        )
    names: tuple[str, ...] = ()
    if options.class_names is not None:
        names = make_task(options.task, class_names=options.class_names).names
    named = [value for name in names if (value := _find_label(name, values)) is not None]
    if len(set(named)) == 1:
        raise ConfigError(
            f"class_names={[*names]} must be the labels of column {name!r} ({shorten(values)}). List these, "
            "the positive one last."
        )
    positive = _find_positive(name, values, options.positive, named or pair)
    negative = values[1 - values.index(positive)]
    if not names:
        return Vocabulary((negative, positive))
    if named and positive != named[1]:
        raise ConfigError(
            f"class_names={[*names]} declares {names[1]!r} as the positive class, but "
            f"data.positive={options.positive}. Remove one of the two settings."
        )
    # names that are not labels name the pair in its order (0, 1 or no, yes), even if 0 or no is positive
    by_label = dict(zip(named or pair or (negative, positive), names, strict=True))
    return Vocabulary((negative, positive), (by_label[negative], by_label[positive]))


def _find_positive(name: str, values: list[Any], declared: Any, pair: Sequence[Any] | None) -> Any:
    """Return the positive one of two labels: the declared one, else the second one of the pair."""
    if declared is not None:
        if (found := _find_label(str(declared), values)) is not None:
            return found
        raise ConfigError(
            f"data.positive={declared} is not among the labels of column {name!r}: {shorten(values)}."
            f"{suggestion(str(declared), map(str, values))}"
        )
    if pair is not None:
        return pair[1]
    first, second = values
    settings = [format_setting("data.positive", value) for value in (second, first)]
    problem = f"contains {first!r} and {second!r}, and the positive class is unknown."
    fix = f"Set {' or '.join(settings)}."
    if is_negative(first):
        missing = format_setting("data.missing", first)
        fix += f" If {first} marks missing labels, set {missing}. If it means negative, set {settings[0]}."
    raise column_error(name, f"{problem} {fix}")


def _find_label(text: str, values: Sequence[Any]) -> Any:
    """Return the label that a setting names, in another case or number format if it is the only one."""
    for convert in (str, lambda value: str(value).lower(), as_number):
        form = convert(text)
        matches = [value for value in values if convert(value) == form is not None]
        if len(matches) == 1:
            return matches[0]
    return None


def _find_pair(values: Sequence[Any]) -> tuple[Any, Any] | None:
    """Return the two values in the order of PAIRS, such as 0 and 1; None if they are not such a pair."""
    by_text: dict[str, Any] = {}
    for value in values:
        number = as_number(str(value))
        by_text[str(int(number)) if number in (0, 1) else str(value).lower()] = value
    return next(((by_text[no], by_text[yes]) for no, yes in PAIRS if set(by_text) == {no, yes}), None)


def is_negative(value: Any) -> bool:
    """Return whether a label is a negative number, or text with one."""
    return (as_number(value) or 0) < 0


def _fit_multiclass(column: pl.Series, values: list[Any], options: LabelOptions) -> Vocabulary:
    """Return the classes of a column with the distinct `values`, in order."""
    name = column.name
    if options.class_names is None or column.dtype.is_float():
        _check_numbers(column, values)
    for warning, problem in _find_doubts(values, options):
        warn(warning, f"Column {name!r} {problem}")
    if len(values) > 2 and len(values) == len(column) - column.null_count():
        raise DataError(
            f"Each of the {len(values)} labels of column {name!r} occurs in only one row, as an identifier "
            "does. Check data.target, or add rows of each class.",
            column=name,
        )
    warn_similar_labels(name, values)
    with name_column(name, "Add it to class_names, or to data.missing if it marks a missing label."):
        # with class_names, pass all rows, so that errors name the row
        return Vocabulary.fit(values if options.class_names is None else column, options.class_names, name)


def _check_numbers(column: pl.Series, values: list[Any]) -> None:
    name, is_float = column.name, column.dtype.is_float()
    words = [value for value in values if as_number(value) is None]
    numbers = [value for value in values if as_number(value) is not None]
    classes = format_setting("+task.class_names", values[:20])
    fraction = next((v for v in values if isinstance(v, float) or (as_number(v) or 0) % 1), None)
    if is_float or (fraction is not None and not words):
        problem = f" is {fraction}, which looks like a quantity, not a class. Choose another data.target"
        grades = "" if is_float or len(values) > MAX_CLASSES else f" or, if they are grades, set {classes}"
        raise DataError.at(column.index_of(fraction), name, f"{problem}{grades}.", fraction)
    if negative := next(filter(is_negative, numbers), None):
        raise negative_error(column.index_of(negative), name, negative, values)
    if numbers and words:
        if find_delimiter(values) == " ":
            _, problem = next(_find_doubts(values, LabelOptions("multiclass")))
            raise column_error(name, f"{problem} If all are classes, set {classes}.")
        problem = f" is {words[0]!r}, but other labels are numbers, such as {numbers[0]!r}."
        missing = missing_setting(words[0])
        fix = f"If it marks a missing label, set {missing}. If all are classes, set {classes}."
        raise DataError.at(column.index_of(words[0]), name, f"{problem} {fix}", words[0])


def negative_error(row: int | None, name: str, negative: Any, values: Sequence[Any]) -> DataError:
    """Return the error for a negative number among the labels of a column, which may mean "missing"."""
    missing = format_setting("data.missing", negative)
    classes = format_setting("+task.class_names", values[:20])
    fix = f"If it marks a missing label, set {missing}. If it is a class, set {classes}."
    return DataError.at(row, name, f" has label {negative}. {fix}", negative)


def _find_doubts(values: Sequence[Any], options: LabelOptions) -> Iterator[tuple[str, str]]:
    """Yield a warning's name and text for labels that may not be classes; the text follows "Column 'y'"."""
    if delimiter := find_delimiter(values):
        example = next(value for value in values if delimiter in value)
        yield (
            "several_labels",
            f"contains labels such as {show(example)}. If these are several labels, set task=multilabel "
            f"{delimiter_settings(delimiter)}.",
        )
    markers = [value for value in values if str(value).lower() in MARKERS]
    if markers and options.class_names is None:
        yield (
            "likely_missing_marker",
            f"has a class {markers[0]!r}. If it marks a missing label, set {missing_setting(markers[0])}.",
        )


def warn_similar_labels(name: str, values: Sequence[Any]) -> None:
    """Warn about two labels that look the same, or almost the same, to a person."""
    by_form: dict[Any, Any] = {}
    for value in values:
        other = by_form.setdefault(normalize_label(value), value)
        if other is not value:
            problem = f"{other!r} and {value!r} in column {name!r} count as two classes."
            warn("similar_labels", f"{problem} If they are the same class, correct the file.")
            return


def _encode(column: pl.Series, vocabulary: Vocabulary, handle_unknown: str) -> np.ndarray:
    """Return the index of each row's label, -100 where it is missing."""
    texts = {label_text(value): value for value in vocabulary.values}
    # a label may be a number in one file and text in another, and 1 becomes 1.0 next to missing cells
    known = dict(zip(vocabulary.names, vocabulary.values, strict=True))  # sample data have 0 and 1 as values
    known |= {_drop_fraction(text): value for text, value in texts.items()} | texts
    values = column.unique().drop_nulls()
    labels = [known.get(text, known.get(_drop_fraction(text))) for text in map(label_text, values)]
    if len(values) and not any(label is not None for label in labels):
        raise DataError(
            f"No label of column {column.name!r} ({shorten([*values])}) occurs in the training labels "
            f"({shorten(vocabulary.names)}). Write the labels as in training.",
            column=column.name,
        )
    codes = vocabulary.encode(labels)
    unknown = values.filter(codes == IGNORE_INDEX).to_list()
    if unknown:  # encode these row by row, for the row in the error or the counts in the warning
        with name_column(column.name, "To ignore such labels, set data.handle_unknown=ignore."):
            vocabulary.encode(column.set(~column.is_in(unknown), None), handle_unknown, column.name)
    if column.dtype.is_float():
        mapped = column.replace_strict(values, codes, default=IGNORE_INDEX, return_dtype=pl.Int64)
        return mapped.fill_null(IGNORE_INDEX).to_numpy(writable=True)
    # the same, with a fourth of the memory
    places = column.cast(pl.String).cast(pl.Enum(values.cast(pl.String))).to_physical()
    return np.append(codes, IGNORE_INDEX)[places.fill_null(len(values)).to_numpy()]


def _drop_fraction(text: str) -> str:
    """Return "1" for "1.0", but "v1.0" unchanged."""
    return re.sub(r"^([+-]?[0-9]+)\.0+$", r"\1", text)


def label_text(value: Any) -> str:
    """Return a label as text: 1 and 1.0 as "1", True as "true"."""
    value = plain_value(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
