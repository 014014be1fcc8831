"""Seeded splits of labelled rows, in proportion to the labels."""

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
from lossselect.utils.checks import shorten
from lossselect.utils.warnings import warn

SPLITS = ("train", "val", "test")
MAX_STRATIFIED = 200_000
"""A split of more labels is random: it has them in proportion by itself."""


@dataclass(frozen=True)
class Splits:
    """Features, labels (for the task's `encode`, or sparse) and weights of all rows, and each split's rows.

    `task` is the name of the task if it was inferred from the labels, `reason` says why; `starts` has the
    first row of each split that has a file of its own, `columns` the columns of the table that are features.
    """

    name: str
    features: Tensor | TableRows
    labels: np.ndarray | SparseLabels
    class_names: tuple[str, ...]
    rows: dict[str, Tensor]
    preparation: dict[str, Any]
    """How features and labels were prepared, as tensors and plain values for a checkpoint."""
    task: str | None = None
    reason: str = ""
    starts: Mapping[str, int] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    weights: Tensor | None = None

    def rows_in_file(self, split: str) -> np.ndarray:
        """Return the numbers of the split's rows in their file, from 0."""
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
    """Split rows, and standardise features (N, F) by the train rows; labels are indices (N,) or 0/1 (N, L).

    Test rows are `test_rows`, the data's own test split, or `test_fraction` of all; `val_fraction` is of the
    others.
    """
    if (test_rows is None) == (test_fraction is None):
        raise ConfigError(
            f"{name} has its own test split: leave data.test_fraction at null."
            if test_rows is not None
            else f"{name} has no test split of its own: give data.test_fraction."
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
    """Return the rows of each split, with labels in proportion as far as there are enough of each.

    Labels are indices (N,), NaN where missing, 0/1 (N, L), or sparse. `fractions` may have "test", of all
    rows, and "val", of the remaining ones. Of a class with fewer rows than there are splits, one row goes to
    train, and the others to random splits. If rows are too few to be stratified, the split is random; both
    cases are warned of. Of more than 200,000 labels it is random too, but train has a row of each class.
    """
    strata = _strata(labels)
    pinned = np.zeros(len(labels), dtype=bool)
    if strata is not None and strata.ndim == 1 and fractions:
        counts = np.bincount(strata + 1)  # the missing ones first
        few = (counts > 0) & (counts <= len(fractions))
        if few[1:].any():
            rare_names = shorten([names[i] for i in np.flatnonzero(few[1:]).tolist()])
            warn(
                "rare_class",
                f"{few[1:].sum()} of {len(names)} classes have fewer rows than there are splits "
                f"({len(fractions) + 1}), so that the split cannot be in proportion to them: a row of "
                f"each is in the train split, any other where chance puts it: {rare_names}.",
            )
        large = len(strata) > MAX_STRATIFIED
        rare = few[strata + 1]
        first = np.zeros(len(counts), dtype=np.int64)
        first[strata[::-1] + 1] = np.arange(len(strata))[::-1]  # of several assignments the last one stays
        pinned[first[(counts > 0) & (few | large)]] = True
        others = rare & ~pinned
        if others.sum() <= len(fractions):
            pinned |= others
        strata = None if large else np.where(rare, len(names), strata)  # those left over are one class
    remaining, count = np.flatnonzero(~pinned), len(labels)
    splits: dict[str, np.ndarray] = {}
    for split in ("test", "val"):
        if split in fractions:
            size = round(count * fractions[split])
            if not 1 <= size < len(remaining):
                raise DataError(
                    f"{len(labels)} rows ({pinned.sum()} of them kept for train) are too few for a {split} "
                    f"split of {fractions[split]}: give more rows, another data.{split}_fraction, or "
                    f"data.{split}_path."
                )
            try:
                remaining, splits[split] = _split_in_two(remaining, strata, size, seed)
            except ValueError:  # a class has too few rows for its share
                warn(
                    "rare_class",
                    f"{len(remaining)} rows are too few to have each class in a split of {size} in "
                    "proportion; the split is random.",
                )
                remaining, splits[split] = _split_in_two(remaining, None, size, seed)
            count -= size
    return {"train": np.sort(np.concatenate([np.flatnonzero(pinned), remaining])), **splits}


def _strata(labels: np.ndarray | SparseLabels) -> np.ndarray | None:
    """Return (N,) classes, -1 where missing; (N, L) 0/1; None if stratifying would take long."""
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
    """Return the other rows and a fraction or number of them, sorted, stratified if there are strata."""
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
            raise DataError(f"{len(rows)} rows cannot be split at {size}: {error}") from None
    return np.sort(others), np.sort(chosen)
