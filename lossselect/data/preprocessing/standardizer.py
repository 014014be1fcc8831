"""Standardisation: columns of mean 0 and standard deviation 1 over the training rows."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import polars as pl

from lossselect.exceptions import DataError


class Standardizer:
    """Mean, standard deviation and range of columns in float64; NaN and null are missing values.

    Batches are combined as in Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for
    computing sample variances, 1979. This is as exact as two passes over all rows, whereas a sum of squares
    loses digits.

    Args:
        names: The columns' names.
        owner: Text that follows the name of a column in messages, such as " of X".
    """

    def __init__(self, names: Sequence[Any], owner: str = "") -> None:
        self.names, self.owner = names, owner
        self.num_rows, self.count = 0, np.zeros(len(names), dtype=np.int64)
        self.mean, self.squares = np.zeros(len(names)), np.zeros(len(names))
        self.minimum, self.maximum = np.full(len(names), np.nan), np.full(len(names), np.nan)

    def partial_fit(self, values: np.ndarray | pl.DataFrame) -> Self:
        """Add rows (N, F)."""
        with np.errstate(over="ignore", invalid="ignore"):  # `scale` raises an error for too large numbers
            if isinstance(values, pl.DataFrame):  # Polars is several times as fast as NumPy
                statistics = values.count(), values.mean(), values.var(ddof=0), values.min(), values.max()
                count, mean, variance, minimum, maximum = (
                    np.array(statistic.row(0), dtype=np.float64) for statistic in statistics
                )
                mean, squares = np.where(count > 0, mean, 0), np.where(count > 0, variance * count, 0)
            else:
                count = len(values) - np.isnan(values).sum(0)
                mean = np.nansum(values, axis=0) / np.maximum(count, 1)
                squares = np.nansum((values - mean) ** 2, axis=0)
                minimum, maximum = np.fmin.reduce(values), np.fmax.reduce(values)
            step, total = mean - self.mean, np.maximum(self.count + count, 1)
            self.squares += squares + step**2 * (self.count * count / total)
            self.mean += step * (count / total)
        self.count += count.astype(np.int64)
        self.num_rows += len(values)
        self.minimum = np.fmin(self.minimum, minimum)
        self.maximum = np.fmax(self.maximum, maximum)
        return self

    @property
    def constant(self) -> np.ndarray:
        """Boolean mask (F,) of the columns whose known values are all equal."""
        return self.minimum == self.maximum

    @property
    def scale(self) -> np.ndarray:
        """The standard deviations (F,); exactly 1 for a constant column, in spite of rounding errors."""
        scale = np.where(self.constant, 1, np.sqrt(self.squares / np.maximum(self.count, 1)))
        if not (finite := np.isfinite(scale)).all():
            name = self.names[int(finite.argmin())]
            advice = "" if self.owner else ", or leave the column out (data.exclude with data=table)"
            raise DataError(
                f"The numbers of column {name!r}{self.owner} are so large that their standard deviation "
                f"overflows float64. Scale them down{advice}.",
                column=str(name),
            )
        return scale


def standardize(values: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the float32 features of rows (N, F); values out of the range of float32 become infinite."""
    features = np.array(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        features -= mean
        features /= scale
        return features.astype(np.float32, order="C")


def check_range(features: Any, names: Sequence[Any], owner: str = "", first_row: int = 0) -> None:
    """Raise a DataError if a standardised feature (N, F) is out of the range of float32."""
    if features.sum().isfinite() or bool((finite := features.isfinite()).all()):
        return
    row, column = (~finite).nonzero()[0].tolist()
    raise DataError(
        f"Row {row + first_row} of column {names[column]!r}{owner} is too large: divided by the standard "
        "deviation of the training rows it overflows float32. Correct the value.",
        row=row + first_row,
        column=names[column],
    )
