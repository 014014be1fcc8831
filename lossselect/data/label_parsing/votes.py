"""Labels from several people: rounded frequencies, votes per class, and one column per annotator."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from lossselect.data.label_parsing.options import LabelOptions, Labels
from lossselect.data.label_parsing.single_label import parse_single_labels
from lossselect.data.preprocessing.columns import TEXT, CellParser, column_error, restore_integers
from lossselect.exceptions import ConfigError, DataError
from lossselect.tasks.registry import TASKS
from lossselect.utils.checks import shorten
from lossselect.utils.warnings import warn

MAX_DIGITS = 4
"""Maximum number of digits to which soft labels count as rounded; with more, they must sum to 1."""
MAX_DEVIATION = 0.05
"""Maximum deviation of a sum of rounded soft labels from 1."""
EXACT = 5e-5
"""Maximum deviation from 1 that is ignored: half of what the tasks accept, because floats are inexact."""


def normalize_rounded(matrix: np.ndarray, every_row: bool) -> np.ndarray:
    """Return soft labels (N, C) whose rows sum to 1, if rounding to 2 to 4 digits explains the deviation.

    Args:
        matrix: Class probabilities, NaN where missing.
        every_row: Whether to return the matrix unchanged if any row deviates by more than rounding explains.
    """
    deviation = np.abs(matrix.sum(1, dtype=np.float64) - 1)
    if not (deviation > EXACT).any() or ((matrix == 0) | (matrix == 1) | np.isnan(matrix)).all():
        return matrix
    values = matrix.astype(np.float64)
    digits = next((d for d in range(1, MAX_DIGITS + 1) if _has_digits(values, d)), None)
    if digits is None or np.nanmin(values) < 0 or np.nanmax(values) > 1:
        return matrix
    totals = values.sum(1)
    most = min(values.shape[1] * 0.5 * 10.0 ** -max(digits, 2), MAX_DEVIATION) + 1e-6
    rounded = (deviation <= most) & (deviation > EXACT)
    if not rounded.any() or (every_row and (deviation > max(most, EXACT)).any()):
        return matrix
    row = int(rounded.argmax())
    warn(
        "rounded_soft_labels",
        f"The soft labels of {rounded.sum()} rows do not sum to 1, because they are rounded to {digits} "
        f"digits: those of row {row} sum to {totals[row]:.4g}. Each row is divided by its sum.",
    )
    return np.where(rounded[:, None], values / np.where(rounded, totals, 1)[:, None], values)


def _has_digits(values: np.ndarray, digits: int) -> bool:
    scaled = values * 10.0**digits
    # float32 has 7 significant digits
    return bool((np.isnan(scaled) | (np.abs(scaled - scaled.round()) <= 1e-6 * 10.0**digits)).all())


def votes_to_probabilities(matrix: np.ndarray, columns: Sequence[str], options: LabelOptions) -> np.ndarray:
    """Return the fraction of the votes of each class, NaN in rows without votes."""
    votes = matrix.astype(np.float64)
    empty = np.isnan(votes)
    invalid = ~empty & ~((votes >= 0) & (votes == votes.round()) & np.isfinite(votes))
    if invalid.any():
        row, column = np.argwhere(invalid)[0]
        value = votes[row, column]
        problem = f" is {value:g}, but data.counts=true requires numbers of votes: integers >= 0."
        raise DataError.at(row, columns[column], problem, value)
    partly = empty.any(1) & ~empty.all(1)
    if partly.any() and options.empty is None:
        row = int(partly.argmax())
        raise DataError.at(
            row,
            columns[int(empty[row].argmax())],
            " is empty, but other classes of the row have votes. Write 0 for no votes; with data=table, set "
            "data.empty=negative if an empty cell means 0 votes, or data.empty=missing if the label of the "
            "row is missing.",
        )
    if options.empty == "negative":
        votes[partly] = np.nan_to_num(votes[partly])
    totals = votes.sum(1)  # NaN for missing rows
    if none := int((totals == 0).sum()):
        problem = f"{none} rows have no votes (data.counts), so their labels are missing."
        warn("no_votes", f"{problem} If these rows should not be in the data, remove them.")
    return votes / np.where(totals > 0, totals, np.nan)[:, None]


def parse_annotators(columns: Sequence[pl.Series], options: LabelOptions) -> Labels:
    """Return the labels of columns with the class that each annotator chose, if any."""
    names = [column.name for column in columns]
    if len(columns) < 2:
        raise ConfigError(
            f"data.annotators requires one column for each annotator, but data.target is {shorten(names)}. "
            "Set data.target=[a,b,c]."
        )
    for column in columns:
        if column.dtype not in (*TEXT, pl.Null, pl.Boolean) and not column.dtype.is_numeric():
            rule = "but a column of an annotator must contain one class per row."
            raise column_error(column.name, f"is of type {column.dtype}, {rule}")
    dtypes = [column.dtype for column in columns if column.dtype != pl.Null]
    same = all(dtype.is_numeric() for dtype in dtypes) or all(dtype == pl.Boolean for dtype in dtypes)
    read = restore_integers if same else CellParser().text
    answers = [read(column) for column in columns]
    frames = [column.alias(shorten(names)).to_frame() for column in answers]
    joined = pl.concat(frames, how="vertical_relaxed").to_series()
    size = len(columns[0])
    try:
        labels = parse_single_labels(joined, options)
    except DataError as error:  # the rows of one column follow those of another
        if error.row is not None:
            error.row, error.column = error.row % size, names[error.row // size]
        raise
    if labels.vocabulary is None:
        problem = f"Columns {shorten(names)} contain probabilities, but data.annotators={options.annotators}"
        raise DataError(f"{problem} requires one class per annotator and row. Write the classes.")
    codes = labels.values.reshape(len(columns), size).T
    votes = np.stack([(codes == i).sum(1) for i in range(len(labels.class_names))], axis=1)
    missing = votes.sum(1) == 0
    if options.annotators == "mean":
        with np.errstate(invalid="ignore"):
            values = votes / votes.sum(1, keepdims=True)  # NaN without an answer
        kind = TASKS[labels.task].kind
        return replace(labels, values=(values[:, 1] if kind == "binary" else values).astype(np.float32))
    ties = (votes == votes.max(1, keepdims=True)).sum(1) > 1
    if (ties & ~missing).any():
        row = int((ties & ~missing).argmax())
        problem = f"The annotators of {(ties & ~missing).sum()} rows, such as row {row}, are tied"
        warn(
            "tied_annotators",
            f"{problem}, so the labels of these rows are missing. To use all answers as soft labels, set "
            "data.annotators=mean.",
        )
    return replace(labels, values=np.where(ties | missing, np.nan, votes.argmax(1)))
