"""Plain values, which load with weights_only=True: conversions to them, and the recorded call of a class."""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from types import MethodType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from lossselect.exceptions import OptionTypeError
from lossselect.losses.loss import Loss
from lossselect.tasks.registry import Task


def to_plain(value: Any) -> Any:
    """Convert to tensors, None, bool, int, float, str, list, tuple and dict, or raise OptionTypeError."""
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
    if type(value) is dict or (isinstance(value, Mapping) and not isinstance(value, dict)):
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
    """Return the plain ones of the values, by name."""
    plain = {}
    for name, value in values.items():
        with suppress(TypeError):
            if not isinstance(value, np.ndarray):  # as a list it would mean something else, as in 2 * array
                plain[name] = to_plain(value)
    return plain


def numpy_to_torch(value: Any) -> Any:
    """Replace NumPy's numbers and arrays in a state, which would not load, by Python's and tensors."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(value.copy())
    if type(value) is dict:
        return {numpy_to_torch(key): numpy_to_torch(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(numpy_to_torch, value))
    return value


class RecordsArguments:
    """Records the constructor's arguments of a subclass: plain ones in `_arguments`, others in `_not_plain`.

    `save_hyperparameters` reads the variables of __init__ after it has run: changed ones, those that it
    passes on, and deep copies of nets. This is the call itself.
    """

    _arguments: dict[str, Any]
    _not_plain: list[str]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        signature = _signature(cls)
        arguments: dict[str, Any] = {}
        with suppress(TypeError):  # __init__ will raise it; copy.copy passes no arguments
            arguments = signature.bind(*args, **kwargs).arguments
            variadic = [p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
            arguments |= arguments.pop(variadic[0], {}) if variadic else {}
        self._arguments = plain_entries(arguments)
        self._not_plain = [name for name in arguments if name not in self._arguments]
        return self


def bind_arguments(cls: type, arguments: Mapping[str, Any]) -> inspect.BoundArguments:
    """Return the call of `cls` with arguments as `RecordsArguments` records them, or raise TypeError."""
    signature = _signature(cls)
    named = {name: value for name, value in arguments.items() if name in signature.parameters}
    others = {name: value for name, value in arguments.items() if name not in named}
    call = inspect.BoundArguments(signature, named)
    return signature.bind(*call.args, **call.kwargs, **others)


def _signature(cls: type) -> inspect.Signature:
    return inspect.signature(MethodType(cls.__init__, cls))  # type: ignore[misc]
