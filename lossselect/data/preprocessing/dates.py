"""Dates and times: parsing, and the numbers that are computed from them as features."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import time
from typing import Any

import numpy as np
import polars as pl

from lossselect.data.preprocessing.columns import (
    LONG,
    TEXT,
    CellParser,
    Number,
    column_error,
    fit_numbers,
)
from lossselect.data.preprocessing.scaling import Standardizer
from lossselect.exceptions import CheckpointError, DataError
from lossselect.utils.checks import format_setting, lookup, show

TIME = (
    r"(?:(?:[Tt]|,? +)(?<hour>\d{1,2}):(?<minute>\d{2})(?::(?<second>\d{2})(?<fraction>\.\d+)?)?"
    r" ?(?<half>[AaPp][Mm])? ?(?<zone>[Zz]|[+-]\d{2}:?\d{2})?)?$"
)
ORDERS = {
    "ymd": (r"^(?<year>\d{4})[-/.](?<month>\d{1,2})[-/.](?<day>\d{1,2})" + TIME, "2024-05-31"),
    "dmy": (r"^(?<day>\d{1,2})[-/.](?<month>\d{1,2})[-/.](?<year>\d{4})" + TIME, "31.05.2024"),
    "mdy": (r"^(?<month>\d{1,2})[-/.](?<day>\d{1,2})[-/.](?<year>\d{4})" + TIME, "5/31/2024"),
}
"""Pattern and example of dates by the order of year, month and day."""
_TIMES = ("%H:%M", "%H:%M:%S", "%H:%M:%S%.f", "%I:%M %p", "%I:%M:%S %p")
_DAYS = (
    *("%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%m-%y", "%m-%d-%y", "%y-%m-%d", "%d%b%Y", "%b%Y"),
    *("%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%B %d %Y", "%d. %b %Y", "%d. %B %Y", "%b %d"),
    *(
        day.replace(" ", mark)
        for mark in " -/"
        for day in ("%d %b %y", "%d %b %Y", "%d %B %Y", "%b %y", "%b %Y", "%B %Y")
    ),
)
FORMATS = (*ORDERS, *_TIMES, *_DAYS, *(f"{day} {time}" for day in _DAYS for time in _TIMES))
"""Formats that are suggested if they fit."""
CYCLES = {
    "month": lambda date: (date.dt.month() - 1) / 12,
    "weekday": lambda date: (date.dt.weekday() - 1) / 7,
    "hour": lambda date: date.dt.hour() / 24 + date.dt.minute() / (24 * 60),
}
"""Fraction of a cycle that has passed: year, week and day."""


def _position(cycle: Callable[[pl.Expr], pl.Expr], axis: str) -> Callable[[pl.Expr, int], pl.Expr]:
    """Return the function from a date to a coordinate of its position on a circle.

    December is next to January then, which helps small nets and few rows.
    """
    # rounded, because a coordinate that is 0 except for rounding errors must be constant
    return lambda date, _: getattr(cycle(date) * (2 * math.pi), axis)().round(6)


PARTS: dict[str, Callable[[pl.Expr, int], pl.Expr]] = {
    "days": lambda date, origin: (date.dt.timestamp("us") - origin) / 86_400e6,
    "year": lambda date, _: date.dt.year(),
    **{f"{name} {axis}": _position(cycle, axis) for name, cycle in CYCLES.items() for axis in ("sin", "cos")},
}
"""Numbers that are computed from a date and the earliest date of the training rows."""


@dataclass(frozen=True)
class Date:
    """A column of dates; if some are missing, the first part, the days, has an additional feature.

    Args:
        name: The column's name.
        format: The format of text, see `parse_dates`.
        origin: The earliest date of the training rows, in microseconds since 1970.
        parts: The features, named as in PARTS; those that are constant in the training rows are left out.
    """

    name: str
    format: str
    origin: int
    parts: tuple[Number, ...]

    @property
    def features(self) -> list[str]:
        """Names of its features."""
        return [f"{self.name} {feature}" for part in self.parts for feature in part.features]

    @property
    def missing(self) -> bool:
        """Return whether some training rows have no date."""
        return self.parts[0].missing

    def numbers(self, column: pl.Series, parser: CellParser, first_row: int = 0) -> list[pl.Series]:
        """Return the numbers of each part, null where the date is missing."""
        dates = parse_dates(column, self.format, parser, first_row)
        return _parts(dates, self.origin, [part.name for part in self.parts])

    def cells(self, days: np.ndarray) -> list[str | None]:
        """Return dates as text, to the minute, from the days since `origin`; None for NaN."""
        minutes = pl.Series(days).fill_nan(None) * (24 * 60) + self.origin / 60e6
        dates = (minutes.round().cast(pl.Int64) * 60_000_000).cast(pl.Datetime("us"))
        has_times = (dates.dt.time() != time()).any()
        return dates.dt.strftime("%Y-%m-%d %H:%M" if has_times else "%Y-%m-%d").to_list()

    def check(self) -> None:
        """Raise an error unless the parts are the days and others of PARTS, with valid numbers."""
        if not self.parts or self.parts[0].name != "days":
            raise CheckpointError(f"The first part of column {self.name!r} must be 'days'.")
        for part in self.parts:
            lookup(PARTS, part.name, "date part")
            part.check()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Date":
        """Create the column from its fields as plain values."""
        return cls(**{**values, "parts": tuple(map(Number.from_dict, values["parts"]))})


def fit_date(
    column: pl.Series, train: np.ndarray, parser: CellParser, date_format: str | None = None
) -> Date | None:
    """Return a column of dates, None if all training rows have the same date.

    Args:
        column: The dates of all rows.
        train: Indices of the training rows.
        parser: Parser of the cells.
        date_format: See `find_date_format`.
    """
    chosen = find_date_format(column, date_format, parser)
    dates = parse_dates(column, chosen, parser).gather(train)
    if dates.null_count() == len(dates):
        return None
    origin = int(dates.dt.timestamp("us").min())  # type: ignore[arg-type]
    parts = _parts(dates, origin, [*PARTS])
    standardizer = Standardizer([*PARTS]).partial_fit(pl.DataFrame(parts))
    days, *others = fit_numbers(standardizer).values()
    if days is None:
        return None
    varying = zip(others, standardizer.constant[1:], strict=True)
    kept = [replace(part, missing=False) for part, constant in varying if part and not constant]
    return Date(column.name, chosen, origin, (days, *kept))


def _parts(dates: pl.Series, origin: int, names: list[str]) -> list[pl.Series]:
    frame, date = dates.rename("date").to_frame(), pl.col("date")
    parts = (PARTS[name](date, origin).cast(pl.Float64).alias(name) for name in names)
    return frame.select(parts).get_columns()


def find_date_format(
    column: pl.Series, date_format: str | None = None, parser: CellParser | None = None
) -> str:
    """Return the format of dates in text, for `parse_dates`; "ymd" for other columns.

    Args:
        column: Text such as 2024-05-31, 2024-05-31T10:00:00+02:00, 31.05.2024 or 5/31/2024.
        date_format: The format to return, unless the year comes first in all cells.
        parser: Parser of the cells.

    Raises:
        DataError: it is unknown whether the day or the month comes first.
    """
    if column.dtype not in TEXT:
        return "ymd"
    text = (parser or CellParser()).text(column).drop_nulls()
    first, text = text.first(), text.unique()
    if date_format is not None and _parse(text, date_format).null_count() == 0:
        return date_format
    failures = {"ymd": _parse(text, "ymd").null_count()}
    if not failures["ymd"]:
        return "ymd"
    if date_format is not None:
        return date_format
    failures |= {order: _parse(text, order).null_count() for order in ("dmy", "mdy")}
    if failures["dmy"] == failures["mdy"] == 0:
        raise column_error(
            column.name,
            f"contains dates such as {first!r}, which may start with the day or with the month. Set "
            "data.date_format=dmy or data.date_format=mdy.",
        )
    return min(failures, key=lambda order: failures[order])


def is_date(values: pl.Series, date_format: str | None = None) -> bool:
    """Return whether more than half of the values are dates in one format."""
    formats = [*ORDERS, *([] if date_format is None else [date_format])]
    return any(_parse(values, name).null_count() < len(values) / 2 for name in formats)


def suggest_formats(values: pl.Series) -> str:
    """Return the settings of the known formats that fit all values, joined by "or"; "" if none does."""
    found: list[str] = []
    has_century = values.str.contains(r"\d{4}").all()
    for name in FORMATS:
        simpler = name.replace("%B", "%b").replace("%.f", "")  # which fits fewer values
        if simpler in found or ("%Y" in name and not has_century):
            continue
        if "%" in name and (values.str.count_matches(" ", literal=True) != name.count(" ")).any():
            continue  # a blank in a format also fits no blank
        if all(not _parse(some, name).null_count() for some in (values.head(100), values)):
            found.append(name)
    return " or ".join(format_setting("data.date_format", name) for name in found)


def parse_dates(
    column: pl.Series, date_format: str = "ymd", parser: CellParser | None = None, first_row: int = 0
) -> pl.Series:
    """Return dates and times of a column as datetimes in UTC, null where missing.

    Args:
        column: Dates, datetimes or text.
        date_format: The order of year, month and day in text, "ymd", "dmy" or "mdy", or a format as in
            `datetime.strptime`, such as "%d/%m/%Y".
        parser: Parser of the cells.
        first_row: Index of the first row in the table, for messages.

    Raises:
        DataError: a cell is not a date.
    """
    if column.dtype == pl.Datetime or column.dtype == pl.Date:
        aware = isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone
        column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if aware else column
        return column.cast(pl.Datetime("us"))
    if column.dtype not in (*TEXT, pl.Null):
        raise column_error(column.name, f"must contain dates, got the type {column.dtype}.")
    text = (parser or CellParser()).text(column)
    values = text.drop_nulls().unique()
    if 0 < len(values) < len(text) / 2:  # several times as fast
        dates = text.replace_strict(values, _parse(values, date_format), default=None)
    else:
        dates = _parse(text, date_format)
    invalid = dates.is_null() & text.is_not_null()
    if invalid.any():
        row = invalid.arg_max() or 0
        expected = f"in the format {date_format}"
        if date_format in ORDERS:
            expected = f"such as {ORDERS[date_format][1]}"
        fix = suggest_formats(text[[row]]) or "data.date_format set to it"
        raise DataError.at(
            row + first_row,
            column.name,
            f" is {show(text[row])}, but must be a date {expected}. Correct it. If it means 'missing', "
            f"train with {format_setting('data.null_values', [text[row][:LONG]])}. If all dates have another "
            f"format, train with {fix}.",
            text[row],
        )
    return dates


def _parse(text: pl.Series, date_format: str) -> pl.Series:
    """Return datetimes in UTC, null for other text."""
    if date_format not in ORDERS:
        if not len(text.drop_nulls()):
            return text.cast(pl.Datetime("us"))
        if not re.search("%[^HIpPMSTRfzZ.369:%]", date_format):  # a time of day
            text, date_format = "1970-01-01 " + text, f"%Y-%m-%d {date_format}"
        elif re.fullmatch(r"%[bB]\W?%[yY]", date_format):  # Polars reads Jan, but not JAN
            text = text.str.to_titlecase()
        try:
            dates = text.str.to_datetime(date_format, strict=False, time_zone="UTC", time_unit="us")
        except pl.exceptions.ComputeError:  # not a format
            return pl.Series(text.name, [None] * len(text), dtype=pl.Datetime("us"))
        return dates.dt.replace_time_zone(None)
    part = {name: pl.col(name) for name in ("hour", "minute", "second", "half")}
    number = {name: part[name].cast(pl.Int64).fill_null(0) for name in ("hour", "minute", "second")}
    half = part["half"].str.to_lowercase()
    hour = pl.when(half.is_null()).then(number["hour"]).otherwise(number["hour"] % 12 + 12 * (half == "pm"))
    is_time = (number["minute"] < 60) & (number["second"] < 60)
    is_time &= pl.when(half.is_null()).then(number["hour"] < 24).otherwise(number["hour"].is_between(1, 12))
    zone = pl.col("zone").str.replace(":", "")
    offset = zone.str.slice(1, 2).cast(pl.Int64) * 60 + zone.str.slice(3, 2).cast(pl.Int64)
    offset = pl.when(zone.str.starts_with("-")).then(-offset).otherwise(offset)
    day = pl.concat_str(
        pl.col("year"), pl.col("month").str.zfill(2), pl.col("day").str.zfill(2), separator="-"
    )
    fraction = ((pl.lit("0") + pl.col("fraction")).cast(pl.Float64) * 1e6).round().cast(pl.Int64)
    time = pl.duration(
        hours=hour,
        minutes=number["minute"] - pl.when(zone.str.len_bytes() > 1).then(offset).otherwise(0),
        seconds=number["second"],
        microseconds=fraction.fill_null(0),
    )
    date = day.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")) + time
    groups = text.str.extract_groups(ORDERS[date_format][0]).struct.unnest()
    return groups.select(pl.when(is_time).then(date).alias(text.name)).to_series()
