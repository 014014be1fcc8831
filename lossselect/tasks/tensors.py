"""Values per class as tensors, and softmax of short rows."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.jit import is_tracing  # type: ignore[attr-defined]  # documented, not exported

from lossselect.labels.values import IGNORE_INDEX

SHORT_ROW = 64
"""The maximum number of classes for which transposing rows makes softmax faster on the CPU."""


def softmax(scores: Tensor) -> Tensor:
    """Return `scores.softmax(1)`; of short rows on the CPU by transposed copies, as they do not fill vectors.

    For 10 classes that takes a fifth of the time.
    """
    if scores.device.type == "cpu" and scores.ndim == 2 and scores.shape[1] <= SHORT_ROW:
        return scores.t().contiguous().softmax(0).t().contiguous()
    return scores.softmax(1)


def along_classes(values: Tensor, like: Tensor) -> Tensor:
    """Return a value per class (C,) as (1, C, 1, ...), on the device and in the dtype of `like`."""
    return values.to(like).view(1, -1, *[1] * (like.ndim - 2))


def as_constant(values: float | Sequence[float], like: Tensor) -> float | Tensor:
    """Return a number unchanged, a tuple as (1, C, 1, ...) on the device and in the dtype of `like`."""
    if not isinstance(values, tuple):
        return values  # type: ignore[return-value]
    if torch.compiler.is_exporting():  # a tensor has no values then: do not cache it
        return along_classes(torch.tensor(values, dtype=like.dtype, device=like.device), like)
    return along_classes(_on_device(values, like.dtype, like.device), like)


@lru_cache(maxsize=16)
def _on_device(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a tensor, cached because a copy to a device makes each step wait."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def missing_where_nan(predictions: Tensor, values: Tensor) -> Tensor:
    """Return the predictions, with `IGNORE_INDEX` where `values` (broadcastable to them) are NaN."""
    # one pass over the values usually shows that there is nothing to fill; a device would have to wait for it
    can_check = values.device.type == "cpu" and not torch.compiler.is_compiling() and not is_tracing()
    if can_check and not math.isnan(float(values.detach().sum())):
        return predictions
    return predictions.masked_fill(values.isnan(), IGNORE_INDEX)
