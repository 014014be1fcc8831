"""The labels of arrays -> the task, its classes, and what its `encode` takes, or lists of labels."""

from collections.abc import Sequence

import numpy as np

from lossselect.data.label_parsing.options import LabelOptions, Labels
from lossselect.data.label_parsing.table_labels import labels_of_matrix, order_of_labels
from lossselect.data.readers.arrays import blocks
from lossselect.exceptions import DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.values import as_number
from lossselect.tasks.registry import Task, make_task


def labels_of_array(matrix: np.ndarray, options: LabelOptions, fitted: Labels | None = None) -> Labels:
    """The labels of a matrix with a column for each label; of one that is mapped, lists where they can be.

    Args:
        matrix: (N, L) of 0 and 1, or values between; NaN, or one of `options.missing`, where missing.
        options: What the user says.
        fitted: The train split's labels.

    Raises:
        ValueError: other values, another width than in training.
    """
    if fitted and np.shape(fitted.values)[1:] != matrix.shape[1:]:
        raise DataError(
            f"Labels are of shape {matrix.shape}, but in training of shape {np.shape(fitted.values)}."
        )
    names = [str(i) for i in range(matrix.shape[1])]
    if isinstance(matrix, np.memmap) and matrix.size and options.kind in ("multilabel", "auto"):
        lists = _lists_of_matrix(matrix, names, options)
        if lists is not None:
            lengths = lists.count_per_row()
            several = (lengths != 1) & lists.known_rows()
            row = int(several.int().argmax())
            # rows of one label each may be classes, which task=auto is to see
            if options.kind == "multilabel" or several[row]:
                reason = f"the rows hold 0 and 1, and row {row} has {lengths[row]} ones"
                return labels_of_lists(lists, options, reason)
    values = np.empty(matrix.shape, dtype=np.float32)
    for start, block in blocks(matrix) if matrix.size else ():
        values[start : start + len(block)] = _values(block, options.missing)
    return labels_of_matrix(values, names, options, "the rows hold", fitted)


def labels_of_lists(lists: SparseLabels, options: LabelOptions, reason: str) -> Labels:
    """The labels of lists, which are those of several labels a row.

    Args:
        lists: Of all rows.
        options: What the user says.
        reason: Why they are, for task=auto.

    Raises:
        ValueError: another task, names that do not fit, no row of which something is known.
    """
    if options.kind not in ("multilabel", "auto"):
        raise DataError(
            f"Lists of labels are task=multilabel, but task={options.task} has exactly one label a row: save "
            "an index for each row, as a .npy of shape (N,)."
        )
    if not lists.known_rows().any():
        raise DataError("All labels are missing: there is nothing to learn from.")
    given, order = order_of_labels([str(i) for i in range(lists.num_labels)], options)
    if order is not None:
        rows, columns = (values.numpy() for values in lists.coo())
        lists = SparseLabels.from_pairs(rows, np.argsort(order)[columns], lists.shape, lists.missing)
    return Labels(
        options.declared("multilabel"), reason * (options.task == "auto"), lists, tuple(given), None
    )


def _values(block: np.ndarray, marks: Sequence[object]) -> np.ndarray:
    """As floats, NaN where missing."""
    values = block.astype(np.result_type(block.dtype, np.float32))  # float32 holds what int8 and bool hold
    for mark in marks:
        values[values == as_number(mark)] = np.nan
    return values


def _lists_of_matrix(matrix: np.ndarray, names: Sequence[str], options: LabelOptions) -> SparseLabels | None:
    """Some rows at a time; None where labels are soft, or a row is missing in part."""
    given, order = order_of_labels(names, options)
    task: Task = make_task(options.declared("multilabel"), class_names=given if order is None else names)
    ones, missing = [], []
    for start, block in blocks(matrix):
        values = _values(block, options.missing)
        hits, absent = values == 1, np.isnan(values).all(1)
        if not ((hits | (values == 0)).all(1) | absent).all():
            try:
                task.encode(values)
            except DataError as error:
                raise error.counted_from(start) from None
            return None
        rows, labels = hits.nonzero()
        ones.append((rows + start, labels))
        missing.append(absent)
    rows, labels = map(np.concatenate, zip(*ones, strict=True))
    return SparseLabels.from_pairs(rows, labels, matrix.shape, np.concatenate(missing))
