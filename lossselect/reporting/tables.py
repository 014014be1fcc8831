"""Predictions as columns of a table."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from lossselect.tasks.registry import IGNORE_INDEX, AnyTask, Task
from lossselect.utils.names import column_name


def rows_without_prediction(prediction: Any) -> np.ndarray:
    """Return a mask (N,) of the rows without a prediction, because a logit was NaN.

    One missing label is enough: a list of the other labels would imply that this label is absent. For several
    tasks, `prediction` is a mapping, and one missing prediction is enough.
    """
    if isinstance(prediction, Mapping):
        return np.any([*map(rows_without_prediction, prediction.values())], axis=0)
    missing: np.ndarray = (prediction == IGNORE_INDEX).reshape(len(prediction), -1).any(1).cpu().numpy()
    return missing


def _top_columns(task: Task, top: Tensor, probabilities: Tensor, prediction: Tensor) -> dict[str, Any]:
    # cells are empty if a probability is NaN, as such outputs have no order
    names = np.array([*task.names, None], dtype=object)[top.masked_fill(probabilities.isnan(), -1).cpu()]
    decoded = names[:, 0].tolist()
    if not task.exclusive:
        decoded = [[*row[chosen]] for row, chosen in zip(names, (prediction == 1).cpu().numpy(), strict=True)]
    columns: dict[str, Any] = {"prediction": _prediction_cells(decoded, prediction)}
    for k, column in enumerate(names.T):
        columns[f"top_{k + 1}"] = column.tolist()
        columns[f"p_{k + 1}"] = probabilities[:, k].cpu().numpy()
    return columns


def prediction_columns(
    task: AnyTask, probabilities: Any, prediction: Any, top: Tensor | None = None
) -> dict[str, Any]:
    """Return the columns of decoded predictions, empty if one is missing, and of probabilities.

    The columns are called "prediction" and "p_CLASS"; for several tasks "species" and "species.p_CLASS".
    With a chunked head, `top` are the highest outputs of each row, and the probabilities are theirs.
    """
    columns: dict[str, Any] = {}
    probabilities, prediction = task.by_task(probabilities), task.by_task(prediction)
    for name, part in task.tasks.items():
        found = _task_columns(part, probabilities[name], prediction[name], top)
        for column, cells in found.items():
            columns[column_name(name, column)] = cells
    return columns


def _task_columns(
    task: Task, probabilities: Tensor, prediction: Tensor, top: Tensor | None
) -> dict[str, Any]:
    if top is not None:
        return _top_columns(task, top, probabilities, prediction)
    columns: dict[str, Any] = {"prediction": _prediction_cells(task.decode(prediction), prediction)}
    for name, column in zip(task.output_names, probabilities.cpu().T, strict=True):
        columns[f"p_{name}"] = column.numpy()
    return columns


def _prediction_cells(decoded: list[Any], prediction: Tensor) -> list[str | None]:
    missing = rows_without_prediction(prediction)
    return format_cells([None if gap else names for names, gap in zip(decoded, missing, strict=True)])


def format_cells(names: list[Any]) -> list[str | None]:
    """Return names unchanged, None if missing, and lists of names as JSON, which is safe for any name."""
    return [json.dumps(name, ensure_ascii=False) if isinstance(name, list) else name for name in names]
