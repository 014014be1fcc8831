"""The content of a file: features, labels, sample weights and the columns that determine the splits."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lossselect.data.preprocessing.columns import column_error
from lossselect.data.readers.tables import FileColumns
from lossselect.exceptions import DataError, LossSelectError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.losses.options import MAX_WEIGHT
from lossselect.utils.checks import format_setting


@dataclass(frozen=True)
class Source:
    """The content of one file.

    Args:
        path: The file.
        features: `TableColumns`, an array (N, F), which may be mapped, or a `scipy.sparse.csr_array`.
        labels: Columns, a matrix with a column for each label, or sparse labels.
        reading: Settings for reading new files of the same kind.
        weights: Sample weights (N,), or None.
        roles: The columns that determine the splits, by setting: split, group and time.
        uses: The use of each column of a table; see `NamedColumns.uses`.
        files: All files of a table.
    """

    path: str
    features: Any
    labels: Sequence[pl.Series] | np.ndarray | SparseLabels
    reading: Mapping[str, Any]
    weights: np.ndarray | None = None
    roles: Mapping[str, pl.Series] = field(default_factory=dict)
    uses: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[Path] = ()

    @property
    def is_large(self) -> bool:
        """Return whether the features stay in the file."""
        return isinstance(self.features, FileColumns)


def check_weights(column: pl.Series, path: str) -> np.ndarray:
    """Return the weights as float64; raise a DataError unless all are from 0 to MAX_WEIGHT."""
    rule = f"but weights must be numbers from 0 to {MAX_WEIGHT:g}."
    if column.dtype.is_nested():
        raise column_error(column.name, f"is of type {column.dtype}, {rule}")
    cells = column.str.strip_chars() if column.dtype == pl.String else column  # " 1" after a comma
    numbers = cells.cast(pl.Float64, strict=False)
    invalid = (numbers.is_null() | (numbers < 0) | ~(numbers <= MAX_WEIGHT)).fill_null(True)
    if invalid.any():
        row = invalid.arg_max() or 0
        weight = f"the weight {column[row]!r} ({format_setting('data.sample_weight', column.name)})"
        raise DataError(f"Row {row} of {path} has {weight}, {rule}", row=row)
    return numbers.to_numpy()


@contextmanager
def name_file(path: str | None) -> Iterator[None]:
    """Add the file to errors, unless it is None: errors of the training file do not need its name."""
    try:
        yield
    except LossSelectError as error:
        raise (error if path is None else error.add(f"(In {path}.)")) from None
