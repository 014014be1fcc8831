"""Predictions as the columns of a table."""

import json
from typing import Any

import numpy as np
from torch import Tensor

from lossselect.tasks.registry import IGNORE_INDEX, Task


def rows_without_prediction(prediction: Tensor) -> np.ndarray:
    """Return which rows (N,) have no prediction, as a logit was NaN: one missing label is enough.

    A list of the labels that are known to be present would imply that the missing one is absent.
    """
    missing: np.ndarray = (prediction == IGNORE_INDEX).reshape(len(prediction), -1).any(1).cpu().numpy()
    return missing


def top_columns(task: Task, top: Tensor, probabilities: Tensor, prediction: Tensor) -> dict[str, Any]:
    """Return the decision of each row among its highest outputs, then these outputs and their probabilities.

    Cells are empty where a probability is NaN: the order of such outputs means nothing.
    """
    names = np.array([*task.names, None], dtype=object)[top.masked_fill(probabilities.isnan(), -1).cpu()]
    decided = names[:, 0].tolist()
    if not task.exclusive:
        decided = [[*row[chosen]] for row, chosen in zip(names, (prediction == 1).cpu().numpy(), strict=True)]
    columns: dict[str, Any] = {"prediction": _decision_cells(decided, prediction)}
    for k, column in enumerate(names.T):
        columns[f"top_{k + 1}"] = column.tolist()
        columns[f"p_{k + 1}"] = probabilities[:, k].cpu().numpy()
    return columns


def prediction_columns(task: Task, probabilities: Tensor, prediction: Tensor) -> dict[str, Any]:
    """Return the decoded decision of each row, empty if a label lacks one, and each output's probability."""
    columns: dict[str, Any] = {"prediction": _decision_cells(task.decode(prediction), prediction)}
    for name, column in zip(task.output_names, probabilities.cpu().T, strict=True):
        columns[f"p_{name}"] = column.numpy()
    return columns


def _decision_cells(decided: list[Any], prediction: Tensor) -> list[str | None]:
    missing = rows_without_prediction(prediction)
    return format_cells([None if gap else names for names, gap in zip(decided, missing, strict=True)])


def format_cells(names: list[Any]) -> list[str | None]:
    """Return names as they are, None for a missing one, lists of names as JSON, which no name can break."""
    return [json.dumps(name, ensure_ascii=False) if isinstance(name, list) else name for name in names]
