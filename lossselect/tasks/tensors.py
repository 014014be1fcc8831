"""Values per class as tensors, and softmax of short rows."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.jit import is_tracing  # type: ignore[attr-defined]  # documented, not exported

from lossselect.labels.values import IGNORE_INDEX

SHORT = 64
"""Rows of up to so many classes are normalised side by side on the CPU."""


def softmax(scores: Tensor) -> Tensor:
    """Return `scores.softmax(1)`, on the CPU faster for short rows.

    torch's kernel goes through rows one by one, and short ones do not fill its vectors: for 10 classes a
    transposed copy, there and back, takes a fifth of the time.
    """
    if scores.device.type == "cpu" and scores.ndim == 2 and scores.shape[1] <= SHORT:
        return scores.t().contiguous().softmax(0).t().contiguous()
    return scores.softmax(1)


def along_classes(values: Tensor, like: Tensor) -> Tensor:
    """Return a value per class (C,) as (1, C, 1, ...), on the device and in the dtype of `like`."""
    return values.to(like).view(1, -1, *[1] * (like.ndim - 2))


def as_constant(values: float | Sequence[float], like: Tensor) -> float | Tensor:
    """Return a number as it is, one for each class as (1, C, 1, ...) on the device and in `like`'s dtype."""
    if not isinstance(values, tuple):
        return values  # type: ignore[return-value]
    if torch.compiler.is_exporting():  # a tensor made now has no values: do not cache it
        return along_classes(torch.tensor(values, dtype=like.dtype, device=like.device), like)
    return along_classes(_on_device(values, like.dtype, like.device), like)


@lru_cache(maxsize=16)
def _on_device(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a tensor, once and not in every step: a copy to a device makes it wait."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def missing_where_nan(predictions: Tensor, values: Tensor) -> Tensor:
    """Return the predictions, with `IGNORE_INDEX` where `values` (broadcastable to them) are NaN."""
    # on a CPU, which has nothing to wait for, one pass over the values finds that there is nothing to fill
    looks = values.device.type == "cpu" and not torch.compiler.is_compiling() and not is_tracing()
    if looks and not math.isnan(float(values.detach().sum())):
        return predictions
    return predictions.masked_fill(values.isnan(), IGNORE_INDEX)
