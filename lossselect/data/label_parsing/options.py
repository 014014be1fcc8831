"""The settings of the labels, the labels that are parsed by them, and which of these are missing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import polars as pl

from lossselect.data.preprocessing.columns import set_null
from lossselect.exceptions import ConfigError, DataError, UnseenLabelError
from lossselect.labels.values import as_number
from lossselect.labels.vocabulary import Vocabulary
from lossselect.tasks.registry import TASKS
from lossselect.utils.checks import lookup


@dataclass(frozen=True)
class LabelOptions:
    """The settings of the labels.

    Args:
        task: A name of `TASKS`, or "auto".
        class_names: The order of the classes, or names for 0 to C - 1.
        positive: Binary: the label of the positive class.
        delimiter: Multilabel: the text between the labels of a cell.
        missing: Labels that mean "missing", in addition to empty cells.
        empty: What an empty cell of delimited labels is: "negative" (no label) or "missing".
        handle_unknown: How a label that no train row has is treated: "error", or "ignore" (missing).
        fitted: The labels of the train split, whose classes other files have; None to find the classes.
    """

    task: str
    class_names: Sequence[str] | None = None
    positive: str | int | bool | None = None
    delimiter: str | None = None
    missing: tuple[Any, ...] = ()
    empty: str | None = None
    handle_unknown: str = "error"
    fitted: "Labels | None" = None

    def __post_init__(self) -> None:
        lookup({**TASKS, "auto": None}, self.task, "task")
        lookup(dict.fromkeys(("error", "ignore")), self.handle_unknown, "data.handle_unknown")
        if self.empty is not None:
            lookup(dict.fromkeys(("negative", "missing")), self.empty, "data.empty")
            if self.delimiter is None:
                raise ConfigError("data.empty is for cells of delimited labels: say data.delimiter too.")
        if self.delimiter == "":
            raise ConfigError("The delimiter must be a string such as '|', got ''.")
        if self.delimiter is not None and self.kind not in ("multilabel", "auto"):
            raise ConfigError(
                f"data.delimiter has no effect on task={self.task}, which has one label a row. Several: "
                "task=multilabel."
            )
        if self.positive is not None and self.kind not in ("binary", "auto"):
            raise ConfigError(f"data.positive has no effect on task={self.task}: it is for task=binary.")

    @property
    def kind(self) -> str:
        """The kind of labels that the task has (`Task.kind`), or "auto"."""
        return self.task if self.task == "auto" else TASKS[self.task].kind

    def resolve_task(self, inferred: str) -> str:
        """Return the task that is declared, or under task=auto the inferred one."""
        return inferred if self.task == "auto" else self.task

    def replace_missing(self, column: pl.Series) -> pl.Series:
        """Return the labels with null in place of the markers: -1 matches "-1" and "-1.0" too."""
        values = column.unique().drop_nulls() if self.missing else ()
        return set_null(column, [value for value in values if is_marker(value, self.missing)])


@dataclass(frozen=True)
class Labels:
    """Labels of all rows for the task's `encode`, or `SparseLabels`.

    `reason` says why the task was inferred; `vocabulary` is None if labels did not become indices by one.
    """

    task: str
    reason: str
    values: Any
    class_names: tuple[str, ...]
    vocabulary: Vocabulary | None


def is_marker(value: Any, markers: Sequence[Any]) -> bool:
    """Return whether a label is one of the markers, as text or as a number."""
    text, number = str(value), as_number(value)
    return any(
        text == str(marker)
        or (number is not None and number == as_number(marker))
        or (marker != marker and text.lower() == "nan")  # YAML reads the name NaN as a number
        for marker in markers
    )


@contextmanager
def name_column(name: str, fix: str, fixed: type[DataError] = UnseenLabelError) -> Iterator[None]:
    """Name the column in errors about its labels without a row; add `fix` to those of the type `fixed`."""
    try:
        yield
    except DataError as error:
        if error.column is None:
            error.args, error.column = (f"Column {name!r}: {error}",), name
        raise (error.add(fix) if isinstance(error, fixed) else error) from None
