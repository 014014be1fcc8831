"""Which classes a column of labels holds, and in what order: what must be said is asked for, not guessed."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from lossselect.data.label_parsing.options import LabelOptions
from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.values import as_number, normalize_label, plain_value
from lossselect.labels.vocabulary import Vocabulary
from lossselect.tasks.infer import MAX_CLASSES
from lossselect.utils.checks import format_setting, shorten, suggestion
from lossselect.utils.warnings import warn

PAIRS = (("0", "1"), ("false", "true"), ("no", "yes"), ("n", "y"), ("f", "t"), ("negative", "positive"))
"""Of which two values the second is the positive one without being declared."""
MARKS = ("?", "-", "--", "n/a", "#n/a", "nan", "<na>", "unknown", "missing")
"""Labels that may mark a missing one. (NA, None and null are not among them: they are names as well.)"""
DELIMITERS = ("|", ";", ",", "/")


def binary_names(options: LabelOptions) -> tuple[str, str]:
    """The negative and the positive class's names, where the labels are 0, 1 or between."""
    names = tuple(map(str, ("0", "1") if options.class_names is None else options.class_names))
    if len(names) != 2:
        raise ConfigError(f"Binary needs 2 class_names, got {len(names)}: {shorten(names)}.")
    return names


def binary_vocabulary(column: pl.Series, counts: Mapping[Any, int], options: LabelOptions) -> Vocabulary:
    """The negative label, then the positive one.

    Args:
        column: All labels.
        counts: How many there are of each.
        options: What the user says.

    Raises:
        ValueError: not two labels, none known to be positive, names that are others than the labels.
    """
    name, values = column.name, [plain_value(value) for value in counts]
    if len(values) == 1:
        raise DataError(
            f"All labels of column {name!r} are {values[0]!r}: there is nothing to tell apart. In a file of "
            "positives alone the rest is missing.",
            column=name,
            value=values[0],
        )
    if len(values) > 2:
        # a third label beside two that go together
        thirds = [v for v in values if len(values) == 3 and _conventional([w for w in values if w != v])]
        marks = thirds or [v for v in values if (as_number(v) or 0) < 0 and not (as_number(v) or 0) % 1]
        hint = (
            f" If {marks[0]} marks missing labels: {format_setting('data.missing', marks[0])}."
            if marks
            else ""
        )
        raise DataError(
            f"task=binary needs two classes, but column {name!r} holds {len(values)}: "
            f"{shorten(in_order(values))}.{hint} One of several classes: task=multiclass.",
            column=name,
        )
    positive = _positive(name, values, options)
    negative = values[1 - values.index(positive)]
    if options.class_names is None:
        return Vocabulary((negative, positive))
    names = binary_names(options)
    if {text.lower() for text in names} == {str(value).lower() for value in values}:
        if names[1].lower() != str(positive).lower():
            raise ConfigError(
                f"class_names={[*names]} are the negative and the positive class, but "
                f"data.positive={positive}."
            )
        return Vocabulary((negative, positive), names)
    # other names are for 0 and 1, or no and yes, in that order, whichever of them is the positive one
    pair = _conventional(values) or ((negative, positive) if options.positive is not None else None)
    overlap = {text.lower() for text in names} & {str(value).lower() for value in values}
    if pair is None or overlap:
        raise ConfigError(
            f"class_names={[*names]} are not the labels of column {name!r}: {shorten(in_order(values))}. "
            "Give these, the positive one last."
        )
    named = dict(zip(pair, names, strict=True))
    return Vocabulary((negative, positive), (named[negative], named[positive]))


def _positive(name: str, values: list[Any], options: LabelOptions) -> Any:
    if options.positive is not None:
        wanted = str(options.positive)
        for same in (str, lambda value: str(value).lower(), as_number):
            found = [value for value in values if same(value) == same(wanted) is not None]
            if len(found) == 1:
                return found[0]
        texts = sorted(str(value) for value in values)
        raise ConfigError(
            f"data.positive={wanted} is not among the labels of column {name!r}: {shorten(texts)}."
            f"{suggestion(wanted, texts)}"
        )
    if options.class_names is not None:
        given = [str(text).lower() for text in options.class_names]
        lower = {str(value).lower(): value for value in values}
        if set(given) == set(lower):
            return lower[given[-1]]
    if pair := _conventional(values):
        return pair[1]
    ordered = in_order(values)
    hint = ""
    if (as_number(ordered[0]) or 0) < 0:
        hint = (
            f" If {ordered[0]} marks missing labels, say {format_setting('data.missing', ordered[0])}; if "
            "it means "
            f"negative, {format_setting('data.positive', ordered[1])}."
        )
    raise DataError(
        f"Column {name!r} holds {ordered[0]!r} and {ordered[1]!r}: which is the positive class? Say "
        f"{format_setting('data.positive', ordered[1])} or "
        f"{format_setting('data.positive', ordered[0])}.{hint}",
        column=name,
    )


def _conventional(values: Sequence[Any]) -> tuple[Any, Any] | None:
    """The labels as a pair of PAIRS has them, such as 0 and 1."""
    by_text: dict[str, Any] = {}
    for value in values:
        text = str(value).lower()
        number = as_number(text)
        by_text[str(int(number)) if number in (0, 1) else text] = value
    return next(((by_text[no], by_text[yes]) for no, yes in PAIRS if set(by_text) == {no, yes}), None)


def multiclass_vocabulary(column: pl.Series, counts: Mapping[Any, int], options: LabelOptions) -> Vocabulary:
    """The labels in order.

    Args:
        column: All labels.
        counts: How many there are of each.
        options: What the user says.

    Raises:
        ValueError: quantities, an identifier, labels of which more must be said.
    """
    name, values = column.name, [plain_value(value) for value in counts]
    ordered = in_order(values)
    if column.dtype.is_float():
        odd = next(value for value in ordered if isinstance(value, float))
        raise DataError(
            f"Row {row_of(column, odd)} of column {name!r} is {odd}: a quantity, not one of several classes. "
            "Choose another data.target; to predict a quantity is no classification.",
            row=row_of(column, odd),
            column=name,
            value=odd,
        )
    if options.class_names is None:
        _check_numbers(column, ordered)
    if len(values) == 1:
        raise DataError(
            f"All labels of column {name!r} are {values[0]!r}: there is nothing to tell apart.",
            column=name,
            value=values[0],
        )
    if len(values) > 2 and max(counts.values()) == 1:
        raise DataError(
            f"Each of the {len(values)} labels of column {name!r} has one row, as an identifier has: there "
            "is nothing to learn from, and nothing to validate. Is it the right data.target?",
            column=name,
        )
    if delimiter := likely_delimiter(values):
        example = next(value for value in values if delimiter in value)
        warn(
            "several_labels",
            f"Column {name!r} holds labels such as {example!r}. If these are several, say task=multilabel "
            f"{format_setting('data.delimiter', delimiter)}.",
        )
    warn_of_similar(name, ordered)
    if options.class_names is None:
        warn_of_marks(name, values)
        return Vocabulary.fit(values)
    try:
        return Vocabulary.fit(values, options.class_names)
    except ValueError as error:
        names = set(map(str, options.class_names))
        other = next(value for value in ordered if str(value) not in names)
        raise DataError(
            f"Row {row_of(column, other)} of column {name!r}: {error} Name it too, or mark it as missing: "
            "data.missing.",
            row=row_of(column, other),
            column=name,
        ) from None


def _check_numbers(column: pl.Series, values: list[Any]) -> None:
    numbers = [value for value in values if as_number(value) is not None]
    fractions = [value for value in numbers if as_number(value) % 1]  # type: ignore[operator]
    if len(numbers) == len(values) and fractions:
        few = len(values) <= MAX_CLASSES
        grades = f"; or, if they are grades, say {format_setting('+task.class_names', values)}" if few else ""
        raise DataError(
            f"Row {row_of(column, fractions[0])} of column {column.name!r} is {fractions[0]}: a "
            f"quantity, not one of several classes. Choose another data.target{grades}.",
            row=row_of(column, fractions[0]),
            column=column.name,
            value=fractions[0],
        )
    if negative := [value for value in numbers if as_number(value) < 0]:  # type: ignore[operator]
        raise DataError(
            f"Row {row_of(column, negative[0])} of column {column.name!r} is {negative[0]}. If that marks a "
            f"missing label, say {format_setting('data.missing', negative[0])}; if it is a class, say so by "
            f"{format_setting('+task.class_names', values[:20])}.",
            row=row_of(column, negative[0]),
            column=column.name,
            value=negative[0],
        )
    if numbers and len(numbers) < len(values):
        word = next(value for value in values if as_number(value) is None)
        raise DataError(
            f"Column {column.name!r} holds numbers and words: {numbers[0]!r} in row "
            f"{row_of(column, numbers[0])}, {word!r} in row {row_of(column, word)}. If one of them marks a "
            f"missing label, say {format_setting('data.missing', word)}; if all are classes, "
            f"{format_setting('+task.class_names', values[:20])}.",
            column=column.name,
            row=row_of(column, word),
            value=word,
        )


def warn_of_similar(name: str, values: Sequence[Any]) -> None:
    """Warn of two labels that a person may take for the same."""
    seen: dict[Any, Any] = {}
    for value in values:
        other = seen.setdefault(normalize_label(value), value)
        if other is not value:
            warn(
                "similar_labels",
                f"{other!r} and {value!r} in column {name!r} are two classes. If they are one, mend the "
                "file.",
            )
            return


def warn_of_marks(name: str, values: Sequence[Any]) -> None:
    """Warn of labels that may mark a missing one."""
    if marks := [value for value in values if str(value).lower() in MARKS]:
        warn(
            "likely_missing_marker",
            f"Column {name!r} has a class {marks[0]!r}. If that marks a missing label, say "
            f"{format_setting('data.missing', marks[0])}.",
        )


def likely_delimiter(values: Sequence[Any]) -> str | None:
    """What cuts at least a third of the labels into parts some of which are in several labels."""
    texts = [value for value in values if isinstance(value, str) and value.lower() not in MARKS]
    for delimiter in DELIMITERS:
        cut = [text for text in texts if delimiter in text.strip(delimiter)]
        parts = [{part.strip() for part in text.split(delimiter)} for text in texts]
        again = sum(map(len, parts)) > len(set().union(*parts))
        if cut and len(cut) * 3 >= len(texts) and again:
            return delimiter
    return None


def row_of(column: pl.Series, value: Any) -> int:
    """The first row with that label."""
    return int((column == value).arg_max())


def in_order(values: Sequence[Any]) -> list[Any]:
    """Numbers by size, then all else."""
    return sorted(values, key=lambda value: (as_number(value) is None, as_number(value) or 0, str(value)))
