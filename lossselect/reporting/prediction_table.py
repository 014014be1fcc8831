"""Predictions as the columns of a table."""

import json
from typing import Any

import numpy as np
from torch import Tensor

from lossselect.tasks.registry import IGNORE_INDEX, Task


def rows_without_prediction(prediction: Tensor) -> np.ndarray:
    """Return the rows (N,) that have no prediction, as a logit was NaN: one missing label is enough.

    A list of the labels that are known to be present would imply that the missing one is absent.
    """
    missing: np.ndarray = (prediction == IGNORE_INDEX).reshape(len(prediction), -1).any(1).cpu().numpy()
    return missing


def top_columns(task: Task, top: Tensor, probabilities: Tensor, prediction: Tensor) -> dict[str, Any]:
    """The decision of each row among its highest outputs, then these outputs and their probabilities.

    Cells are empty where a probability is NaN: the order of such outputs means nothing.
    """
    known = (~probabilities.isnan()).tolist()
    names = [
        [task.names[i] if there else None for i, there in zip(row, of_row, strict=True)]
        for row, of_row in zip(top.tolist(), known, strict=True)
    ]
    if task.exclusive:
        decided: list[Any] = [row[0] for row in names]
    else:
        chosen = prediction.tolist()
        decided = [
            [name for name, one in zip(row, ones, strict=True) if one]
            for row, ones in zip(names, chosen, strict=True)
        ]
    columns: dict[str, Any] = {"prediction": format_cells(_empty(decided, prediction))}
    for k in range(top.shape[1]):
        columns[f"top_{k + 1}"] = [row[k] for row in names]
        columns[f"p_{k + 1}"] = probabilities[:, k].cpu().numpy()
    return columns


def prediction_columns(task: Task, probabilities: Tensor, prediction: Tensor) -> dict[str, Any]:
    """The decoded decision of each row, and the probability of each output.

    The decision of a row is empty if it is missing for one of its labels: see `rows_without_prediction`.
    """
    columns: dict[str, Any] = {"prediction": format_cells(_empty(task.decode(prediction), prediction))}
    for name, column in zip(task.output_names, probabilities.cpu().T, strict=True):
        columns[f"p_{name}"] = column.numpy()
    return columns


def _empty(decided: list[Any], prediction: Tensor) -> list[Any]:
    missing = rows_without_prediction(prediction)
    if missing.any():
        decided = [None if gone else names for names, gone in zip(decided, missing, strict=True)]
    return decided


def format_cells(names: list[Any]) -> list[str | None]:
    """Names as they are, an empty cell for a missing one; lists of names as JSON, which no name can break."""
    return [json.dumps(name, ensure_ascii=False) if isinstance(name, list) else name for name in names]
