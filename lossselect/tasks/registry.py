"""Registry of the classification tasks, which imply head, target, activation and decision."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.labels.values import IGNORE_INDEX
from lossselect.tasks.base import Task
from lossselect.tasks.binary import Binary
from lossselect.tasks.multiclass import Multiclass
from lossselect.tasks.multilabel import Multilabel
from lossselect.tasks.multitask import MultiTask
from lossselect.utils.checks import check_options, lookup, shorten

__all__ = [
    "IGNORE_INDEX",
    "TASKS",
    "AnyTask",
    "Binary",
    "MultiTask",
    "Multiclass",
    "Multilabel",
    "Task",
    "as_any_task",
    "as_task",
    "make_task",
]

TASKS: dict[str, type[Task]] = {"binary": Binary, "multiclass": Multiclass, "multilabel": Multilabel}
"""Tasks by name."""
AnyTask = Task | MultiTask
"""One task or several, which answer the same questions."""


def make_task(
    name: str, num_outputs: int | None = None, class_names: Sequence[str] | None = None, **options: Any
) -> Task:
    """Create a task by name, for example from a config or a checkpoint.

    Args:
        name: "binary", "multiclass" or "multilabel".
        num_outputs: Number of classes or labels, 1 for binary; by default the number of class names.
        class_names: Names of the classes or labels.
        **options: Other arguments of the task: `missing`, `threshold`, `temperature`, `ordinal`, ...

    Raises:
        ConfigError: an unknown name or option, or an invalid number of outputs.
        OptionTypeError: an argument of the wrong type.

    Example:
        >>> make_task("multilabel", num_outputs=14).num_outputs
        14
    """
    if name == MultiTask.name:
        raise ConfigError('For several tasks, call lossselect.MultiTask({"species": make_task(...), ...}).')
    cls = lookup(TASKS, name, "task")
    width = cls._width_field
    check_options(options, [field.name for field in fields(cls)], f"task={name}")
    if width is None:
        if num_outputs not in (None, 1):
            raise ConfigError(
                f"task={name} has one output, for the positive class, got num_outputs={num_outputs}. For one "
                "of several classes, set task=multiclass."
            )
    elif options.setdefault(width, num_outputs) is None:
        if class_names is None:
            raise ConfigError(f"task={name} requires num_outputs or class_names.")
        options[width] = len(class_names)
    elif num_outputs not in (None, options[width]):
        raise ConfigError(f"num_outputs={num_outputs} contradicts {width}={options[width]}. Remove one.")
    return cls(class_names=class_names, **options)


def as_task(task: Task | Mapping[str, Any]) -> Task:
    """Return a task unchanged, or create it from the plain values of a checkpoint."""
    if isinstance(task, Task):
        return task
    if isinstance(task, Mapping) and "name" in task:
        return make_task(**task)
    if isinstance(task, MultiTask):
        raise OptionTypeError(
            f"Expected one task, got several: {shorten([*task.tasks])}. Call the function for each of them, "
            f"such as task.tasks[{next(iter(task.tasks))!r}]."
        )
    if isinstance(task, Mapping) and any(isinstance(part, Task) for part in task.values()):
        raise OptionTypeError("task is a mapping of tasks. Pass lossselect.MultiTask(task).")
    raise OptionTypeError(
        f"task must be a task such as lossselect.Multilabel(14), got {task!r}. "
        "To create one by name, call lossselect.make_task(name, num_outputs=...)."
    )


def as_any_task(task: AnyTask | Mapping[str, Any]) -> AnyTask:
    """Return one or several tasks unchanged, or create them from the plain values of a checkpoint."""
    if isinstance(task, MultiTask):
        return task
    if isinstance(task, Mapping) and task.get("name") == MultiTask.name:
        check_options(task, ["name", "tasks", "weights"], f"task={MultiTask.name}")
        parts = task.get("tasks")
        tasks = {n: as_task(part) for n, part in parts.items()} if isinstance(parts, Mapping) else parts
        return MultiTask(tasks, task.get("weights"))  # type: ignore[arg-type]
    return as_task(task)
