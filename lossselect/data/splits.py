"""Seeded, stratified splits of labelled rows."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from torch import Tensor

from lossselect.data.preprocessing.table_rows import TableRows
from lossselect.data.stratification import divide_rows
from lossselect.exceptions import DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.tasks.registry import AnyTask
from lossselect.utils.checks import SPLIT_NAMES, shorten
from lossselect.utils.warnings import warn

SPLITS = tuple(SPLIT_NAMES)
MAX_STRATIFIED = 200_000
"""Maximum number of labels for a stratified split. A random split of more is close to stratified anyway."""
MAX_STRATIFIED_GROUPS = 25_000
"""Maximum number of groups, times that of folds, for a stratified split, which takes a second for as many."""
MAX_GROUP_FOLDS = 12
"""Maximum number of folds of groups, unless one fold is more than the fraction. Few are better stratified."""


class Duplicates(NamedTuple):
    """Numbers of rows with equal features.

    Args:
        repeated: The number of rows of each split whose features are equal to those of another, earlier one.
        in_train: The number of rows of each other split whose features are equal to those of a training row.
    """

    repeated: Mapping[str, int]
    in_train: Mapping[str, int]


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
        method: Description of how the rows of a file were assigned to splits.
        overview: The columns of the file, as `describe_columns` returns them.
        scaling: How numbers are scaled, a name in `SCALINGS`; "" for a sparse matrix.
        in_chunks: Whether the training rows are shuffled in chunks, because they may not fit into memory.
        groups: The group of each row (N,), or None.
        known_task: The task with its classes, if the labels have been parsed for it. For several tasks it is
            always set, and the labels are those of `MultiTask.encode_tensor`.
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
    method: str = ""
    overview: tuple[Any, ...] = ()
    scaling: str = "standard"
    in_chunks: bool = False
    groups: np.ndarray | None = None
    known_task: AnyTask | None = None

    @property
    def strata(self) -> np.ndarray | SparseLabels:
        """The labels by which rows are stratified: those of one task, or one-hot labels of several tasks."""
        return self.labels if self.known_task is None else self.known_task.strata(self.labels)

    def rows_in_file(self, split: str) -> np.ndarray:
        """Return the indices of the split's rows in their file, counted from 0."""
        return self.rows[split].numpy() - self.starts.get(split, 0)

    @cached_property
    def duplicates(self) -> "Duplicates":
        """Numbers of rows with equal features."""
        inputs = self.features
        hashes = pl.from_numpy(inputs.numpy()).hash_rows() if isinstance(inputs, Tensor) else inputs.hashes
        # sorting takes less memory than sets
        ordered = {split: np.sort(hashes.to_numpy()[rows.numpy()]) for split, rows in self.rows.items()}
        repeated = {split: int((part[1:] == part[:-1]).sum()) for split, part in ordered.items()}
        train, in_train = ordered.pop("train"), dict.fromkeys(ordered, 0)
        for split, part in ordered.items() if len(train) else ():
            places = np.minimum(np.searchsorted(train, part), len(train) - 1)
            in_train[split] = int((train[places] == part).sum())
        return Duplicates(repeated, in_train)


def split_rows(
    labels: np.ndarray | SparseLabels,
    fractions: Mapping[str, float],
    seed: int,
    names: Sequence[str],
    groups: np.ndarray | None = None,
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
        groups: The group of each row (N,); all rows of a group are in the same split.

    Raises:
        DataError: too few rows or groups for a fraction.
    """
    strata = stratify(labels)
    if groups is not None:
        return _split_groups(groups, strata, fractions, seed, names)
    pinned = np.zeros(len(labels), dtype=bool)
    if strata is not None and strata.ndim == 1 and fractions:
        pinned, strata = _pin_rare_classes(strata, len(fractions), names)
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
                remaining, splits[split] = split_in_two(remaining, strata, size, seed)
            except ValueError:  # a class has too few rows for a stratified split
                warn(
                    "rare_class",
                    f"{len(remaining)} rows are too few for a stratified split of {size} rows, so the split "
                    "is random. Add rows of rare classes.",
                )
                remaining, splits[split] = split_in_two(remaining, None, size, seed)
            count -= size
    return {"train": np.sort(np.concatenate([np.flatnonzero(pinned), remaining])), **splits}


def _pin_rare_classes(
    classes: np.ndarray, num_splits: int, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a mask of rows that must be training rows, and the strata of all rows, None for a random split.

    One row of each class with at most `num_splits` rows is a training row, of many rows one of each class.
    """
    counts = np.bincount(classes + 1)  # the first count is that of missing labels
    few = (counts > 0) & (counts <= num_splits)
    if few[1:].any():
        rare_names = shorten([names[i] for i in np.flatnonzero(few[1:]).tolist()])
        warn(
            "rare_class",
            f"{few[1:].sum()} of {len(names)} classes have fewer rows than there are splits "
            f"({num_splits + 1}): {rare_names}. One row of each is in the training split, the others are in "
            "random splits. Add rows of these classes for a stratified split.",
        )
    large = len(classes) > MAX_STRATIFIED
    rare = few[classes + 1]
    first = np.zeros(len(counts), dtype=np.int64)
    first[classes[::-1] + 1] = np.arange(len(classes))[::-1]  # the last of several assignments is kept
    pinned = np.zeros(len(classes), dtype=bool)
    pinned[first[(counts > 0) & (few | large)]] = True
    others = rare & ~pinned
    if others.sum() <= num_splits:
        pinned |= others
    return pinned, None if large else np.where(rare, len(names), classes)  # rare classes form one stratum


def _split_groups(
    groups: np.ndarray,
    strata: np.ndarray | None,
    fractions: Mapping[str, float],
    seed: int,
    names: Sequence[str],
) -> dict[str, np.ndarray]:
    """Return the rows of each split: unions of stratified folds of whole groups."""
    strata = rarest_labels(strata)
    classes, first, counts = count_units(strata, groups)
    rare = counts <= len(fractions)
    pinned = np.isin(groups, first[rare])
    if rare.any():
        warn(
            "rare_class",
            f"{rare.sum()} of {len(names)} classes occur in fewer groups (data.group) than there are splits "
            f"({len(fractions) + 1}): {shorten([names[i] for i in classes[rare].tolist()])}. One group of "
            "each is in the training split. Add groups with rows of these classes.",
        )
    remaining, count, splits = np.flatnonzero(~pinned), len(groups), {}
    reserve = len(fractions) + (not pinned.any())  # the splits that still require a group
    if len(np.unique(groups[remaining])) < reserve:
        raise DataError(
            f"{len(np.unique(groups))} groups (data.group) cannot be divided into {len(fractions) + 1} "
            f"splits: {len(np.unique(groups[pinned]))} of them contain all rows of a class, and must be "
            "training rows. Add groups, or set data.val_path and data.test_path."
        )
    for split in ("test", "val"):
        if split in fractions:
            reserve -= 1
            fraction = fractions[split]
            size, smaller = count * fraction, min(fraction, 1 - fraction)
            num_folds = Fraction(fraction).limit_denominator(MAX_GROUP_FOLDS).denominator
            num_folds = max(num_folds, round(1 / smaller), reserve + 1)
            folds = group_folds(remaining, groups, strata, num_folds, seed)
            if len(folds) <= reserve:  # stratified folds may be empty
                folds = group_folds(remaining, groups, None, num_folds, seed)
            splits[split] = np.sort(np.concatenate(_take(folds, size, reserve)))
            count -= len(splits[split])
            remaining = np.concatenate([remaining[:0], *folds])  # there may be only pinned rows left
    return {"train": np.sort(np.concatenate([np.flatnonzero(pinned), remaining])), **splits}


def rarest_labels(strata: np.ndarray | None) -> np.ndarray | None:
    """Return the rarest label (N,) of each row of 0/1 (N, L), -1 without labels; others unchanged."""
    if strata is None or strata.ndim == 1:
        return strata
    rarity = np.where(strata == 1, strata.sum(0), len(strata) + 1)
    return np.where(strata.any(1), rarity.argmin(1), -1)


def group_folds(
    rows: np.ndarray, groups: np.ndarray, strata: np.ndarray | None, num_folds: int, seed: int
) -> list[np.ndarray]:
    """Return rows in at most `num_folds` folds of whole groups, stratified unless there are many groups."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    num_groups = len(np.unique(groups[rows]))
    if num_groups == 1:
        return [rows]
    num_folds = min(num_folds, num_groups)
    is_large = num_groups * num_folds > MAX_STRATIFIED_GROUPS
    classes = None if strata is None or is_large else strata[rows]
    if classes is not None and np.unique(classes, return_counts=True)[1].max() < num_folds:
        classes = None
    kind = GroupKFold if classes is None else StratifiedGroupKFold
    splitter = kind(num_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes with fewer rows than folds
        folds = [rows[fold] for _, fold in splitter.split(rows, classes, groups[rows])]
    return [fold for fold in folds if len(fold)]


def count_units(strata: np.ndarray | None, units: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the classes that occur, the first unit of each, and the number of its units.

    Args:
        strata: Classes (N,), -1 where missing, or 0/1 (N, L); None, without classes, returns empty arrays.
        units: The unit of each row (N,), its index or that of its group.
    """
    if strata is None:
        return units[:0], units[:0], units[:0]
    rows, classes = strata.nonzero() if strata.ndim == 2 else (np.arange(len(strata)), strata)
    num_units = units.max() + 1
    pairs = np.unique(classes * num_units + units[rows])  # one number for each pair of a class and a unit
    pairs = pairs[pairs >= 0]  # without missing labels, -1
    found, first, counts = np.unique(pairs // num_units, return_index=True, return_counts=True)
    return found, pairs[first] % num_units, counts


def _take(folds: list[np.ndarray], size: float, reserve: int) -> list[np.ndarray]:
    """Remove at least one fold, whose rows are about `size` in all, and leave at least `reserve` folds."""
    taken: list[np.ndarray] = []
    while len(folds) > reserve:
        total = sum(map(len, taken))
        distances = [abs(total + len(fold) - size) for fold in folds]
        if taken and min(distances) >= abs(total - size):
            break
        taken.append(folds.pop(int(np.argmin(distances))))
    return taken


def stratify(labels: np.ndarray | SparseLabels) -> np.ndarray | None:
    """Return classes (N,), -1 where missing, or 0/1 (N, L), by which rows are stratified.

    Returns None if stratification would take too long.
    """
    if isinstance(labels, SparseLabels) or labels.ndim == 2:
        if np.prod(labels.shape) > MAX_STRATIFIED:
            return None
        matrix = labels.to_dense().numpy() if isinstance(labels, SparseLabels) else labels
        ones = (np.nan_to_num(matrix) >= 0.5).astype(np.int64)
        return ones[:, 0] if ones.shape[1] == 1 else ones
    return np.where(np.isnan(labels), -1, np.round(np.nan_to_num(labels))).astype(np.int64)


def split_in_two(
    rows: np.ndarray, strata: np.ndarray | None, size: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the remaining rows and a chosen fraction or number of rows, sorted; stratified if `strata`."""
    count = math.ceil(size * len(rows)) if isinstance(size, float) else int(size)
    if strata is not None and strata.ndim == 2:
        shares = np.array([len(rows) - count, count]) / len(rows)
        chosen = rows[divide_rows(strata[rows], shares, seed) == 1]
    else:
        chosen = rows[_draw_rows(len(rows), count, None if strata is None else strata[rows], seed)]
    others = np.setdiff1d(rows, chosen)
    return np.sort(others), np.sort(chosen)


def _draw_rows(num_rows: int, size: int, classes: np.ndarray | None, seed: int) -> np.ndarray:
    """Return `size` of the rows, of each class in proportion to its number of rows; random without classes.

    They are those of scikit-learn's `train_test_split`, whose import takes almost as long as that of torch.
    NumPy guarantees the numbers of `RandomState` for all versions.
    """
    if not 0 < size < num_rows:
        raise DataError(
            f"{num_rows} rows cannot be split into {num_rows - size} and {size}: each part needs a row. Add "
            "rows, or set another fraction."
        )
    random = np.random.RandomState(seed)
    if classes is None:
        return random.permutation(num_rows)[:size]
    _, strata, counts = np.unique(classes, return_inverse=True, return_counts=True)
    if counts.min() < 2 or min(size, num_rows - size) < len(counts):
        raise DataError(
            f"{num_rows} rows of {len(counts)} classes cannot be split into {num_rows - size} and {size}, "
            "each with all classes: a class has only one row, or a part has fewer rows than there are "
            "classes. Add rows, or set another fraction."
        )
    kept = _share(counts, num_rows - size, random)
    drawn = _share(counts - kept, size, random)
    parts = np.split(np.argsort(strata, kind="stable"), np.cumsum(counts)[:-1])
    shuffled = [part[random.permutation(len(part))] for part in parts]
    slices = zip(shuffled, kept, kept + drawn, strict=True)
    return np.concatenate([part[start:end] for part, start, end in slices])


def _share(counts: np.ndarray, size: int, random: np.random.RandomState) -> np.ndarray:
    """Divide `size` among classes in proportion to their counts; the largest remainders are rounded up.

    Of equal remainders, random ones are rounded up.
    """
    exact = counts / counts.sum() * size
    shares = np.floor(exact).astype(np.int64)
    remainders = exact - shares
    for remainder in np.unique(remainders)[::-1]:
        if not (missing := size - shares.sum()):
            break
        tied = np.flatnonzero(remainders == remainder)
        shares[random.choice(tied, min(missing, len(tied)), replace=False)] += 1
    return shares
