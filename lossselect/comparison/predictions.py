"""The predictions of a run on its test rows, read from predictions.csv."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from lossselect.exceptions import DataError


@dataclass(frozen=True)
class Predictions:
    """True labels, predictions and probabilities of the test rows, each (N, K), for K outputs or classes.

    Args:
        rows: The row numbers in the data (N,).
        names: The names of the outputs.
        truth: 1 or 0; NaN where the label is missing.
        predicted: 1 or 0; NaN where there is no prediction.
        probabilities: The probabilities.
        exclusive: Whether each row has exactly one class.
    """

    rows: np.ndarray
    names: tuple[str, ...]
    truth: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    exclusive: bool

    def select(self, places: np.ndarray) -> "Predictions":
        """Return the rows at some places."""
        parts = (self.truth[places], self.predicted[places], self.probabilities[places])
        return Predictions(self.rows[places], self.names, *parts, self.exclusive)


def read_predictions(folder: Path) -> Predictions:
    """Read the predictions of a run.

    Raises:
        DataError: there are none, their file is damaged, or it lacks what a comparison needs.
    """
    path = folder / "predictions.csv"
    if not path.is_file():
        raise DataError(f"{folder} has no predictions.csv")
    try:
        table = pl.read_csv(path, infer_schema=False)
    except pl.exceptions.PolarsError:
        raise DataError(f"{path} is damaged") from None
    columns = [name for name in table.columns if name.lstrip("'").startswith("p_")]
    if not {"row", "target", "prediction"} <= {*table.columns} or not columns:
        raise DataError(f"{path} has no labels of the test rows")
    if "top_1" in table.columns:
        raise DataError(f"{path} has only the most probable classes")
    names = tuple(name.lstrip("'").removeprefix("p_") for name in columns)
    try:
        rows = table["row"].cast(pl.Int64).to_numpy()
        probabilities = table.select(pl.col(columns).cast(pl.Float64)).to_numpy()
        truth, predicted = (_to_matrix(table[name], names) for name in ("target", "prediction"))
    except (pl.exceptions.PolarsError, ValueError, TypeError):
        raise DataError(f"{path} is damaged") from None
    exclusive = len(names) > 1 and not _has_lists(table["target"])
    return Predictions(rows, names, truth, predicted, probabilities, exclusive)


def _has_lists(cells: pl.Series) -> bool:
    return bool(cells.drop_nulls().str.starts_with("[").all())


def _to_matrix(cells: pl.Series, names: tuple[str, ...]) -> np.ndarray:
    """Return names, or JSON lists of names, as columns of 0 and 1, with NaN for empty cells."""
    known = cells.is_not_null().to_numpy()
    matrix = np.zeros((len(cells), len(names)))
    places = {name: place for place, name in enumerate(names)}
    if len(names) > 1 and _has_lists(cells):
        for row, text in enumerate(cells):
            for name in json.loads(text) if text is not None else ():
                matrix[row, places[name]] = 1
    else:
        for name, place in places.items():
            matrix[:, place] = (cells.str.strip_prefix("'") == name).fill_null(False).to_numpy()
    matrix[~known] = np.nan
    return matrix


def shared_rows(first: Predictions, second: Predictions) -> tuple[Predictions, Predictions]:
    """Return the predictions of both on the rows that both have, with the same labels.

    Raises:
        DataError: the outputs, or the labels of a row, differ, or there are no common rows.
    """
    if first.names != second.names:
        raise DataError("the classes differ")
    common, left, right = np.intersect1d(first.rows, second.rows, return_indices=True)
    if not len(common):
        raise DataError("there are no common test rows")
    selected = first.select(left), second.select(right)
    if not np.array_equal(selected[0].truth, selected[1].truth, equal_nan=True):
        raise DataError("the labels of the common test rows differ")
    return selected
