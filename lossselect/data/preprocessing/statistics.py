"""Statistics of the columns of a table: missing cells, distinct values, ranges and frequent values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from lossselect.data.preprocessing.columns import TEXT, CellParser, set_null
from lossselect.data.preprocessing.dates import parse_dates
from lossselect.data.readers.arrays import as_frame
from lossselect.utils.checks import show

SAMPLE_ROWS, SAMPLE_PARTS = 50_000, 100
"""Number of rows from which slow statistics are computed, and the number of parts that they consist of."""
MAX_ARRAY_CELLS = 1 << 18
"""Maximum number of cells of such a sample of an array."""
FREQUENT = 3
"""Number of most frequent values that are shown."""
MAX_SHOWN = 40
"""Maximum number of characters of a frequent value."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of the cells of a column.

    Args:
        kind: "number", "date", "category" for other text, or "other".
        rows: The number of rows.
        missing: The number of missing cells.
        sampled: The number of rows in which values were counted; fewer than `rows` for large tables.
        distinct: The number of distinct values in the sample; None if unknown.
        values: The range of numbers and dates (of text: in the sample), or the most frequent values.
    """

    kind: str
    rows: int
    missing: int
    sampled: int
    distinct: int | None = None
    values: str = ""


def sample_rows(rows: pl.DataFrame | np.ndarray, size: int = SAMPLE_ROWS) -> Any:
    """Return `size` rows, or all if there are fewer, from all parts of a table or array."""
    if len(rows) <= size:
        return rows
    length = max(1, size // SAMPLE_PARTS)
    starts = np.linspace(0, len(rows) - length, size // length).astype(np.int64).tolist()
    parts: Any = [rows[start : start + length] for start in starts]
    return pl.concat(parts) if isinstance(rows, pl.DataFrame) else np.concatenate(parts)


def sample_array(array: np.ndarray) -> pl.DataFrame:
    """Return rows of an array (N, F), which may be larger than the memory, as a table."""
    size = min(SAMPLE_ROWS, max(SAMPLE_PARTS, MAX_ARRAY_CELLS // array.shape[1]))
    return as_frame(np.asarray(sample_rows(array, size)))


def summarize(
    frame: pl.DataFrame, parser: CellParser, date_formats: Mapping[str, str | None]
) -> dict[str, Statistics]:
    """Return the statistics of columns with all rows; `date_formats` are those of dates in text."""
    sample = sample_rows(frame)
    found: dict[str, Statistics] = {}
    for column, some in zip(frame.iter_columns(), sample.iter_columns(), strict=True):
        kind = column.dtype
        if kind in TEXT:
            found[column.name] = _summarize_text(column, some, parser, date_formats.get(column.name))
        elif kind.is_numeric() or kind in (pl.Boolean, pl.Date, pl.Datetime):
            found[column.name] = _summarize_ordered(column, some, parser.null_numbers)
        else:
            found[column.name] = Statistics("other", len(column), column.null_count(), len(some))
    return found


def _summarize_ordered(column: pl.Series, sample: pl.Series, marks: Sequence[float]) -> Statistics:
    # methods of Series, as an expression for each of many columns takes several times as long
    column, sample = (_without_missing(cells, marks) for cells in (column, sample))
    return Statistics(
        "date" if column.dtype.is_temporal() else "number",
        len(column),
        column.null_count(),
        len(sample),
        sample.n_unique() - (sample.null_count() > 0),
        _format_range(column.min(), column.max()),
    )


def _without_missing(column: pl.Series, marks: Sequence[float]) -> pl.Series:
    """Return numbers with null for NaN and marks, dates as they are."""
    if column.dtype.is_float() and math.isnan(column.sum()):
        column = column.fill_nan(None)
    if marks and column.dtype.is_numeric():
        return set_null(column.cast(pl.Float64), marks)
    return column


def _summarize_text(
    column: pl.Series, sample: pl.Series, parser: CellParser, date_format: str | None
) -> Statistics:
    counts = sample.alias("cell").value_counts()
    counts = counts.with_columns(parser.text(counts["cell"])).group_by("cell").agg(pl.col("count").sum())
    known = counts.drop_nulls().sort(["count", "cell"], descending=[True, False])
    cells, distinct = known["cell"], known.height
    missing = len(sample) - int(known["count"].sum())
    if len(sample) < len(column):
        marks = ["", *parser.null_values]
        is_trimmed = missing == sample.null_count() + sample.is_in(marks).sum()  # without blanks: faster
        text = column if is_trimmed else parser.text(column)
        missing = text.null_count() + int(text.is_in(marks).sum())
    kind, values = "category", ""
    if date_format is not None:
        dates = parse_dates(cells, date_format, parser)
        kind, values = "date", _format_range(dates.min(), dates.max())
    elif (numbers := cells.cast(pl.Float64, strict=False)).null_count() == 0:
        kind, values = "number", _format_range(numbers.min(), numbers.max())
    elif distinct <= len(sample) / 2 or distinct <= FREQUENT:  # frequent values of others mean nothing
        first = known.head(FREQUENT).rows()
        values = ", ".join(f"{show(cell, MAX_SHOWN)} ({count / len(sample):.0%})" for cell, count in first)
        values += ", ..." * (distinct > FREQUENT)
    return Statistics(kind, len(column), missing, len(sample), distinct, values)


def _format_range(low: Any, high: Any) -> str:
    if low is None:
        return ""
    low, high = (
        f"{value:.6g}" if isinstance(value, float) else str(value).removesuffix(" 00:00:00").lower()
        for value in (low, high)
    )
    return low if low == high else f"{low} to {high}"
