"""Stratified, seeded splits of labelled rows, standardised by what the train split says."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Splits:
    """Features (float32, standardised) and labels (as they came) of all rows, and whose rows are which."""

    name: str
    features: Tensor
    labels: np.ndarray
    class_names: tuple[str, ...]
    rows: dict[str, Tensor]
    mean: Tensor
    std: Tensor


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
        raise ValueError(
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
    # in float64: the sums of many rows lose digits in float32
    known = raw[rows["train"]].double()
    mean, std = known.mean(0), known.std(0, correction=0)
    std = torch.where(std > 0, std, 1)  # a constant feature is 0 throughout, not 0 / 0
    standardised = ((raw - mean) / std).float()
    return Splits(name, standardised, labels, tuple(class_names), rows, mean.float(), std.float())


def _stratified(
    rows: np.ndarray, labels: np.ndarray, fraction: float | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(the others, a share of `fraction`), both sorted, with labels in like proportion."""
    if labels.ndim == 1:
        from sklearn.model_selection import train_test_split

        try:
            kept, taken = train_test_split(rows, test_size=fraction, random_state=seed, stratify=labels[rows])
        except ValueError as error:
            raise ValueError(f"{len(rows)} rows cannot be split at {fraction}: {error}") from None
    else:
        from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

        splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=fraction, random_state=seed)
        kept, taken = (rows[index] for index in next(splitter.split(rows, labels[rows])))
    return np.sort(kept), np.sort(taken)
