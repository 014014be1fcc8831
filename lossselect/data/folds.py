"""Stratified folds of the rows that are not test rows, for cross-validation."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lossselect.data.splits import Splits, count_units, group_folds, rarest_labels, stratify
from lossselect.data.stratification import divide_rows
from lossselect.exceptions import DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.utils.checks import shorten
from lossselect.utils.warnings import warn


def take_fold(splits: Splits, num_folds: int, fold: int, seed: int) -> Splits:
    """Return splits whose validation rows are one fold of the training rows; see `draw_folds`.

    Raises:
        DataError: fewer rows or groups than folds.
    """
    rows = splits.rows["train"].numpy()
    labels = splits.strata
    values: Any = labels.select(rows) if isinstance(labels, SparseLabels) else labels[rows]
    groups = None if splits.groups is None else splits.groups[rows]
    folds = draw_folds(values, num_folds, seed, splits.class_names, groups)
    train = np.setdiff1d(np.arange(len(rows)), folds[fold])
    others = {split: part for split, part in splits.rows.items() if split != "train"}
    chosen = {"train": torch.from_numpy(rows[train]), "val": torch.from_numpy(rows[folds[fold]])}
    kind = " (whole groups)" if groups is not None else ""
    method = f"validation rows: fold {fold} of {num_folds}{kind}"
    method = f"{splits.method}; {method}" if splits.method else method
    return replace(splits, rows={**chosen, **others}, method=method)


def draw_folds(
    labels: np.ndarray | SparseLabels,
    num_folds: int,
    seed: int,
    names: Sequence[str],
    groups: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Return the validation rows of each fold, stratified by label if there are enough rows.

    A row, or with `groups` all rows of a group, with the only occurrence of a class is in no fold, so that
    every fold is trained on all classes. This raises the warning `rare_class`.

    Args:
        labels: Class indices (N,), NaN where missing, 0/1 (N, L), or sparse labels.
        num_folds: The number of folds, at least 2.
        seed: Seed of the folds.
        names: Names of the classes, for messages.
        groups: The group of each row (N,); all rows of a group are in the same fold.

    Raises:
        DataError: fewer rows or groups than folds.
    """
    strata = stratify(labels)
    units = np.arange(len(labels)) if groups is None else groups
    classes, first, counts = count_units(strata, units)
    rows = np.flatnonzero(~np.isin(units, first[counts == 1]))
    unit = "rows" if groups is None else "groups (data.group)"
    if (available := len(np.unique(units[rows]))) < num_folds:
        raise DataError(
            f"{available} {unit} outside the test split are too few for folds={num_folds}. Reduce folds, or "
            f"add {unit}."
        )
    if (few := counts < num_folds).any():
        shown = [names[i] if i < len(names) else str(i) for i in classes[few].tolist()]
        warn(
            "rare_class",
            f"{few.sum()} of {len(names)} classes have fewer rows or groups than there are folds "
            f"({num_folds}): {shorten(shown)}. Some folds validate none of them; a class with a single row "
            "or group is only trained on. Reduce folds, or add rows of these classes.",
        )
    if groups is None:
        return _row_folds(rows, strata, num_folds, seed)
    folds = group_folds(rows, groups, rarest_labels(strata), num_folds, seed)
    return folds if len(folds) == num_folds else group_folds(rows, groups, None, num_folds, seed)


def _row_folds(rows: np.ndarray, strata: np.ndarray | None, num_folds: int, seed: int) -> list[np.ndarray]:
    classes = None if strata is None else strata[rows]
    if classes is not None and classes.ndim == 2:
        parts = divide_rows(classes, np.full(num_folds, 1 / num_folds), seed)
        return [rows[parts == fold] for fold in range(num_folds)]
    from sklearn.model_selection import KFold, StratifiedKFold

    if classes is None or np.unique(classes, return_counts=True)[1].max() < num_folds:
        splitter: Any = KFold(num_folds, shuffle=True, random_state=seed)
    else:
        splitter = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes with fewer rows than folds
        return [np.sort(rows[fold]) for _, fold in splitter.split(rows, classes)]
