"""Three small built-in data sets of real measurements, one for each task."""

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lossselect.exceptions import ConfigError
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


def _read(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of a packaged file; samples.md and yeast.md state the sources and licences."""
    path = files("lossselect.data") / f"{name}.npz"
    with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
        return dict(data)


def _read_sample(name: str) -> Rows:
    data = _read(name)
    names, columns = (tuple(data[key].tolist()) for key in ("class_names", "columns"))
    return Rows(data["features"].astype(np.float64), data["labels"].astype(np.int64), names, columns)


@cache
def breast_cancer() -> Rows:
    """Return a binary set: 569 x 30 measurements of malignant or benign cells (Street et al., 1993)."""
    return _read_sample("breast_cancer")


@cache
def digits() -> Rows:
    """Return a multiclass set: 1797 handwritten digits of 8 x 8 pixels (Alpaydin & Kaynak, 1998)."""
    return _read_sample("digits")


@cache
def yeast() -> Rows:
    """Return a multilabel set: 2417 genes x 103 measurements, 14 labels (Elisseeff & Weston, 2001).

    The test rows are 0 to 916, as in the literature.
    """
    data = _read("yeast")
    names, columns = (tuple(f"{word}{i + 1}" for i in range(n)) for word, n in (("Class", 14), ("Att", 103)))
    return Rows(data["features"] / 1e6, data["labels"], names, columns, np.arange(917))


DATASETS: dict[str, Callable[[], Rows]] = {
    "breast_cancer": breast_cancer,
    "digits": digits,
    "yeast": yeast,
    "digits_questions": digits,
}
"""The built-in data sets by name; the last one is for several tasks."""
SEGMENTS = {
    "top": (0, 2, 3, 5, 6, 7, 8, 9),
    "upper left": (0, 4, 5, 6, 8, 9),
    "upper right": (0, 1, 2, 3, 4, 7, 8, 9),
    "middle": (2, 3, 4, 5, 6, 8, 9),
    "lower left": (0, 2, 6, 8),
    "lower right": (0, 1, 3, 4, 5, 6, 7, 8, 9),
    "bottom": (0, 2, 3, 5, 6, 8, 9),
}
"""The digits that light each segment of a seven-segment display."""


def load(
    name: str,
    *,
    seed: int,
    val_fraction: float | None,
    test_fraction: float | None,
    scaling: str = "standard",
) -> "Splits":
    """Return the data set `name`, split and scaled; see `make_splits`."""
    rows = lookup(DATASETS, name, "data set")()
    splits = make_splits(name, rows, seed, val_fraction, test_fraction, scaling)
    return ask_questions(splits) if name == "digits_questions" else splits


def ask_questions(splits: "Splits") -> "Splits":
    """Return the digits with three questions: which digit, is it even, which segments of a display are on."""
    from dataclasses import replace

    from lossselect.data.label_parsing.options import LabelOptions, Labels
    from lossselect.data.label_parsing.settings import describe_labels
    from lossselect.data.label_parsing.several import MultiLabels, MultiOptions, Target, make_fitted_task
    from lossselect.labels.vocabulary import Vocabulary
    from lossselect.tasks.multitask import MultiTask

    digits: np.ndarray = splits.labels  # type: ignore[assignment]  # not sparse
    lit = np.stack([np.isin(digits, which) for which in SEGMENTS.values()], 1).astype(float)
    parity = Vocabulary((0, 1), ("odd", "even"))
    parts = {
        "digit": Labels(
            "multiclass", "", digits, splits.class_names, Vocabulary(tuple(range(10)), splits.class_names)
        ),
        "even": Labels("binary", "", 1 - digits % 2, parity.names, parity),
        "segments": Labels("multilabel", "", lit, tuple(SEGMENTS), None),
    }
    labels = MultiLabels(parts, MultiTask({name: make_fitted_task(part, {}) for name, part in parts.items()}))
    columns = {name: tuple(SEGMENTS) if name == "segments" else (name,) for name in parts}
    targets = {
        name: Target(columns[name], name == "segments", LabelOptions(part.task, fitted=part))
        for name, part in parts.items()
    }
    settings = describe_labels((), False, None, MultiOptions(targets, fitted=labels))
    preparation = {**splits.preparation, "labels": settings}
    return replace(
        splits,
        labels=labels.values,
        class_names=labels.class_names,
        preparation=preparation,
        known_task=labels.multitask,
    )


def make_splits(
    name: str,
    rows: Rows,
    seed: int,
    val_fraction: float | None,
    test_fraction: float | None = None,
    scaling: str = "standard",
) -> "Splits":
    """Split rows, and scale features with the statistics of the training rows.

    A table with the same features has the class in the column "target", as in scikit-learn, or a column for
    each label.

    Args:
        name: The data set's name.
        rows: The data set.
        seed: Seed of the split.
        val_fraction: Fraction of the rows that are not test rows; None for no validation split.
        test_fraction: Fraction of all rows, unless the data set has test rows.
        scaling: See `fit_scales`.

    Raises:
        ConfigError: neither `test_fraction` nor test rows, or both; or an unknown scaling.
        DataError: too few rows for the fractions.
    """
    import torch

    from lossselect.data.label_parsing.options import LabelOptions, Labels
    from lossselect.data.label_parsing.settings import LabelSettings
    from lossselect.data.preprocessing.columns import CellParser, Number
    from lossselect.data.preprocessing.preparation import Preparation
    from lossselect.data.preprocessing.scaling import Scaler, Standardizer, fit_scales
    from lossselect.data.preprocessing.table_features import Features
    from lossselect.data.readers.tables import TableOptions
    from lossselect.data.splits import SPLITS, Splits, split_in_two
    from lossselect.labels.vocabulary import Vocabulary

    features, labels, names, columns, test = rows
    if (test is None) == (test_fraction is None):
        raise ConfigError(
            f"{name} already has a test split. Set data.test_fraction=null."
            if test is not None
            else f"{name} has no test split. Set data.test_fraction, for example data.test_fraction=0.2."
        )
    split = {"train": np.arange(len(features))}
    if test_fraction is not None:
        split["train"], split["test"] = split_in_two(split["train"], labels, test_fraction, seed)
    elif test is not None:
        split |= {"train": np.setdiff1d(split["train"], test), "test": test}
    if val_fraction is not None:
        split["train"], split["val"] = split_in_two(split["train"], labels, val_fraction, seed)
    train = split["train"]
    standardizer = Standardizer(columns).partial_fit(features[train])
    scales = fit_scales(scaling, standardizer, features[train].T)  # few rows
    numbers = tuple(map(Number, columns, scales, [False] * len(columns)))
    prepared = Preparation(
        "table", Features(numbers, (), CellParser()), {**vars(TableOptions()), "width": None}
    )
    several = labels.ndim > 1
    vocabulary = None if several else Vocabulary(tuple(range(len(names))), names)
    options = LabelOptions("auto", fitted=Labels("auto", "", labels, names, vocabulary))
    settings = LabelSettings(names if several else ("target",), several, None, options)
    return Splits(
        name,
        torch.from_numpy(Scaler(scales)(features)),
        labels,
        names,
        {name: torch.from_numpy(split[name]) for name in SPLITS if name in split},
        {**prepared.to_dict(), "labels": settings.to_dict()},
        scaling=scaling,
    )
