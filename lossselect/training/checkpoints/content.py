"""The content of a checkpoint: plain values and tensors, read without executing any code."""

import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossselect.exceptions import CheckpointError, FileMissingError, OptionTypeError
from lossselect.losses.loss import Loss
from lossselect.losses.multi_loss import MultiLoss
from lossselect.models.stored_weights import COPY, check_backed
from lossselect.tasks.registry import AnyTask, as_any_task
from lossselect.tasks.task_names import naming_task
from lossselect.training.checkpoints.validation import LOAD_WEIGHTS, check_content
from lossselect.utils.atomic_write import atomic_write, check_regular_file
from lossselect.utils.checks import shorten, suggestion

_NOT_PLAIN = "it contains more than tensors and plain values"
_LEAVE_OUT = (
    "Use another file. To train again, save with save_weights_only=True, or leave the object out of what the "
    "scheduler, the callback or the module saves."
)
_FOREIGN = "it was not written by torch.save, or it is truncated"

RESULTS = (".csv", ".html", ".json", ".yaml")
"""Suffixes of the files in a run folder that are not models."""


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Return the best checkpoint of a run, given by its folder or one of its files; others unchanged."""
    path = Path(path)
    folder = path.parent if path.suffix in RESULTS and path.is_file() else path
    places = (folder / "checkpoints" / "best.ckpt", folder / "best.ckpt")
    return next((best for best in places if best.is_file()), path)


def read_best_checkpoint(path: str | os.PathLike[str], map_location: Any = "cpu") -> dict[str, Any]:
    """Return the content of a checkpoint, or of the best one of a run folder; see `read_checkpoint`."""
    return read_checkpoint(find_checkpoint(path), map_location)


def read_checkpoint(path: str | os.PathLike[str], map_location: Any = "cpu") -> dict[str, Any]:
    """Return the content of a checkpoint of a `TaskModule`, without executing any code in it."""
    path = Path(path)
    check_regular_file(path)
    if not path.is_file():
        raise FileMissingError(f"Checkpoint not found: {path}.{_suggest_files(path)}")
    _check_sums(path)
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        raise _unreadable(path, _find_cause(error)) from None
    if not isinstance(content, dict) or "task" not in content or "arguments" not in content:
        raise CheckpointError(
            f"{path} was written by torch.save, but it is not a checkpoint of a lossselect.TaskModule. "
            f"{LOAD_WEIGHTS}"
        )
    check_backed(content, path)
    check_content(content, path)
    return content


def _find_cause(error: Exception) -> str:
    """Return why torch.load cannot read a file, without torch's advice to load it unsafely."""
    if unsafe := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"{_NOT_PLAIN}, for example {unsafe[1]}"
    if not isinstance(error, RuntimeError | pickle.UnpicklingError):
        return _FOREIGN
    cause = re.split(r"\n|\. ", str(error))[0]
    return _FOREIGN if not cause or cause.startswith("Weights only load failed") else cause


def _unreadable(path: Path, cause: str) -> CheckpointError:
    problem = f"{path} ({path.stat().st_size} bytes) cannot be read as a checkpoint: {cause.rstrip('.')}."
    return CheckpointError(f"{problem} {_LEAVE_OUT if cause.startswith(_NOT_PLAIN) else COPY}")


def _suggest_files(path: Path) -> str:
    if not path.is_dir():
        return suggestion(str(path), [str(file) for file in path.parent.glob("*.ckpt")])
    patterns = ("*.ckpt", "checkpoints/*.ckpt", "*/checkpoints/best.ckpt")  # the last: folds and repeats
    files = [str(file) for pattern in patterns for file in sorted(path.glob(pattern))]
    return " This is a folder" + (f". It contains {shorten(files, 4)}." if files else " without checkpoints.")


def _check_sums(path: Path) -> None:
    """Raise a CheckpointError if a part of the file does not match its checksum, which torch.load ignores."""
    try:
        file = zipfile.ZipFile(path)
    except Exception:  # not a zip file, or a damaged one
        raise _unreadable(path, _FOREIGN) from None
    with file:
        try:  # headers first: the checksum of a compressed part could take arbitrarily long
            damaged = _find_malformed_part(file.infolist(), path.stat().st_size) or file.testzip()
        except Exception:  # a changed header contains an invalid method, size or offset
            damaged = "(zip directory)"
    if damaged is not None:
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is damaged: its part {damaged} has changed since it was "
            "written (checksum). Use another checkpoint, or an intact copy."
        )


def _find_malformed_part(parts: list[zipfile.ZipInfo], size: int) -> str | None:
    """Return the name of the first part whose header torch.save would not write, in a file of `size` bytes.

    Compressed or overlapping parts may expand to any size, and torch.load reads a folder as uninitialised
    memory.
    """
    end = 0
    for part in sorted(parts, key=lambda part: part.header_offset):
        stored = part.compress_type == zipfile.ZIP_STORED and part.compress_size == part.file_size
        is_folder = part.external_attr & 0x10
        start, previous_end, end = part.header_offset, end, part.header_offset + part.file_size
        if not stored or is_folder or start < previous_end or end > size:
            return part.filename
    return None


def add_module_state(module: Any, checkpoint: dict[str, Any]) -> None:
    """Add to a checkpoint all that is required to rebuild a `TaskModule`, and make its values loadable."""
    checkpoint |= {
        "task": module.task.to_dict(),
        "class": type(module).__name__,
        "class_module": type(module).__module__,
        "counts": module._label_counts.to_dict() if module._label_counts else None,
        "base_task": module._base_task.to_dict() if module._base_task else None,
        "loss": module.criterion.to_dict() if isinstance(module.criterion, Loss | MultiLoss) else None,
        "arguments": module._arguments,
        "not_plain": module._not_plain,
        "buffers": [plain_name(name) for name, _ in module.named_buffers(remove_duplicate=False)],
    }
    weights = checkpoint["state_dict"]
    checkpoint["state_dict"] = match_names(weights, map(plain_name, weights))
    for key in checkpoint.keys() - {"state_dict", "arguments"}:
        checkpoint[key] = numpy_to_torch(checkpoint[key])
    # nothing reads these; save_hyperparameters may add arbitrary objects and OmegaConf's type
    for prefix in ("", "datamodule_"):
        checkpoint.pop(f"{prefix}hparams_type", None)
        if (key := f"{prefix}hyper_parameters") in checkpoint:
            checkpoint[key] = plain_entries(checkpoint[key])
    hparams = checkpoint.get("hyper_parameters", {})
    for name, task in module._task_arguments.items():
        if isinstance(hparams.get(name), Mapping):
            hparams[name] = _class_and_arguments(task)


def _class_and_arguments(task: AnyTask) -> dict[str, Any]:
    """Return a task in the form in which LightningCLI reads an object from the hparams of a checkpoint."""
    values = vars(task)
    changed: dict[str, Any] = {}
    for field in fields(task):
        if field.name == "tasks":
            changed["tasks"] = {name: _class_and_arguments(part) for name, part in task.tasks.items()}
        elif values[field.name] != field.default:
            changed[field.name] = to_plain(values[field.name])
    return {"class_path": f"{type(task).__module__}.{type(task).__qualname__}", "init_args": changed}


def plain_name(name: str) -> str:
    """Return the name of a parameter without the part that torch.compile adds."""
    return name.replace("_orig_mod.", "")


def match_names(weights: Mapping[str, Any], names: Iterable[str]) -> Mapping[str, Any]:
    """Return weights with the names of a module, whether or not a net in either is compiled."""
    known = {plain_name(name): name for name in names}
    renamed = {name: known.get(plain_name(name), name) for name in weights}
    if all(old == new for old, new in renamed.items()):
        return weights
    return {renamed[name]: weight for name, weight in weights.items()}


def save_decision(path: str | os.PathLike[str], content: dict[str, Any], module: Any) -> None:
    """Write a checkpoint with the module's task, whose decision has been tuned since `content` was saved."""
    base = module._base_task
    content |= {"task": module.task.to_dict(), "base_task": base and base.to_dict()}
    with atomic_write(Path(path)) as temporary:
        torch.save(content, temporary)


def check_same_task(checkpoint: Mapping[str, Any], task: AnyTask) -> None:
    """Raise a CheckpointError if a checkpoint was trained for another task, or for other classes."""
    if "task" not in checkpoint:
        raise CheckpointError("This is not a checkpoint of a lossselect.TaskModule: it contains no task.")
    trained = as_any_task(checkpoint["task"])
    if str(trained) != str(task):
        raise CheckpointError(
            f"The checkpoint was trained for {trained}, but the task is {task}. Use the same task and data, "
            "or another checkpoint or run folder."
        )
    if trained.learns_weights != task.learns_weights:
        has, learned = ("learned", "set") if trained.learns_weights else ("set", "learned")
        raise CheckpointError(
            f"The checkpoint's weights of tasks are {has}, but the weights of this run are {learned}. Use "
            "the same task.weights, or another checkpoint or run folder."
        )
    for name, part in trained.tasks.items():
        other = task.tasks[name]
        if part.class_names and other.class_names and part.class_names != other.class_names:
            with naming_task(name):
                raise CheckpointError(
                    f"The checkpoint's class names are {list(part.names)}, but the task's are "
                    f"{list(other.names)}. Use the same data, or another checkpoint or run folder."
                )


# --- plain values


def to_plain(value: Any) -> Any:
    """Convert to tensors, None, bool, int, float, str, list, tuple and dict, or raise OptionTypeError."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, AnyTask | Loss):
        return to_plain(value.to_dict())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Enum) and isinstance(value, int | float | str):
        return value.value  # equal to the member
    if hasattr(value, "tolist"):
        return to_plain(value.tolist())  # arrays and NumPy scalars; np.float64 is a float
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is dict or (isinstance(value, Mapping) and not isinstance(value, dict)):
        return {_plain_key(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(to_plain(entry) for entry in value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | tuple):
        return [to_plain(entry) for entry in value]
    raise OptionTypeError(f"{type(value).__name__} is not a plain value")


def _plain_key(key: Any) -> Any:
    if isinstance(key := to_plain(key), Tensor | tuple):
        raise OptionTypeError(f"{type(key).__name__} cannot be a key of a plain dict")
    return key


def plain_entries(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that can be converted to plain ones, by name."""
    plain = {}
    for name, value in values.items():
        with suppress(TypeError):
            if not isinstance(value, np.ndarray):  # 2 * list differs from 2 * array
                plain[name] = to_plain(value)
    return plain


def numpy_to_torch(value: Any) -> Any:
    """Convert NumPy scalars and arrays in a state, which would not load, to Python numbers and tensors."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(value.copy())
    if type(value) is dict:
        return {numpy_to_torch(key): numpy_to_torch(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(numpy_to_torch, value))
    return value
