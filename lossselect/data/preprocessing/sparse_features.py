"""Conversion of a sparse matrix to the features of a net, which stay sparse until they are a batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch

from lossselect.data.preprocessing.table_rows import TableRows
from lossselect.data.readers.sparse_matrices import column_name
from lossselect.exceptions import CheckpointError, DataError
from lossselect.utils.checks import shorten
from lossselect.utils.warnings import warn


@dataclass(frozen=True, eq=False)
class SparseFeatures:
    """Columns of a sparse matrix, divided by their largest absolute value in the training rows.

    Zeros stay zeros, as with scikit-learn's MaxAbsScaler. Columns that are 0 in these rows are left out.

    Args:
        indices: Indices of the columns (F,), increasing.
        scale: The largest absolute values of the columns (F,).
    """

    indices: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, matrix: Any, train: np.ndarray, first_index: int | None = None) -> "SparseFeatures":
        """Fit to the training rows.

        Args:
            matrix: A `scipy.sparse.csr_array` of all rows.
            train: Indices of the training rows.
            first_index: Smallest index of a libsvm file, in which smaller ones are not features.

        Raises:
            DataError: all columns are 0.
        """
        rows = matrix[train]
        largest = np.zeros(matrix.shape[1])
        np.maximum.at(largest, rows.indices, np.abs(rows.data))
        indices = np.flatnonzero(largest)
        if not len(indices):
            raise DataError("All features are 0 in all training rows. Add rows with other values.")
        zero = np.flatnonzero(largest == 0)
        if constant := [column_name(index) for index in zero[zero >= (first_index or 0)].tolist()]:
            warn(
                "constant_feature",
                f"Columns that are 0 in all training rows are left out: {shorten(constant)}.",
            )
        return cls(indices, largest[indices])

    @property
    def names(self) -> list[str]:
        """Names of the features, in their order."""
        return [column_name(index) for index in self.indices.tolist()]

    @property
    def summary(self) -> list[str]:
        """Description of the columns."""
        return [f"{len(self.indices)} columns of a sparse matrix"]

    def transform(self, matrix: Any, path: str, first_row: int = 0) -> tuple[TableRows, dict[str, int]]:
        """Return what `Features.transform` returns; no cell of a sparse matrix is missing or unknown.

        Args:
            matrix: A `scipy.sparse.csr_array` of rows, with the columns of the training file.
            path: Name of the file in messages.
            first_row: Index of the first row in the file, for messages.

        Raises:
            DataError: a feature is out of the range of float32.
        """
        from scipy.sparse import csr_array

        positions = np.full(matrix.shape[1], -1)
        positions[self.indices] = np.arange(len(self.indices))
        columns = positions[matrix.indices]
        used = columns >= 0
        columns = columns[used]
        with np.errstate(over="ignore"):
            values = (matrix.data[used] / self.scale[columns]).astype(np.float32)
        bounds = np.concatenate([[0], used.cumsum()])[matrix.indptr]
        if not (finite := np.isfinite(values)).all():
            entry = int(finite.argmin())
            raise DataError.at(
                first_row + np.searchsorted(bounds, entry, "right") - 1,
                self.names[columns[entry]],
                f" of {path} is too large: divided by the largest absolute value of the training rows it "
                "overflows float32. Correct the value.",
            )
        words = csr_array((values, columns, bounds), shape=(len(bounds) - 1, len(self.indices)))
        words.eliminate_zeros()  # equal rows should have equal hashes
        entries = pl.DataFrame({"column": words.indices.astype(np.int64), "value": words.data}).hash_rows()
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(entries.to_numpy())])  # modulo 2**64
        hashes = pl.Series(sums[words.indptr[1:]] - sums[words.indptr[:-1]])
        no_codes = torch.empty(len(hashes), 0, dtype=torch.int32)
        return TableRows(torch.empty(len(hashes), 0), no_codes, len(self.indices), hashes, words), {}

    def to_dict(self) -> dict[str, Any]:
        """Return tensors for a checkpoint, which `from_dict` accepts."""
        return {"indices": torch.from_numpy(self.indices), "scale": torch.from_numpy(self.scale)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SparseFeatures":
        """Create the features from the result of `to_dict`, or from lists, as in an exported model."""
        return cls(np.asarray(values["indices"]), np.asarray(values["scale"]))

    def check(self, width: int) -> None:
        """Raise a CheckpointError unless the columns are valid for files of `width` columns."""
        for name, array, dtype in ("indices", self.indices, np.int64), ("scale", self.scale, np.float64):
            if array.ndim != 1 or array.dtype != dtype:
                found = f"shape {array.shape} of {array.dtype}"
                raise CheckpointError(f"{name} must be a vector of {dtype.__name__}, got {found}")
        if not len(self.indices) or len(self.indices) != len(self.scale):
            raise CheckpointError("indices and scale must have an entry for each column")
        if self.indices[0] < 0 or self.indices[-1] >= width or (np.diff(self.indices) <= 0).any():
            raise CheckpointError(f"indices must increase from 0 to at most {width - 1}")
        if not (np.isfinite(self.scale) & (self.scale > 0)).all():
            raise CheckpointError("scale must be finite and > 0")
