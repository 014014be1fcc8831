"""Tables as .csv files, in which no cell is a formula, and predictions as their columns."""

import json
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from lossselect.tasks.registry import IGNORE_INDEX, Task

FORMULA = "^[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
"""How a cell begins that a spreadsheet calculates, which may start a program there (CWE-1236).

The last four are the wide forms of the first four.
"""


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


def escape_formula(columns: Any) -> pl.DataFrame:
    """Return a table of the columns, with a ' before names and text that a spreadsheet takes for a formula.

    Numbers as text, such as the class -1, stay as they are.
    """
    frame = pl.DataFrame(columns)
    text, names = pl.col(pl.String), pl.Series(frame.columns, dtype=pl.String)
    frame = frame.with_columns(pl.when(_is_formula(text)).then("'" + text).otherwise(text).name.keep())
    return frame.rename({name: f"'{name}" for name in names.filter(_is_formula(names))})


def _is_formula(text: Any) -> Any:
    """Return where a column, or an expression of columns, is a formula."""
    return text.str.contains(FORMULA) & text.cast(pl.Float64, strict=False).is_null()
