"""What a checkpoint must hold to be loaded; `resume_validation` checks what only a resumed run needs.

Everything here looks at types, keys and sizes. Values are checked where they are used: a task by `make_task`,
a loss by `Loss`.
"""

from collections.abc import Iterable, Mapping
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
    "state_dict": {},
}
"""Structures of the parts that may be present."""
REQUIRED = ("task", "class", "arguments", "not_plain", "loss", "state_dict")


def raise_damaged(path: Any, mismatches: Iterable[str | None]) -> None:
    """Raise a CheckpointError about the first mismatch, if there is any; the others are not computed."""
    if message := next(filter(None, mismatches), None):
        raise _damaged(path, message)


def _damaged(path: Any, message: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {message}. Take another checkpoint, or a copy of this one.")


def check_content(content: Mapping[str, Any], path: Any) -> None:
    """Raise a CheckpointError if a part of a checkpoint lacks the structure of `add_module_state`."""
    present = [key for key in LOADED if key in content]
    raise_damaged(path, (find_mismatch(content[key], LOADED[key], key) for key in present))
    task = _make_task(content, "task", path)
    if content.get("base_task") is not None:
        base_task = _make_task(content, "base_task", path)
        if str(base_task) != str(task):
            raise _damaged(path, f"its task is {task}, but its task before tuning is {base_task}")
    weights = content.get("state_dict", {})
    for name, value in weights.items():
        # a module's get_extra_state may return anything
        if not isinstance(name, str) or not (isinstance(value, Tensor) or name.endswith("_extra_state")):
            raise _damaged(path, f"state_dict[{name!r}] must be a tensor, got {describe_value(value)}")
    if weights:
        check_outputs(task.num_outputs, weights, path)
        check_finite(weights, set(content.get("buffers", ())), path)


def _make_task(content: Mapping[str, Any], key: str, path: Any) -> Task:
    try:
        return make_task(**content[key])
    except (ValueError, TypeError, OverflowError) as error:
        raise _damaged(path, f"no task can be made of its {key!r}: {str(error).rstrip('.')}") from None


def check_loadable(content: Mapping[str, Any], path: Any) -> None:
    """Raise a CheckpointError if a checkpoint lacks a part that a module is built from."""
    if missing := [repr(key) for key in REQUIRED if key not in content]:
        raise _damaged(path, f"it lacks {', '.join(missing)}, which a module is built from")
