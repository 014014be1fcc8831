"""What is wrong, or looks wrong, with a data set as a whole; looked at before a step is taken."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from torch import Tensor

from lossselect.data.preprocessing.array_features import column_of
from lossselect.data.preprocessing.table_features import SOME_ROWS
from lossselect.data.readers.arrays import as_frame
from lossselect.exceptions import DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.tasks.label_counts import LabelCounts, count_sparse, count_target
from lossselect.tasks.registry import Task
from lossselect.utils.checks import format_setting, shorten
from lossselect.utils.warnings import warn, warn_class_without_rows, warn_looks_multiclass

if TYPE_CHECKING:
    from lossselect.data.splits import Splits


def check_splits(task: Task, splits: "Splits") -> dict[str, LabelCounts]:
    """Errors and warnings about the splits as they are; returns how many labels there are.

    Raises:
        ValueError: a split without rows or without labels, or a train split of one class alone.
    """
    counts = _count_splits(task, splits)
    for split, count in counts.items():
        if not count.rows:
            raise DataError(f"The {split} split has no rows.")
        if not (count.positives + count.negatives).any():
            raise DataError(f"All labels of the {split} split are missing: nothing can be computed of it.")
        _check_classes(task, split, count)
    if task.several_labels and task.num_outputs > 1 and all(c.single for c in counts.values()):
        warn_looks_multiclass()
    _warn_of_duplicates(splits)
    return counts


def _count_splits(task: Task, splits: "Splits") -> dict[str, LabelCounts]:
    labels = splits.labels
    if isinstance(labels, SparseLabels):
        return {split: count_sparse(labels.select(rows)) for split, rows in splits.rows.items()}
    target = task.encode(labels)
    return {split: count_target(task, target[rows]) for split, rows in splits.rows.items()}


def warn_target_leakage(features: pl.DataFrame | np.ndarray, labels: np.ndarray | SparseLabels) -> None:
    """A column that has one value for each class is perhaps the label in other words."""
    if isinstance(labels, SparseLabels) or labels.ndim > 1:
        return
    label = pl.Series(np.nan_to_num(labels, nan=-1.0))
    if isinstance(features, pl.DataFrame):
        columns = features.iter_columns()
    else:
        columns = _perhaps_copies(features, label)
    for column in columns:
        if _is_copy(column, label):
            warn(
                "target_leakage",
                f"Column {column.name!r} has one value for each class: does it give the label away? Then "
                f"{format_setting('data.exclude', [column.name])}.",
            )


def _perhaps_copies(array: np.ndarray, label: pl.Series) -> Iterator[pl.Series]:
    """The columns of an array of which some rows do not tell that they are none: no others are read."""
    if array.dtype.kind == "f":
        return
    step = max(1, len(array) // SOME_ROWS)
    few = label.gather_every(step)
    for place, column in enumerate(as_frame(array[::step])):
        if _is_copy(column, few):
            yield column_of(array, place)


def _is_copy(column: pl.Series, label: pl.Series) -> bool:
    count = label.n_unique()
    if column.dtype.is_float() or column.dtype.is_nested() or column.n_unique() != count:
        return False
    return pl.DataFrame([column.alias("feature"), label.alias("label")]).n_unique() == count


def check_enough_rows(rows: Mapping[str, Tensor], processes: int) -> None:
    """ValueError for a split with fewer rows than processes."""
    for split, own in rows.items():
        if len(own) < processes:
            raise DataError(
                f"The {split} split has {len(own)} rows for {processes} processes, and each needs one at "
                "least: fewer processes (trainer.devices), or more rows."
            )


def check_monitor_is_defined(monitor: str, counts: dict[str, LabelCounts]) -> None:
    """ValueError where the best checkpoint would be chosen by a ranking that its split does not have.

    Args:
        monitor: "val/average_precision", "train/auroc", ...
        counts: Of the splits' labels.
    """
    split, _, metric = monitor.partition("/")
    count = counts.get(split)
    if (
        count
        and metric in ("auroc", "average_precision")
        and not ((count.positives > 0) & (count.negatives > 0)).any()
    ):
        raise DataError(
            f"{monitor} chooses the best checkpoint, but no label of the {split} split has both positives "
            f"and negatives, so that it cannot be computed. Choose by another one: monitor={split}/loss."
        )


def _check_classes(task: Task, split: str, count: LabelCounts) -> None:
    names = np.array(task.names, dtype=object)
    there = count.positives > 0
    if not task.several_labels and there.sum() == 1:
        only = names[there][0]
        if split == "train":
            raise DataError(f"All train rows are of class {only!r}: there is nothing to tell apart.")
        warn(
            "one_class",
            f"All {split} rows are of class {only!r}: no ranking metric (AUROC, mAP) can be computed of "
            "them.",
        )
    elif split == "train" and not there.all():
        warn_class_without_rows(names[~there].tolist())
    everywhere = there & (count.negatives == 0)
    if split == "train" and task.several_labels and everywhere.any():
        said = shorten(names[everywhere].tolist())
        warn("constant_label", f"Every train row has {said}: the net cannot learn where that is not.")


def _warn_of_duplicates(splits: "Splits") -> None:
    features = splits.features
    hashes = pl.from_numpy(features.numpy()).hash_rows() if isinstance(features, Tensor) else features.hashes
    train = hashes.gather(splits.rows["train"].numpy()).implode()
    for split, rows in splits.rows.items():
        if split == "train":
            continue
        count = int(hashes.gather(rows.numpy()).is_in(train).sum())
        if count:
            warn(
                "duplicate_rows",
                f"{count} of {len(rows)} {split} rows have the same features as a train row: the {split} "
                "metrics tell in part what was learned by heart.",
            )
