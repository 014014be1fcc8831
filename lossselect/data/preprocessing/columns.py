"""The columns of a table: selection of the features, the kind of each column, and parsing of its cells."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from polars import selectors

from lossselect.data.preprocessing.scaling import SCALINGS, Scale, Scaler, Standardizer, fit_scales
from lossselect.exceptions import CheckpointError, DataError
from lossselect.labels.values import as_number
from lossselect.utils.checks import check_choice, format_setting, show
from lossselect.utils.warnings import warn

FEW = 20
"""Number of distinct values up to which text is categories even if most rows have a unique value."""
LONG = 80
"""Maximum number of characters of a cell in a message."""
_OWNERS = (
    "patient(?:en)?|subject|participant|person|volunteer|donor|speaker|session|user|customer|client|household"
)
OWNER = re.compile(rf"(?i)(?:^|[\W_])(?:{_OWNERS})s?(?:[\W_]?(?:id|no|nr|nbr|num|number|code|key|index)s?)?$")
"""Pattern of the names of columns of persons and others who own several rows."""
IDENTIFIER = re.compile(rf"(?i:(?:^|[\W_])(?:id|uuid|{_OWNERS})s?)$|[a-z]I[dD]$")
"""Pattern of the names of columns that identify a person or an object."""
INDEX = re.compile(r"Unnamed: ?\d+|index|level_\d+|rownames?|row_?(number|id)?", re.IGNORECASE)
"""Pattern of the names of an index of pandas or R."""
COMMA = r"^[-+]?(\d*|\d{1,3}(\.\d{3})+),\d+$"
"""Pattern of numbers with a comma that data.decimal=',' reads."""
TEXT = (pl.String, pl.Categorical, pl.Enum)
NUMERIC = selectors.numeric() | selectors.by_dtype(pl.Boolean, pl.Null)


def column_error(column: str, problem: str, **fields: Any) -> DataError:
    """Return the error for a column; `problem` continues the sentence after the column's name."""
    return DataError(f"Column {column!r} {problem}", column=column, **fields)


@dataclass(frozen=True)
class Number:
    """A column of numbers, scaled, 0 where missing; `missing` adds a feature that is 1 there."""

    name: str
    scale: Scale
    missing: bool

    @property
    def features(self) -> list[str]:
        """Names of its features."""
        return [self.name, f"{self.name} missing"] if self.missing else [self.name]

    def check(self) -> None:
        """Raise an error if the scale is damaged."""
        self.scale.check(self.name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, with the fields of the scale, which `from_dict` accepts."""
        scale = {
            key: [*value] if isinstance(value, tuple) else value for key, value in vars(self.scale).items()
        }
        return {"name": self.name, **scale, "missing": self.missing}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Number":
        """Create the column; its fields tell the kind of its scale."""
        kind = next(kind for kind in SCALINGS.values() if kind.structure.keys() <= values.keys())
        scale = {key: values[key] for key in kind.structure}
        scale = {key: tuple(value) if isinstance(value, list) else value for key, value in scale.items()}
        return cls(values["name"], kind(**scale), values["missing"])


class NumberFeatures:
    """Scaled features of fitted columns of numbers: 0 and an indicator where a number is missing.

    Args:
        numbers: The columns.
        places: The index of each column in the rows.
        width: The number of columns of the rows.
    """

    def __init__(self, numbers: Sequence[Number], places: Sequence[int], width: int) -> None:
        # a column with missing values becomes two features, the second of which is 1 where it is missing
        features = [
            (number.scale, place, second)
            for number, place in zip(numbers, places, strict=True)
            for second in (False, True)[: len(number.features)]
        ]
        self.scaler = Scaler([scale for scale, _, _ in features])
        columns = np.array([place for _, place, _ in features], dtype=np.int64)
        self.indicators = np.array([second for _, _, second in features], dtype=bool)
        self.columns = slice(None) if columns.tolist() == [*range(width)] else columns
        self.dtype = torch.float32

    def __len__(self) -> int:
        return len(self.indicators)

    def __call__(self, rows: np.ndarray, may_be_missing: bool = True) -> np.ndarray:
        """Return the float32 features of rows (N, width), NaN where missing."""
        features = self.scaler(rows[:, self.columns])
        if may_be_missing:
            missing = np.isnan(features)
            features[missing] = 0
            features[:, self.indicators] = missing[:, self.indicators]
        return features

    def invert(self, features: np.ndarray) -> np.ndarray:
        """Return float64 numbers (N, numbers), NaN where missing, whose features are these."""
        numbers = self.scaler.invert(features)
        rows, places = (features[:, self.indicators] > 0.5).nonzero()
        numbers[rows, np.flatnonzero(self.indicators)[places] - 1] = np.nan
        return numbers[:, ~self.indicators]


class RawNumbers:
    """The float64 numbers of columns as they are, NaN where missing, for a model that scales them.

    Args:
        places: The index of each column in the rows.
    """

    dtype = torch.float64

    def __init__(self, places: Sequence[int]) -> None:
        self.places = np.array(places, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.places)

    def __call__(self, rows: np.ndarray, may_be_missing: bool = True) -> np.ndarray:
        """Return the numbers of rows (N, width)."""
        return rows[:, self.places].astype(np.float64)


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

    def check(self) -> None:
        """Raise a CheckpointError if a category occurs twice."""
        if len({*self.values}) < len(self.values):
            raise CheckpointError(f"The categories of column {self.name!r} must differ.")


@dataclass(frozen=True)
class CellParser:
    """Parser of cells: `null_values` mean "missing" as empty cells do; `nan` is "error" or "missing"."""

    null_values: tuple[str, ...] = ()
    nan: str = "error"

    def __post_init__(self) -> None:
        check_choice("data.nan", self.nan, ("error", "missing"))

    @property
    def null_numbers(self) -> list[float]:
        """The null values that are numbers."""
        return [float(n) for mark in self.null_values if (n := as_number(mark)) is not None]

    def text(self, column: pl.Series) -> pl.Series:
        """Return trimmed text, null where missing; integers are written without a fraction.

        The text of a cell does not depend on other cells, because large tables are read in parts.
        """
        _check_type(column, "categories")
        text = column.cast(pl.String)
        if column.dtype.is_float():
            column = column.fill_nan(None)
            whole = (column == column.round()).fill_null(False)
            integers = column.set(~whole, None).cast(pl.Int64, strict=False).cast(pl.String)
            text = integers.zip_with(integers.is_not_null(), column.cast(pl.String))
        return set_null(text.str.strip_chars(), [*self.null_values, ""])

    def numbers(self, column: pl.Series, first_row: int = 0) -> pl.Series:
        """Return float64, null where missing."""
        _check_type(column, "numbers")
        numbers = column
        if column.dtype in TEXT:
            text = self.text(column)
            numbers, row = parse_numbers(text)
            if row is not None:
                fix = f"is {show(text[row])}. {_fix_text(text[row], column.name)}"
                problem = f"contains numbers, but row {row + first_row} {fix}"
                raise column_error(column.name, problem, row=row + first_row, value=text[row])
        numbers = set_null(numbers.cast(pl.Float64), self.null_numbers)
        if math.isfinite(numbers.sum() or 0):  # a quick test; a sum of finite numbers may overflow too
            return numbers
        if self.nan == "missing":
            numbers = numbers.fill_nan(None)
        correct = f"leave the column out ({format_setting('data.exclude', [column.name])} with data=table)"
        if column.dtype in TEXT and (row := numbers.is_infinite().arg_max()) is not None:
            null = format_setting("data.null_values", [text[row]])
            correct += f". If it means 'missing', train with {null}"
        for invalid, fix in (
            (numbers.is_infinite(), f"Correct it, or {correct}"),
            (numbers.is_nan(), "If NaN means 'missing', train with data.nan=missing"),
        ):
            if invalid.any():
                row = invalid.arg_max() or 0
                problem = f" is {numbers[row]}, but features must be finite. {fix}."
                raise DataError.at(row + first_row, column.name, problem, numbers[row])
        return numbers

    def number_columns(self, frame: pl.DataFrame, first_row: int = 0) -> pl.DataFrame:
        """Return `numbers` of each column; all columns are converted at once, as a loop takes much longer."""
        marks = self.null_numbers
        words = [mark for mark in self.null_values if as_number(mark) is None]
        converted: dict[str, pl.Series] = {}
        trimmed = pl.all().cast(pl.String).str.strip_chars()
        for types, cells in ((selectors.by_dtype(*TEXT), trimmed), (NUMERIC, pl.all())):
            columns = frame.select(types)
            if not columns.width:
                continue
            numbers = columns.select(cells.cast(pl.Float64, strict=False))
            finite = np.isfinite(np.array(numbers.sum().row(0), dtype=np.float64))
            new_nulls = np.subtract(numbers.null_count().row(0), columns.null_count().row(0))
            if (doubtful := np.flatnonzero(new_nulls)).size:  # only missing cells are valid
                empty = columns[:, doubtful.tolist()].select(cells.is_in(["", *words]).sum())
                new_nulls[doubtful] -= np.array(empty.row(0))
            if marks:
                numbers = numbers.select(pl.when(~pl.all().is_in(marks)).then(pl.all()))
            valid = finite & (new_nulls == 0)
            converted |= {column.name: column for column, ok in zip(numbers, valid, strict=True) if ok}
        # `numbers` raises the error, or converts rare text such as true
        rest = (column for column in frame if column.name not in converted)
        converted |= {column.name: self.numbers(column, first_row) for column in rest}
        return pl.DataFrame({name: converted[name] for name in frame.columns})


def numbered_frame(columns: Iterable[pl.Series]) -> pl.DataFrame:
    """Return the columns under the names "0", "1", ..., so that no expression depends on the user's names."""
    return pl.DataFrame({str(i): column for i, column in enumerate(columns)})


def fit_numbers(
    standardizer: Standardizer, scaling: str = "standard", sample: Iterable[np.ndarray] = ()
) -> dict[str, Number | None]:
    """Fit a `Number` to each column; None for a column with a single value, or no value, in all rows.

    `scaling` and `sample` are those of `fit_scales`.
    """
    missing, known = standardizer.count < standardizer.num_rows, standardizer.count > 0
    varies = known & (missing | ~standardizer.constant)
    scales = fit_scales(scaling, standardizer, sample)
    numbers = map(Number, standardizer.names, scales, missing.tolist())
    return {number.name: number if keep else None for number, keep in zip(numbers, varies, strict=True)}


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
    whole = (column.abs() < 2.0**63).all() and (column == column.round()).all()
    return column.cast(pl.Int64) if whole else column


def _check_type(column: pl.Series, expected: str) -> None:
    if not (column.dtype.is_numeric() or column.dtype in (*TEXT, pl.Boolean, pl.Null)):
        raise column_error(column.name, f"must contain {expected}, got the type {column.dtype}.")


def _fix_text(cell: str, column: str) -> str:
    """Return what to do about a cell of a column of numbers that is not one."""
    if cell == column:
        return "This line repeats the header, as in joined files. Remove it, and others like it."
    decimal = "If the comma is a decimal comma, set data.decimal=','. " * bool(re.match(COMMA, cell))
    return (
        f"{decimal}If that means 'missing', train with {format_setting('data.null_values', [cell[:LONG]])}. "
        f"If the column contains categories, train with {format_setting('data.categorical', [column])}."
    )


def parse_numbers(text: pl.Series) -> tuple[pl.Series, int | None]:
    """Return each text as float64, 1 and 0 for true and false, and the first row with any other text."""
    numbers = text.str.to_lowercase().replace({"true": "1", "false": "0"}).cast(pl.Float64, strict=False)
    invalid = numbers.is_null() & text.is_not_null()
    return numbers, invalid.arg_max() if invalid.any() else None


def is_in_runs(column: pl.Series) -> bool:
    """Return whether integers increase in runs of 10 rows or more, as the index of joined tables does."""
    return int((column.diff() <= 0).sum()) * 10 < len(column) and column.null_count() == 0


def warn_if_index(column: pl.Series) -> None:
    """Warn about row numbers and identifiers, which predict the label only in sorted rows."""
    candidate = column.dtype.is_integer() and len(column) > FEW and column.null_count() == 0
    if not candidate:
        return
    if column.n_unique() < len(column):
        if INDEX.fullmatch(column.name) and is_in_runs(column):
            exclude = format_setting("data.exclude", [column.name])
            problem = f"Column {column.name!r} counts the rows of several joined tables."
            warn("index_column", f"{problem} Leave it out ({exclude}).")
        return
    span = int(column.max()) - int(column.min())  # type: ignore[arg-type]
    is_named = IDENTIFIER.search(column.name) or INDEX.fullmatch(column.name)
    if not (span == len(column) - 1 or column.is_sorted() or is_named):
        return  # amounts, for example, may be different in all rows
    counts = (column.diff().drop_nulls() == 1).all()
    problem = "counts the rows" if counts else "has a different integer in each row, as an identifier does"
    warn(
        "index_column",
        f"Column {column.name!r} {problem}. An identifier reveals the label if the rows are sorted by label, "
        "and is useless otherwise. Leave it out "
        f"({format_setting('data.exclude', [column.name])} with data=table).",
    )
