"""The classification tasks: what each implies for head, target, activation and decision."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.labels.values import IGNORE_INDEX
from lossselect.tasks.base import Task
from lossselect.tasks.binary import Binary
from lossselect.tasks.multiclass import Multiclass
from lossselect.tasks.multilabel import Multilabel
from lossselect.utils.checks import check_options, lookup

__all__ = ["IGNORE_INDEX", "TASKS", "Binary", "Multiclass", "Multilabel", "Task", "as_task", "make_task"]

TASKS: dict[str, type[Task]] = {"binary": Binary, "multiclass": Multiclass, "multilabel": Multilabel}
"""Tasks by name."""


def make_task(
    name: str, num_outputs: int | None = None, class_names: Sequence[str] | None = None, **options: Any
) -> Task:
    """Return the task called `name`, as a config or a checkpoint names it.

    Args:
        name: "binary", "multiclass" or "multilabel".
        num_outputs: The number of classes or labels, 1 for binary; by default the number of class names.
        class_names, options: Arguments of the task: `missing`, `threshold`, `temperature`, `ordinal`, ...

    Raises:
        ValueError: an unknown name or option, a width that the task cannot have.

    Example:
        >>> make_task("multilabel", num_outputs=14).num_outputs
        14
    """
    cls = lookup(TASKS, name, "task")
    width = cls._width_field
    check_options(options, [field.name for field in fields(cls)], f"task={name}")
    if width is None:
        if num_outputs not in (None, 1):
            raise ConfigError(
                f"task={name} has one output, the positive class's, but num_outputs={num_outputs}. "
                "One of several classes: task=multiclass."
            )
    elif options.setdefault(width, num_outputs) is None:
        if class_names is None:
            raise ConfigError(f"task={name} needs num_outputs or class_names.")
        options[width] = len(class_names)
    elif num_outputs not in (None, options[width]):
        raise ConfigError(f"num_outputs={num_outputs} and {width}={options[width]} contradict each other.")
    return cls(class_names=class_names, **options)


def as_task(task: Task | Mapping[str, Any]) -> Task:
    """Return a task as it is, or the one that the plain values of a checkpoint describe."""
    if isinstance(task, Task):
        return task
    if isinstance(task, Mapping):
        return make_task(**task)
    raise OptionTypeError(
        f"task must be a task such as lossselect.Multilabel(14), got {task!r}. "
        "By name: lossselect.make_task(name, num_outputs=...)."
    )
