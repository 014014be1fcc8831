"""Predictions as the columns of a table."""

import json
from typing import Any

from torch import Tensor

from .tasks import Task


def top_columns(task: Task, top: Tensor, probabilities: Tensor, prediction: Tensor) -> dict[str, Any]:
    """The decision of each row among its highest outputs, then these outputs and their probabilities."""
    names = [[task.names[i] for i in row] for row in top.tolist()]
    if task.activation == "softmax":
        decided: list[Any] = [row[0] for row in names]
    else:
        chosen = prediction.tolist()
        decided = [
            [name for name, one in zip(row, ones, strict=True) if one]
            for row, ones in zip(names, chosen, strict=True)
        ]
    columns: dict[str, Any] = {"prediction": cells(decided)}
    for k in range(top.shape[1]):
        columns[f"top_{k + 1}"] = [row[k] for row in names]
        columns[f"p_{k + 1}"] = probabilities[:, k].cpu().numpy()
    return columns


def prediction_columns(task: Task, probabilities: Tensor, prediction: Tensor) -> dict[str, Any]:
    """The decoded decision of each row, and the probability of each output."""
    columns: dict[str, Any] = {"prediction": cells(task.decode(prediction))}
    for name, column in zip(task.output_names, probabilities.cpu().T, strict=True):
        columns[f"p_{name}"] = column.numpy()
    return columns


def cells(names: list[Any]) -> list[str | None]:
    """Names as they are, an empty cell for a missing one; lists of names as JSON, which no name can break."""
    return [json.dumps(name, ensure_ascii=False) if isinstance(name, list) else name for name in names]
