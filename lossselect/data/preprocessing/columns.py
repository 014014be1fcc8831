"""The columns of a table: selection of the features, the kind of each column, and parsing of its cells."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from lossselect.data.readers.tables import check_columns
from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.values import as_number
from lossselect.utils.checks import format_setting, lookup, shorten
from lossselect.utils.warnings import warn

MAX_CATEGORIES = 1000
"""Maximum number of distinct categories; text with more is treated as free text or an identifier."""
FEW = 20
"""Number of distinct values up to which text is categories even if most rows have a unique value."""
DATE = (
    r"^(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2}))([ t].*)?$"
    r"|^\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?[ap]m)?$"
    r"|^(\d{1,2}\.? )?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.? \d{1,4}(,? \d{4})?$"
)
"""Pattern of dates and times of day, in lower case."""
UNITS = r"^[-+]?[$\u20ac\u00a3]? ?[-+]?\d{1,3}([,' ]?\d{3})*([.,]\d+)? ?[%$\u20ac\u00a3]?$"
"""Pattern of numbers that Polars reads as text: 51,627 and $9.50 and 37% and 1,5."""
TEXT = (pl.String, pl.Categorical, pl.Enum)


def column_error(column: str, problem: str, **fields: Any) -> DataError:
    """Return the error for a column; `problem` continues the sentence after the column's name."""
    return DataError(f"Column {column!r} {problem}", column=column, **fields)


@dataclass(frozen=True)
class Number:
    """A column of numbers: (x - mean) / std, 0 where missing; `missing` adds a feature that is 1 there."""

    name: str
    mean: float
    std: float
    missing: bool

    @property
    def features(self) -> list[str]:
        """Names of its features."""
        return [self.name, f"{self.name} missing"] if self.missing else [self.name]


@dataclass(frozen=True)
class Category:
    """A column of categories, one-hot over `values` of the training rows and, if `missing`, missing cells."""

    name: str
    values: tuple[str, ...]
    missing: bool

    @property
    def features(self) -> list[str]:
        """Names of its features."""
        return [f"{self.name}={value}" for value in self.values] + [f"{self.name} missing"] * self.missing


@dataclass(frozen=True)
class CellParser:
    """Parser of cells: `null_values` mean "missing" as empty cells do; `nan` is "error" or "missing"."""

    null_values: tuple[str, ...] = ()
    nan: str = "error"

    def __post_init__(self) -> None:
        lookup(dict.fromkeys(("error", "missing")), self.nan, "data.nan")

    def text(self, column: pl.Series) -> pl.Series:
        """Return trimmed text, null where missing; integers are written without a fraction."""
        _check_type(column, "categories")
        column = restore_integers(column)
        return set_null(column.cast(pl.String).str.strip_chars(), [*self.null_values, ""])

    def numbers(self, column: pl.Series, first_row: int = 0) -> pl.Series:
        """Return float64, null where missing."""
        _check_type(column, "numbers")
        numbers = column
        if column.dtype in TEXT:
            text = self.text(column)
            numbers, row = parse_numbers(text)
            if row is not None:
                raise column_error(
                    column.name,
                    f"contains numbers, but row {row + first_row} is {text[row]!r}. If that means 'missing', "
                    f"train with {format_setting('data.null_values', [text[row]])}. If the column contains "
                    f"categories, train with {format_setting('data.categorical', [column.name])}.",
                    row=row + first_row,
                    value=text[row],
                )
        null_numbers = [float(n) for mark in self.null_values if (n := as_number(mark)) is not None]
        numbers = set_null(numbers.cast(pl.Float64), null_numbers)
        if math.isfinite(numbers.sum() or 0):  # a quick test; a sum of finite numbers may overflow too
            return numbers
        if self.nan == "missing":
            numbers = numbers.fill_nan(None)
        exclude = format_setting("data.exclude", [column.name])
        for invalid, fix in (
            (numbers.is_infinite(), f"Correct it, or leave the column out ({exclude} with data=table)"),
            (numbers.is_nan(), "If NaN means 'missing', train with data.nan=missing"),
        ):
            if invalid.any():
                row = invalid.arg_max() or 0
                problem = f" is {numbers[row]}, but features must be finite. {fix}."
                raise DataError.at(row + first_row, column.name, problem, numbers[row])
        return numbers


def set_null(column: pl.Series, values: Sequence[Any]) -> pl.Series:
    """Return the column with null in place of these values."""
    if values and (matches := column.is_in(values).fill_null(False)).any():
        return column.set(matches, None)
    return column


def restore_integers(column: pl.Series) -> pl.Series:
    """Return floats as integers, null for NaN, if all are whole; missing cells turn integers into floats."""
    if not column.dtype.is_float():
        return column
    column = column.fill_nan(None)
    whole = column.is_finite().all() and (column == column.round()).all()
    return column.cast(pl.Int64) if whole else column


def _check_type(column: pl.Series, expected: str) -> None:
    if not (column.dtype.is_numeric() or column.dtype in (*TEXT, pl.Boolean, pl.Null)):
        raise column_error(column.name, f"must contain {expected}, got the type {column.dtype}.")


def parse_numbers(text: pl.Series) -> tuple[pl.Series, int | None]:
    """Return each text as float64, 1 and 0 for true and false, and the first row with any other text."""
    numbers = text.str.to_lowercase().replace({"true": "1", "false": "0"}).cast(pl.Float64, strict=False)
    invalid = numbers.is_null() & text.is_not_null()
    return numbers, invalid.arg_max() if invalid.any() else None


def column_kind(column: pl.Series, parser: CellParser) -> str:
    """Return "number", "category", or the reason why the column is neither, as the rest of a sentence."""
    if column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null):
        return "number"
    if column.dtype.is_temporal():
        return f"contains dates or times ({column.dtype})"
    if column.dtype not in TEXT:
        return f"is of type {column.dtype}"
    text = parser.text(column).drop_nulls()
    values = text.unique()
    distinct, not_numbers = len(values), values.cast(pl.Float64, strict=False).null_count()
    if not_numbers == 0:
        return "number"
    if not_numbers < distinct / 2:
        parser.numbers(column)  # raises an error with the first cell that is not a number
    if values.head(100).str.to_lowercase().str.contains(DATE).all():
        return f"contains dates, such as {text[0]!r}"
    if values.str.contains(UNITS).all():
        return f"contains numbers with separators or units, such as {text[0]!r} (write plain numbers)"
    if distinct > MAX_CATEGORIES or distinct > max(FEW, len(text) / 2):
        return (
            f"looks like free text or an identifier ({distinct} distinct values in {len(text)} rows, such as "
            f"{text[0]!r})"
        )
    return "category"


def warn_if_index(column: pl.Series) -> None:
    """Warn about unique integers, such as row numbers, which predict the label only in sorted rows."""
    candidate = column.dtype.is_integer() and len(column) > FEW and column.null_count() == 0
    if not candidate or column.n_unique() < len(column):
        return
    counts = (column.diff().drop_nulls() == 1).all()
    problem = "counts the rows" if counts else "has another integer in each row, as an identifier does"
    warn(
        "index_column",
        f"Column {column.name!r} {problem}. An identifier reveals the label if the rows are sorted by label, "
        "and is useless otherwise. Leave it out "
        f"({format_setting('data.exclude', [column.name])} with data=table).",
    )


def feature_columns(
    header: list[str], target: Sequence[str], only: Sequence[str], exclude: Sequence[str], path: str
) -> list[str]:
    """Return the columns that are features: `only`, or all, without `target` and `exclude`."""
    check_columns(exclude, header, "data.exclude", path)
    check_columns(only, header, "data.features", path)
    if both := [name for name in only if name in target]:
        raise ConfigError(
            f"Column {both[0]!r} is the target (data.target) and among the features (data.features), so the "
            "net would see the label. Remove it from data.features."
        )
    removed = [*target, *exclude]
    columns = [name for name in dict.fromkeys(only or header) if name not in removed]
    if not columns:
        raise DataError(
            f"{path} has no feature column left after removing {shorten(removed)}. Change data.features or "
            "data.exclude."
        )
    return columns
