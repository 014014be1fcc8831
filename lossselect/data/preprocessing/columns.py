"""The columns of a table: which are features, what kind each is, and how its cells are read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from lossselect.data.readers.tables import check_columns
from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.values import as_number
from lossselect.utils.checks import format_setting, lookup, shorten
from lossselect.utils.warnings import warn

MAX_CATEGORIES = 1000
"""Up to how many distinct values a column of text is one of categories."""
FEW = 20
"""Up to how many distinct values it is so too where most rows have their own."""
DATE = (
    r"^(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2}))([ t].*)?$"
    r"|^\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?[ap]m)?$"
    r"|^(\d{1,2}\.? )?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.? \d{1,4}(,? \d{4})?$"
)
"""What dates and times of day look like."""
UNITS = r"^[-+]?[$\u20ac\u00a3]? ?[-+]?\d{1,3}([,' ]?\d{3})*([.,]\d+)? ?[%$\u20ac\u00a3]?$"
"""Numbers that Polars takes for text: 51,627 and $9.50 and 37% and 1,5."""
TEXT = (pl.String, pl.Categorical, pl.Enum)


@dataclass(frozen=True)
class Number:
    """A column of numbers: (x - mean) / std, 0 where it is missing, and then a second feature is 1."""

    name: str
    mean: float
    std: float
    missing: bool
    """Whether the train split has missing ones, so that there is a second feature."""

    @property
    def features(self) -> list[str]:
        """What the features are called."""
        return [self.name, f"{self.name} missing"] if self.missing else [self.name]


@dataclass(frozen=True)
class Category:
    """A column of categories, one-hot: a feature for each value that the train split has; all are 0 for
    any other."""

    name: str
    values: tuple[str, ...]
    missing: bool
    """Whether the train split has missing ones, which then have a feature of their own."""

    @property
    def features(self) -> list[str]:
        """What the features are called."""
        return [f"{self.name}={value}" for value in self.values] + [f"{self.name} missing"] * self.missing


@dataclass(frozen=True)
class Reading:
    """How cells are read, before anything is fitted.

    Args:
        null_values: Cells that mean "missing", beside empty ones.
        nan: What a NaN is: "error", or "missing".

    Raises:
        ValueError: another `nan`.
    """

    null_values: tuple[str, ...] = ()
    nan: str = "error"

    def __post_init__(self) -> None:
        lookup(dict.fromkeys(("error", "missing")), self.nan, "data.nan")

    def text(self, column: pl.Series) -> pl.Series:
        """As trimmed text, null where missing; whole numbers as they are written without a fraction.

        Raises:
            ValueError: a column of lists, dates and the like.
        """
        _check_type(column, "categories")
        if column.dtype.is_float():
            column = column.fill_nan(None)
            if column.is_finite().all() and (column == column.round()).all():
                column = column.cast(pl.Int64)
        text = column.cast(pl.String).str.strip_chars()
        gone = text.is_in([*self.null_values, ""])
        return (
            text.zip_with(~gone.fill_null(False), pl.Series([None], dtype=pl.String)) if gone.any() else text
        )

    def numbers(self, column: pl.Series, first_row: int = 0) -> pl.Series:
        """As float64, null where missing.

        Raises:
            ValueError: a cell that is no number, infinity, or NaN where `nan` is "error".
        """
        _check_type(column, "numbers")
        numbers = column
        if column.dtype in TEXT:
            text = self.text(column)
            numbers = numbers_in(text)
            if numbers.null_count() > text.null_count():
                row = int((numbers.is_null() & text.is_not_null()).arg_max())  # type: ignore[arg-type]
                raise DataError(
                    f"Column {column.name!r} holds numbers, but row {row + first_row} is {text[row]!r}. If "
                    f"that means 'missing', train with {format_setting('data.null_values', [text[row]])}; "
                    "if the "
                    f"column is one of categories, with {format_setting('data.categorical', [column.name])}.",
                    column=column.name,
                    row=row + first_row,
                    value=text[row],
                )
        numbers = numbers.cast(pl.Float64)
        marks = [float(n) for mark in self.null_values if (n := as_number(mark)) is not None]
        if marks and (gone := numbers.is_in(marks).fill_null(False)).any():
            numbers = numbers.zip_with(~gone, pl.Series([None], dtype=pl.Float64))
        if math.isfinite(numbers.sum() or 0):  # one quick pass; a sum of finite numbers may be infinite too
            return numbers
        bad = numbers.is_infinite()
        if not bad.any() and self.nan == "missing":
            return numbers.fill_nan(None)
        bad = bad if bad.any() else numbers.is_nan()
        if not bad.any():
            return numbers
        row = int(bad.arg_max())  # type: ignore[arg-type]
        fix = (
            "no feature can be infinite: mend it, or leave the column out with data.exclude"
            if math.isinf(numbers[row])
            else "if NaN means 'missing', say data.nan=missing"
        )
        raise DataError(
            f"Row {row + first_row} of column {column.name!r} is {numbers[row]}; {fix}.",
            row=row + first_row,
            column=column.name,
            value=numbers[row],
        )


def _check_type(column: pl.Series, needed: str) -> None:
    if not (column.dtype.is_numeric() or column.dtype in (*TEXT, pl.Boolean, pl.Null)):
        raise DataError(
            f"Column {column.name!r} is of type {column.dtype}, where {needed} are needed.",
            column=column.name,
        )


def numbers_in(text: pl.Series) -> pl.Series:
    """The float64 that each text writes, 1 and 0 for true and false; null for any other."""
    lower = text.str.to_lowercase()
    return lower.replace({"true": "1", "false": "0"}).cast(pl.Float64, strict=False)


def kind_of(column: pl.Series, reading: Reading) -> str:
    """ "number", "category", or why the column is neither.

    Raises:
        ValueError: a column of numbers in which a few cells are none.
    """
    if column.dtype.is_numeric() or column.dtype == pl.Boolean or column.dtype == pl.Null:
        return "number"
    if column.dtype.is_temporal():
        return f"holds dates or times ({column.dtype})"
    if column.dtype not in TEXT:
        return f"is of type {column.dtype}"
    text = reading.text(column).drop_nulls()
    values = text.unique()
    others = values.cast(pl.Float64, strict=False).null_count()
    if others == 0:
        return "number"
    if others < len(values) / 2:
        reading.numbers(column)  # which says of what is no number that it is none
    if _are_dates(values.head(100)):
        return f"holds dates, such as {text[0]!r}"
    if bool(values.str.contains(UNITS).all()):
        return f"holds numbers with separators or units, such as {text[0]!r} (write plain ones)"
    distinct = len(values)
    if distinct > MAX_CATEGORIES or distinct > max(FEW, len(text) / 2):
        return (
            f"is free text or an identifier ({distinct} distinct values in {len(text)} rows, such as "
            f"{text[0]!r})"
        )
    return "category"


def _are_dates(text: pl.Series) -> bool:
    return len(text) > 0 and bool(text.str.to_lowercase().str.contains(DATE).all())


def warn_of_counting(column: pl.Series) -> None:
    """A number that counts the rows tells nothing, or all: in a file that is sorted by label."""
    if column.dtype.is_integer() and len(column) > FEW and column.null_count() == 0:
        steps = column.diff().drop_nulls()
        if bool((steps == 1).all()):
            warn(
                "index_column",
                f"Column {column.name!r} counts the rows. In a file that is sorted by label it gives the "
                "label away, and in any other it says nothing: "
                f"{format_setting('data.exclude', [column.name])}.",
            )


def feature_columns(
    header: list[str], target: Sequence[str], only: Sequence[str], exclude: Sequence[str], path: str
) -> list[str]:
    """The columns that are features: all but the target's and those excluded, or the ones asked for.

    Raises:
        ValueError: a column that there is not, a target among the features, no column left.
    """
    check_columns(exclude, header, "data.exclude", path)
    check_columns(only, header, "data.features", path)
    if both := [name for name in only if name in target]:
        raise ConfigError(
            f"Column {both[0]!r} is the target (data.target) and among the features (data.features): the net "
            "would be given the answer."
        )
    columns = [n for n in dict.fromkeys(only or header) if n not in target and n not in exclude]
    if not columns:
        raise DataError(f"{path} has no column left to be a feature, beside {shorten([*target, *exclude])}.")
    return columns
