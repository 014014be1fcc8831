"""Parsing of dates and times."""

import polars as pl

from lossselect.data.preprocessing.columns import TEXT, CellParser, column_error
from lossselect.exceptions import DataError
from lossselect.utils.checks import format_setting

YEAR_LAST = r"^(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})\b"
"""Pattern of dates that may start with the day or with the month."""


def parse_dates(column: pl.Series, date_format: str | None = None) -> pl.Series:
    """Return dates and times of a column as datetimes (text and datetimes in UTC), null where missing.

    Args:
        column: Dates, times, or text such as 2024-05-31, 2024-05-31T10:00:00+02:00, 31.05.2024 or 5/31/2024.
        date_format: The format of text as in `datetime.strptime`, such as "%d/%m/%Y".

    Raises:
        DataError: a cell is not a date, or it is unknown whether the day or the month comes first.
    """
    if column.dtype.is_temporal():
        return column
    if column.dtype not in TEXT:
        raise column_error(column.name, f"must contain dates, got the type {column.dtype}.")
    text = CellParser().text(column)
    dates = _parse(text, date_format)
    if date_format is None and dates.null_count() > text.null_count():
        # Polars tries only formats that start with the year or the day
        months_first = _parse(text.str.replace(YEAR_LAST, "${3}-${1}-${2}"), None)
        dates = months_first if months_first.null_count() < dates.null_count() else dates
    elif date_format is None and (parts := text.str.extract_groups(YEAR_LAST).struct.unnest()).height:
        known = parts[:, :2].cast(pl.Int64).drop_nulls()
        if len(known) and known.to_numpy().max() <= 12:
            raise column_error(
                column.name,
                f"contains dates such as {text.drop_nulls()[0]!r}, which may start with the day or with the "
                "month. Set data.date_format=%d/%m/%Y or data.date_format=%m/%d/%Y.",
            )
    invalid = dates.is_null() & text.is_not_null()
    if invalid.any():
        row = invalid.arg_max() or 0
        expected = f"a date in the format {date_format}" if date_format else "a date such as 2024-05-31"
        fix = format_setting("data.date_format", date_format or "%d.%m.%Y")
        raise DataError.at(
            row,
            column.name,
            f" is {text[row]!r}, but must be {expected}. Correct it, or set {fix}.",
            text[row],
        )
    return dates


def _parse(text: pl.Series, date_format: str | None) -> pl.Series:
    if not len(text.drop_nulls()):
        return text.cast(pl.Datetime(time_zone="UTC"))
    try:
        return text.str.to_datetime(date_format, strict=False, time_zone="UTC")
    except pl.exceptions.ComputeError:  # no format fits the first cell
        return pl.Series(text.name, [None] * len(text), dtype=pl.Datetime(time_zone="UTC"))
