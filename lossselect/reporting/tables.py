"""Predictions as columns of a table."""

import json
from typing import Any

import numpy as np
from torch import Tensor

from lossselect.tasks.registry import IGNORE_INDEX, Task


def rows_without_prediction(prediction: Tensor) -> np.ndarray:
    """Return a mask (N,) of the rows without a prediction, because a logit was NaN.

    One missing label is enough: a list of the other labels would imply that this label is absent.
    """
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
    task: Task, probabilities: Tensor, prediction: Tensor, top: Tensor | None = None
) -> dict[str, Any]:
    """Return the columns of decoded predictions, empty if one is missing, and of probabilities.

    With a chunked head, `top` are the highest outputs of each row, and the probabilities are theirs.
    """
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
