"""One label a row: which classes there are, in which order, and each row's index."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from ..guards import warn
from ..infer import infer_task
from ..label_values import IGNORE_INDEX, as_number, plain_value
from ..labels import Vocabulary
from ..names import lookup, nearest, setting, some
from ..tasks import TASKS

PAIRS = (("0", "1"), ("false", "true"), ("no", "yes"), ("n", "y"), ("f", "t"), ("negative", "positive"))
"""Of which two values the second is the positive one without being declared."""
DELIMITERS = ("|", ";", ",", "/")


@dataclass(frozen=True)
class LabelOptions:
    """What the user says of the labels.

    Args:
        task: A name of `TASKS`, or "auto".
        class_names: The order of the classes, or names for 0 to C - 1.
        positive: Binary: the label that is the positive class.
        delimiter: Multilabel: what stands between the labels of a cell.
        missing: Labels that mark a missing one, beside empty cells.
        empty: What an empty cell of delimited labels is: "negative" (no label) or "missing".
        unseen: What a label is that no train row has: "error", or "ignore" (missing).

    Raises:
        ValueError: a value that there is not, or one that has no effect on the task.
    """

    task: str
    class_names: Sequence[str] | None = None
    positive: str | int | bool | None = None
    delimiter: str | None = None
    missing: tuple[Any, ...] = ()
    empty: str | None = None
    unseen: str = "error"

    def __post_init__(self) -> None:
        lookup({**TASKS, "auto": None}, self.task, "task")
        lookup(dict.fromkeys(("error", "ignore")), self.unseen, "data.unseen")
        if self.empty is not None:
            lookup(dict.fromkeys(("negative", "missing")), self.empty, "data.empty")
            if self.delimiter is None:
                raise ValueError("data.empty is for cells of delimited labels: say data.delimiter too.")
        if self.positive is not None and self.task not in ("binary", "auto"):
            raise ValueError(f"data.positive has no effect on task={self.task}: binary has a positive class.")


@dataclass(frozen=True)
class Labels:
    """Labels of all rows, and what they say of the task."""

    task: str
    """A name of `TASKS`."""
    reason: str
    """Why it is this task, where the labels told."""
    values: Any
    """What the task's `encode` takes, or `LabelLists`."""
    class_names: tuple[str, ...]
    vocabulary: Vocabulary | None
    """Where labels became indices by it."""


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
        raise ValueError(f"All labels of column {name!r} are missing: there is nothing to learn from.")
    counts: dict[Any, int] = dict(zip(*known.value_counts().get_columns(), strict=True))
    reason = ""
    if options.task == "auto":
        task, why = _inferred(name, [*counts], options)
        options, reason = replace(options, task=task), f"column {name!r} holds {why}"
    if options.task == "multilabel":
        raise ValueError(
            f"Column {name!r} holds one label a row, such as {known[0]!r}. For task=multilabel give several "
            "columns of 0 and 1 (data.target=[a,b,c]), or say what stands between the labels of a cell "
            "(data.delimiter). One of several classes a row: task=multiclass."
        )
    # probabilities of the positive class, which have no vocabulary
    soft = _are_soft([*counts]) if fitted is None else fitted.vocabulary is None
    if options.task == "binary" and options.positive is None and soft:
        return Labels("binary", reason, column.cast(pl.Float64).to_numpy(), _binary_names(options), None)
    pick = _binary_vocabulary if options.task == "binary" else _multiclass_vocabulary
    vocabulary = (fitted and fitted.vocabulary) or pick(column, counts, options)
    codes = _codes(column, vocabulary, options.unseen)
    values = np.where(codes == IGNORE_INDEX, np.nan, codes) if (codes == IGNORE_INDEX).any() else codes
    return Labels(options.task, reason, values, vocabulary.names, vocabulary)


def mark_missing(column: pl.Series, marks: Sequence[Any]) -> pl.Series:
    """Null where a label is one of the marks: -1 marks "-1" and "-1.0" too."""
    if not marks:
        return column
    numbers = [number for mark in marks if (number := as_number(mark)) is not None]
    written = {str(mark) for mark in marks}
    found = [v for v in column.unique().drop_nulls() if str(v) in written or as_number(v) in numbers]
    return column.set(column.is_in(found), None) if found else column


def _inferred(name: str, values: list[Any], options: LabelOptions) -> tuple[str, str]:
    if delimiter := _likely_delimiter(values):
        example = next(value for value in values if delimiter in value)
        raise ValueError(
            f"Column {name!r} holds labels such as {example!r}: several of them, with {delimiter!r} between? "
            f"Then say task=multilabel {setting('data.delimiter', delimiter)}; if not, task=multiclass."
        )
    if options.positive is not None and len(values) == 2:
        return "binary", f"{some(sorted(map(str, values)))}, of which {options.positive!r} is positive"
    try:
        return infer_task(values)
    except ValueError as error:
        raise ValueError(
            f"No task can be told from column {name!r}. {error} Say task=..., or choose another data.target."
        ) from None


def _likely_delimiter(values: Sequence[Any]) -> str | None:
    """What cuts at least a third of the labels into parts some of which are in several labels."""
    for delimiter in DELIMITERS:
        cut = [value for value in values if isinstance(value, str) and delimiter in value.strip(delimiter)]
        parts = [
            {part.strip() for part in value.split(delimiter)} for value in values if isinstance(value, str)
        ]
        again = sum(map(len, parts)) > len(set().union(*parts))
        if cut and len(cut) * 3 >= len(values) and again:
            return delimiter
    return None


def _are_soft(values: Sequence[Any]) -> bool:
    numbers = [as_number(value) for value in values]
    inside = all(number is not None and 0 <= number <= 1 for number in numbers)
    return inside and any(number not in (0, 1) for number in numbers)


def _binary_names(options: LabelOptions) -> tuple[str, ...]:
    names = tuple(map(str, options.class_names or ("0", "1")))
    if len(names) != 2:
        raise ValueError(f"Binary needs 2 class_names, got {len(names)}: {some(names)}.")
    return names


def _binary_vocabulary(column: pl.Series, counts: Mapping[Any, int], options: LabelOptions) -> Vocabulary:
    name, values = column.name, [plain_value(value) for value in counts]
    said = some(_in_order(values))
    if len(values) == 1:
        raise ValueError(
            f"All labels of column {name!r} are {values[0]!r}: there is nothing to tell apart. In a file of "
            "positives alone the rest is missing."
        )
    if len(values) > 2:
        marks = [v for v in values if str(v) not in ("0", "1") and (as_number(v) or 0) < 0]
        hint = f" If {marks[0]} marks missing labels: {setting('data.missing', marks[0])}." if marks else ""
        raise ValueError(
            f"task=binary needs two classes, but column {name!r} holds {len(values)}: {said}.{hint} One of "
            "several classes: task=multiclass."
        )
    positive = _positive(column.name, values, options)
    negative = values[1 - values.index(positive)]
    names = (str(negative), str(positive))
    if options.class_names is not None and set(names) != set(map(str, options.class_names)):
        names = _binary_names(options)  # type: ignore[assignment]
    return Vocabulary((negative, positive), names)


def _positive(name: str, values: list[Any], options: LabelOptions) -> Any:
    by_text = {str(value): value for value in values}
    lower = {str(value).lower(): value for value in values}
    if options.positive is not None:
        wanted = str(options.positive)
        found = by_text.get(wanted, lower.get(wanted.lower()))
        if found is None:
            raise ValueError(
                f"data.positive={wanted} is not among the labels of column {name!r}: {some([*by_text])}."
                f"{nearest(wanted, by_text)}"
            )
        return found
    if options.class_names is not None and set(by_text) == set(map(str, options.class_names)):
        return by_text[str(options.class_names[1])]
    numbers = {
        str(int(n)) if (n := as_number(text)) in (0, 1) and n is not None else text: text for text in lower
    }
    for pair in PAIRS:
        if set(numbers) == set(pair):
            return lower[numbers[pair[1]]]
    ordered = _in_order(values)
    hint = ""
    if (as_number(ordered[0]) or 0) < 0:
        hint = (
            f" If {ordered[0]} marks missing labels, say {setting('data.missing', ordered[0])}; if it means "
            f"negative, {setting('data.positive', ordered[1])}."
        )
    raise ValueError(
        f"Column {name!r} holds {ordered[0]!r} and {ordered[1]!r}: which is the positive class? Say "
        f"{setting('data.positive', ordered[1])} or {setting('data.positive', ordered[0])}.{hint}"
    )


def _multiclass_vocabulary(column: pl.Series, counts: Mapping[Any, int], options: LabelOptions) -> Vocabulary:
    name, values = column.name, [plain_value(value) for value in counts]
    ordered = _in_order(values)
    if column.dtype.is_float():
        odd = next(value for value in ordered if isinstance(value, float))
        raise ValueError(
            f"Row {_row(column, odd)} of column {name!r} is {odd}: a quantity, not one of several classes. "
            "Choose another data.target; to predict a quantity is no classification."
        )
    if options.class_names is None:
        _check_numbers(column, ordered)
    if len(values) == 1:
        raise ValueError(f"All labels of column {name!r} are {values[0]!r}: there is nothing to tell apart.")
    if len(values) > 2 and max(counts.values()) == 1:
        raise ValueError(
            f"Each of the {len(values)} labels of column {name!r} has one row, as an identifier has: there "
            "is nothing to learn from, and nothing to validate. Is it the right data.target?"
        )
    if delimiter := _likely_delimiter(values):
        example = next(value for value in values if delimiter in value)
        warn(
            "similar_labels",
            f"Column {name!r} holds labels such as {example!r}. If these are several, say task=multilabel "
            f"{setting('data.delimiter', delimiter)}.",
        )
    _warn_of_similar(name, ordered)
    return Vocabulary.fit(values, options.class_names)


def _check_numbers(column: pl.Series, values: list[Any]) -> None:
    numbers = [value for value in values if as_number(value) is not None]
    if negative := [value for value in numbers if as_number(value) < 0]:  # type: ignore[operator]
        raise ValueError(
            f"Row {_row(column, negative[0])} of column {column.name!r} is {negative[0]}. If that marks a "
            f"missing label, say {setting('data.missing', negative[0])}; if it is a class, say so by "
            f"{setting('+task.class_names', values[:20])}."
        )
    fractions = [value for value in numbers if as_number(value) % 1]  # type: ignore[operator]
    if len(numbers) == len(values) and fractions:
        raise ValueError(
            f"Row {_row(column, fractions[0])} of column {column.name!r} is {fractions[0]}: a quantity, not "
            "one of several classes. Choose another data.target."
        )
    if numbers and len(numbers) < len(values):
        word = next(value for value in values if as_number(value) is None)
        raise ValueError(
            f"Column {column.name!r} holds numbers and words: {numbers[0]!r} in row "
            f"{_row(column, numbers[0])}, {word!r} in row {_row(column, word)}. If one of them marks a "
            f"missing label, say {setting('data.missing', word)}; if all are classes, "
            f"{setting('+task.class_names', values[:20])}."
        )


def _warn_of_similar(name: str, values: list[Any]) -> None:
    seen: dict[Any, Any] = {}
    for value in values:
        number = as_number(value)
        key = value.casefold() if isinstance(value, str) and number is None else number
        if key in seen:
            warn(
                "similar_labels",
                f"{seen[key]!r} and {value!r} in column {name!r} are two classes. If they are one, mend the "
                "file.",
            )
            return
        seen[key] = value


def _codes(column: pl.Series, vocabulary: Vocabulary, unseen: str) -> np.ndarray:
    """The index of each row's label: found once for each label that there is, as rows may be millions."""
    values = column.unique().drop_nulls().to_list()
    index = {value: i for i, value in enumerate(vocabulary.values)}
    others = [value for value in values if value not in index]
    if others and unseen != "ignore":
        rows = {_row(column, value): value for value in others}
        row = min(rows)
        raise ValueError(
            f"Row {row} of column {column.name!r}: {vocabulary.never_seen(rows[row])} To take such labels "
            "for missing: data.unseen=ignore."
        )
    if others:
        count = int(column.is_in(others).sum())
        warn(
            "unseen_label",
            f"{count} labels of column {column.name!r} were never seen in training and count as missing: "
            f"{some(others)}.",
        )
    known = [value for value in values if value in index]
    mapped = column.replace_strict(
        pl.Series(known, dtype=column.dtype),
        pl.Series([index[value] for value in known], dtype=pl.Int64),
        default=IGNORE_INDEX,
        return_dtype=pl.Int64,
    )
    return mapped.fill_null(IGNORE_INDEX).to_numpy(writable=True)


def _row(column: pl.Series, value: Any) -> int:
    return int((column == value).arg_max())


def _in_order(values: Sequence[Any]) -> list[Any]:
    return sorted(values, key=lambda value: (as_number(value) is None, as_number(value) or 0, str(value)))
