"""Readers of features and labels from NumPy files: one .npz, or one .npy each. No pickled code is executed.

A .npy is memory-mapped: only the used rows of features and of label matrices are read.
"""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lossselect.data.readers.sparse_labels import read_sparse_labels
from lossselect.data.readers.tables import existing_file
from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.utils.checks import shorten, suggestion
from lossselect.utils.devices import free_memory

BLOCK = 1 << 20
"""Number of values in a block of rows: 8 MB as float64, which fit into a processor's cache."""
MAX_MEMORY_SHARE = 0.5
"""Fraction of the free memory that an array of a .npz may take; its features need the rest."""
FEATURES = ("features", "X", "x", "inputs", "data")
LABELS = ("labels", "label", "target", "targets", "Y", "y")


def read_arrays(
    path: str, features: str | None = None, target: str | None = None, sample_weight: str | None = None
) -> tuple[np.ndarray, np.ndarray | SparseLabels, np.ndarray | None]:
    """Return features (N, F), labels (N,), (N, L) or sparse, and sample weights (N,) or None.

    Args:
        path: A .npz with all arrays, or a .npy of features.
        features: Name of the array in the .npz; by default a usual one (`FEATURES`).
        target: Name of the array in the .npz, by default a usual one (`LABELS`). With a .npy of features,
            the path of the labels: a .npy, or a .npz of sparse labels.
        sample_weight: Name of the array in the .npz; by default there are no weights.
    """
    labels: np.ndarray | SparseLabels
    weights, is_npz = None, _suffix(path) == ".npz"
    if is_npz:
        with _open(path) as file:
            inputs = _entry(file, features, FEATURES, "data.features", path)
            labels = _entry(file, target, LABELS, "data.target", path)
            if sample_weight is not None:
                weights = _entry(file, sample_weight, (), "data.sample_weight", path)
    elif target is None:
        raise DataError(
            f"{path} contains only features. Set data.target to the file of the labels, such as "
            "data.target=labels.npy."
        )
    elif features is not None or sample_weight is not None:
        raise ConfigError(
            f"data.features and data.sample_weight name arrays in a .npz file, but {path} is a single array. "
            "Remove these settings."
        )
    elif _suffix(target) == ".npz":
        inputs = _open(path)
        with _open(target) as file:
            labels = read_sparse_labels({name: _load(file, name, target) for name in file.files}, target)
    else:
        inputs, labels = _open(path), _open(target)
    inputs = _check_features(inputs, path)
    if isinstance(labels, np.ndarray):
        labels = _check_labels(labels, path if is_npz else str(target))
    if len(inputs) != len(labels):
        where = path if is_npz else f"{path} and {target}"
        raise DataError(
            f"Got {len(inputs)} rows of features, but {len(labels)} rows of labels in {where}. Save one row "
            "of labels for each row of features."
        )
    if weights is not None and (weights.shape != (len(inputs),) or weights.dtype.kind not in "biuf"):
        form = f"{weights.dtype} of shape {weights.shape}"
        raise DataError(f"Sample weights must be numbers of shape ({len(inputs)},), got {form} in {path}.")
    return inputs, labels, weights


def read_features(path: str, features: str | None = None) -> np.ndarray:
    """Return the features (N, F) of a .npy, or of a .npz by the name of the array or a usual one."""
    inputs = _open(path)
    if isinstance(inputs, np.ndarray):
        return _check_features(inputs, path)
    with inputs as file:
        return _check_features(_entry(file, features, FEATURES, "features", path), path)


def has_array(path: str, name: str | None) -> bool:
    """Return whether a file is a .npz with an array called `name`."""
    if _suffix(path) != ".npz":
        return False
    with _open(path) as file:
        return name in file.files


def array_columns(width: int) -> list[str]:
    """Return the names of an array's columns."""
    return [f"x{i}" for i in range(width)]


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
    if labels.dtype.kind == "S":
        try:
            return np.char.decode(labels, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"The labels in {path} are bytes that are not valid UTF-8: {error}. Save them as strings."
            ) from None
    return labels if labels.ndim == 2 else as_polars_knows(np.asarray(labels))


def _suffix(path: str) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in (".npz", ".npy"):
        fix = "Set data=table to read tables (.csv, .tsv or .parquet)."
        raise ConfigError(f"Expected a .npz or .npy file, got {path}. {fix}")
    return suffix


def _open(path: str) -> Any:
    """Return the archive of a .npz, whose arrays are not read yet, or the memory-mapped array of a .npy."""
    suffix, file = _suffix(path), existing_file(path)
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
