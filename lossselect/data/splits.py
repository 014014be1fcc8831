"""Seeded, stratified splits of labelled rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossselect.data.preprocessing.standardizer import Standardizer, standardize
from lossselect.data.preprocessing.table_features import TableRows
from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.utils.checks import SPLIT_NAMES, shorten
from lossselect.utils.warnings import warn

SPLITS = ("train", "val", "test")
MAX_STRATIFIED = 200_000
"""Maximum number of labels for a stratified split. A random split of more is close to stratified anyway."""


@dataclass(frozen=True)
class Splits:
    """Features, labels and sample weights of all rows, and the rows of each split.

    Args:
        name: The file or the data set, for messages.
        features: Features of all rows.
        labels: Labels of all rows, as input of the task's `encode` or sparse.
        class_names: Names of the classes or labels.
        rows: Indices of the rows of each split.
        preparation: Preparation of features and labels: tensors and plain values, for checkpoints.
        task: The name of the task if it was inferred from the labels.
        reason: Reason for the inferred task.
        starts: Index of the first row of each split with a separate file.
        columns: Names of the table's columns that are features.
        weights: Sample weights (N,), or None.
    """

    name: str
    features: Tensor | TableRows
    labels: np.ndarray | SparseLabels
    class_names: tuple[str, ...]
    rows: dict[str, Tensor]
    preparation: dict[str, Any]
    task: str | None = None
    reason: str = ""
    starts: Mapping[str, int] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    weights: Tensor | None = None

    def rows_in_file(self, split: str) -> np.ndarray:
        """Return the indices of the split's rows in their file, counted from 0."""
        return self.rows[split].numpy() - self.starts.get(split, 0)


def make_splits(
    name: str,
    features: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    seed: int,
    val_fraction: float,
    test_fraction: float | None = None,
    test_rows: np.ndarray | None = None,
) -> Splits:
    """Split rows, and standardise features by the mean and standard deviation of the training rows.

    Args:
        name: The data set's name.
        features: Features (N, F).
        labels: Class indices (N,), or 0/1 (N, L).
        class_names: Names of the classes or labels.
        seed: Seed of the split.
        val_fraction: Fraction of the rows that are not test rows.
        test_fraction: Fraction of all rows, unless the data set has test rows.
        test_rows: Indices of the data set's published test rows.

    Raises:
        ConfigError: neither `test_fraction` nor `test_rows`, or both.
        DataError: too few rows for the fractions.
    """
    if (test_rows is None) == (test_fraction is None):
        raise ConfigError(
            f"{name} already has a test split. Set data.test_fraction=null."
            if test_rows is not None
            else f"{name} has no test split. Set data.test_fraction, for example data.test_fraction=0.2."
        )
    remaining = np.arange(len(features))
    if test_rows is None:
        remaining, test_rows = _split_in_two(remaining, labels, test_fraction, seed)
    else:
        remaining = np.setdiff1d(remaining, test_rows)
    train, val = _split_in_two(remaining, labels, val_fraction, seed)
    raw = np.asarray(features, dtype=np.float32)
    standardizer = Standardizer(range(raw.shape[1])).partial_fit(raw[train].astype(np.float64))
    mean, std = standardizer.mean, standardizer.scale
    return Splits(
        name,
        torch.from_numpy(standardize(raw, mean, std)),
        labels,
        tuple(class_names),
        {split: torch.from_numpy(rows) for split, rows in zip(SPLITS, (train, val, test_rows), strict=True)},
        {"mean": torch.from_numpy(mean).float(), "std": torch.from_numpy(std).float()},
    )


def split_rows(
    labels: np.ndarray | SparseLabels, fractions: Mapping[str, float], seed: int, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the rows of each split, stratified by label if there are enough rows.

    If a class has fewer rows than there are splits, one row is assigned to the training split, and the others
    to random splits. If there are too few rows to stratify, the split is random. Both cases raise the warning
    `rare_class`. With more than 200,000 labels the split is random too, but the training split has a row of
    each class.

    Args:
        labels: Class indices (N,), NaN where missing, 0/1 (N, L), or sparse labels.
        fractions: Fraction of "test", of all rows, and of "val", of the remaining rows; each may be absent.
        seed: Seed of the split.
        names: Names of the classes, for messages.

    Raises:
        DataError: too few rows for a fraction.
    """
    strata = _strata(labels)
    pinned = np.zeros(len(labels), dtype=bool)
    if strata is not None and strata.ndim == 1 and fractions:
        counts = np.bincount(strata + 1)  # the first count is that of missing labels
        few = (counts > 0) & (counts <= len(fractions))
        if few[1:].any():
            rare_names = shorten([names[i] for i in np.flatnonzero(few[1:]).tolist()])
            warn(
                "rare_class",
                f"{few[1:].sum()} of {len(names)} classes have fewer rows than there are splits "
                f"({len(fractions) + 1}): {rare_names}. One row of each is in the training split, the others "
                "are in random splits. Add rows of these classes for a stratified split.",
            )
        large = len(strata) > MAX_STRATIFIED
        rare = few[strata + 1]
        first = np.zeros(len(counts), dtype=np.int64)
        first[strata[::-1] + 1] = np.arange(len(strata))[::-1]  # the last of several assignments is kept
        pinned[first[(counts > 0) & (few | large)]] = True
        others = rare & ~pinned
        if others.sum() <= len(fractions):
            pinned |= others
        strata = None if large else np.where(rare, len(names), strata)  # rare classes form one stratum
    remaining, count = np.flatnonzero(~pinned), len(labels)
    splits: dict[str, np.ndarray] = {}
    for split in ("test", "val"):
        if split in fractions:
            size = round(count * fractions[split])
            if not 1 <= size < len(remaining):
                raise DataError(
                    f"{len(labels)} rows ({pinned.sum()} of them reserved for training) are too few for a "
                    f"{SPLIT_NAMES[split]} split of {fractions[split]}. Add rows, or set another "
                    f"data.{split}_fraction or data.{split}_path."
                )
            try:
                remaining, splits[split] = _split_in_two(remaining, strata, size, seed)
            except ValueError:  # a class has too few rows for a stratified split
                warn(
                    "rare_class",
                    f"{len(remaining)} rows are too few for a stratified split of {size} rows, so the split "
                    "is random. Add rows of rare classes.",
                )
                remaining, splits[split] = _split_in_two(remaining, None, size, seed)
            count -= size
    return {"train": np.sort(np.concatenate([np.flatnonzero(pinned), remaining])), **splits}


def _strata(labels: np.ndarray | SparseLabels) -> np.ndarray | None:
    """Return classes (N,), -1 where missing, or 0/1 (N, L); None if stratification would take too long."""
    if isinstance(labels, SparseLabels) or labels.ndim == 2:
        if np.prod(labels.shape) > MAX_STRATIFIED:
            return None
        matrix = labels.to_dense().numpy() if isinstance(labels, SparseLabels) else labels
        ones = (np.nan_to_num(matrix) >= 0.5).astype(np.int64)
        return ones[:, 0] if ones.shape[1] == 1 else ones
    return np.where(np.isnan(labels), -1, np.round(np.nan_to_num(labels))).astype(np.int64)


def _split_in_two(
    rows: np.ndarray, strata: np.ndarray | None, size: float | int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the remaining rows and a chosen fraction or number of rows, sorted; stratified if `strata`."""
    if strata is not None and strata.ndim == 2:
        from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

        splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=size, random_state=seed)
        others, chosen = (rows[index] for index in next(splitter.split(rows, strata[rows])))
    else:
        from sklearn.model_selection import train_test_split

        classes = None if strata is None else strata[rows]
        try:
            others, chosen = train_test_split(rows, test_size=size, random_state=seed, stratify=classes)
        except ValueError as error:
            raise DataError(f"{len(rows)} rows cannot be split with a size of {size}: {error}") from None
    return np.sort(others), np.sort(chosen)
