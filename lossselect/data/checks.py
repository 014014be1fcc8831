"""Checks of a whole data set before the first step."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from lossselect.data.preprocessing.array_features import array_column
from lossselect.data.preprocessing.table_features import BLOCK_ROWS
from lossselect.data.readers.arrays import as_frame
from lossselect.data.splits import Splits
from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.values import as_number
from lossselect.tasks.label_counts import AnyCounts, count_sparse, count_target
from lossselect.tasks.registry import AnyTask, Task
from lossselect.tasks.task_names import naming_task
from lossselect.utils.checks import SPLIT_NAMES, format_setting, shorten
from lossselect.utils.warnings import warn, warn_class_without_rows, warn_looks_multiclass

HEAD_ROWS = 100
"""Number of first rows that show of most columns that they do not determine the class."""
FREQUENT_ROWS = 20
"""Mean number of rows per value from which one class per value is unlikely to be a coincidence."""


def check_splits(task: AnyTask, splits: Splits) -> dict[str, Any]:
    """Check the splits, warn about suspicious ones, and return the label counts of each split.

    Raises:
        DataError: a split has no rows or no known labels, or the training rows have a single class.
    """
    labels = splits.labels
    counts: dict[str, Any]
    if isinstance(labels, SparseLabels):
        counts = {split: count_sparse(labels.select(rows)) for split, rows in splits.rows.items()}
    else:
        target = task.encode_tensor(labels, trailing_dims=0)
        counts = {split: count_target(task, target[rows]) for split, rows in splits.rows.items()}
    for split, count in counts.items():
        if not count.rows:
            raise DataError(f"The {SPLIT_NAMES[split]} split has no rows. Add at least one.")
        check_all_counts(task, split, count)
    for name, part in task.tasks.items():
        is_single = all(count.by_task[name].single for count in counts.values())
        if part.several_labels and part.num_outputs > 1 and is_single:
            with naming_task(name):
                warn_looks_multiclass()
    _warn_duplicates(splits)
    return counts


def warn_target_leakage(features: pl.DataFrame | np.ndarray, labels: np.ndarray | SparseLabels) -> None:
    """Warn about a column with few values, each of which only one class has: perhaps a copy of the label."""
    if isinstance(labels, SparseLabels) or labels.ndim > 1:
        return
    label = pl.Series(np.nan_to_num(labels, nan=-1.0))
    columns = features.iter_columns() if isinstance(features, pl.DataFrame) else _candidates(features, label)
    for column in columns:
        if _determines(column, label):
            warn(
                "target_leakage",
                f"Each value of column {column.name!r} occurs in a single class. If the column reveals the "
                f"label, leave it out ({format_setting('data.exclude', [column.name])} with data=table).",
            )


def _candidates(array: np.ndarray, label: pl.Series) -> Iterator[pl.Series]:
    """Yield the columns that determine the label in a sample of the rows."""
    step = max(1, len(array) // BLOCK_ROWS)
    sample = label.gather_every(step)
    for position, column in enumerate(as_frame(array[::step]) if array.dtype.kind != "f" else ()):
        if _determines(column, sample):
            yield array_column(array, position)


def _determines(column: pl.Series, label: pl.Series) -> bool:
    """Return whether a column has one value for each class, or a few frequent ones of one class each."""
    if column.dtype.is_float() or column.dtype.is_nested():
        return False
    head = column.head(HEAD_ROWS).to_list()
    if len({*zip(head, label.head(HEAD_ROWS).to_list(), strict=True)}) > len({*head}):
        return False
    distinct, classes = column.n_unique(), label.n_unique()
    is_frequent = classes < distinct <= len(label) / FREQUENT_ROWS
    if not (distinct == classes or is_frequent):
        return False
    return pl.DataFrame([column.alias("feature"), label.alias("label")]).n_unique() == distinct


def check_order(names: Sequence[str]) -> None:
    """Raise ConfigError for classes that are not numbers: alphabetical order is rarely the intended one."""
    if words := [name for name in names if as_number(name) is None]:
        raise ConfigError(
            f"task.ordinal=true requires the order of the classes, and {words[0]!r} is not a number. Set "
            f"+task.class_names=[lowest,...,highest]. In alphabetical order they are {shorten(names)}."
        )


def check_monitor_is_defined(monitor: str, counts: dict[str, Any]) -> None:
    """Raise a DataError for a monitor such as "val/auroc" if no label of its split has a ranking metric."""
    split, _, rest = monitor.partition("/")
    name, _, metric = rest.rpartition("/")
    of_split = counts[split].by_task if split in counts else {}
    if name not in of_split or metric not in ("auroc", "average_precision"):
        return
    if not ((of_split[name].positives > 0) & (of_split[name].negatives > 0)).any():
        raise DataError(
            f"The monitor {monitor} cannot be computed: no label of the {SPLIT_NAMES[split]} split has both "
            f"positives and negatives. Set another monitor, such as monitor={split}/loss."
        )


def check_all_counts(task: AnyTask, split: str, counts: AnyCounts) -> None:
    """Check the label counts of each task; see `check_counts`.

    Test rows need the labels of one of several tasks only; a warning names the others.
    """
    labelled = {name for name, part in counts.by_task.items() if part.known.any()}
    for name, part in counts.by_task.items():
        with naming_task(name):
            if split == "test" and labelled and name not in labelled:
                warn(
                    "unlabelled_task",
                    "All labels of the test split are missing, so this task is not evaluated. Add labels.",
                )
                continue
            check_counts(task.tasks[name], split, part.positives, part.negatives, part.soft)


def check_counts(
    task: Task, split: str, positives: np.ndarray, negatives: np.ndarray, soft: bool = False
) -> None:
    """Check the counts of each label of a split, which are rounded if some are soft, and warn about them.

    Raises:
        DataError: the split has no known labels, or the training rows have a single class.
    """
    if not (positives + negatives).any():
        raise DataError(
            f"All labels of the {SPLIT_NAMES[split]} split are missing. Add labels, or check `missing` of "
            "the task, the value that marks a missing label."
        )
    names = np.array(task.names, dtype=object)
    present = positives > 0
    if not task.several_labels and present.sum() == 1:
        message = f"All rows of the {SPLIT_NAMES[split]} split have class {names[present][0]!r}"
        fix = "Add rows of other classes."
        if split != "train":
            warn("one_class", f"{message}, so its auroc and average_precision are undefined. {fix}")
        elif not soft:
            raise DataError(f"{message}, but training requires at least two classes. {fix}")
    if split == "train" and not present.all():
        warn_class_without_rows(names[~present].tolist())
    constant = names[present & (negatives == 0)].tolist()
    if split == "train" and task.several_labels and constant:
        warn(
            "constant_label",
            f"Labels that every training row has cannot be learned: {shorten(constant)}. Add rows without "
            "them.",
        )


def _warn_duplicates(splits: Splits) -> None:
    for split, count in splits.duplicates.in_train.items():
        if count:
            warn(
                "duplicate_rows",
                f"{count} of {len(splits.rows[split])} rows of the {SPLIT_NAMES[split]} split have the same "
                "features as a training row, so its metrics partly measure memorisation. Remove duplicate "
                "rows.",
            )
