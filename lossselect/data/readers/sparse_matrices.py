"""Reader of sparse features from a .npz, without a dense matrix in memory."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lossselect.data.readers.sparse_labels import check_array, check_bounds
from lossselect.exceptions import DataError
from lossselect.utils.devices import free_memory

MAX_EMPTY_ROWS = 10_000
"""Maximum number of rows for each value of a matrix, as a few bytes may claim any number of rows."""
MAX_MEMORY_SHARE = 0.25
"""Fraction of the free memory that the names and the statistics of all columns may take."""
BYTES_PER_COLUMN = 200
"""Approximate size of a column's name and statistics."""
FORMATS = {"csr": {"indices": 1}, "csc": {"indices": 0}, "coo": {"row": 0, "col": 1}, "bsr": {"indices": 1}}
"""For each format that is read, the arrays of indices and their axis: 0 for rows, 1 for columns."""


def is_sparse_matrix(names: Iterable[str]) -> bool:
    """Return whether a .npz with these arrays was written by `scipy.sparse.save_npz`."""
    return {"format", "shape", "data"} <= {*names}


def read_sparse_matrix(arrays: Mapping[str, np.ndarray], path: str) -> Any:
    """Return the `scipy.sparse.csr_array` (N, F) of float64 in the arrays of a .npz, in canonical form.

    Repeated entries are added, as in SciPy. `path` is the name of the file in messages.

    Raises:
        DataError: another format, an index out of range, or a number that is not finite.
    """
    from scipy import sparse

    form = str(arrays["format"].astype(str))
    axes, values = FORMATS.get(form, {}), arrays["data"]
    if not axes or not {*axes} <= {*arrays} or values.dtype.kind not in "biuf":
        raise DataError(
            f"Sparse features must be numbers in the format {', '.join(FORMATS)}, got {values.dtype} in the "
            f"format {form} in {path}. Save them with scipy.sparse.save_npz(path, X.tocsr())."
        )
    shape = check_array(arrays, "shape", path).tolist()
    if len(shape) != 2 or min(shape) < 1:
        raise DataError(f"Features must be numbers of shape (N, F), got shape {tuple(shape)} in {path}.")
    check_width(shape[1], path)
    places = [check_array(arrays, name, path) for name in axes]
    if values.ndim != (3 if form == "bsr" else 1) or len({len(values), *map(len, places)}) > 1:
        raise DataError(
            f"{path} has {len(places[0])} indices, but values of shape {values.shape}. Write the file again."
        )
    block = np.maximum(values.shape[1:], 1) if form == "bsr" else np.ones(2, dtype=np.int64)
    limits = shape // block
    if form == "coo" and shape[0] > MAX_EMPTY_ROWS * (len(values) + 1000):
        raise DataError(
            f"{path} has the shape {tuple(shape)}, but only {len(values)} values. Write the file again."
        )
    bounds = None if form == "coo" else check_array(arrays, "indptr", path)
    if bounds is not None:
        check_bounds(bounds, len(values), int(limits[1 if form == "csc" else 0]), path)
    for indices, axis in zip(places, axes.values(), strict=True):
        if not (invalid := (indices < 0) | (indices >= limits[axis])).any():
            continue
        first = int(invalid.argmax())
        other = places[1 - axis][first] if bounds is None else np.searchsorted(bounds, first, "right") - 1
        row, column = block * ((indices[first], other) if axis == 0 else (other, indices[first]))
        problem = f"has an entry in row {row}, column {column}, but its shape is {tuple(shape)}"
        raise DataError(f"{path} {problem}. Write the file again.", row=row)
    if values.dtype.kind != "b":  # before entries are added: sums of small integers overflow
        values = values.astype(np.float64, copy=False)
    entries = (values, tuple(places)) if bounds is None else (values, *places, bounds)
    try:
        matrix = getattr(sparse, f"{form}_array")(entries, shape=tuple(shape)).tocsr()
    except (ValueError, MemoryError) as error:
        raise DataError(f"{path} is not a valid sparse matrix: {error}. Write the file again.") from None
    matrix.sum_duplicates()
    return check_finite(matrix.astype(np.float64, copy=False), path)


def check_width(width: int, path: str) -> None:
    """Raise a DataError for a number of columns that does not fit into memory."""
    free = free_memory()
    if free is not None and width * BYTES_PER_COLUMN > MAX_MEMORY_SHARE * free:
        raise DataError(
            f"{path} has {width:,} columns, which require too much memory even if most are empty. Number the "
            "columns without gaps, or hash them to fewer columns."
        )


def check_same_width(width: int, expected: int, path: str) -> None:
    """Raise a DataError unless a file has the number of features of the training file."""
    if width != expected:
        raise DataError(f"Expected {expected} features per row as in training, got {width} in {path}.")


def check_finite(matrix: Any, path: str) -> Any:
    """Return the matrix; raise a DataError for the first number that is not finite."""
    if not (finite := np.isfinite(matrix.data)).all():
        first = int(finite.argmin())
        raise DataError.at(
            np.searchsorted(matrix.indptr, first, "right") - 1,
            column_name(matrix.indices[first]),
            f" of {path} is {matrix.data[first]}, but sparse features must be finite. Correct it, or remove "
            "the entry.",
            matrix.data[first],
        )
    return matrix


def column_name(index: int) -> str:
    """Return the name of a column."""
    return f"x{index}"
