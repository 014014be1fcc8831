"""The predictions of a run on its test rows, read from predictions.csv."""

import csv
import json
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import numpy as np
import polars as pl

from lossselect.exceptions import DataError
from lossselect.reporting.formulas import escape_formula
from lossselect.reporting.statistics import Predictions
from lossselect.utils.names import column_name


def read_predictions(folder: Path) -> dict[str, Predictions]:
    """Read the predictions of a run by task; those of a single task have the name "".

    Raises:
        DataError: there are none, their file is damaged, or it lacks what a comparison needs.
    """
    path = folder / "predictions.csv"
    if not path.is_file():
        raise DataError(f"{folder} has no predictions.csv")
    try:
        table = pl.read_csv(path, infer_schema=False)
        with path.open(encoding="utf-8", newline="") as file:
            table.columns = next(csv.reader(file))  # Polars keeps doubled quotation marks in names
    except (pl.exceptions.PolarsError, ValueError, StopIteration):
        raise DataError(f"{path} is damaged") from None
    if "top_1" in table.columns:
        raise DataError(f"{path} has only the most probable classes")
    # the columns of targets follow the row number
    targets = takewhile(lambda name: name.endswith(".target"), table.columns[1:])
    tasks = [name.removesuffix(".target") for name in targets]
    return {name: _read_task(table, name, path) for name in tasks or [""]}


def _read_task(table: pl.DataFrame, task: str, path: Path) -> Predictions:
    """Return the predictions of a task, "" for a single one."""
    start, target, prediction = (column_name(task, name) for name in ("p_", "target", "prediction"))
    columns = [name for name in table.columns if name.startswith(start)]
    if not {"row", target, prediction} <= {*table.columns} or not columns or not len(table):
        raise DataError(f"{path} has no labels of the test rows")
    names = tuple(name.removeprefix(start) for name in columns)
    truth, predicted = (_read_lists(table[name], names) for name in (target, prediction))
    try:
        rows = table["row"].cast(pl.Int64).to_numpy()
        probabilities = table.select(pl.col(columns).cast(pl.Float64)).to_numpy()
    except pl.exceptions.PolarsError:
        raise DataError(f"{path} is damaged") from None
    if truth is not None and predicted is not None:
        return Predictions(rows, names, truth, predicted, probabilities, several=True)
    truth, predicted = (_read_names(table[name], names) for name in (target, prediction))
    return Predictions(rows, names, truth, predicted, probabilities, several=False)


def _read_lists(cells: pl.Series, names: tuple[str, ...]) -> np.ndarray | None:
    """Return JSON lists of names as columns of 0 and 1, NaN for empty cells; None if a cell is not a list."""
    places = {name: place for place, name in enumerate(names)}
    matrix = np.zeros((len(cells), len(names)))
    for row, text in enumerate(cells):
        if text is None:
            matrix[row] = np.nan
            continue
        try:
            matrix[row, [places[name] for name in json.loads(text)]] = 1
        except (ValueError, TypeError, KeyError):
            return None
    return matrix


def _read_names(cells: pl.Series, names: tuple[str, ...]) -> np.ndarray:
    """Return the cells that are equal to each name as columns of 0 and 1, NaN for empty cells."""
    written = escape_formula({"name": names})["name"]
    matrix = np.stack([(cells == name).fill_null(False).to_numpy() for name in written], 1).astype(float)
    matrix[cells.is_null().to_numpy()] = np.nan
    return matrix


def shared_rows(first: Predictions, second: Predictions) -> tuple[Predictions, Predictions]:
    """Return the predictions of both on the rows that both have, with the same labels.

    A label without a prediction in one of them is left out of both.

    Raises:
        DataError: the outputs, or the labels of a row, differ, or there are no common rows with labels.
    """
    if first.names != second.names:
        raise DataError("the classes differ")
    _, left, right = np.intersect1d(first.rows, second.rows, return_indices=True)
    first, second = first.select(left), second.select(right)
    labelled = ~np.isnan(first.truth).all(1)
    if not labelled.any():
        raise DataError("there are no common test rows")
    if not np.array_equal(first.truth, second.truth, equal_nan=True):
        raise DataError("the labels of the common test rows differ")
    first, second = first.select(labelled), second.select(labelled)
    missing = np.isnan(first.predicted) | np.isnan(second.predicted)
    first, second = (
        replace(part, predicted=np.where(missing, np.nan, part.predicted)) for part in (first, second)
    )
    return first, second
