"""Conversion of label arrays to the task, its classes, and input of its `encode` or sparse labels."""

from collections.abc import Sequence

import numpy as np

from lossselect.data.label_parsing.options import LabelOptions, Labels
from lossselect.data.label_parsing.votes import normalize_rounded, votes_to_probabilities
from lossselect.data.readers.arrays import blocks
from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.values import as_number
from lossselect.tasks.infer import infer_task
from lossselect.tasks.registry import TASKS, make_task
from lossselect.utils.checks import shorten


def parse_label_array(array: np.ndarray, options: LabelOptions) -> Labels:
    """Return the labels of an array (N, L) of 0 and 1, or values between; NaN or a marker where missing.

    The labels of a mapped array are sparse if possible.
    """
    options.check_shape(array.shape)
    may_be_sparse = isinstance(array, np.memmap) and array.size and not options.counts
    may_be_sparse = may_be_sparse and options.kind in ("multilabel", "auto")
    sparse = _to_sparse(array, options) if may_be_sparse else None
    if sparse is not None:
        counts = sparse.count_per_row()
        several = (counts != 1) & sparse.known_rows()
        row = int(several.int().argmax())
        # task=auto infers multiclass if every row has exactly one label
        if options.kind == "multilabel" or several[row]:
            reason = f"the rows contain 0 and 1, and row {row} has {counts[row]} ones"
            return parse_sparse_labels(sparse, options, reason)
    values = np.empty(array.shape, dtype=np.float32)
    for start, block in blocks(array) if array.size else ():
        values[start : start + len(block)] = _to_floats(block, options.missing)
    return parse_label_matrix(values, [*map(str, range(array.shape[1]))], options, "the rows contain")


def parse_sparse_labels(labels: SparseLabels, options: LabelOptions, reason: str) -> Labels:
    """Return the labels of all rows; `reason` explains why task=auto infers multilabel."""
    if options.kind not in ("multilabel", "auto"):
        raise DataError(
            f"Sparse labels require task=multilabel, but task={options.task} has exactly one label per row. "
            "Set task=multilabel, or save one class index per row as a .npy file of shape (N,)."
        )
    if not labels.known_rows().any():
        raise DataError("All labels are missing. Add labels.")
    names, order = _order_labels([*map(str, range(labels.num_labels))], options)
    if order is not None:
        rows, columns = (values.numpy() for values in labels.coo())
        labels = SparseLabels.from_pairs(rows, np.argsort(order)[columns], labels.shape, labels.missing)
    reason = reason if options.task == "auto" else ""
    return Labels(options.resolve_task("multilabel"), reason, labels, tuple(names), None)


def parse_label_matrix(
    matrix: np.ndarray, columns: Sequence[str], options: LabelOptions, source: str
) -> Labels:
    """Return the labels of a matrix (N, L) of 0 and 1, or values between, NaN where missing.

    `source` starts the reason for an inferred task, such as "columns a, b contain". If `class_names` are the
    names of the columns, they determine the order.
    """
    names, order = _order_labels(columns, options)
    if order is not None:
        matrix = matrix[:, order]
    if np.isnan(matrix).all() and options.fitted is None:
        raise DataError("All labels are missing. Add labels, or check data.missing.")
    task, reason = options.task, ""
    if options.counts:
        matrix = votes_to_probabilities(matrix, names, options)
        task, reason = options.resolve_task("multiclass"), f"{source} votes" if task == "auto" else ""
    elif options.kind in ("multiclass", "auto") and matrix.size:
        matrix = normalize_rounded(matrix, every_row=options.kind == "auto")
    try:
        if task == "auto":
            task, why = infer_task(matrix)
            reason = f"{source} 0 and 1, and {why}"
        # checked here, because the indices of rows in errors then refer to the file
        make_task(task, class_names=names if TASKS[task].is_sized() else None).encode(matrix)
    except DataError as error:
        hint = _hint(matrix)
        raise (error.add(hint) if hint else error) from None
    return Labels(task, reason, matrix.astype(np.float32, copy=False), tuple(names), None)


def _hint(matrix: np.ndarray) -> str:
    """Return a sentence about label columns that seem to contain votes or percentages, or ""."""
    known = matrix[~np.isnan(matrix)]
    if not (np.isfinite(known).all() and (known >= 0).all() and (known > 1).any()):
        return ""
    if (known == known.round()).all():
        return "If the columns are numbers of votes for each class, set task=multiclass data.counts=true."
    is_percent = (np.abs(matrix.sum(1) - 100) < 1).all()
    return "If the labels are percentages, divide them by 100." if is_percent else ""


def _order_labels(columns: Sequence[str], options: LabelOptions) -> tuple[list[str], list[int] | None]:
    """Return the labels' names in the user's order, and the columns' positions if the order changes."""
    if options.class_names is None:
        return [*columns], None
    names = [*map(str, options.class_names)]
    if len(names) != len(columns):
        raise ConfigError(
            f"Multilabel requires {len(columns)} class_names, got {len(names)}: {shorten(names)}."
        )
    positions = {column: position for position, column in enumerate(columns)}
    if set(names) == set(columns):
        return names, [positions[name] for name in names]
    if both := [name for name in names if name in positions]:
        raise ConfigError(
            f"class_names={names} has only some names of the columns ({shorten(columns)}), so {both[0]!r} is "
            "ambiguous. Set all of the columns' names in your order, or new names in the columns' order."
        )
    return names, None


def _to_floats(block: np.ndarray, markers: Sequence[object]) -> np.ndarray:
    """Return labels as floats, NaN where missing."""
    values = block.astype(np.result_type(block.dtype, np.float32))  # float32 is exact for int8 and bool
    for marker in markers:
        values[values == as_number(marker)] = np.nan
    return values


def _to_sparse(array: np.ndarray, options: LabelOptions) -> SparseLabels | None:
    """Return the labels, read block by block; None if labels are soft, or a row is partly missing."""
    task = make_task(options.resolve_task("multilabel"), num_outputs=array.shape[1])
    ones, missing = [], []
    for start, block in blocks(array):
        values = _to_floats(block, options.missing)
        is_one, is_missing = values == 1, np.isnan(values).all(1)
        if not ((is_one | (values == 0)).all(1) | is_missing).all():
            try:
                task.encode(values)
            except DataError as error:
                error.row = None if error.row is None else error.row + start
                raise
            return None
        rows, labels = is_one.nonzero()
        ones.append((rows + start, labels))
        missing.append(is_missing)
    rows, labels = map(np.concatenate, zip(*ones, strict=True))
    return SparseLabels.from_pairs(rows, labels, array.shape, np.concatenate(missing))
