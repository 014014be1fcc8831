"""The settings of the labels, the parsed labels, and the markers of missing labels."""

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
        delimiter: Multilabel: the text that separates the labels of a cell.
        missing: Labels that mean "missing", in addition to empty cells.
        empty: Meaning of an empty cell of delimited labels: "negative" (no label) or "missing".
        handle_unknown: Treatment of a label that no training row has: "error", or "ignore" (missing).
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
    fitted: "Labels | None" = None

    def __post_init__(self) -> None:
        lookup({**TASKS, "auto": None}, self.task, "task")
        lookup(dict.fromkeys(("error", "ignore")), self.handle_unknown, "data.handle_unknown")
        if self.empty is not None:
            lookup(dict.fromkeys(("negative", "missing")), self.empty, "data.empty")
            if self.delimiter is None:
                raise ConfigError(
                    "data.empty applies to cells of delimited labels, but data.delimiter is not set. Set "
                    "both, or remove data.empty."
                )
        if self.delimiter == "":
            raise ConfigError("data.delimiter must be a non-empty string such as '|', got ''.")
        if self.delimiter is not None and self.kind not in ("multilabel", "auto"):
            raise ConfigError(
                f"data.delimiter cannot be combined with task={self.task}, which has one label per row. "
                "Remove it. If rows have several labels, set task=multilabel."
            )
        if self.positive is not None and self.kind not in ("binary", "auto"):
            raise ConfigError(
                f"data.positive cannot be combined with task={self.task}. Remove it, or set task=binary."
            )

    @property
    def kind(self) -> str:
        """The kind of the task's labels (`Task.kind`), or "auto"."""
        return self.task if self.task == "auto" else TASKS[self.task].kind

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

    `reason` explains the inferred task; `vocabulary` is None if the labels did not need one.
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
    """Add the column to errors that do not name one, and the sentence `fix` to errors of the type `fixed`."""
    try:
        yield
    except DataError as error:
        if error.column is None:
            error.args, error.column = (f"Column {name!r}: {error}",), name
        raise (error.add(fix) if isinstance(error, fixed) else error) from None
