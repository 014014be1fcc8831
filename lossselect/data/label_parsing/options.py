"""The settings of the labels, the parsed labels, and the markers of missing labels."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import polars as pl

from lossselect.data.preprocessing.columns import set_null
from lossselect.exceptions import ConfigError, DataError, UnseenLabelError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.values import as_number
from lossselect.labels.vocabulary import Vocabulary
from lossselect.tasks.registry import TASKS
from lossselect.utils.checks import check_choice, format_setting, lookup

APPLIES_TO = {
    "positive": ("", ("binary",)),
    "delimiter": ("lists of labels", ("multilabel",)),
    "no_label": ("lists of labels", ("multilabel",)),
    "hierarchy": ("lists of labels", ("multilabel",)),
    "id": ("lists of labels", ("multilabel",)),
    "uncertain": ("one column for each label", ("multilabel",)),
    "counts": ("one column of votes for each class", ("multiclass",)),
    "annotators": ("one column for each annotator", ("binary", "multiclass")),
}
"""The form of the labels to which a setting applies, "" for any, and the kinds of tasks."""


@dataclass(frozen=True)
class LabelOptions:
    """The settings of the labels.

    Args:
        task: A name of `TASKS`, or "auto".
        class_names: The order of the classes, or names for 0 to C - 1.
        positive: Binary: the label of the positive class.
        delimiter: Multilabel: the text that separates the labels of a cell.
        missing: Labels that mean "missing", in addition to empty cells.
        empty: Meaning of an empty cell of several labels, or of one of several label columns: "negative" (no
            label) or "missing".
        handle_unknown: Treatment of a label that no training row has: "error", or "ignore" (missing).
        no_label: Words in a cell of labels that mean "no label", such as "No Finding".
        uncertain: Meaning of -1 in several label columns: "missing", "positive" or "negative".
        counts: Whether several columns contain the number of votes for each class.
        annotators: Combination of several columns with one class per annotator: "majority" or "mean".
        hierarchy: Multilabel: the text that separates a label from its ancestors, as in animal/cat.
        id: Multilabel: the column of ids, if a table has one row for each label.
        fitted: The training labels, whose classes the labels of other files must have; None to fit them.

    Raises:
        ConfigError: an unknown name, or settings that cannot be combined.
    """

    task: str
    class_names: Sequence[str] | None = None
    positive: str | int | bool | None = None
    delimiter: str | None = None
    missing: tuple[Any, ...] = ()
    empty: str | None = None
    handle_unknown: str = "error"
    no_label: tuple[Any, ...] = ()
    uncertain: str | None = None
    counts: bool = False
    annotators: str | None = None
    hierarchy: str | None = None
    id: str | None = None
    fitted: "Labels | None" = None

    def __post_init__(self) -> None:
        lookup({**TASKS, "auto": None}, self.task, "task")
        choices = {
            "empty": ("negative", "missing"),
            "uncertain": ("missing", "positive", "negative"),
            "annotators": ("majority", "mean"),
        }
        check_choice("data.handle_unknown", self.handle_unknown, ("error", "ignore"))
        for name, values in choices.items():
            if (value := getattr(self, name)) is not None:
                check_choice(f"data.{name}", value, values)
        for name in ("delimiter", "hierarchy"):
            if getattr(self, name) == "":
                raise ConfigError(f"data.{name} must be a non-empty string such as '|', got ''.")
        forms: dict[str, str] = {}
        for name in filter(self.is_set, APPLIES_TO):
            form, kinds = APPLIES_TO[name]
            if self.kind not in (*kinds, "auto"):
                fix = f"Remove it, or set task={' or task='.join(kinds)}."
                raise ConfigError(f"data.{name} cannot be combined with task={self.task}. {fix}")
            forms |= {form: name} if form else {}
        if len(forms) > 1:
            (form, name), (other_form, other) = [*forms.items()][:2]
            raise ConfigError(
                f"data.{name} applies to {form}, but data.{other} to {other_form}. Remove one of them."
            )
        self._check_words()

    def is_set(self, name: str) -> bool:
        """Return whether a setting differs from its default."""
        value = getattr(self, name)
        return bool(value) if name in ("counts", "no_label") else value is not None

    def _check_words(self) -> None:
        """Raise ConfigError for a word or a separator with two meanings."""
        if self.delimiter is not None and self.delimiter == self.hierarchy:
            raise ConfigError(
                f"data.delimiter and data.hierarchy are both {self.delimiter!r}, but the text between labels "
                "must differ from the text between a label and its ancestors. Change one of them."
            )
        if self.delimiter is not None and self.id is not None:
            raise ConfigError(
                "data.delimiter separates the labels of a cell, but with data.id each row has one label. "
                "Remove one of them."
            )
        others = {"data.missing": self.missing, "class_names": self.class_names or ()}
        for word in self.no_label:
            for setting, values in others.items():
                if is_marker(word, values):
                    raise ConfigError(
                        f"{word!r} means that a row has no label (data.no_label), but it is also in "
                        f"{setting}. Remove it from one of them."
                    )
        if self.uncertain is not None and is_marker(-1, self.missing):
            raise ConfigError(
                "-1 marks a missing label (data.missing), but data.uncertain also determines what it means. "
                "Remove one of them."
            )
        if self.annotators is not None and self.empty is not None:
            raise ConfigError(
                "data.empty cannot be combined with data.annotators: an empty cell is an annotator who did "
                "not answer. Remove data.empty."
            )

    def check_unused(self, names: Sequence[str], form: str) -> None:
        """Raise ConfigError if one of these settings is set, although the target has another form."""
        for name in names:
            if self.is_set(name):
                value = getattr(self, name)
                needed = (
                    "lists of labels or several label columns" if name == "empty" else APPLIES_TO[name][0]
                )
                raise ConfigError(
                    f"data.{name} applies to {needed}, but data.target is {form}. Remove "
                    f"{format_setting(f'data.{name}', value)}, or change data.target or the task."
                )

    @property
    def kind(self) -> str:
        """The kind of the task's labels (`Task.kind`), or "auto"."""
        return self.task if self.task == "auto" else TASKS[self.task].kind

    @property
    def were_lists(self) -> bool:
        """Return whether the training labels are known and are lists."""
        return self.fitted is not None and isinstance(self.fitted.values, SparseLabels)

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raise a DataError unless labels have the width of the training labels, if these are known."""
        if self.fitted is not None and (width := tuple(self.fitted.values.shape[1:])) != tuple(shape[1:]):
            expected = f"(N, {width[0]})" if width else "(N,)"
            raise DataError(
                f"Expected labels of shape {expected} as in training, got {tuple(shape)}. Save them in the "
                "same form."
            )

    def with_fitted(self, labels: "Labels") -> "LabelOptions":
        """Return the settings for the labels of other files, whose classes are those of `labels`."""
        return replace(self, task=labels.task, fitted=labels)

    def delimited(self, columns: Sequence[str]) -> list[str]:
        """Return the columns whose cells are read as written: labels such as 1,2 may be two labels."""
        return [*columns] if self.delimiter else []

    def resolve_task(self, inferred: str) -> str:
        """Return the declared task, or with task=auto the inferred one."""
        return inferred if self.task == "auto" else self.task

    def replace_missing(self, column: pl.Series) -> pl.Series:
        """Return the labels with null in place of the markers: -1 matches "-1" and "-1.0" too."""
        values = column.unique().drop_nulls() if self.missing else ()
        return set_null(column, [value for value in values if is_marker(value, self.missing)])


@dataclass(frozen=True)
class Labels:
    """Labels of all rows, as input of the task's `encode` or as `SparseLabels`.

    `reason` explains the inferred task; `vocabulary` is None if the labels did not need one. `notation` is
    "signs" for columns of 1 and -1, and "marks" for columns of x and empty cells.
    """

    task: str
    reason: str
    values: Any
    class_names: tuple[str, ...]
    vocabulary: Vocabulary | None
    notation: str = ""
    multitask: ClassVar[None] = None

    @property
    def strata(self) -> Any:
        """The labels by which rows are stratified."""
        return self.values

    @property
    def parts(self) -> "dict[str, Labels]":
        """The labels under the name ""; see `Task.tasks`."""
        return {"": self}


def is_marker(value: Any, markers: Sequence[Any]) -> bool:
    """Return whether a label is one of the markers, as text or as a number; true is not the number 1."""
    text, number = str(value), as_number(value)
    return any(
        text.lower() == str(marker).lower()
        if isinstance(value, bool) or isinstance(marker, bool)
        else text == str(marker)
        or (number is not None and number == as_number(marker))
        or (marker != marker and text.lower() == "nan")  # YAML reads the name NaN as a number
        for marker in markers
    )


@contextmanager
def name_column(name: str, fix: str, fixed: type[DataError] = UnseenLabelError) -> Iterator[None]:
    """Add the column to errors that do not name one, and the sentence `fix` to errors of the type `fixed`."""
    try:
        yield
    except DataError as error:
        if error.column is None:
            if error.place:
                error.place = ("row", "column")
            else:
                error.args = (f"Column {name!r}: {error}",)
            error.column = name
        raise (error.add(fix) if isinstance(error, fixed) else error) from None
