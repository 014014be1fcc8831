"""Features and labels from NumPy's files: one .npz, or a .npy of each. Nothing in them is executed.

A .npy is mapped: of features, and of a matrix of labels, only the rows that are taken are read.
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
"""Values of a block that a file is processed in: 8 MB as float64, which fit into a processor's cache."""
MAX_MEMORY_SHARE = 0.5
"""An array of a .npz may take this part of the free memory: its features need the rest."""
FEATURES = ("features", "X", "x", "inputs", "data")
LABELS = ("labels", "label", "target", "targets", "Y", "y")


def read_arrays(
    path: str, features: str | None = None, target: str | None = None, sample_weight: str | None = None
) -> tuple[np.ndarray, np.ndarray | SparseLabels, np.ndarray | None]:
    """Return features (N, F), labels, (N,), (N, L) or sparse, and weights, of a .npz or a .npy of features.

    The arguments are names of arrays in the .npz, by default the usual ones, and no weights; with a .npy
    `target` is the path of the labels, a .npy or sparse ones in a .npz.
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
        raise DataError(f"{path} holds features alone: say where their labels are, data.target=labels.npy.")
    elif features is not None or sample_weight is not None:
        raise ConfigError(
            f"data.features and data.sample_weight name arrays of a .npz, and {path} is none: leave them out."
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
        raise DataError(f"There are {len(inputs)} rows of features, but {len(labels)} of labels, in {where}.")
    if weights is not None and (weights.shape != (len(inputs),) or weights.dtype.kind not in "biuf"):
        form = f"{weights.dtype} of shape {weights.shape}"
        raise DataError(f"Weights of {len(inputs)} rows are as many numbers, got {form} in {path}.")
    return inputs, labels, weights


def read_features(path: str, features: str | None = None) -> np.ndarray:
    """Return the features (N, F) alone."""
    inputs = _open(path)
    if isinstance(inputs, np.ndarray):
        return _check_features(inputs, path)
    with inputs as file:
        return _check_features(_entry(file, features, FEATURES, "features", path), path)


def array_columns(width: int) -> list[str]:
    """Return the names of an array's columns."""
    return [f"x{i}" for i in range(width)]


def blocks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the rows of (N, F) in blocks, each with the number of its first row."""
    rows = max(1, BLOCK // array.shape[1])
    for start in range(0, len(array), rows):
        yield start, np.asarray(array[start : start + rows])


def as_polars_knows(values: np.ndarray) -> np.ndarray:
    """Convert to a type that all supported versions of Polars take from NumPy."""
    if values.dtype.kind == "f" and values.dtype not in (np.float32, np.float64):
        return values.astype(np.float64)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def as_frame(block: np.ndarray) -> pl.DataFrame:
    """Return rows of an array (N, F) as columns."""
    return pl.from_numpy(as_polars_knows(block), schema=array_columns(block.shape[1]))


def _check_features(inputs: np.ndarray, path: str) -> np.ndarray:
    if inputs.ndim != 2 or inputs.dtype.kind not in "biuf" or not inputs.size:
        raise DataError(
            f"Features are numbers of shape (N, F), got {inputs.dtype} of shape {inputs.shape} in {path}. "
            "Save reshape(len(X), -1) of them, or for images and the like write a LightningDataModule, and "
            "name it by data._target_."
        )
    return inputs


def _check_labels(labels: np.ndarray, path: str) -> np.ndarray:
    """Return (N,) in memory, or (N, L) as they are."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or labels.dtype.kind not in ("biuf" if labels.ndim == 2 else "biufUS"):
        raise DataError(
            f"Labels are (N,) of numbers or strings, or (N, L) of 0 and 1, got {labels.dtype} of shape "
            f"{labels.shape} in {path}. Several names in a cell: data=table with data.delimiter."
        )
    if labels.dtype.kind == "S":
        try:
            return np.char.decode(labels, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"The labels of {path} are bytes, but not those of utf-8: {error}.") from None
    return labels if labels.ndim == 2 else as_polars_knows(np.asarray(labels))


def _suffix(path: str) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in (".npz", ".npy"):
        raise ConfigError(f"{path} must end in .npz or .npy; tables are read by data=table.")
    return suffix


def _open(path: str) -> Any:
    """Return the arrays of a .npz, which are not read yet, or the mapped array of a .npy."""
    suffix, file = _suffix(path), existing_file(path)
    try:
        content = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(_explain(file, str(error))) from None
    actual = ".npy" if isinstance(content, np.ndarray) else ".npz"
    if actual != suffix:
        if actual == ".npz":
            content.close()
        raise DataError(
            f"{file} is what NumPy writes into a {actual}: rename it, so that it ends in {actual}."
        )
    return content


def _explain(file: Path, error: str) -> str:
    if "mmap length" in error:
        return (
            f"{file} is cut short: it has {file.stat().st_size:,} bytes, fewer than its header says. Write "
            "or copy it again."
        )
    if "Python objects" in error:
        return (
            f"{file} holds Python objects, which are not loaded. Save numbers as numbers, such as "
            "X.astype(np.float32), and text as text, y.astype(str)."
        )
    return f"{file} cannot be read as a file of NumPy's: {error}"


def _entry(
    file: "np.lib.npyio.NpzFile", name: str | None, usual: tuple[str, ...], setting: str, path: str
) -> np.ndarray:
    """Return the array called `name`, or by one of the usual names."""
    names = [key for key in (usual if name is None else (name,)) if key in file.files]
    if len(names) > 1:
        raise ConfigError(f"{path} has several arrays that it may be: {shorten(names)}. Say {setting}=...")
    if not names:
        missing = f"none of {', '.join(usual)}" if name is None else f"no array {name!r}"
        raise ConfigError(
            f"{path} has {missing} ({setting}).{suggestion(str(name), file.files)} It has: "
            f"{shorten(file.files)}."
        )
    return _load(file, names[0], path)


def _load(file: "np.lib.npyio.NpzFile", name: str, path: str) -> np.ndarray:
    """Read an array that fits into memory: a small file may expand to any size."""
    free, members = free_memory(), file.zip.infolist() if file.zip else []
    part = next((member for member in members if member.filename in (name, f"{name}.npy")), None)
    if free is not None and part is not None and part.file_size > MAX_MEMORY_SHARE * free:
        raise DataError(
            f"Array {name!r} of {path} takes {part.file_size / 1e9:,.1f} GB in memory "
            f"({part.compress_size / 1e9:,.3f} GB in the file), and {free / 1e9:,.1f} GB are free, of which "
            "half may be used. Save it as a .npy, of which only the rows that are needed are read."
        )
    try:
        return file[name]
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        fix = " Save text as text: y.astype(str)." if "allow_pickle" in str(error) else ""
        raise DataError(f"Array {name!r} of {path} cannot be read: {error}.{fix}") from None
