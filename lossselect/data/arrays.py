"""Features and labels from NumPy's files: one .npz, or a .npy of each. Nothing in them is executed."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..names import nearest, some

FEATURES = ("features", "X", "x", "inputs", "data")
LABELS = ("labels", "label", "target", "targets", "Y", "y")


def read_arrays(path: str, features: str | None, target: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, F) and labels (N,) or (N, L).

    Args:
        path: A .npz that holds both, or a .npy of features.
        features: The name of their array in the .npz; by default one of the usual names.
        target: The same for the labels; beside a .npy the path of theirs.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that holds something else.
    """
    labels: np.ndarray
    if Path(path).suffix.lower() not in (".npz", ".npy"):
        raise ValueError(f"{path} must end in .npz or .npy; tables are read by data=table.")
    if Path(path).suffix == ".npz":
        with _opened(path) as file:
            inputs = _entry(file, features, FEATURES, "data.features", path)
            labels = _entry(file, target, LABELS, "data.target", path)
    elif target is None:
        raise ValueError(f"{path} holds features alone: say where their labels are, data.target=labels.npy.")
    else:
        inputs, labels = _opened(path), _opened(target)
    if labels.ndim == 0 or inputs.ndim == 0:
        raise ValueError(f"Features and labels have an entry for each row; in {path} one is a single value.")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    inputs = _checked(inputs, path)
    if len(inputs) != len(labels):
        raise ValueError(f"There are {len(inputs)} rows of features, but {len(labels)} of labels, in {path}.")
    if labels.ndim not in (1, 2) or labels.dtype.kind not in "biufUS":
        raise ValueError(
            f"Labels are (N,) or (N, L) of numbers or strings, got {labels.dtype} of shape {labels.shape}."
        )
    if labels.ndim == 2 and labels.dtype.kind in "US":
        raise ValueError(f"Labels of shape {labels.shape} are 0 and 1, got {labels.dtype}.")
    if labels.dtype.kind == "S":
        try:
            return inputs, np.char.decode(labels, "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"The labels of {path} are bytes, but not those of utf-8: {error}.") from None
    # of the floats Polars knows two
    return inputs, labels.astype(np.float64) if labels.dtype.kind == "f" else labels


def read_weights(path: str, name: str) -> np.ndarray:
    """The array (N,) of the rows' weights in a .npz."""
    if Path(path).suffix != ".npz":
        raise ValueError(f"data.sample_weight names an array of a .npz, and {path} is none.")
    with _opened(path) as file:
        weights = _entry(file, name, (), "data.sample_weight", path)
    if weights.ndim != 1 or weights.dtype.kind not in "biuf":
        raise ValueError(
            f"Weights of rows are numbers of shape (N,), got {weights.dtype} of shape {weights.shape}."
        )
    return weights


def read_features(path: str, features: str | None = None) -> np.ndarray:
    """The features (N, F) alone."""
    if Path(path).suffix == ".npz":
        with _opened(path) as file:
            return _checked(_entry(file, features, FEATURES, "features", path), path)
    return _checked(_opened(path), path)


def _checked(inputs: np.ndarray, path: str) -> np.ndarray:
    if inputs.ndim != 2 or inputs.dtype.kind not in "biuf" or not inputs.size:
        raise ValueError(
            f"Features are numbers of shape (N, F), got {inputs.dtype} of shape {inputs.shape} in {path}. "
            "Save reshape(len(X), -1) of them, or for images and the like write a LightningDataModule, and "
            "name it by data._target_."
        )
    odd = inputs.dtype.kind == "f" and inputs.dtype not in (np.float32, np.float64)
    return inputs.astype(np.float64) if odd else inputs


def _opened(path: str) -> Any:
    file = Path(path)
    if not file.is_file():
        there = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        raise FileNotFoundError(f"There is no file {file}.{nearest(file.name, there)}")
    if file.suffix.lower() not in (".npz", ".npy"):
        raise ValueError(f"{file} must end in .npz or .npy; tables are read by data=table.")
    try:
        return np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} cannot be read as a file of NumPy's: {error}") from None


def _entry(
    file: "np.lib.npyio.NpzFile", name: str | None, usual: tuple[str, ...], setting: str, path: str
) -> np.ndarray:
    """The array called `name`, or by one of the usual names."""
    there = [key for key in usual if key in file.files]
    if name is None and len(there) > 1:
        raise ValueError(f"{path} has several arrays that it may be: {some(there)}. Say {setting}=...")
    found = name if name is not None else next(iter(there), None)
    if found is None or found not in file.files:
        asked = f"no array {name!r}" if name is not None else f"none of {', '.join(usual)}"
        raise ValueError(
            f"{path} has {asked} ({setting}).{nearest(str(name), file.files)} It has: {some(file.files)}."
        )
    try:
        return file[found]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        fix = " Save text as text: y.astype(str)." if "allow_pickle" in str(error) else ""
        raise ValueError(f"Array {found!r} of {path} cannot be read: {error}.{fix}") from None
