"""Seeded splits of labelled rows, in proportion to the labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.utils.checks import shorten
from lossselect.utils.warnings import warn

if TYPE_CHECKING:
    from lossselect.data.preprocessing.table_features import TableRows

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Splits:
    """What a net takes and the labels of all rows, and whose rows are which."""

    name: str
    features: "Tensor | TableRows"
    labels: "np.ndarray | SparseLabels"
    """What the task's `encode` takes, or lists."""
    class_names: tuple[str, ...]
    rows: dict[str, Tensor]
    preparation: dict[str, Any]
    """What features and labels went through, as tensors and plain values: a checkpoint keeps it."""
    task: str | None = None
    """A name of `TASKS`, where the labels were asked for it."""
    reason: str = ""
    """Why it is that task."""
    starts: Mapping[str, int] = field(default_factory=dict)
    """The first row of a split that has a file of its own."""
    columns: tuple[str, ...] = ()
    """Of the table that the features were made of."""
    weights: Tensor | None = None
    """Of all rows in the loss; None where they weigh alike."""

    def rows_in_file(self, split: str) -> np.ndarray:
        """Which rows of their file the split's rows are, from 0."""
        return self.rows[split].numpy() - self.starts.get(split, 0)

    def labels_of(self, split: str) -> np.ndarray:
        """The labels of a split's rows, as the task's `encode` takes them."""
        rows = self.rows[split].numpy()
        if isinstance(self.labels, SparseLabels):
            return self.labels.select(rows).to_dense().numpy()
        return self.labels[rows]


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
    """Split, then standardise each feature to mean 0 and deviation 1 over the train rows.

    Args:
        name: What the plan calls the data.
        features: (N, F).
        labels: (N,) indices or (N, L) 0/1.
        class_names: Of the classes or labels.
        seed: Of the split.
        val_fraction: Of the rows that are not test rows, in (0, 1).
        test_fraction: Of all rows, in (0, 1); where the data come without a split of their own.
        test_rows: The rows of the data's own test split.

    Raises:
        ValueError: neither or both ways to find the test rows.
    """
    rest = np.arange(len(features))
    if (test_rows is None) == (test_fraction is None):
        raise ConfigError(
            f"{name} has its own test split: leave data.test_fraction at null."
            if test_rows is not None
            else f"{name} has no test split of its own: give data.test_fraction."
        )
    if test_rows is None:
        rest, test_rows = _stratified(rest, labels, test_fraction, seed)
    else:
        rest = np.setdiff1d(rest, test_rows)
    train, val = _stratified(rest, labels, val_fraction, seed)
    raw = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
    rows = {
        "train": torch.from_numpy(train),
        "val": torch.from_numpy(val),
        "test": torch.from_numpy(test_rows),
    }
    mean, std = feature_moments(raw[rows["train"]])
    standardised = ((raw - mean) / std).float()
    preparation = {"mean": mean.float(), "std": std.float()}
    return Splits(name, standardised, labels, tuple(class_names), rows, preparation)


def feature_moments(known: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each feature (N, F), in float64: the sums of many rows lose digits in float32.

    The deviation of a constant feature is 1, so that standardised it is 0 throughout, not 0 / 0.
    """
    known = known.double()
    # of a constant .1 the deviation is no 0, but what rounding leaves
    constant = known.amax(0) == known.amin(0)
    return known.mean(0), torch.where(constant, 1, known.std(0, correction=0))


def _stratified(
    rows: np.ndarray, labels: np.ndarray, fraction: float | int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(the others, a share or a number of them), both sorted, with labels in like proportion."""
    if labels.ndim == 1:
        from sklearn.model_selection import train_test_split

        try:
            kept, taken = train_test_split(rows, test_size=fraction, random_state=seed, stratify=labels[rows])
        except ValueError as error:
            raise DataError(f"{len(rows)} rows cannot be split at {fraction}: {error}") from None
    else:
        from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

        splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=fraction, random_state=seed)
        kept, taken = (rows[index] for index in next(splitter.split(rows, labels[rows])))
    return np.sort(kept), np.sort(taken)


MAX_STRATIFIED = 200_000
"""Up to how many labels a split is stratified: of more, a random one has them in proportion by itself."""


def split_rows(
    labels: "np.ndarray | SparseLabels", fractions: Mapping[str, float], seed: int, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Rows of each split, with labels in like proportion as far as there are enough of each.

    Of a class that has fewer rows than there are splits one row goes to train, as it could not be learned
    otherwise, and any other where chance puts it. Where rows are too few to be stratified, the split is
    random; both are said by a warning. Of more than 200,000 labels it is random too, but for one row of
    each class, which goes to train.

    Args:
        labels: (N,) indices (NaN where missing), (N, L) 0/1, or lists of labels.
        fractions: Of "test", of all rows, and of "val", of the rest; either may be left out.
        seed: Of the split.
        names: Of the classes or labels.

    Raises:
        ValueError: too few rows for a split to have one.
    """
    strata = _strata(labels)
    pinned = np.zeros(len(labels), dtype=bool)
    if strata is not None and strata.ndim == 1 and fractions:
        counts = np.bincount(strata + 1)  # first of what is missing
        few = (counts > 0) & (counts <= len(fractions))
        if few[1:].any():
            said = shorten([names[i] for i in np.flatnonzero(few[1:]).tolist()])
            warn(
                "rare_class",
                f"{few[1:].sum()} of {len(names)} classes have fewer rows than there are splits "
                f"({len(fractions) + 1}), so that the split cannot be in proportion to them: a row of "
                "each is in "
                f"the train split, any other where chance puts it: {said}.",
            )
        large = len(strata) > MAX_STRATIFIED
        rare = few[strata + 1]
        first = np.zeros(len(counts), dtype=np.int64)
        first[strata[::-1] + 1] = np.arange(len(strata))[::-1]  # of several assignments the last one stays
        kept = first[(counts > 0) & (few | large)]
        pinned[kept] = True
        over = rare & ~pinned
        if over.sum() <= len(fractions):
            pinned |= over
        strata = None if large else np.where(rare, len(names), strata)  # those left over are one class
    rest, left = np.flatnonzero(~pinned), len(labels)
    taken: dict[str, np.ndarray] = {}
    for split in ("test", "val"):
        if split in fractions:
            size = round(left * fractions[split])
            if not 1 <= size < len(rest):
                raise DataError(
                    f"{len(labels)} rows ({pinned.sum()} of them kept for train) are too few for a {split} "
                    f"split of {fractions[split]}: give more rows, another data.{split}_fraction, or "
                    f"data.{split}_path."
                )
            rest, taken[split] = _taken(rest, strata, size, seed)
            left -= size
    return {"train": np.sort(np.concatenate([np.flatnonzero(pinned), rest])), **taken}


def _strata(labels: "np.ndarray | SparseLabels") -> np.ndarray | None:
    """What to stratify by: (N,) classes, -1 where missing; (N, L) 0/1; None where that would take long."""
    if isinstance(labels, SparseLabels) or labels.ndim == 2:
        width = labels.num_labels if isinstance(labels, SparseLabels) else labels.shape[1]
        if len(labels) * width > MAX_STRATIFIED:
            return None
        matrix = labels.to_dense().numpy() if isinstance(labels, SparseLabels) else labels
        ones = (np.nan_to_num(matrix) >= 0.5).astype(np.int64)
        return ones[:, 0] if width == 1 else ones
    return np.where(np.isnan(labels), -1, np.round(np.nan_to_num(labels))).astype(np.int64)


def _taken(
    rows: np.ndarray, strata: np.ndarray | None, size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import train_test_split

    if strata is not None:
        try:
            return _stratified(rows, strata, size, seed)
        except ValueError:  # scikit-learn's, where a class has too few rows for its share
            warn(
                "rare_class",
                f"{len(rows)} rows are too few to have each class in a split of {size} in proportion; "
                "the split is random.",
            )
    kept, taken = train_test_split(rows, test_size=size, random_state=seed)
    return np.sort(kept), np.sort(taken)
