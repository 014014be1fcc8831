"""Any form of target -> a tensor, and the words for a value that does not fit.

Values are looked at on the CPU alone: on a device a look would stall every step.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lossselect.exceptions import DataError, DataTypeError


class EncodedBatch(NamedTuple):
    """Inputs with a target that is in the task's canonical form already, perhaps with weights of samples."""

    inputs: Any
    target: Any
    """A tensor, or `SparseLabels` for a chunked head."""
    weight: Tensor | None = None


def flatten_positions(values: Tensor) -> Tensor:
    """(N, C, ...) as rows (N ..., C): each pixel or time step is one."""
    return values.movedim(1, -1).flatten(0, -2)


def as_tensor(target: Any) -> Tensor:
    """`target` as a tensor of bool, int64 or a float dtype; values are kept, never narrowed.

    Takes tensors (sparse ones too), NumPy arrays, anything with `__array__` (a column of a
    dataframe), and nested lists; None in them is a missing label, NaN.

    Raises:
        TypeError: strings, or objects that are no numbers.
        ValueError: a ragged list, or complex numbers.
    """
    if not isinstance(target, Tensor):
        from_list = isinstance(target, list | tuple)
        target = torch.from_numpy(_as_array(target))
        whole = not target.is_floating_point() or bool(((target == target.round()) | target.isnan()).all())
        if from_list and not whole:
            # .1 in a list means torch's own default dtype, not NumPy's float64
            target = target.to(torch.promote_types(torch.get_default_dtype(), torch.float32))
    if target.layout != torch.strided:
        target = target.to_dense()
    if target.is_complex():
        raise DataError(f"The target is complex ({target.dtype}); labels are real numbers.")
    if target.is_floating_point() or target.dtype == torch.bool:
        return target.detach()
    return target.to(torch.int64)


def _as_array(target: Any) -> np.ndarray:
    if target is None:
        raise DataTypeError("There is no target: it is None.")
    if np.ma.isMaskedArray(target):
        target = np.ma.filled(target.astype(np.float64), np.nan)  # np.asarray would drop the mask
    try:
        array = np.asarray(target)
    except ValueError:
        raise _ragged(target) from None
    if array.dtype.kind == "O":
        if any(isinstance(value, list | tuple | np.ndarray) for value in array.flat):
            raise _ragged(target)
        if not any(isinstance(value, str | bytes) for value in array.flat):
            try:
                array = array.astype(np.float64)  # None becomes NaN
            except (TypeError, ValueError):
                kinds = sorted({type(value).__name__ for value in array.flat})
                raise DataTypeError(f"Targets must be numbers, got {', '.join(kinds)}.") from None
    if array.dtype.kind in "OUS":
        # among numbers and strings NumPy has made strings of the numbers too
        objects = np.array(target, dtype=object)
        index, value = next((i, v) for i, v in np.ndenumerate(objects) if isinstance(v, str | bytes))
        raise DataTypeError(
            f"Targets must be numbers, but row {index[0] if index else 0} holds {str(value)!r}. Give "
            "all rows as numbers or, to a task that has class_names, all as names.",
            row=index[0] if index else 0,
            value=value,
        )
    if array.dtype.kind not in "biufc":
        raise DataTypeError(f"Targets must be numbers, got an array of dtype {array.dtype}.")
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise DataError(f"The target holds {array.max()}, which no class index can be.")
    kind = {"u": np.int64, "i": np.int64, "f": array.dtype if array.dtype.itemsize <= 8 else np.float64}
    # a copy where torch cannot share the memory: read-only, strided backwards, foreign byte order
    dtype = np.dtype(kind.get(array.dtype.kind, array.dtype)).newbyteorder("=")
    return np.require(array, dtype, ["C", "W"])


def _ragged(target: Any) -> DataError:
    sizes = [len(row) if hasattr(row, "__len__") else 0 for row in target]
    row = next((i for i, size in enumerate(sizes) if size != sizes[0]), None)
    if row is None:
        return DataError("Entries of one row of the target differ in length: a target is a regular array.")
    return DataError(
        f"Row {row} of the target has {sizes[row]} entries where row 0 has {sizes[0]}. Rows of "
        "differing length are lists of labels: turn them into a 0/1 matrix (N, num_labels) first.",
        row=row,
    )


def as_float(target: Tensor) -> Tensor:
    """float32 where that loses nothing (0, 1, .5), else float64 as it came."""
    if target.dtype != torch.float64:
        return target.to(torch.float32)
    if target.device.type != "cpu":
        return target
    narrow = target.to(torch.float32)
    same = (narrow.to(torch.float64) == target) | target.isnan()
    return narrow if bool(same.all()) else target


ROUNDING = 1e-6
"""How far outside [0, 1] a probability may lie that was computed."""


def is_within_unit(target: Tensor) -> bool:
    """Whether all values are in [0, 1] and none is missing, in one pass over them."""
    if target.device.type != "cpu" or target.numel() == 0:
        return False
    least, most = target.aminmax()  # NaN where there is one
    return bool((least >= 0) & (most <= 1))


def clamp_rounding(target: Tensor) -> Tensor:
    """`target`, where computing has left values outside [0, 1] by no more than rounding, set right."""
    if target.device.type != "cpu":
        return target
    outside = (target < 0) | (target > 1)
    if not bool(outside.any()):
        return target
    unit = target.clamp(0, 1)
    return unit if bool((target - unit)[outside].abs().max() <= ROUNDING) else target


def raise_for_invalid(
    target: Tensor,
    bad: Tensor,
    needed: str,
    hint: Callable[[set[float]], str] | None = None,
    names: Sequence[str] = (),
) -> None:
    """ValueError for the first element that `bad` marks: its row, its place there, its value.

    `names` are those of dimension 1. `hint` says more, given the values that the target takes.
    """
    if target.device.type != "cpu" or not bool(bad.any()):
        return
    index = bad.nonzero()[0].tolist()
    value = target[tuple(index)].item()
    if target.ndim > 1 and target.shape[1] == 1:
        del index[1]
        names = ()
    said = hint(set(target[~target.isnan()].unique()[:1000].tolist())) if hint else ""
    message = f"{_place(index, names)} of the target is {value:g}, but {needed}. {said}".rstrip()
    column = names[index[1]] if names and len(index) > 1 else None
    raise DataError(message, row=index[0], column=column, value=value)


def _place(index: list[int], names: Sequence[str] = ()) -> str:
    """ "Row 17", or with a label's name "Row 17, label 'sport'", and the place in what trails."""
    words = [f"Row {index[0]}"]
    if names and len(index) > 1:
        words.append(f"label {names[index[1]]!r}")
    rest = index[2:] if names else index[1:]
    if rest:
        words.append(f"position {rest[0] if len(rest) == 1 else tuple(rest)}")
    return ", ".join(words)


def as_distributions(target: Tensor, missing: float | None, task: str, note: str = "") -> Tensor:
    """Rows (N, C, ...) that are one-hot or sum to 1, as floats; NaN in all of a missing row.

    Args:
        target: The rows.
        missing: Marks a missing label, besides NaN.
        task: Its name, for messages.
        note: Added to the message about a row that does not sum to 1.

    Raises:
        ValueError: a row that is neither, or missing in part.
    """
    rows = as_float(target)
    absent = rows.isnan() if missing is None else rows.isnan() | (target == missing)
    absent_row = absent.all(1, keepdim=True)
    rows = clamp_rounding(rows.masked_fill(absent_row, 0))
    raise_for_invalid(
        rows, absent & ~absent_row, "a row of class probabilities is missing whole or not at all"
    )
    raise_for_invalid(rows, (rows < 0) | (rows > 1), f"rows of {task} targets are one-hot or probabilities")
    total = rows.sum(1)
    tolerance = 1e-2 if target.dtype in (torch.float16, torch.bfloat16) else 1e-4
    wrong = ((total - 1).abs() > tolerance) & ~absent_row.squeeze(1)
    if target.device.type == "cpu" and bool(wrong.any()):
        index = wrong.nonzero()[0].tolist()
        value = total[tuple(index)].item()
        ones = bool(((rows == 0) | (rows == 1)).all())
        came = f"has {value:g} ones" if ones else f"sums to {value:g}"
        rule = "has exactly one class" if ones else "has exactly one class: soft labels sum to 1"
        raise DataError(
            f"{_place(index)} of the target {came}, but a {task} sample {rule}. "
            f"Several labels per sample: task=multilabel. {note}".rstrip(),
            row=index[0],
            value=value,
        )
    return rows.masked_fill(absent_row, torch.nan)
