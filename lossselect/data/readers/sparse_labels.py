"""Reader of sparse labels from a .npz, without a dense matrix in memory."""

from collections.abc import Mapping

import numpy as np

from lossselect.exceptions import DataError, LossSelectError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.utils.checks import shorten

NATIVE_ARRAYS = ("indices", "offsets", "num_labels")
SCIPY_ARRAYS = ("indices", "indptr", "shape", "format", "data")


def read_sparse_labels(arrays: Mapping[str, np.ndarray], path: str) -> SparseLabels:
    """Return the labels in the arrays of a .npz; `path` is its name in messages.

    The arrays are those that `scipy.sparse.save_npz` writes for a csr matrix (N, L) of 0 and 1, or
    `indices`, `offsets` (the indptr), `num_labels` and optionally `missing`.
    """
    native = "offsets" in arrays
    form = str(arrays["format"].astype(str)) if "format" in arrays and not native else "csr"
    if form != "csr":
        raise DataError(
            f"{path} must contain a sparse matrix in the format csr, got {form}. Save it with "
            "scipy.sparse.save_npz(path, Y.tocsr())."
        )
    if lacking := [name for name in (NATIVE_ARRAYS if native else SCIPY_ARRAYS) if name not in arrays]:
        raise DataError(
            f"{path} contains no sparse labels: it lacks {shorten(lacking)} and has {shorten([*arrays])}. "
            "Save a sparse (N, L) matrix of 0 and 1 with scipy.sparse.save_npz(path, Y.tocsr()), or save an "
            "array of labels as a .npy file."
        )
    indices = check_array(arrays, "indices", path)
    bounds = check_array(arrays, "offsets" if native else "indptr", path)
    missing = check_array(arrays, "missing", path, "b") if native and "missing" in arrays else None
    if native:
        num_rows = max(len(bounds) - 1, 0) if missing is None else len(missing)
        shape = [num_rows, int(check_array(arrays, "num_labels", path, ndim=0))]
    else:
        shape = check_array(arrays, "shape", path).tolist()
    if len(shape) != 2 or shape[0] < 0:
        raise DataError(f"Expected a sparse array of shape (N, L), got shape {tuple(shape)} in {path}.")
    check_bounds(bounds, len(indices), shape[0], path)
    if not native:
        indices, bounds = _drop_zeros(indices, bounds, check_array(arrays, "data", path, "biuf"), path)
    lengths = np.diff(bounds)
    if missing is not None and (contradictory := missing & (lengths > 0)).any():
        row = int(contradictory.argmax())
        problem = f"is marked as missing, but has {lengths[row]} labels"
        raise _row_error(row, path, f"{problem}. Remove its labels, or the mark in the array 'missing'.")
    try:
        return SparseLabels.from_csr(indices, bounds, shape[1], missing)
    except LossSelectError as error:
        raise error.add(f"(In {path}.)") from None


def check_array(
    arrays: Mapping[str, np.ndarray], name: str, path: str, kinds: str = "iu", ndim: int = 1
) -> np.ndarray:
    """Return an array; raise a DataError unless its type is one of `kinds` and it has `ndim` axes."""
    if name not in arrays:
        raise DataError(f"{path} lacks the array {name!r}. Write the file again.")
    array = arrays[name]
    if array.ndim != ndim or array.dtype.kind not in kinds:
        values = {"iu": "integers", "biuf": "numbers", "b": "booleans"}[kinds]
        expected = f"{values} of shape (N,)" if ndim else "a single integer"
        raise DataError(
            f"Array {name!r} of {path} must be {expected}, got {array.dtype} of shape {array.shape}."
        )
    return array.astype(np.int64, copy=False) if kinds == "iu" else array


def _row_error(row: int, path: str, problem: str) -> DataError:
    return DataError(f"Row {row} of {path} {problem}", row=row)


def check_bounds(bounds: np.ndarray, num_indices: int, num_rows: int, path: str) -> None:
    """Raise a DataError unless the offsets of the rows rise from 0 to `num_indices`."""
    if len(bounds) != num_rows + 1 or bounds[0] != 0 or bounds[-1] != num_indices:
        ends = f", from {bounds[0]} to {bounds[-1]}" if len(bounds) else ""
        raise DataError(
            f"The offsets in {path} must be {num_rows + 1} integers, from 0 to {num_indices}, got "
            f"{len(bounds)}{ends}. Write the file again."
        )
    if (falling := np.diff(bounds) < 0).any():
        row = int(falling.argmax())
        problem = f"starts at {bounds[row]} and ends at {bounds[row + 1]}, but offsets must not decrease"
        raise _row_error(row, path, f"{problem}. Write the file again.")


def _drop_zeros(
    indices: np.ndarray, bounds: np.ndarray, data: np.ndarray, path: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and bounds without the zeros that are stored in the file."""
    if data.shape != indices.shape:
        raise DataError(f"{path} has {len(indices)} indices, but {len(data)} values. Write the file again.")
    if (data == 1).all():
        return indices, bounds
    nonzero = data != 0
    if (soft := nonzero & (data != 1)).any():
        position = int(soft.argmax())
        raise _row_error(
            int(np.searchsorted(bounds, position, side="right")) - 1,
            path,
            f"has label {indices[position]} with the value {data[position]:g}, but sparse labels must be 0 "
            "or 1. If every stored value means 1, set Y.data[:] = 1 before saving. Save soft labels as a "
            ".npy file of shape (N, L).",
        )
    return indices[nonzero], np.concatenate([[0], nonzero.cumsum()])[bounds]
