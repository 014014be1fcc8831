"""The settings of the labels, and the labels that are parsed by them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lossselect.exceptions import ConfigError
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
    """

    task: str
    class_names: Sequence[str] | None = None
    positive: str | int | bool | None = None
    delimiter: str | None = None
    missing: tuple[Any, ...] = ()
    empty: str | None = None
    handle_unknown: str = "error"

    def __post_init__(self) -> None:
        lookup({**TASKS, "auto": None}, self.task, "task")
        lookup(dict.fromkeys(("error", "ignore")), self.handle_unknown, "data.handle_unknown")
        if self.empty is not None:
            lookup(dict.fromkeys(("negative", "missing")), self.empty, "data.empty")
            if self.delimiter is None:
                raise ConfigError("data.empty is for cells of delimited labels: say data.delimiter too.")
        if self.delimiter is not None and self.kind not in ("multilabel", "auto"):
            raise ConfigError(
                f"data.delimiter has no effect on task={self.task}, which has one label a row. Several: "
                "task=multilabel."
            )
        if self.positive is not None and self.kind not in ("binary", "auto"):
            raise ConfigError(
                f"data.positive has no effect on task={self.task}: binary has a positive class."
            )

    @property
    def kind(self) -> str:
        """The kind of labels that the task has (`Task.kind`), or "auto"."""
        return self.task if self.task == "auto" else TASKS[self.task].kind

    def resolve_task(self, inferred: str) -> str:
        """Return the task that is declared, or under task=auto the inferred one."""
        return inferred if self.task == "auto" else self.task


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
