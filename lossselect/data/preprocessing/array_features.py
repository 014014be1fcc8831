"""Features of an array -> the numbers that a net takes, in two passes over some rows at a time.

What `Features` does with a table's columns, for an array that may be larger than the memory.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lossselect.data.preprocessing.columns import FEW, Number, Reading, warn_of_counting
from lossselect.data.preprocessing.table_features import Features, TableRows, fit_number
from lossselect.data.readers.arrays import array_columns, as_polars_knows, blocks
from lossselect.exceptions import DataError


class ArrayRows:
    """Rows of an array, standardised when they are taken: of one that is mapped no others are read.

    Args:
        array: (N, F).
        features: What becomes of its columns.
    """

    def __init__(self, array: np.ndarray, features: Features) -> None:
        self.array, self.shape = array, (len(array), len(features.names))
        self.path = Path(array.filename) if isinstance(array, np.memmap) and array.filename else None
        self.written = _written(self.path) if self.path else (0, 0, 0)
        numbers = [number for number in features.numbers for _ in number.features]
        names = array_columns(array.shape[1])
        place = dict(zip(names, range(len(names)), strict=True))
        columns = [place[number.name] for number in numbers]
        self.columns = slice(None) if columns == [*range(len(names))] else np.array(columns)
        self.mean = np.array([number.mean for number in numbers])
        self.std = np.array([number.std for number in numbers])
        # the second feature of a column says where it is missing
        self.indicates = np.array([i > 0 for number in features.numbers for i in range(len(number.features))])
        self.gaps = array.dtype.kind == "f" and features.reading.nan == "missing"

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: Any) -> Tensor:
        """float32 (len(rows), num_features); for a single row (num_features,).

        Raises:
            ValueError: the file has been written to.
        """
        if self.path and (now := _written(self.path)) != self.written and now[0] == self.written[0]:
            raise DataError(
                f"{self.path} has been written to since its rows were looked at. Start again, and write "
                "other data to another file: this one is read while the run goes on."
            )
        taken = np.asarray(self.array[np.asarray(rows)])
        features = torch.from_numpy(self.standardised(np.atleast_2d(taken)))
        return features if taken.ndim > 1 else features[0]

    def standardised(self, block: np.ndarray) -> np.ndarray:
        """float32 features of rows of the array, (N, F)."""
        values = block[:, self.columns].astype(np.float64)
        gaps = np.isnan(values) if self.gaps else None
        values -= self.mean
        values /= self.std
        if gaps is not None:
            values[gaps] = 0
            values[:, self.indicates] = gaps[:, self.indicates]
        return values.astype(np.float32, order="C")


def _written(path: Path) -> tuple[int, int, int]:
    """Which file it is, how large, and when it was written; zeros for one that is gone.

    Where another file has taken its name, or none, the mapped one is still there, whole.
    """
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0, 0, 0
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def rows_of_array(array: np.ndarray, features: Features) -> tuple[TableRows, dict[str, int]]:
    """As `Features.transform`: rows that stay in the file where it is mapped, else in memory.

    Raises:
        ValueError: infinity, NaN where it is an error, a number that is too large.
    """
    rows = ArrayRows(array, features)
    held = None if rows.path else torch.empty(rows.shape)
    names = array_columns(array.shape[1])
    kept = np.flatnonzero(np.isin(names, features.columns))
    hashes, missing = [], np.zeros(len(kept), dtype=np.int64)
    for start, values in _read(array, features.reading):
        with np.errstate(over="ignore"):
            made = torch.from_numpy(rows.standardised(values))
        features.check_range(made, start)
        if held is not None:
            held[start : start + len(made)] = made
        hashes.append(_hashed(values[:, kept]))
        missing += np.isnan(values[:, kept]).sum(0)
    unknown = {
        number.name: count
        for number, count in zip(features.numbers, missing.tolist(), strict=True)
        if count and not number.missing
    }
    numbers, no_codes = rows if held is None else held, torch.empty(len(rows), 0, dtype=torch.int32)
    return TableRows(numbers, no_codes, rows.shape[1], pl.concat(hashes, rechunk=True)), unknown


def _hashed(values: np.ndarray) -> pl.Series:
    """Of each row's bytes, which takes no longer for many columns; -0 becomes 0."""
    rows = np.ascontiguousarray(values + 0.0).view(f"V{values.shape[1] * values.itemsize}")
    return pl.Series(rows.ravel().tolist(), dtype=pl.Binary).hash()


def fit_array(array: np.ndarray, train: np.ndarray, reading: Reading) -> Features:
    """As `Features.fit`: what becomes of an array's columns, told by the train split.

    Args:
        array: (N, F).
        train: The rows of the train split, in order.
        reading: What a NaN is.

    Raises:
        ValueError: infinity, NaN where it is an error, or no column that says anything.
    """
    names = array_columns(array.shape[1])
    head = array[: FEW + 2]
    if array.dtype.kind in "iu":
        for column in np.flatnonzero((np.diff(head, axis=0) == 1).all(0)).tolist():
            warn_of_counting(column_of(array, column))
    moments = _Moments(array.shape[1])
    for start, values in _read(array, reading):
        first, end = np.searchsorted(train, (start, start + len(values)))
        if first < end:
            moments.add(values[train[first:end] - start])
    return Features.telling(dict(zip(names, moments.fitted(names), strict=True)), reading)


def _read(array: np.ndarray, reading: Reading) -> Iterator[tuple[int, np.ndarray]]:
    """Some rows at a time as float64, NaN where missing."""
    names = array_columns(array.shape[1])
    for start, block in blocks(array):
        values = block.astype(np.float64)
        bad = np.isinf(values) if reading.nan == "missing" else ~np.isfinite(values)
        if bad.any():
            place = int(bad.any(0).argmax())
            reading.numbers(pl.Series(names[place], values[:, place]), start)  # which says so
        yield start, values


def column_of(array: np.ndarray, place: int) -> pl.Series:
    """One column of an array."""
    return pl.Series(array_columns(array.shape[1])[place], as_polars_knows(np.array(array[:, place])))


class _Moments:
    """Mean, deviation and range of columns, block after block, leaving out what is missing.

    By Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances,
    1979: as exact as two passes over all rows, where a sum of squares loses digits.
    """

    def __init__(self, width: int) -> None:
        self.rows, self.count = 0, np.zeros(width, dtype=np.int64)
        self.mean, self.squares = np.zeros(width), np.zeros(width)
        self.least, self.most = np.full(width, np.nan), np.full(width, np.nan)

    def add(self, values: np.ndarray) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # numbers so large are refused in the end
            count = len(values) - np.isnan(values).sum(0)
            mean = np.nansum(values, axis=0) / np.maximum(count, 1)
            step, total = mean - self.mean, np.maximum(self.count + count, 1)
            self.squares += np.nansum((values - mean) ** 2, axis=0) + step**2 * (self.count * count / total)
            self.mean += step * (count / total)
        self.count += count
        self.rows += len(values)
        self.least = np.fmin(self.least, np.fmin.reduce(values))
        self.most = np.fmax(self.most, np.fmax.reduce(values))

    def fitted(self, names: list[str]) -> list[Number | None]:
        std = np.sqrt(self.squares / np.maximum(self.count, 1))
        return [
            fit_number(
                name,
                float(self.mean[i]) if self.count[i] else None,
                float(std[i]),
                bool(self.least[i] == self.most[i]),
                bool(self.count[i] < self.rows),
            )
            for i, name in enumerate(names)
        ]
