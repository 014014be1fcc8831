"""Conversion of an array to the scaled features of a net, in two passes over blocks of rows.

`ArrayRows` corresponds to `TableRows` for a table, but the array may be larger than the memory.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lossselect.data.preprocessing.columns import (
    FEW,
    CellParser,
    fit_numbers,
    warn_if_index,
)
from lossselect.data.preprocessing.scaling import FITTED_ROWS, Standardizer, check_range, sampled_rows
from lossselect.data.preprocessing.table_features import Features
from lossselect.data.preprocessing.table_rows import TableRows
from lossselect.data.readers.arrays import array_columns, as_polars_knows, blocks
from lossselect.exceptions import DataError

MIN_FITTED_ROWS, MAX_FITTED_CELLS = 1024, 1 << 26
"""Limits of the sample from which quantiles are computed (512 MB, unless there are very many columns)."""


class ArrayRows:
    """Rows of an array (N, F), scaled when indexed; a mapped array is read only for these rows."""

    def __init__(self, array: np.ndarray, features: Features) -> None:
        self.array, self.shape = array, (len(array), len(features.names))
        self.path = Path(array.filename) if isinstance(array, np.memmap) and array.filename else None
        self.version = _file_version(self.path) if self.path else (0, 0, 0)
        names = array_columns(array.shape[1])
        positions = {name: position for position, name in enumerate(names)}
        places = [positions[number.name] for number in features.numbers]
        self.features = features.number_converter(places, len(names))
        self.nbytes = array.nbytes
        self.may_be_missing = array.dtype.kind == "f" and features.parser.nan == "missing"

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: Any) -> Tensor:
        """Return the features (len(rows), num_features); for a single row (num_features,)."""
        if self.path and (now := _file_version(self.path)) != self.version and now[0] == self.version[0]:
            raise DataError(
                f"{self.path} was modified after the run had opened it. Start again, and write new data to "
                "another file: a run reads its file until it ends."
            )
        taken = np.asarray(self.array[np.asarray(rows)])
        features = torch.from_numpy(self.converted(np.atleast_2d(taken)))
        return features if taken.ndim > 1 else features[0]

    def converted(self, block: np.ndarray) -> np.ndarray:
        """Return the features of rows of the array."""
        return self.features(block, self.may_be_missing)


def _file_version(path: Path) -> tuple[int, int, int]:
    """Return inode, size and time of modification; zeros for a deleted file.

    If the path was deleted or replaced by another file, the mapped file still exists, unchanged.
    """
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0, 0, 0
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def transform_array(array: np.ndarray, features: Features) -> tuple[TableRows, dict[str, int]]:
    """Return what `Features.transform` returns; the rows of a mapped array stay in the file."""
    rows, names = ArrayRows(array, features), array_columns(array.shape[1])
    numbers: Any = rows if rows.path else torch.empty(rows.shape, dtype=rows.features.dtype)
    used = np.flatnonzero(np.isin(names, features.columns))
    hashes, missing = [], np.zeros(len(used), dtype=np.int64)
    for start, values in _read(array, features.parser):
        block = torch.from_numpy(rows.converted(values))
        if not features.raw:
            check_range(block, features.names, first_row=start)
        if not rows.path:
            numbers[start : start + len(block)] = block
        hashes.append(_hash_rows(values[:, used]))
        missing += np.isnan(values[:, used]).sum(0)
    counts = zip(features.numbers, missing.tolist(), strict=True)
    unknown = {number.name: count for number, count in counts if count and not number.missing}
    no_codes = torch.empty(len(rows), 0, dtype=torch.int32)
    all_hashes = pl.concat(hashes, rechunk=True)
    return TableRows(numbers, no_codes, rows.shape[1], all_hashes, is_mapped=bool(rows.path)), unknown


def _hash_rows(values: np.ndarray) -> pl.Series:
    """Return a hash of each row's bytes; -0 is hashed as 0."""
    rows = np.ascontiguousarray(values + 0.0).view(f"V{values.shape[1] * values.itemsize}")
    return pl.Series(rows.ravel().tolist(), dtype=pl.Binary).hash()


def fit_array(
    array: np.ndarray, train: np.ndarray, parser: CellParser, scaling: str = "standard"
) -> Features:
    """Return what `Features.fit` returns, for an array (N, F) and the sorted training rows."""
    names = array_columns(array.shape[1])
    if array.dtype.kind in "iu":
        for place in np.flatnonzero((np.diff(array[: FEW + 2], axis=0) == 1).all(0)).tolist():
            warn_if_index(array_column(array, place))
    standardizer, parts = Standardizer(names), [np.empty((0, len(names)))]
    sample = sampled_rows(train, min(FITTED_ROWS, max(MIN_FITTED_ROWS, MAX_FITTED_CELLS // len(names))))
    for start, values in _read(array, parser):
        first, end = np.searchsorted(train, (start, start + len(values)))
        if first < end:
            standardizer.partial_fit(values[train[first:end] - start])
        if scaling != "standard":
            first, end = np.searchsorted(sample, (start, start + len(values)))
            parts.append(values[sample[first:end] - start])
    return Features.from_columns(fit_numbers(standardizer, scaling, np.concatenate(parts).T), parser)


def _read(array: np.ndarray, parser: CellParser) -> Iterator[tuple[int, np.ndarray]]:
    """Yield blocks of rows as float64, NaN where missing, each with the index of its first row."""
    for start, block in blocks(array):
        values = block.astype(np.float64)
        invalid = np.isinf(values) if parser.nan == "missing" else ~np.isfinite(values)
        if invalid.any():
            place = int(invalid.any(0).argmax())
            name = array_columns(array.shape[1])[place]
            parser.numbers(pl.Series(name, values[:, place]), start)  # raises the error that names the row
        yield start, values


def array_column(array: np.ndarray, place: int) -> pl.Series:
    """Return one column of an array."""
    return pl.Series(array_columns(array.shape[1])[place], as_polars_knows(np.array(array[:, place])))
