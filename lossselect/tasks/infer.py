"""Inference of the task from labels, for `task=auto` and for hints in error messages.

For files with lists of labels, or with one column per label, `data.label_parsing` infers the task.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossselect.exceptions import DataError, DataTypeError, LossSelectError
from lossselect.labels.targets import as_tensor
from lossselect.labels.values import as_number, label_form
from lossselect.labels.vocabulary import Vocabulary
from lossselect.tasks.registry import AnyTask, MultiTask, Task, as_any_task, make_task
from lossselect.tasks.task_names import naming_task
from lossselect.utils.checks import shorten

DECLARE = "Set task=binary, task=multiclass or task=multilabel."
MAX_CLASSES = 20
"""Maximum number of distinct integers that are inferred to be classes."""


class InferredTask(NamedTuple):
    """Name of the inferred task, and the reason."""

    name: str
    reason: str


def infer_task(target: Any) -> InferredTask:
    """Infer the task from labels; return its name and the reason.

    Args:
        target: All labels of a data set, in any form that a task's `encode` accepts, names included.

    Raises:
        DataTypeError: a mapping, or values that are neither numbers nor names.
        DataError: no labels, more than two dimensions, or numbers that may be a quantity, such as more than
            20 distinct integers.

    Example:
        >>> infer_task([[1, 0, 1], [0, 0, 0]])
        InferredTask(name='multilabel', reason='row 0 has 2 ones')
    """
    if isinstance(target, Mapping):
        raise DataTypeError(
            "Expected the labels of one task, got a mapping. Call infer_task for the labels of each task."
        )
    form = label_form(target)
    if form == "lists":
        count = len(Vocabulary.fit_lists(target))
        return InferredTask("multilabel", f"rows are lists of {_plural(count, 'distinct label')}")
    if form == "names":
        values = Vocabulary.fit(target).values
        if len({as_number(value) for value in values} - {None}) < len(values):  # "007" and "7" differ
            name = "binary" if len(values) <= 2 else "multiclass"
            return InferredTask(name, f"{_plural(len(values), 'distinct label')}: {shorten(values)}")
        target = [None if entry is None else as_number(entry) for entry in target]
    labels = as_tensor(target).cpu()
    inferred = _infer(labels)
    is_column = labels.ndim == 1 or labels.shape[1] == 1  # a matrix has one column per class
    if inferred.name == "multiclass" and is_column and len(labels[~labels.isnan()].unique()) > MAX_CLASSES:
        raise DataError(
            f"There are {inferred.reason}, which may be classes or a quantity. If they are classes, set "
            "task=multiclass."
        )
    return inferred


def _infer(target: Tensor) -> InferredTask:
    if target.ndim not in (1, 2):
        raise DataError(f"Cannot infer the task from a target of shape {tuple(target.shape)}. {DECLARE}")
    known = target[~target.isnan()]
    if known.numel() == 0:
        raise DataError(f"Cannot infer the task: all labels are missing. {DECLARE}")
    if not bool(known.isfinite().all()):
        raise DataError("Labels must be finite, got infinity.")
    is_column = target.ndim == 1 or target.shape[1] == 1
    return _infer_column(known) if is_column else _infer_matrix(target, known)


def _infer_column(known: Tensor) -> InferredTask:
    values = known.to(torch.float64).unique()  # sorted
    count, low, high = len(values), values[0].item(), values[-1].item()
    if bool((values == values.round()).all()):
        if count <= 2:
            listed = ", ".join(f"{value:g}" for value in values)
            return InferredTask("binary", f"{_plural(count, 'distinct value')}: {listed}")
        return InferredTask("multiclass", f"{count} distinct integers, {low:g} to {high:g}")
    if low >= 0 and high <= 1:
        return InferredTask("binary", "soft labels between 0 and 1")
    raise DataError(
        f"Labels such as {low:g} and {high:g} look like a quantity, not classes. If they are classes, encode "
        "them as integers or strings."
    )


def _infer_matrix(target: Tensor, known: Tensor) -> InferredTask:
    if bool(((known < 0) | (known > 1)).any()):
        raise DataError(
            f"A label matrix must contain values from 0 to 1, got values from {known.min():g} to "
            f"{known.max():g}."
        )
    rows = target.to(torch.float64)
    missing, total = rows.isnan(), rows.nan_to_num().sum(1)
    several = ((total - 1).abs() > 1e-4) & ~missing.all(1)
    if not bool(several.any()) and not bool((missing.any(1) & ~missing.all(1)).any()):
        hard = bool(((known == 0) | (known == 1)).all())
        return InferredTask("multiclass", "each row has exactly one 1" if hard else "each row sums to 1")
    row = int(several.long().argmax())
    return InferredTask("multilabel", f"row {row} has {_plural(int(total[row].round()), 'one')}")


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def check_task(task: AnyTask, target: Any) -> AnyTask:
    """Check that a task, or each of several, fits all labels of a data set, and return it.

    Args:
        task: The declared task.
        target: All labels of the data set, in any form that `task.encode` accepts.

    Raises:
        DataError: labels that do not fit; names the row, the value, the fix and the inferred task.
        OptionTypeError: `task` is not a task.

    Example:
        >>> from lossselect import Binary
        >>> check_task(Binary(), [0, 2, 1])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        lossselect.exceptions.DataError: ... The labels look like task=multiclass: 3 distinct ...
    """
    encode_checked(task := as_any_task(task), target)
    return task


def encode_checked(task: AnyTask, target: Any) -> Tensor:
    """Return `task.encode(target)`, of several tasks in one tensor; raise the same errors as `check_task`."""
    if isinstance(task, MultiTask):
        if isinstance(target, Mapping):
            for name, part in task.tasks.items():
                with naming_task(name):
                    encode_checked(part, target.get(name, ()))
        return task.encode_tensor(target)
    try:
        encoded = task.encode(target)
        # class indices of positions, or a 0/1 matrix with the wrong number of columns
        indices = task.activation == "softmax" and encoded.ndim == 2 and not encoded.is_floating_point()
        if indices and task.num_probabilities > 2 and encoded.numel() and int(encoded.max()) <= 1:
            raise DataError(
                f"The target of shape {tuple(encoded.shape)} contains only 0 and 1, like a matrix of "
                f"{encoded.shape[1]} labels, but the task is {task}."
            )
        return encoded
    except DataError as error:
        fits = _task_that_fits(task, target)
        if fits is None or fits.name == task.name:
            raise
        raise error.add(f"The labels look like task={fits.name}: {fits.reason}.") from None


def _task_that_fits(task: Task, target: Any) -> InferredTask | None:
    """Infer the task from the known labels; None if it does not accept them."""
    try:
        labels = as_tensor(target).cpu()
        if task.missing is not None:
            labels = labels.to(torch.float64).masked_fill(labels == task.missing, torch.nan)
        inferred = _infer(labels)
        is_matrix = labels.ndim == 2 and labels.shape[1] > 1
        width = labels.shape[1] if is_matrix else int(labels.nan_to_num().max()) + 1
        other = make_task(inferred.name, num_outputs=None if inferred.name == "binary" else width)
        other.encode(labels, trailing_dims=0)
    except LossSelectError:
        return None
    return inferred
