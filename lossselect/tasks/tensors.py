"""Tensors of values per class, and a fast softmax of short rows."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.jit import is_tracing  # type: ignore[attr-defined]  # documented, not exported

from lossselect.exceptions import ConfigError, LossSelectError
from lossselect.labels.values import IGNORE_INDEX

SHORT_ROW = 64
"""Maximum number of classes for which transposing rows makes softmax faster on the CPU."""


def softmax(scores: Tensor) -> Tensor:
    """Return `scores.softmax(1)`.

    On the CPU, short rows do not fill vector registers: transposing them is 5 times as fast for 10 classes.
    """
    if scores.device.type == "cpu" and scores.ndim == 2 and scores.shape[1] <= SHORT_ROW:
        return scores.t().contiguous().softmax(0).t().contiguous()
    return scores.softmax(1)


def check_device(target: Tensor, outputs: Tensor) -> None:
    """Raise a ConfigError if a target and outputs are on different devices."""
    if target.device != outputs.device:
        raise ConfigError(
            f"The outputs are on {outputs.device}, but the target is on {target.device}. Pass "
            f"target.to({str(outputs.device)!r})."
        )


def join_columns(parts: Mapping[str, Tensor], what: str, error: type[LossSelectError]) -> Tensor:
    """Return tensors (N, C, ...) by task as one with the columns of all; raise an error for other shapes."""
    shapes = {name: (part.ndim, part.shape[0], *part.shape[2:]) for name, part in parts.items()}
    first = next(iter(parts))
    for name, shape in shapes.items():
        if shape != shapes[first]:
            raise error(
                f"The {what} of all tasks must have the same rows and positions, but the shape of {first!r} "
                f"is {tuple(parts[first].shape)} and that of {name!r} {tuple(parts[name].shape)}. Train a "
                "module for each."
            )
    return torch.cat([*parts.values()], 1)


def along_classes(values: Tensor, like: Tensor) -> Tensor:
    """Return one value per class (C,) as (1, C, 1, ...), with the device and dtype of `like`."""
    return values.to(like).view(1, -1, *[1] * (like.ndim - 2))


def as_constant(values: float | Sequence[float], like: Tensor) -> float | Tensor:
    """Return a number unchanged, and a tuple as (1, C, 1, ...) with the device and dtype of `like`."""
    if not isinstance(values, tuple):
        return values  # type: ignore[return-value]
    if torch.compiler.is_exporting():  # tensors have no values during export: do not cache them
        return along_classes(torch.tensor(values, dtype=like.dtype, device=like.device), like)
    return along_classes(_on_device(values, like.dtype, like.device), like)


@lru_cache(maxsize=16)
def _on_device(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a tensor; cached, because a copy to a GPU would stall each step."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def missing_where_nan(predictions: Tensor, values: Tensor) -> Tensor:
    """Return the predictions, with `IGNORE_INDEX` where `values` (broadcastable to them) are NaN."""
    # on the CPU, a sum usually shows that nothing is NaN; on a GPU, reading it would stall
    can_check = values.device.type == "cpu" and not torch.compiler.is_compiling() and not is_tracing()
    if can_check and not math.isnan(float(values.detach().sum())):
        return predictions
    return predictions.masked_fill(values.isnan(), IGNORE_INDEX)
