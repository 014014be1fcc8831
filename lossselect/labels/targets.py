"""Conversion of any form of target to a tensor, and errors about invalid values.

Values are checked only on the CPU: on a GPU, a check would stall every step.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lossselect.exceptions import DataError, DataTypeError
from lossselect.labels.values import as_list, first_known, label_form


class EncodedPair(NamedTuple):
    """Inputs, and a target in the canonical form of the task."""

    inputs: Any
    target: Any
    """A tensor, or `SparseLabels` for a chunked head."""


class EncodedBatch(NamedTuple):
    """Inputs, a target in the canonical form of the task, and optional sample weights."""

    inputs: Any
    target: Any
    weight: Tensor | None = None

    def repeat_targets(self, count: int) -> "EncodedBatch":
        """Return the batch with target and weight of each row repeated, for nets with several members."""
        if count == 1:
            return self
        target = self.target if isinstance(self.target, Tensor) else self.target.to_dense()
        target, weight = (
            part if part is None else part.repeat_interleave(count, 0) for part in (target, self.weight)
        )
        return EncodedBatch(self.inputs, target, weight)


Encoded = EncodedPair | EncodedBatch
"""A batch of `TensorData`, whose target need not be encoded."""


def flatten_positions(values: Tensor) -> Tensor:
    """Return (N, C, ...) as rows (N ..., C), one for each pixel or time step."""
    return values.movedim(1, -1).flatten(0, -2)


def as_tensor(target: Any) -> Tensor:
    """Return `target` as a tensor of bool, int64 or a float dtype wide enough for its values.

    Accepts tensors (also sparse ones), NumPy arrays, anything with `__array__` and nested lists, in which
    None marks a missing label.

    Raises:
        DataTypeError: strings and other objects.
        DataError: ragged lists, complex numbers.
    """
    if not isinstance(target, Tensor):
        from_list = isinstance(target, list | tuple)
        target = torch.from_numpy(_as_array(target))
        integral = not target.is_floating_point() or bool(((target == target.round()) | target.isnan()).all())
        if from_list and not integral:
            # floats in a list get torch's default dtype, not NumPy's float64
            target = target.to(torch.promote_types(torch.get_default_dtype(), torch.float32))
    if target.layout != torch.strided:
        target = target.to_dense()
    if target.is_complex():
        raise DataError(f"Targets must be real numbers, got {target.dtype}.")
    if target.is_floating_point() or target.dtype == torch.bool:
        return target.detach()
    return target.to(torch.int64)


def _as_array(target: Any) -> np.ndarray:
    if target is None:
        raise DataTypeError("Expected a target, got None.")
    if np.ma.isMaskedArray(target):
        target = np.ma.filled(target.astype(np.float64), np.nan)  # np.asarray would drop the mask
    if label_form(target) == "lists":
        raise _names_error(*first_known(as_list(target)))
    try:
        array = np.asarray(target)
    except ValueError:
        raise _ragged(target) from None
    if array.dtype.kind in "OUS":
        # NumPy converts numbers to strings if there are strings: restore the objects
        objects = np.array(target, dtype=object)
        for index, value in np.ndenumerate(objects):
            if isinstance(value, list | tuple | np.ndarray):
                raise _ragged(target)
            if isinstance(value, str | bytes):
                raise _names_error(index[0] if index else 0, str(value))
        try:
            array = objects.astype(np.float64)  # None becomes NaN
        except (TypeError, ValueError):
            kinds = sorted({type(value).__name__ for value in objects.flat})
            raise DataTypeError(f"Targets must be numbers, got {', '.join(kinds)}.") from None
    if array.dtype.kind not in "biufc":
        raise DataTypeError(f"Targets must be numbers, got an array of dtype {array.dtype}.")
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise DataError(f"The target contains {array.max()}, which is too large for a class index.")
    dtype = np.dtype(np.float64) if array.dtype == np.longdouble else array.dtype
    # copies if torch cannot share the memory: read-only, negative strides, foreign byte order
    return np.require(array, dtype.newbyteorder("="), ["C", "W"])


def _names_error(row: int | None, value: Any) -> DataTypeError:
    problem = "The target has only empty rows" if row is None else f"Row {row} of the target is {value!r}"
    fix = (
        "Give all rows as numbers, or declare class_names in the order of the outputs and give all as names."
    )
    return DataTypeError(f"{problem}, but targets must be numbers. {fix}", row=row, value=value)


def _ragged(target: Any) -> DataError:
    sizes = [len(row) if hasattr(row, "__len__") else 0 for row in target]
    row = next((i for i, size in enumerate(sizes) if size != sizes[0]), None)
    if row is None:
        return DataError(
            "The entries of one row of the target differ in length. Convert it to a regular array."
        )
    return DataError(
        f"Row {row} of the target has {sizes[row]} entries, but row 0 has {sizes[0]}. If the rows are lists "
        "of labels, convert them to a 0/1 matrix (N, num_labels) first.",
        row=row,
    )


def as_float(target: Tensor) -> Tensor:
    """Return the target in float32 if that loses nothing, else in float64."""
    if target.dtype != torch.float64:
        return target.to(torch.float32)
    if target.device.type != "cpu":
        return target
    narrow = target.to(torch.float32)
    return narrow if bool(((narrow.double() == target) | target.isnan()).all()) else target


ROUNDING = 1e-6
"""Maximum distance of a computed probability from [0, 1]."""


def is_within_unit(target: Tensor) -> bool:
    """Return whether all values are known and in [0, 1]; always False on a GPU."""
    if target.device.type != "cpu" or target.numel() == 0:
        return False
    lowest, highest = target.aminmax()  # NaN if any value is
    return bool((lowest >= 0) & (highest <= 1))


def clamp_rounding(target: Tensor) -> Tensor:
    """Clamp values to [0, 1] if they exceed it only by rounding errors; else return `target`."""
    if target.device.type != "cpu":
        return target
    clamped = target.clamp(0, 1)
    return target if bool(((clamped - target).abs() > ROUNDING).any()) else clamped


def raise_for_invalid(
    target: Tensor,
    bad: Tensor,
    needed: str,
    hint: Callable[[set[float]], str] | None = None,
    names: Sequence[str] = (),
) -> None:
    """Raise a DataError for the first element that `bad` marks.

    `names` are the names of the entries of dimension 1. `hint` returns a sentence to append, given the set of
    values of the target.
    """
    if target.device.type != "cpu" or not bool(bad.any()):
        return
    index = bad.nonzero()[0].tolist()
    value = target[tuple(index)].item()
    if target.ndim > 1 and target.shape[1] == 1:
        del index[1]
        names = ()
    addition = hint(set(target[~target.isnan()].unique()[:1000].tolist())) if hint else ""
    problem = f"{_format_position(index, names)} of the target is {value:g}, but {needed}. {addition}"
    error = DataError.at(index[0], None, problem.rstrip(), value)
    error.column = names[index[1]] if names and len(index) > 1 else None
    raise error


def _format_position(index: list[int], names: Sequence[str] = ()) -> str:
    """Return what follows "Row 17", such as ", label 'sport', position 3"."""
    words, position = [""], index[1:]
    if names and position:
        words.append(f"label {names[position.pop(0)]!r}")
    if position:
        words.append(f"position {position[0] if len(position) == 1 else tuple(position)}")
    return ", ".join(words)


def as_distributions(target: Tensor, missing: float | None, task: str, note: str = "") -> Tensor:
    """Return rows (N, C, ...) that are one-hot or sum to 1 as floats; missing rows are NaN.

    Args:
        target: The rows.
        missing: Marker of a missing label, in addition to NaN.
        task: Name of the task, for messages.
        note: Sentence appended to the message about a row that does not sum to 1.

    Raises:
        DataError: a row that is neither one-hot nor sums to 1, or is partly missing.
    """
    rows = as_float(target)
    absent = rows.isnan() if missing is None else rows.isnan() | (target == missing)
    absent_row = absent.all(1, keepdim=True)
    rows = clamp_rounding(rows.masked_fill(absent_row, 0))
    raise_for_invalid(
        rows, absent & ~absent_row, "the class probabilities of a row must be all known or all missing"
    )
    raise_for_invalid(rows, (rows < 0) | (rows > 1), f"{task} rows must be one-hot or probabilities")
    totals = rows.sum(1)
    tolerance = 1e-2 if target.dtype in (torch.float16, torch.bfloat16) else 1e-4
    wrong = ((totals - 1).abs() > tolerance) & ~absent_row.squeeze(1)
    if target.device.type == "cpu" and bool(wrong.any()):
        index = wrong.nonzero()[0].tolist()
        value = totals[tuple(index)].item()
        ones = bool(((rows == 0) | (rows == 1)).all())
        actual = f"has {value:g} ones" if ones else f"sums to {value:g}"
        rule = f"a {task} row must have exactly one class"
        rule = rule if ones else f"the soft labels of a {task} row must sum to 1"
        problem = (
            f"{_format_position(index)} of the target {actual}, but {rule}. If rows have several labels,"
        )
        raise DataError.at(index[0], None, f"{problem} set task=multilabel. {note}".rstrip(), value)
    return rows.masked_fill(absent_row, torch.nan)
