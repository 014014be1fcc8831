"""Checks of a data set as a whole, before the first step."""

from collections.abc import Iterator

import numpy as np
import polars as pl
from torch import Tensor

from lossselect.data.preprocessing.array_features import array_column
from lossselect.data.preprocessing.table_features import BLOCK_ROWS
from lossselect.data.readers.arrays import as_frame
from lossselect.data.splits import Splits
from lossselect.exceptions import DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.tasks.label_counts import LabelCounts, count_sparse, count_target
from lossselect.tasks.registry import Task
from lossselect.utils.checks import format_setting, shorten
from lossselect.utils.warnings import warn, warn_class_without_rows, warn_looks_multiclass


def check_splits(task: Task, splits: Splits) -> dict[str, LabelCounts]:
    """Check the splits, warn of what looks wrong, and return the counts of their labels."""
    labels = splits.labels
    if isinstance(labels, SparseLabels):
        counts = {split: count_sparse(labels.select(rows)) for split, rows in splits.rows.items()}
    else:
        target = task.encode(labels)
        counts = {split: count_target(task, target[rows]) for split, rows in splits.rows.items()}
    for split, count in counts.items():
        if not count.rows:
            raise DataError(f"The {split} split has no rows.")
        if not count.known.any():
            raise DataError(f"All labels of the {split} split are missing: nothing can be computed of it.")
        _check_classes(task, split, count)
    if task.several_labels and task.num_outputs > 1 and all(count.single for count in counts.values()):
        warn_looks_multiclass()
    _warn_of_duplicates(splits)
    return counts


def warn_target_leakage(features: pl.DataFrame | np.ndarray, labels: np.ndarray | SparseLabels) -> None:
    """Warn of a column that has one value for each class: perhaps it is the label in other words."""
    if isinstance(labels, SparseLabels) or labels.ndim > 1:
        return
    label = pl.Series(np.nan_to_num(labels, nan=-1.0))
    columns = features.iter_columns() if isinstance(features, pl.DataFrame) else _candidates(features, label)
    for column in columns:
        if _is_copy(column, label):
            warn(
                "target_leakage",
                f"Column {column.name!r} has one value for each class: does it give the label away? Then "
                f"{format_setting('data.exclude', [column.name])}.",
            )


def _candidates(array: np.ndarray, label: pl.Series) -> Iterator[pl.Series]:
    """Yield the columns that are copies of the label in a sample of the rows."""
    step = max(1, len(array) // BLOCK_ROWS)
    sample = label.gather_every(step)
    for position, column in enumerate(as_frame(array[::step]) if array.dtype.kind != "f" else ()):
        if _is_copy(column, sample):
            yield array_column(array, position)


def _is_copy(column: pl.Series, label: pl.Series) -> bool:
    if column.dtype.is_float() or column.dtype.is_nested() or column.n_unique() != label.n_unique():
        return False
    return pl.DataFrame([column.alias("feature"), label.alias("label")]).n_unique() == label.n_unique()


def check_monitor_is_defined(monitor: str, counts: dict[str, LabelCounts]) -> None:
    """Raise a DataError if a monitor such as "val/auroc" is a ranking that its split's labels do not have."""
    split, _, metric = monitor.partition("/")
    if split not in counts or metric not in ("auroc", "average_precision"):
        return
    if not ((counts[split].positives > 0) & (counts[split].negatives > 0)).any():
        raise DataError(
            f"{monitor} chooses the best checkpoint, but no label of the {split} split has both positives "
            f"and negatives, so that it cannot be computed. Choose by another one: monitor={split}/loss."
        )


def _check_classes(task: Task, split: str, count: LabelCounts) -> None:
    names = np.array(task.names, dtype=object)
    present = count.positives > 0
    if not task.several_labels and present.sum() == 1:
        message = f"All {split} rows are of class {names[present][0]!r}:"
        if split == "train":
            raise DataError(f"{message} there is nothing to tell apart.")
        warn("one_class", f"{message} no ranking metric (AUROC, mAP) can be computed of them.")
    elif split == "train" and not present.all():
        warn_class_without_rows(names[~present].tolist())
    constant = names[present & (count.negatives == 0)].tolist()
    if split == "train" and task.several_labels and constant:
        warn(
            "constant_label",
            f"Every train row has {shorten(constant)}: the net cannot learn where that is not.",
        )


def _warn_of_duplicates(splits: Splits) -> None:
    features = splits.features
    hashes = pl.from_numpy(features.numpy()).hash_rows() if isinstance(features, Tensor) else features.hashes
    train = hashes.gather(splits.rows["train"].numpy()).implode()
    for split, rows in splits.rows.items():
        count = int(hashes.gather(rows.numpy()).is_in(train).sum()) if split != "train" else 0
        if count:
            warn(
                "duplicate_rows",
                f"{count} of {len(rows)} {split} rows have the same features as a train row: the {split} "
                "metrics tell in part what was learned by heart.",
            )
