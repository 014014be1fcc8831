"""The target of the estimator: one task, or several tasks in a mapping or a table."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lossselect.exceptions import ConfigError, DataError, LossSelectError, OptionTypeError
from lossselect.sklearn.fitting import LISTS, encode_labels
from lossselect.utils.checks import lookup, shorten

if TYPE_CHECKING:
    from lossselect.tasks.registry import AnyTask

SEVERAL = "several"


class EncodedTarget(NamedTuple):
    """A target y.

    Attributes:
        task: The task, or the tasks with their names.
        labels: The labels in a form that `encode_tensor` of the task accepts.
        classes: The classes, or the column numbers of a multilabel task; for several tasks a dict by task.
    """

    task: "AnyTask"
    labels: np.ndarray
    classes: Any


def check_task_name(task: Any) -> None:
    """Raise an error unless `task` is the name of a task, "auto", "several", or a mapping of such names."""
    from lossselect.tasks.registry import TASKS

    names: dict[str, Any] = {"auto": None, **TASKS}
    if isinstance(task, Mapping):
        for name, part in task.items():
            lookup(names, part, "task", f" of {name!r}")
        return
    lookup({**names, SEVERAL: None}, task, "task")


def encode_target(y: Any, task: str | Mapping[str, str]) -> EncodedTarget:
    """Return the task, the labels and the classes of y.

    Raises:
        DataError: labels that do not fit the task.
        ConfigError: `task` names a task that y does not have.
        OptionTypeError: several tasks are declared, but y is neither a mapping nor a table.
    """
    from lossselect.tasks.registry import MultiTask
    from lossselect.tasks.task_names import naming_task

    if not isinstance(y, Mapping) and not isinstance(task, Mapping) and task != SEVERAL:
        name, labels, classes = encode_labels(y, task)
        return EncodedTarget(_make_task(name, classes), labels, classes)
    if isinstance(task, str) and task not in ("auto", SEVERAL):
        raise ConfigError(
            f"task={task} is one task, but y has several. Set task to 'auto', 'several' or a mapping."
        )
    columns = _read_columns(y)
    declared = task if isinstance(task, Mapping) else {}
    if unknown := [name for name in declared if name not in columns]:
        raise ConfigError(f"task contains {unknown[0]!r}, but y has the columns {shorten([*columns])}.")
    tasks, targets, found = {}, {}, {}
    for column, values in columns.items():
        with naming_task(column):
            kind, targets[column], found[column] = _encode_column(values, declared.get(column, "auto"))
            tasks[column] = _make_task(kind, found[column])
    several = MultiTask(tasks)
    return EncodedTarget(several, several.encode_tensor(targets).numpy(), found)


def mean_accuracy(predicted: Mapping[str, np.ndarray], y: Any, weight: Any = None) -> float:
    """Return the mean over the tasks of the fraction of known labels that are predicted.

    For a multilabel task, all known labels of a row must be right. Tasks without known labels are left out.

    Raises:
        DataError: y lacks a task or has another one, has no known labels, or another number of rows.
    """
    columns = _read_columns(y)
    for name in (*predicted, *columns):
        if name not in predicted or name not in columns:
            problem = "has no" if name not in columns else "has an unknown"
            raise DataError(f"y {problem} task {name!r}. Expected the tasks {shorten([*predicted])}.")
    rows = len(next(iter(predicted.values())))
    weights = np.ones(rows) if weight is None else np.asarray(weight, float)
    for what, values in (("y", next(iter(columns.values()))), ("sample_weight", weights)):
        if len(values) != rows:
            raise DataError(f"{what} has {len(values)} rows, but X has {rows}.")
    accuracies = []
    for name, values in columns.items():
        array = _as_array(values)
        known, right = _find_known(array), np.asarray(array == predicted[name])
        if array.ndim == 2:
            right, known = np.all(right | ~known, axis=1), np.any(known, axis=1)
        if weights[known].any():
            accuracies.append(float(np.average(right[known], weights=weights[known])))
    if not accuracies:
        raise DataError("All labels in y are missing, or have the weight 0, so there is no accuracy.")
    return float(np.mean(accuracies))


def _as_array(labels: Any) -> np.ndarray:
    return np.asarray(labels.toarray() if hasattr(labels, "toarray") else labels)


def _find_known(labels: np.ndarray) -> np.ndarray:
    """Return a mask of the labels that are neither None nor NaN."""
    known: np.ndarray = np.asarray(labels == labels)  # False for NaN
    if labels.dtype == object:
        known = known.astype(bool) & np.array([value is not None for value in labels.ravel()]).reshape(
            labels.shape
        )
    return known


def _make_task(name: str, classes: np.ndarray) -> Any:
    from lossselect.tasks.registry import TASKS, make_task

    width = len(classes) if TASKS[name].is_sized() else None
    return make_task(name, num_outputs=width, class_names=[*map(str, classes.tolist())])


def _read_columns(y: Any) -> dict[str, Any]:
    """Return the columns of a mapping or of a table of pandas or Polars, by name."""
    names = y.keys() if isinstance(y, Mapping) else getattr(y, "columns", None)
    if names is None:
        raise OptionTypeError(
            "For several tasks, y must be a mapping such as {'species': labels, 'sick': labels}, or a table, "
            f"got {type(y).__name__}."
        )
    columns = {str(name): y[name] for name in names}
    for name, values in columns.items():
        if isinstance(values, str) or not (hasattr(values, "__len__") or hasattr(values, "toarray")):
            raise OptionTypeError(f"y[{name!r}] must contain a label for each row, got {values!r}.")
    lengths = {name: v.shape[0] if hasattr(v, "shape") else len(v) for name, v in columns.items()}
    if len({*lengths.values()}) > 1:
        raise DataError(f"The columns of y must have the same number of rows, got {lengths}.")
    return columns


def _encode_column(values: Any, task: str) -> tuple[str, np.ndarray, np.ndarray]:
    """Return the result of `encode_labels` for the labels of a task, of which some may be missing."""
    try:
        array = _as_array(values)
    except ValueError:
        raise DataError(f"The rows are lists of different lengths. {LISTS}") from None
    are_lists = array.dtype == object and any(isinstance(v, list | tuple | np.ndarray) for v in array)
    if array.ndim > 2 or are_lists:
        raise DataError(f"Expected a label for each row, got an array of shape {array.shape}. {LISTS}")
    try:
        if array.ndim == 2:
            return encode_labels(array, "multilabel" if task == "auto" else task)
        known = _find_known(array)
        if not known.any():
            raise DataError("All labels are missing. Pass some labels of this task, or leave it out.")
        # without the missing ones, integers are integers again
        name, indices, classes = encode_labels(np.array(array[known].tolist()), task)
    except LossSelectError:
        raise
    except ValueError as error:  # of scikit-learn
        raise DataError(str(error)) from None
    labels = np.full(len(array), np.nan)
    labels[known] = indices
    return name, labels, classes
