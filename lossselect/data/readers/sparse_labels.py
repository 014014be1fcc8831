"""Lists of labels from a .npz: sparse in the file, and never a matrix."""

from collections.abc import Mapping

import numpy as np

from lossselect.exceptions import DataError, LossSelectError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.utils.checks import shorten

NATIVE_ARRAYS = ("indices", "offsets", "num_labels")
SCIPY_ARRAYS = ("indices", "indptr", "shape", "format", "data")


def read_sparse_labels(arrays: Mapping[str, np.ndarray], path: str) -> SparseLabels:
    """Return the labels of the arrays of a .npz, which `path` is called in messages.

    These are what `scipy.sparse.save_npz` writes of a csr matrix (N, L) of 0 and 1, or `indices`, `offsets`
    (the indptr), `num_labels` and perhaps `missing`.
    """
    native = "offsets" in arrays
    form = str(arrays["format"].astype(str)) if "format" in arrays and not native else "csr"
    if form != "csr":
        raise DataError(
            f"{path} holds a sparse matrix in the format {form}, where csr is needed: "
            "scipy.sparse.save_npz(path, Y.tocsr())."
        )
    if lacking := [name for name in (NATIVE_ARRAYS if native else SCIPY_ARRAYS) if name not in arrays]:
        raise DataError(
            f"{path} holds no lists of labels, for lack of {shorten(lacking)}. Write a sparse (N, L) "
            "matrix of 0 and 1 with scipy.sparse.save_npz(path, Y.tocsr()), or an array of labels as a .npy. "
            f"It has: {shorten([*arrays])}."
        )
    indices = _check_array(arrays, "indices", path)
    bounds = _check_array(arrays, "offsets" if native else "indptr", path)
    missing = _check_array(arrays, "missing", path, "b") if native and "missing" in arrays else None
    if native:
        num_rows = max(len(bounds) - 1, 0) if missing is None else len(missing)
        shape = [num_rows, int(_check_array(arrays, "num_labels", path, ndim=0))]
    else:
        shape = _check_array(arrays, "shape", path).tolist()
    if len(shape) != 2 or shape[0] < 0:
        raise DataError(f"{path} holds a sparse array of shape {tuple(shape)}, where (N, L) is needed.")
    _check_bounds(bounds, len(indices), shape[0], path)
    if not native:
        indices, bounds = _drop_zeros(indices, bounds, _check_array(arrays, "data", path, "biuf"), path)
    lengths = np.diff(bounds)
    if missing is not None and (contradictory := missing & (lengths > 0)).any():
        row = int(contradictory.argmax())
        raise _row_error(row, path, f"is missing, but has {lengths[row]} labels: it is one or the other.")
    try:
        return SparseLabels.from_csr(indices, bounds, shape[1], missing)
    except LossSelectError as error:
        raise error.add(f"(In {path}.)") from None


def _check_array(
    arrays: Mapping[str, np.ndarray], name: str, path: str, kinds: str = "iu", ndim: int = 1
) -> np.ndarray:
    array = arrays[name]
    if array.ndim != ndim or array.dtype.kind not in kinds:
        what = {"iu": "whole numbers", "biuf": "numbers", "b": "true and false"}[kinds]
        what = f"{what}, of one dimension" if ndim else "a whole number"
        raise DataError(
            f"Array {name!r} of {path} must hold {what}, got {array.dtype} of shape {array.shape}."
        )
    return array.astype(np.int64, copy=False) if kinds == "iu" else array


def _row_error(row: int, path: str, problem: str) -> DataError:
    return DataError(f"Row {row} of {path} {problem}", row=row)


def _check_bounds(bounds: np.ndarray, num_indices: int, num_rows: int, path: str) -> None:
    if len(bounds) != num_rows + 1 or bounds[0] != 0 or bounds[-1] != num_indices:
        ends = f", from {bounds[0]} to {bounds[-1]}" if len(bounds) else ""
        raise DataError(
            f"The lists of {path} must have {num_rows + 1} bounds, from 0 to {num_indices}, for "
            f"{num_rows} rows and {num_indices} labels, but there are {len(bounds)}{ends}: write the "
            "file again."
        )
    if (falling := np.diff(bounds) < 0).any():
        row = int(falling.argmax())
        problem = f"starts at {bounds[row]} and ends at {bounds[row + 1]}: the bounds of rows never fall"
        raise _row_error(row, path, f"{problem}. Write the file again.")


def _drop_zeros(
    indices: np.ndarray, bounds: np.ndarray, data: np.ndarray, path: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and bounds without the zeros that the file stores."""
    if data.shape != indices.shape:
        raise DataError(f"{path} has {len(indices)} labels, but {len(data)} values of them.")
    if (data == 1).all():
        return indices, bounds
    nonzero = data != 0
    if (soft := nonzero & (data != 1)).any():
        position = int(soft.argmax())
        raise _row_error(
            int(np.searchsorted(bounds, position, side="right")) - 1,
            path,
            f"has label {indices[position]} with the value {data[position]:g}, but a list has a label "
            "or not, which is 1 or 0. Y.data[:] = 1 if all that are there are meant; soft labels are a "
            ".npy of shape (N, L).",
        )
    return indices[nonzero], np.concatenate([[0], nonzero.cumsum()])[bounds]
