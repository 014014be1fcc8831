"""Checkpoints hold tensors and plain values alone, and are read as nothing else."""

import inspect
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from types import MethodType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from lossselect.exceptions import CheckpointError, FileMissingError, OptionTypeError
from lossselect.losses.loss import Loss
from lossselect.models.stored_weights import check_backed
from lossselect.tasks.registry import Task, make_task
from lossselect.training.checkpoints.validation import check_content
from lossselect.utils.atomic_write import atomic_write, check_regular_file
from lossselect.utils.checks import shorten, suggestion


def to_plain(value: Any) -> Any:
    """`value` in tensors, None, bool, int, float, str, list, tuple and dict alone.

    Raises:
        TypeError: it cannot be said in those: a net, a function.
    """
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Task | Loss):
        return to_plain(value.to_dict())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Enum) and isinstance(value, int | float | str):
        return value.value  # which equals it
    if hasattr(value, "tolist"):
        return to_plain(value.tolist())  # arrays, and NumPy's scalars, which pass for floats
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping) and not (isinstance(value, dict) and type(value) is not dict):
        return {_plain_key(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(to_plain(entry) for entry in value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | tuple):
        return [to_plain(entry) for entry in value]
    raise OptionTypeError(f"{type(value).__name__} is not a plain value")


def _plain_key(key: Any) -> Any:
    if isinstance(key := to_plain(key), Tensor | tuple):
        raise OptionTypeError(f"{type(key).__name__} is no key of plain values")
    return key


def plain_entries(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are plain, by name.

    An array is none on its own: as a list it would mean something else, 2 * array for one.
    """
    kept = {}
    for name, value in values.items():
        with suppress(TypeError):
            if not isinstance(value, np.ndarray):
                kept[name] = to_plain(value)
    return kept


class RecordsArguments:
    """Keeps, in `_arguments`, what its subclass was called with, and in `_not_plain` what cannot be kept.

    `save_hyperparameters` reads the variables of __init__ after it has run: changed ones, those that it
    passes on, and deep copies of nets. This is the call itself.
    """

    _arguments: dict[str, Any]
    _not_plain: list[str]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self._arguments, self._not_plain = {}, []
        try:
            bound = _signature(cls).bind(*args, **kwargs)
        except TypeError:
            return self  # __init__ will say it; copy.copy makes its objects without arguments
        arguments = _by_name(bound)
        self._arguments = plain_entries(arguments)
        self._not_plain = [name for name in arguments if name not in self._arguments]
        return self


def bind_arguments(cls: type, arguments: Mapping[str, Any]) -> inspect.BoundArguments:
    """The arguments, as `RecordsArguments` has kept them, as a call of `cls`.

    Raises:
        TypeError: `cls` does not take these arguments.
    """
    signature = _signature(cls)
    named = {name: value for name, value in arguments.items() if name in signature.parameters}
    if others := {name: value for name, value in arguments.items() if name not in named}:
        variadic = [p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
        if not variadic:
            raise OptionTypeError(f"got an unexpected keyword argument {next(iter(others))!r}")
        named[variadic[0]] = others
    call = inspect.BoundArguments(signature, OrderedDict(named))
    return signature.bind(*call.args, **call.kwargs)


def _signature(cls: type) -> inspect.Signature:
    return inspect.signature(MethodType(cls.__init__, cls))  # type: ignore[misc]


def _by_name(call: inspect.BoundArguments) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for name, value in call.arguments.items():
        variadic = call.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        named |= value if variadic else {name: value}
    return named


def numpy_to_torch(value: Any) -> Any:
    """The states of optimizers, callbacks and the like with Python's numbers for NumPy's, and tensors
    for arrays, which would not load."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(value.copy())
    if type(value) is dict:
        return {numpy_to_torch(key): numpy_to_torch(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(numpy_to_torch, value))
    return value


def read_checkpoint(path: str | os.PathLike[str], map_location: Any = "cpu") -> dict[str, Any]:
    """A checkpoint's content, of which nothing is executed.

    Args:
        path: The file.
        map_location: Where its tensors go, as in `torch.load`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint of a `TaskModule`, is cut short or damaged, or holds more
            than tensors and plain values; says path, size and cause.
    """
    path = Path(path)
    check_regular_file(path)
    if not path.is_file():
        raise FileMissingError(f"There is no checkpoint {path}.{_which_there_is(path)}")
    _check_sums(path)
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        cause = re.split(r"\n|\. ", str(error))[0] if isinstance(error, _INFORMATIVE) else ""
        if not cause or cause.startswith("Weights only load failed"):  # and what torch advises then
            cause = _FOREIGN
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            cause = f"it holds more than tensors and plain values, {found[1]} for one."
        raise _unreadable(path, cause) from None
    if not isinstance(content, dict) or "task" not in content or "arguments" not in content:
        raise CheckpointError(
            f"{path} is a file of torch, but no checkpoint of a lossselect.TaskModule (or of one whose "
            "on_save_checkpoint does not call super())."
        )
    check_backed(content, path)
    check_content(content, path)
    return content


_FOREIGN = "it was not written by torch.save, or is cut short."


def _unreadable(path: Path, cause: str) -> ValueError:
    return CheckpointError(f"{path} ({path.stat().st_size} bytes) cannot be read as a checkpoint: {cause}")


def _which_there_is(path: Path) -> str:
    """A hint at what may be meant."""
    if not path.is_dir():
        return suggestion(str(path), [str(found) for found in path.parent.glob("*.ckpt")])
    found = sorted(map(str, (*path.glob("*.ckpt"), *path.glob("checkpoints/*.ckpt"))))
    return " That is a folder" + (f", which has {shorten(found, 4)}." if found else ".")


def _check_sums(path: Path) -> None:
    """ValueError where a part of the file differs from the checksum that torch.save wrote with it.

    torch.load looks at none: a bit that has changed on the disk would be a weight that has changed. Headers
    come first: computing the checksum of a part that is compressed could take any time.
    """
    try:
        parts = zipfile.ZipFile(path)
    except Exception:  # no zip file, or none that can be read
        raise _unreadable(path, _FOREIGN) from None
    with parts:
        try:
            damaged = find_malformed_part(parts.infolist(), path.stat().st_size) or parts.testzip()
        except Exception:  # a changed header leads elsewhere, to a method or a size that cannot be
            damaged = "list"
    if damaged is not None:
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is damaged: its part {damaged} is not what was written "
            "(checksum). Take another checkpoint, or a copy of this one."
        )


FOLDER = 0x10
"""An attribute of a part of a zip file."""


def find_malformed_part(parts: list[zipfile.ZipInfo], size: int) -> str | None:
    """The first part with a header that torch.save does not write.

    Parts are stored as they are. One that is compressed may expand to any size, as may parts that overlap.
    Of one cut short no sum is taken; of a folder torch.load reads nothing, and returns what was in memory.

    Args:
        parts: Of a zip file.
        size: Of the file.
    """
    end = 0
    for part in sorted(parts, key=lambda part: part.header_offset):
        stored = part.compress_type == zipfile.ZIP_STORED and part.compress_size == part.file_size
        if not stored or part.external_attr & FOLDER or part.header_offset < end:
            return part.filename
        end = part.header_offset + part.file_size
        if end > size:
            return part.filename
    return None


_INFORMATIVE = (RuntimeError, pickle.UnpicklingError)
"""What torch.load raises with a message that tells the cause."""


def add_module_state(module: Any, checkpoint: dict[str, Any]) -> None:
    """Put into a checkpoint what makes a `TaskModule` again, and out of it what would not load."""
    checkpoint |= {"task": module.task.to_dict(), "class": type(module).__name__}
    checkpoint["counts"] = module.counts.to_dict() if module.counts else None
    checkpoint["base_task"] = module.base_task.to_dict() if module.base_task else None
    checkpoint["loss"] = module.criterion.to_dict() if isinstance(module.criterion, Loss) else None
    checkpoint["arguments"], checkpoint["not_plain"] = module._arguments, module._not_plain
    checkpoint["buffers"] = [name for name, _ in module.named_buffers(remove_duplicate=False)]
    for key in checkpoint.keys() - {"state_dict", "arguments"}:
        checkpoint[key] = numpy_to_torch(checkpoint[key])
    # for people to read: save_hyperparameters puts there any object, and OmegaConf's type beside
    for kind in ("hyper_parameters", "datamodule_hyper_parameters"):
        if kind in checkpoint:
            checkpoint[kind] = plain_entries(checkpoint[kind])
    for kind in ("hparams_type", "datamodule_hparams_type"):
        checkpoint.pop(kind, None)


def save_decision(path: str | os.PathLike[str], module: Any) -> None:
    """Put the module's task into a checkpoint in place of the one before its decision was fitted.

    The file is replaced whole.
    """
    content = read_checkpoint(path)
    content |= {"task": module.task.to_dict(), "base_task": module.base_task.to_dict()}
    with atomic_write(Path(path)) as temporary:
        torch.save(content, temporary)


def check_same_task(checkpoint: Mapping[str, Any], task: Task) -> None:
    """ValueError where the checkpoint was trained for another task, or for other classes."""
    if "task" not in checkpoint:
        raise CheckpointError("The checkpoint is none of a lossselect.TaskModule: it names no task.")
    trained = make_task(**checkpoint["task"])
    if str(trained) != str(task):
        raise CheckpointError(f"The checkpoint was trained for {trained}, but the task is {task}.")
    if trained.class_names and task.class_names and trained.class_names != task.class_names:
        raise CheckpointError(
            f"The checkpoint's class names are {list(trained.names)}, but the task's are {list(task.names)}."
        )
