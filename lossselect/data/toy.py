"""Three small built-in data sets of real measurements, one for each task."""

from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lossselect.utils.checks import lookup

if TYPE_CHECKING:
    from lossselect.data.splits import Splits


class Rows(NamedTuple):
    """A data set as published: features (N, F), labels (N,) or (N, L), and their names.

    `columns` are the names of the features. `test_rows` are the published test rows.
    """

    features: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    columns: tuple[str, ...]
    test_rows: np.ndarray | None = None


def breast_cancer() -> Rows:
    """Return a binary set: 569 x 30 measurements of malignant or benign cells (Street et al., 1993)."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    names = tuple(bunch.target_names.tolist())
    return Rows(bunch.data, bunch.target, names, tuple(bunch.feature_names.tolist()))


def digits() -> Rows:
    """Return a multiclass set: 1797 handwritten digits of 8 x 8 pixels (Alpaydin & Kaynak, 1998)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Rows(bunch.data, bunch.target, tuple(map(str, bunch.target_names)), tuple(bunch.feature_names))


def yeast() -> Rows:
    """Return a multilabel set: 2417 genes x 103 measurements, 14 labels (Elisseeff & Weston, 2001).

    The test rows are 0 to 916, as in the literature. yeast.md states the source of the file.
    """
    with files("lossselect.data").joinpath("yeast.npz").open("rb") as file, np.load(file) as data:
        features, labels = data["features"], data["labels"]
    columns = tuple(f"Att{i}" for i in range(1, 104))
    return Rows(features / 1e6, labels, tuple(f"Class{i}" for i in range(1, 15)), columns, np.arange(917))


DATASETS: dict[str, Callable[[], Rows]] = {"breast_cancer": breast_cancer, "digits": digits, "yeast": yeast}
"""The built-in data sets by name."""


def load(name: str, *, seed: int, val_fraction: float, test_fraction: float | None) -> "Splits":
    """Return the data set `name`, split and standardised; see `make_splits`.

    A table with the same features has the class in the column "target", as in scikit-learn, or a column for
    each label.
    """
    from lossselect.data.label_parsing.options import LabelOptions, Labels
    from lossselect.data.label_parsing.settings import LabelSettings
    from lossselect.data.splits import make_splits
    from lossselect.labels.vocabulary import Vocabulary

    rows = lookup(DATASETS, name, "data set")()
    fractions: Any = {"val_fraction": val_fraction, "test_fraction": test_fraction}
    splits = make_splits(name, **rows._asdict(), seed=seed, **fractions)
    names, several = splits.class_names, rows.labels.ndim > 1
    vocabulary = None if several else Vocabulary(tuple(range(len(names))), names)
    fitted = Labels("auto", "", rows.labels, names, vocabulary)
    target = names if several else ("target",)
    settings = LabelSettings(target, several, None, LabelOptions("auto", fitted=fitted))
    return replace(splits, preparation={**splits.preparation, "labels": settings.to_dict()})
