"""Checkpoints hold tensors and plain values alone, and are read as nothing else."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .criterion import Loss
from .tasks import Task, make_task


def plain(value: Any) -> Any:
    """`value` in None, bool, int, float, str, list, tuple and dict alone.

    Raises:
        TypeError: it cannot be said in those: a net, a function.
    """
    if hasattr(value, "tolist"):
        return plain(value.tolist())  # tensors, arrays, and NumPy's scalars, which pass for floats
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Task | Loss):
        return plain(value.to_dict())
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(entry) for entry in value)
    if isinstance(value, Sequence):
        return [plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not a plain value")


def plain_arguments(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The arguments that can be kept as plain values, and the names of those that cannot."""
    kept, lost = {}, []
    for name, value in arguments.items():
        try:
            kept[name] = plain(value)
        except TypeError:
            lost.append(name)
    return kept, lost


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A checkpoint's content, with tensors on the CPU and nothing in it executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint of a `TaskModule`, is cut short, or holds more than
            tensors and plain values; says path, size and cause.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as a checkpoint: {cause}"
        ) from None
    if not isinstance(content, dict) or "task" not in content or "hyper_parameters" not in content:
        raise ValueError(f"{path} is a file of torch, but no checkpoint of a lossselect.TaskModule.")
    return content


def check_same_task(checkpoint: Mapping[str, Any], task: Task) -> None:
    """ValueError where the checkpoint was trained for another task, or for other classes."""
    if "task" not in checkpoint:
        raise ValueError("The checkpoint is none of a lossselect.TaskModule: it names no task.")
    trained = make_task(**checkpoint["task"])
    same = trained.name == task.name and trained.num_outputs == task.num_outputs
    if not same:
        raise ValueError(
            f"The checkpoint was trained for {trained.describe()}, but the task is {task.describe()}."
        )
    if trained.class_names and task.class_names and trained.class_names != task.class_names:
        raise ValueError(
            f"The checkpoint's class names are {list(trained.names)}, but the task's are {list(task.names)}."
        )
