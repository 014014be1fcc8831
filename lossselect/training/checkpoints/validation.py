"""What a checkpoint must hold to be loaded: the one place that checks its structure. See `resumable` as well.

Everything here looks at types, keys and sizes. Values are checked where they are used: a task by `make_task`,
a loss by `Loss`.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lossselect.exceptions import CheckpointError
from lossselect.models.stored_weights import check_finite, check_outputs
from lossselect.tasks.registry import Task, make_task
from lossselect.utils.structure import OptionalOf, describe_value, find_mismatch

NUMBER = (int, float, Tensor)

COUNTS = {
    "rows": int,
    "positives": [NUMBER],
    "negatives": [NUMBER],
    "missing": int,
    "single": bool,
    "mass": [NUMBER],
    "soft": bool,
}
LOADED = {
    "task": {"name": str},
    "class": str,
    "arguments": dict,
    "not_plain": [str],
    "loss": OptionalOf({"name": str}),
    "base_task": OptionalOf({"name": str}),
    "counts": OptionalOf(COUNTS),
    "buffers": [str],
    "TensorData": dict,
    "global_step": int,
    "epoch": int,
    "pytorch-lightning_version": str,
}
"""Structures of optional parts; `state_dict` is checked separately."""
NEEDED = ("task", "class", "arguments", "not_plain", "loss", "state_dict")
"""To load a module."""


def raise_damaged(path: Any, what: str | None) -> None:
    """Raise a ValueError that names the file, if something is wrong with it."""
    if what:
        raise _damaged(path, what)


def _damaged(path: Any, what: str) -> ValueError:
    return CheckpointError(f"{path} is damaged: {what}. Take another checkpoint, or a copy of this one.")


def check_content(content: Mapping[str, Any], path: Any) -> None:
    """Raise a ValueError if a part of a checkpoint has another structure than `keep` has given it.

    Args:
        content: As torch.load returns it. Parts that are not there are not looked at: see `check_loadable`.
        path: Of the file, for messages.
    """
    for key, structure in LOADED.items():
        if key in content:
            raise_damaged(path, find_mismatch(content[key], structure, key))
    task = _task(content["task"], "task", path)
    if content.get("base_task") is not None:
        base_task = _task(content["base_task"], "base_task", path)
        if str(base_task) != str(task):
            raise_damaged(path, f"its task is {task}, but its task before tuning is {base_task}")
    weights = content.get("state_dict", {})
    raise_damaged(path, find_mismatch(weights, {}, "state_dict"))
    for name, value in weights.items():
        # what a module's get_extra_state returns may be anything
        if not isinstance(name, str) or not (isinstance(value, Tensor) or name.endswith("_extra_state")):
            raise_damaged(path, f"state_dict[{name!r}] must be a tensor, got {describe_value(value)}")
    if weights:
        check_outputs(task.num_outputs, weights, path)
        check_finite(weights, set(content.get("buffers", ())), path)


def _task(values: Mapping[str, Any], place: str, path: Any) -> Task:
    try:
        return make_task(**values)
    except (ValueError, TypeError, OverflowError) as error:
        raise _damaged(path, f"no task can be made of its {place!r}: {str(error).rstrip('.')}") from None


def check_loadable(content: Mapping[str, Any], path: Any) -> None:
    """Raise a ValueError if a checkpoint lacks a part that a module is built from."""
    lacking = [key for key in NEEDED if key not in content]
    if lacking:
        raise_damaged(path, f"it lacks {', '.join(map(repr, lacking))}, which a module is built from")
