"""Readers of features and labels from NumPy files: one .npz, or one .npy each. No pickled code is executed.

A .npy is memory-mapped: only the used rows of features and of label matrices are read.
"""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lossselect.data.readers.sparse_labels import read_sparse_labels
from lossselect.data.readers.sparse_matrices import column_name, is_sparse_matrix, read_sparse_matrix
from lossselect.data.readers.suffixes import ARRAYS
from lossselect.data.readers.tables import existing_file
from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.utils.checks import SPLIT_NAMES, shorten, suggestion
from lossselect.utils.devices import free_memory

BLOCK = 1 << 20
"""Number of values in a block of rows: 8 MB as float64, which fit into a processor's cache."""
MAX_MEMORY_SHARE = 0.5
"""Fraction of the free memory that an array of a .npz may take; its features need the rest."""
FEATURES = ("features", "X", "x", "inputs", "data")
LABELS = ("labels", "label", "target", "targets", "Y", "y")


def read_arrays(
    path: str, features: str | None = None, target: str | None = None, others: Mapping[str, str] | None = None
) -> tuple[Any, np.ndarray | SparseLabels, dict[str, np.ndarray]]:
    """Return features (N, F), labels (N,), (N, L) or sparse, and other arrays (N,) by setting.

    Args:
        path: A .npz with all arrays; or features in a .npy, or in a .npz of `scipy.sparse.save_npz`, which
            are returned as a `scipy.sparse.csr_array`.
        features: Name of the array in the .npz; by default a usual one (`FEATURES`), or X_train, X_val and
            X_test, joined.
        target: Name of the array in the .npz, by default a usual one (`LABELS`), or y_train, y_val and
            y_test. With only features in `path`, the path of the labels: a .npy, or a .npz of sparse labels.
        others: Names of the other arrays in the .npz by setting, such as "group". With only features in
            `path`, their paths: .npy files.
    """
    labels: Any
    arrays: dict[str, np.ndarray]
    others = others or {}
    content = _open(path)
    is_archive = not _has_only_features(content)
    if is_archive:
        with content as file:
            published = None if features or target or "split" in others else _published_splits(file, path)
            if published is None:
                inputs = _entry(file, features, FEATURES, "data.features", path)
                labels = _entry(file, target, LABELS, "data.target", path)
                arrays = {}
            else:
                inputs, labels, arrays = published
            for setting, name in others.items():
                arrays[setting] = _entry(file, name, (), f"data.{setting}", path)
    elif target is None:
        raise DataError(
            f"{path} contains only features. Set data.target to the file of the labels, such as "
            "data.target=labels.npy."
        )
    elif features is not None:
        raise ConfigError(
            f"data.features is the name of an array in a .npz file, but {path} is a single array. Remove it."
        )
    else:
        inputs = _features_only(content, path)
        labels = _open(target)
        if not isinstance(labels, np.ndarray):
            with labels as file:
                labels = read_sparse_labels(_load_all(file, target), target)
        arrays = {setting: _open_array(name, setting) for setting, name in others.items()}
    if isinstance(inputs, np.ndarray):
        inputs = _check_features(inputs, path)
    if isinstance(labels, np.ndarray):
        labels = _check_labels(labels, path if is_archive else str(target))
    num_rows = inputs.shape[0]
    if num_rows != len(labels):
        where = path if is_archive else f"{path} and {target}"
        raise DataError(
            f"Got {num_rows} rows of features, but {len(labels)} rows of labels in {where}. Save one row "
            "of labels for each row of features."
        )
    for setting, array in arrays.items():
        kinds = "biuf" if setting == "sample_weight" else "biufUSM"
        if array.shape != (num_rows,) or array.dtype.kind not in kinds:
            values = "numbers" if setting == "sample_weight" else "numbers, strings or dates"
            where = path if is_archive else others[setting]
            raise DataError(
                f"The array of data.{setting} must contain {values} of shape ({num_rows},), got "
                f"{array.dtype} of shape {array.shape} in {where}."
            )
    return inputs, labels, {setting: _as_column(array, path) for setting, array in arrays.items()}


def read_features(path: str, features: str | None = None) -> np.ndarray:
    """Return the features (N, F) of a .npy, or of a .npz by the name of the array or a usual one."""
    inputs = _open(path)
    if not isinstance(inputs, np.ndarray):
        with inputs as file:
            if is_sparse_matrix(file.files):
                raise DataError(
                    f"Expected a dense array, got a sparse matrix in {path}: the model was trained on dense "
                    "arrays. Save X.toarray()."
                )
            inputs = _entry(file, features, FEATURES, "features", path)
    return _check_features(inputs, path)


def read_sparse_features(path: str) -> Any:
    """Return the `scipy.sparse.csr_array` (N, F) of features in a .npz of `scipy.sparse.save_npz`."""
    content = _open(path)
    if isinstance(content, np.ndarray) or not _has_only_features(content):
        raise DataError(
            f"Expected a sparse matrix, got dense arrays in {path}: the model was trained on a sparse "
            "matrix. Save it with scipy.sparse.save_npz(path, scipy.sparse.csr_array(X))."
        )
    return _features_only(content, path)


def array_names(path: str) -> list[str]:
    """Return the names of the arrays in a .npz; none for a .npy."""
    content = _open(path)
    if isinstance(content, np.ndarray):
        return []
    with content:
        return [*content.files]


def has_only_features(path: str) -> bool:
    """Return whether a file contains features without labels."""
    names = array_names(path)
    return not names or is_sparse_matrix(names)


def _has_only_features(content: Any) -> bool:
    return isinstance(content, np.ndarray) or is_sparse_matrix(content.files)


def _features_only(content: Any, path: str) -> Any:
    if isinstance(content, np.ndarray):
        return content
    with content as file:
        return read_sparse_matrix(_load_all(file, path), path)


def _open_array(path: str, setting: str) -> np.ndarray:
    """Return the array in a .npy."""
    if Path(path).suffix.lower() != ".npy":
        raise ConfigError(
            f"data.{setting} must be a .npy file, because data.path contains only features, got {path}."
        )
    return np.asarray(_open(path))


def _published_splits(
    file: "np.lib.npyio.NpzFile", path: str
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]] | None:
    """Return the joined arrays X_train, X_val, X_test, those of y, and the split of each row.

    Returns None if the file has no X_train (or x_train) and y_train (or Y_train), or if they are not the only
    features and labels.
    """
    found = [name for name in ("X", "x", "y", "Y") if f"{name}_train" in file.files]
    if "".join(found).lower() != "xy" or {*FEATURES, *LABELS} & {*file.files}:
        return None
    x, y = found
    splits = [split for split in SPLIT_NAMES if {f"{x}_{split}", f"{y}_{split}"} & {*file.files}]
    inputs, labels = (
        [_entry(file, f"{name}_{split}", (), setting, path) for split in splits]
        for name, setting in ((x, "data.features"), (y, "data.target"))
    )
    for split, rows, values in zip(splits, inputs, labels, strict=True):
        is_text = values.dtype.kind in "US"
        if not rows.ndim or rows.shape[:1] != values.shape[:1] or rows.shape[1:] != inputs[0].shape[1:]:
            problem = f"{x}_{split} has shape {rows.shape} and {y}_{split} {values.shape}"
        elif values.shape[1:] != labels[0].shape[1:] or is_text != (labels[0].dtype.kind in "US"):
            problem = f"{y}_{split} is {values.dtype} of shape {values.shape}"
        else:
            continue
        raise DataError(
            f"{problem}, but {x}_train has shape {inputs[0].shape} and {y}_train is {labels[0].dtype} of "
            f"shape {labels[0].shape} in {path}. Save all splits in the same form."
        )
    named = np.repeat(splits, [len(rows) for rows in inputs])
    return np.concatenate(inputs), np.concatenate(labels), {"split": named}


def array_columns(width: int) -> list[str]:
    """Return the names of an array's columns."""
    return [column_name(i) for i in range(width)]


def blocks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the rows of an array (N, F) in blocks, each with the index of its first row."""
    rows = max(1, BLOCK // array.shape[1])
    for start in range(0, len(array), rows):
        yield start, np.asarray(array[start : start + rows])


def as_polars_knows(values: np.ndarray) -> np.ndarray:
    """Convert to a dtype that all supported versions of Polars can read from NumPy."""
    if values.dtype.kind == "f" and values.dtype not in (np.float32, np.float64):
        return values.astype(np.float64)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def as_frame(block: np.ndarray) -> pl.DataFrame:
    """Return the rows of an array (N, F) as a frame of F columns."""
    return pl.from_numpy(as_polars_knows(block), schema=array_columns(block.shape[1]))


def _check_features(inputs: np.ndarray, path: str) -> np.ndarray:
    if inputs.ndim != 2 or inputs.dtype.kind not in "biuf" or not inputs.size:
        raise DataError(
            f"Features must be numbers of shape (N, F), got {inputs.dtype} of shape {inputs.shape} in "
            f"{path}. Save X.reshape(len(X), -1). For other inputs, such as images, write a "
            "LightningDataModule and set data._target_."
        )
    return inputs


def _check_labels(labels: np.ndarray, path: str) -> np.ndarray:
    """Return labels (N,) in memory, or labels (N, L) unchanged."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or labels.dtype.kind not in ("biuf" if labels.ndim == 2 else "biufUS"):
        raise DataError(
            "Labels must be numbers or strings of shape (N,), or 0 and 1 of shape (N, L), got "
            f"{labels.dtype} of shape {labels.shape} in {path}. For several names per cell, set data=table "
            "and data.delimiter."
        )
    return labels if labels.ndim == 2 else _as_column(labels, path)


def _as_column(values: np.ndarray, path: str) -> np.ndarray:
    """Return an array (N,) in memory, of a type that Polars reads."""
    if values.dtype.kind == "M":
        return np.asarray(values, dtype="datetime64[us]")
    if values.dtype.kind != "S":
        return as_polars_knows(np.asarray(values))
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"An array in {path} contains bytes that are not valid UTF-8: {error}. Save it as strings."
        ) from None


def _open(path: str) -> Any:
    """Return the archive of a .npz, whose arrays are not read yet, or the memory-mapped array of a .npy."""
    suffix = Path(path).suffix.lower()
    if suffix not in ARRAYS:
        fix = "Set data=table to read tables (.csv, .tsv or .parquet)."
        raise ConfigError(f"Expected a .npz or .npy file, got {path}. {fix}")
    file = existing_file(path)
    try:
        content = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(_explain(file, str(error))) from None
    actual = ".npy" if isinstance(content, np.ndarray) else ".npz"
    if actual != suffix:
        if actual == ".npz":
            content.close()
        raise DataError(f"{file} is in fact a {actual} file. Rename it, so that its name ends in {actual}.")
    return content


def _explain(file: Path, error: str) -> str:
    if "mmap length" in error:
        return (
            f"{file} is truncated: it has {file.stat().st_size:,} bytes, fewer than its header states. "
            "Write or copy it again."
        )
    if "Python objects" in error:
        return (
            f"{file} contains Python objects, which are not loaded. Save numbers as numbers, such as "
            "X.astype(np.float32), and text as text, y.astype(str)."
        )
    return f"{file} cannot be read as a NumPy file: {error.rstrip('.')}. Write or copy it again."


def _entry(
    file: "np.lib.npyio.NpzFile", name: str | None, usual: tuple[str, ...], setting: str, path: str
) -> np.ndarray:
    """Return the array `name`, or if it is None the array with one of the usual names."""
    names = [key for key in (usual if name is None else (name,)) if key in file.files]
    if len(names) > 1:
        choices = " or ".join(f"{setting}={name}" for name in names)
        raise ConfigError(f"{path} contains several possible arrays: {shorten(names)}. Set {choices}.")
    if not names and name is None:
        raise ConfigError(
            f"{path} has no array with a usual name ({', '.join(usual)}). It has: {shorten(file.files)}. Set "
            f"{setting} to one of them."
        )
    if not names:
        raise ConfigError(
            f"{path} has no array {name!r} ({setting}).{suggestion(str(name), file.files)} It has: "
            f"{shorten(file.files)}."
        )
    return _load(file, names[0], path)


def _load_all(file: "np.lib.npyio.NpzFile", path: str) -> dict[str, np.ndarray]:
    return {name: _load(file, name, path) for name in file.files}


def _load(file: "np.lib.npyio.NpzFile", name: str, path: str) -> np.ndarray:
    """Read an array if it fits into memory; a small compressed file may contain an array of any size."""
    free, members = free_memory(), file.zip.infolist() if file.zip else []
    part = next((member for member in members if member.filename in (name, f"{name}.npy")), None)
    if free is not None and part is not None and part.file_size > MAX_MEMORY_SHARE * free:
        raise DataError(
            f"Array {name!r} of {path} requires {part.file_size / 1e9:,.1f} GB of memory "
            f"({part.compress_size / 1e9:,.3f} GB in the file), more than half of the {free / 1e9:,.1f} GB "
            "that are free. Save it as a .npy file, of which only the used rows are read."
        )
    try:
        return file[name]
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        fix = "Save text as y.astype(str)" if "allow_pickle" in str(error) else "Write or copy the file again"
        raise DataError(f"Array {name!r} of {path} cannot be read: {error}. {fix}.") from None
