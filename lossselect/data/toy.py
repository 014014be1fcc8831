"""Three small real data sets, one for each task, that come with the installation."""

from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lossselect.utils.checks import lookup

if TYPE_CHECKING:
    from lossselect.data.splits import Splits


class Rows(NamedTuple):
    """A data set as published: (N, F) features, (N,) or (N, L) labels, names, its own test rows."""

    features: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    test_rows: np.ndarray | None = None


def breast_cancer() -> Rows:
    """Binary: 569 x 30 cell-nucleus measurements; is the tumour benign? (Street et al., 1993)."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    return Rows(bunch.data, bunch.target, tuple(bunch.target_names.tolist()))


def digits() -> Rows:
    """Multiclass: 1797 handwritten digits of 8 x 8 pixels (Alpaydin & Kaynak, 1998)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Rows(bunch.data, bunch.target, tuple(map(str, bunch.target_names)))


def yeast() -> Rows:
    """Multilabel: 2417 genes x 103 measurements, 14 functional classes (Elisseeff & Weston, 2001).

    Test rows are 0 to 916, as usual in the literature. See yeast.md for where the file comes from.
    """
    with files("lossselect.data").joinpath("yeast.npz").open("rb") as file, np.load(file) as data:
        features, labels = data["features"], data["labels"]
    return Rows(features / 1e6, labels, tuple(f"Class{i}" for i in range(1, 15)), np.arange(917))


DATASETS: dict[str, Callable[[], Rows]] = {"breast_cancer": breast_cancer, "digits": digits, "yeast": yeast}


def load(name: str, *, seed: int, val_fraction: float, test_fraction: float | None) -> "Splits":
    """Return the data set called `name`, split and standardised; see `make_splits`."""
    from lossselect.data.splits import make_splits

    rows = lookup(DATASETS, name, "data set")()._asdict()
    return make_splits(name, **rows, seed=seed, val_fraction=val_fraction, test_fraction=test_fraction)
