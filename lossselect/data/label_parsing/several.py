"""The labels of several tasks: their settings, and their values in one array."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from lossselect.data.label_parsing.options import LabelOptions, Labels
from lossselect.exceptions import ConfigError, LossSelectError, OptionTypeError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.tasks.multitask import MultiTask
from lossselect.tasks.registry import TASKS, Task, make_task
from lossselect.tasks.task_names import naming_task
from lossselect.utils.checks import as_list, check_options, format_setting, shorten

OPTIONS = tuple(
    f.name for f in fields(LabelOptions) if f.name not in ("task", "fitted", "id", "handle_unknown")
)
"""Settings of the labels of one task, as in `LabelOptions`."""
SINGLE = tuple(name for name in OPTIONS if name not in ("class_names", "missing"))
"""Settings of the labels that make sense for one task only."""
TASK_OPTIONS = ("threshold", "min_labels", "top_k", "ordinal")
"""Settings of one task, as of `make_task`."""


@dataclass(frozen=True)
class Target:
    """The labels of one of several tasks.

    Args:
        columns: The columns, or the arrays of a file, that contain them.
        listed: Whether the user set a list of columns.
        options: Their settings.
        task: Settings of the task, as arguments of `make_task`.
    """

    columns: tuple[str, ...]
    listed: bool
    options: LabelOptions
    task: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MultiLabels:
    """The labels of several tasks.

    Args:
        parts: The labels of each task.
        multitask: The tasks with their classes.
    """

    parts: Mapping[str, Labels]
    multitask: MultiTask
    task: str = MultiTask.name
    vocabulary: None = None

    @property
    def values(self) -> np.ndarray:
        """The labels of all tasks, as `MultiTask.encode_tensor` returns them."""
        return self.multitask.encode_tensor({n: dense(p.values) for n, p in self.parts.items()}).numpy()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of all outputs, such as "species: cat"."""
        return self.multitask.names

    @property
    def reason(self) -> str:
        """The reasons for inferred tasks."""
        return "; ".join(
            f"{name} is {part.task} ({part.reason})" for name, part in self.parts.items() if part.reason
        )

    @property
    def strata(self) -> np.ndarray:
        """0/1 (N, outputs), by which rows are stratified; NaN where missing."""
        return self.multitask.strata(self.values)


@dataclass(frozen=True)
class MultiOptions:
    """The settings of the labels of several tasks, like `LabelOptions` of one.

    Args:
        targets: The labels of each task.
        fitted: The training labels, whose classes the labels of other files must have; None to fit them.
    """

    targets: Mapping[str, Target]
    fitted: MultiLabels | None = None
    task: str = MultiTask.name
    class_names: None = None
    id: None = None
    empty: None = None

    def with_fitted(self, labels: MultiLabels) -> "MultiOptions":
        """Return the settings for the labels of other files, whose classes are those of `labels`."""
        targets = {
            name: replace(target, options=target.options.with_fitted(labels.parts[name]))
            for name, target in self.targets.items()
        }
        return replace(self, targets=targets, fitted=labels)

    def check_unused(self, names: Sequence[str], form: str) -> None:
        """Do nothing: the settings of each task are checked when its labels are parsed."""

    def delimited(self, columns: Sequence[str]) -> list[str]:
        """Return the columns whose cells are read as written, such as 1,2."""
        return [name for target in self.targets.values() for name in target.options.delimited(target.columns)]

    def parse(self, parse: Callable[[Target], Labels]) -> MultiLabels:
        """Return the labels of all tasks; `parse` returns those of one."""
        parts, tasks = {}, {}
        for name, target in self.targets.items():
            with _naming_settings(name):
                parts[name] = labels = parse(target)
                tasks[name] = make_fitted_task(labels, target.task)
        return MultiLabels(parts, MultiTask(tasks))


@contextmanager
def _naming_settings(name: str) -> Iterator[None]:
    """Rewrite the message of an error about the labels of a task, so that it names settings of this task."""
    try:
        with naming_task(name):
            yield
    except LossSelectError as error:
        if re.fullmatch(r"[^\W\d]\w*", name):  # other names cannot be part of a key on the command line
            error.args = (_rename_settings(error.args[0], name), *error.args[1:])
        raise


def _rename_settings(text: str, name: str) -> str:
    """Replace settings of a single task, such as data.empty=missing, by ++data.targets.NAME.empty=missing."""
    own = f"data.targets.{name}."
    text = re.sub(rf"\bdata\.({'|'.join(OPTIONS)})\b", rf"{own}\1", text)
    text = re.sub(r"\bdata\.target\b", f"{own}column", text)
    text = re.sub(rf"\btask=({'|'.join(TASKS)})\b", rf"{own}task=\1", text)
    # the plus signs add keys that data.targets lacks; a setting to be removed is written without them
    return re.sub(rf'((?:[Ss]et|or|and) "?| ")({re.escape(own)}\w+=)', r"\1++\2", text)


AnyOptions = LabelOptions | MultiOptions
"""The settings of the labels of one task or of several."""
AnyLabels = Labels | MultiLabels
"""The labels of one task or of several."""


def make_fitted_task(labels: Labels, options: Mapping[str, Any]) -> Task:
    """Return the task of parsed labels."""
    sized = TASKS[labels.task].is_sized()
    width = len(labels.class_names) if sized else None
    return make_task(labels.task, width, labels.class_names, **options)


def dense(values: Any) -> Any:
    """Return labels as an array or a tensor."""
    return values.to_dense() if isinstance(values, SparseLabels) else values


def join(parts: Sequence[MultiLabels]) -> np.ndarray:
    """Return the values of several files in one array."""
    arrays = [part.values for part in parts]
    if len({array.dtype.kind for array in arrays}) > 1:  # some files have soft labels
        arrays = [
            p.multitask.strata(a) if a.dtype.kind == "i" else a for p, a in zip(parts, arrays, strict=True)
        ]
    return np.concatenate(arrays)


def check_shared(options: LabelOptions) -> None:
    """Raise ConfigError for a setting of the labels of all tasks that belongs to those of one."""
    if options.id is not None:
        raise ConfigError(
            "data.id requires the labels of one task. Write the table with one row for each sample."
        )
    for name in SINGLE:
        if options.is_set(name):
            value = format_setting(f"++data.targets.NAME.{name}", getattr(options, name))
            raise ConfigError(
                f"data.{name} is a setting of one task. For each task that needs it, set {value}."
            )


def read_targets(
    targets: Any, target: Any, make: Callable[[Mapping[str, Any], str], LabelOptions]
) -> dict[str, Target]:
    """Return the labels of each task from the settings data.targets, or data.target.

    Args:
        targets: The settings of the labels of each task by its name: `task`, `column` (by default the name),
            settings of the labels such as `delimiter`, and of the task such as `ordinal`.
        target: Names of columns, each with the labels of a task, which is inferred unless `targets` has it.
        make: Makes the options of labels from settings and the name of the task.

    Raises:
        ConfigError: fewer than two tasks, a task whose column is not in `target`, or an unknown setting.
        OptionTypeError: a setting of the wrong type.
    """
    if not isinstance(targets, Mapping | None):
        raise OptionTypeError(
            f"data.targets must be a mapping such as {{species: {{task: multiclass}}}}, got {targets!r}."
        )
    if target is not None:
        names = [str(name) for name in as_list(target)]
        if other := next((str(name) for name in targets or () if str(name) not in names), ""):
            raise ConfigError(
                f"data.targets has settings of {other!r}, but data.target={shorten(names)} does not contain "
                "it. Add it to data.target, or remove data.target."
            )
        targets = {**dict.fromkeys(names), **{str(name): entry for name, entry in (targets or {}).items()}}
    if not targets or len(targets) < 2:
        raise ConfigError(
            "task=several requires the columns of at least two tasks. Set data.target=[species,sick], or "
            "data.targets={species: {task: multiclass}, sick: {task: binary}}."
        )
    found = {}
    for name, given in targets.items():
        entry = {} if given is None else given
        if not isinstance(entry, Mapping):
            raise OptionTypeError(
                f"data.targets.{name} must be a mapping such as {{task: multiclass}}, got {given!r}."
            )
        check_options(entry, ["task", "column", *OPTIONS, *TASK_OPTIONS], f"data.targets.{name}")
        column = entry.get("column", name)
        columns = tuple(str(part) for part in as_list(column))
        if not columns:
            raise ConfigError(f"data.targets.{name}.column must name a column, got {column!r}.")
        options = {key: value for key, value in entry.items() if key in OPTIONS and value is not None}
        task = {key: value for key, value in entry.items() if key in TASK_OPTIONS and value is not None}
        with _naming_settings(str(name)):
            made = make(options, entry.get("task") or "auto")
        found[str(name)] = Target(columns, not isinstance(column, str), made, task)
    return found
