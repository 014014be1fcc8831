"""Three small built-in data sets of real measurements, one for each task."""

from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lossselect.utils.checks import lookup

if TYPE_CHECKING:
    from lossselect.data.splits import Splits


class Rows(NamedTuple):
    """A data set as published: features (N, F), labels (N,) or (N, L), class names, published test rows."""

    features: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    test_rows: np.ndarray | None = None


def breast_cancer() -> Rows:
    """Return a binary set: 569 x 30 measurements of malignant or benign cells (Street et al., 1993)."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    return Rows(bunch.data, bunch.target, tuple(bunch.target_names.tolist()))


def digits() -> Rows:
    """Return a multiclass set: 1797 handwritten digits of 8 x 8 pixels (Alpaydin & Kaynak, 1998)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Rows(bunch.data, bunch.target, tuple(map(str, bunch.target_names)))


def yeast() -> Rows:
    """Return a multilabel set: 2417 genes x 103 measurements, 14 labels (Elisseeff & Weston, 2001).

    The test rows are 0 to 916, as in the literature. yeast.md states the source of the file.
    """
    with files("lossselect.data").joinpath("yeast.npz").open("rb") as file, np.load(file) as data:
        features, labels = data["features"], data["labels"]
    return Rows(features / 1e6, labels, tuple(f"Class{i}" for i in range(1, 15)), np.arange(917))


DATASETS: dict[str, Callable[[], Rows]] = {"breast_cancer": breast_cancer, "digits": digits, "yeast": yeast}
"""The built-in data sets by name."""


def load(name: str, *, seed: int, val_fraction: float, test_fraction: float | None) -> "Splits":
    """Return the data set `name`, split and standardised; see `make_splits`."""
    from lossselect.data.splits import make_splits

    rows = lookup(DATASETS, name, "data set")()._asdict()
    return make_splits(name, **rows, seed=seed, val_fraction=val_fraction, test_fraction=test_fraction)
