"""Columns of a table -> the numbers that a net takes, by what the train split says."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lossselect.data.preprocessing.columns import Category, Number, Reading, kind_of, warn_of_counting
from lossselect.data.readers.tables import check_columns
from lossselect.exceptions import DataError
from lossselect.labels.values import sorted_values
from lossselect.utils.checks import format_setting, shorten
from lossselect.utils.warnings import warn

FEW_COLUMNS = 4
"""Of how many columns the train rows are taken at once: on several cores, but in little memory."""
SOME_ROWS = 1 << 17
"""Of how many rows features are made at once, for the same reason."""


class TableRows:
    """Rows of features, held as numbers and codes; those of a batch are made when it is taken.

    A one-hot matrix of a whole table would take a float for each category and row. `numbers` are a tensor, or
    anything that rows can be taken of as of one. `hashes` are of each row as it was read: equal rows have
    equal ones.
    """

    def __init__(self, numbers: Any, codes: Tensor, num_features: int, hashes: pl.Series) -> None:
        self.numbers, self.codes, self.hashes = numbers, codes, hashes
        self.shape = (len(numbers), num_features)

    @classmethod
    def concatenated(cls, tables: Sequence["TableRows"]) -> "TableRows":
        """The rows of several tables of the same features."""
        if len(tables) == 1:
            return tables[0]
        numbers = torch.cat([table.numbers for table in tables])
        codes = torch.cat([table.codes for table in tables])
        return cls(numbers, codes, tables[0].shape[1], pl.concat([table.hashes for table in tables]))

    def __len__(self) -> int:
        return len(self.numbers)

    def to(self, device: torch.device) -> "TableRows":
        """The same, held there; of numbers that are a tensor."""
        moved = self.numbers.to(device), self.codes.to(device)
        return TableRows(*moved, self.shape[1], self.hashes)

    @property
    def nbytes(self) -> int:
        """What numbers and codes take."""
        return int(self.numbers.nbytes + self.codes.nbytes)

    def __getitem__(self, rows: Any) -> Tensor:
        """float32 (len(rows), num_features); for a single row (num_features,)."""
        if isinstance(rows, int):
            return self[torch.tensor([rows])][0]
        numbers = self.numbers[rows]
        if not self.codes.shape[1]:
            return numbers
        # a code may be the place after the last one, for what has no feature
        features = numbers.new_zeros(len(numbers), self.shape[1] + 1)
        features.scatter_(1, self.codes[rows].long(), 1)
        features = features[:, :-1]
        features[:, : numbers.shape[1]] = numbers
        return features


@dataclass(frozen=True)
class Features:
    """What becomes of a table's columns; fitted on the train split, and plain values in a checkpoint."""

    numbers: tuple[Number, ...]
    categories: tuple[Category, ...]
    reading: Reading

    @classmethod
    def fit(
        cls, frame: pl.DataFrame, train: np.ndarray, reading: Reading, categorical: Iterable[str] = ()
    ) -> "Features":
        """From all rows what type a column has, from those of the train split all else.

        Args:
            frame: The columns that are features.
            train: The rows of the train split.
            reading: How cells are read.
            categorical: Columns of categories that do not look it: codes, or text of many values.

        Raises:
            ValueError: a column that is neither numbers nor categories, or no column that says anything.
        """
        refused: dict[str, str] = {}
        read: dict[str, pl.Series] = {}
        texts: dict[str, pl.Series] = {}
        for column in frame.iter_columns():
            kind = "category" if column.name in categorical else kind_of(column, reading)
            if kind == "number":
                warn_of_counting(column)
                read[column.name] = reading.numbers(column)
            elif kind == "category":
                texts[column.name] = reading.text(column)
            else:
                refused[column.name] = kind
        if refused:
            what = "; ".join(f"{name!r} {why}" for name, why in refused.items())
            raise DataError(
                f"A feature is a number or one of a few categories, but column {what}. Leave out what is no "
                f"feature: {format_setting('data.exclude', [*refused])}; for categories of many values: "
                "data.categorical=[...]."
            )
        numbers = _fit_numbers([*read.values()], train)
        categories = [_fit_category(text.gather(train)) for text in texts.values()]
        return cls.telling(dict(zip([*read, *texts], [*numbers, *categories], strict=True)), reading)

    @classmethod
    def telling(cls, fitted: Mapping[str, Number | Category | None], reading: Reading) -> "Features":
        """Of what was fitted to each column, which is None where all train rows have one value.

        Raises:
            ValueError: that is so of all columns.
        """
        constant = [name for name, column in fitted.items() if column is None]
        if len(constant) == len(fitted):
            raise DataError(
                f"No column tells rows apart: {shorten(constant)} have one value in all train rows."
            )
        if constant:
            warn(
                "constant_feature",
                f"Columns that have one value in all train rows are left out: {shorten(constant)}.",
            )
        numbers = tuple(column for column in fitted.values() if isinstance(column, Number))
        categories = tuple(column for column in fitted.values() if isinstance(column, Category))
        return cls(numbers, categories, reading)

    @property
    def names(self) -> list[str]:
        """What the features are called, in their order."""
        numbers = [name for number in self.numbers for name in number.features]
        return numbers + [name for category in self.categories for name in category.features]

    @property
    def columns(self) -> list[str]:
        """The columns that a table must have."""
        return [number.name for number in self.numbers] + [category.name for category in self.categories]

    def transform(
        self, frame: pl.DataFrame, path: str, first_row: int = 0
    ) -> tuple[TableRows, dict[str, int]]:
        """The features of a table's rows, and how many cells of each column are unlike any of training.

        Args:
            frame: With the columns, in any order; others are not looked at.
            path: What to call the table in messages.
            first_row: What to count rows from.

        Raises:
            ValueError: a column that is not there, or that holds something else than in training.
        """
        check_columns(self.columns, frame.columns, "a feature of the model", path)
        read = [self.reading.numbers(frame[number.name], first_row) for number in self.numbers]
        texts = [self.reading.text(frame[category.name]) for category in self.categories]
        numbers = _matrix(_frame(read), self._standardised(), torch.float32, frame.height)
        self.check_range(numbers, first_row)
        codes, unknown = self._coded(texts, first=numbers.shape[1])
        for number, column in zip(self.numbers, read, strict=True):
            if not number.missing and column.null_count():
                unknown[number.name] = column.null_count()
        coded = _matrix(_frame(codes), [pl.col(str(i)) for i in range(len(codes))], torch.int32, frame.height)
        hashes = _frame([*read, *texts]).hash_rows()
        return TableRows(numbers, coded, len(self.names), hashes), unknown

    def check_range(self, numbers: Tensor, first_row: int) -> None:
        """ValueError for a feature that float32 does not hold, (rows, numbers) being standardised ones."""
        if not numbers.sum().isfinite() and not bool((finite := numbers.isfinite()).all()):
            row, place = (~finite).nonzero()[0].tolist()
            raise DataError(
                f"Row {row + first_row} of column {self.names[place]!r} is too large: in units of the "
                "train rows' standard deviation it is no float32.",
                row=row + first_row,
                column=self.names[place],
            )

    def _standardised(self) -> list[pl.Expr]:
        """The features of columns "0", "1", ... of numbers."""
        features: list[pl.Expr] = []
        for i, number in enumerate(self.numbers):
            column = pl.col(str(i))
            features.append(((column - number.mean) / number.std).fill_null(0))
            if number.missing:
                features.append(column.is_null())
        return [feature.cast(pl.Float32).alias(str(i)) for i, feature in enumerate(features)]

    def _coded(self, texts: list[pl.Series], first: int) -> tuple[list[pl.Series], dict[str, int]]:
        """For each category column which feature is 1, the first one being `first`; the place after the
        last feature where none is. And how many cells of each column are of an unknown category."""
        width = len(self.names)
        codes: list[pl.Series] = []
        unknown: dict[str, int] = {}
        for category, text in zip(self.categories, texts, strict=True):
            kinds = pl.Enum(category.values)
            code = text.cast(kinds, strict=False).to_physical().cast(pl.Int32)
            if code.null_count() > text.null_count():
                # 1.0 is how a 1 is written in a column with a hole
                whole = (
                    text.str.replace(r"^([+-]?\d+)\.0+$", "${1}")
                    .cast(kinds, strict=False)
                    .to_physical()
                    .cast(pl.Int32)
                )
                code = code.zip_with(code.is_not_null(), whole)
            code = code + first
            others = code.is_null() & text.is_not_null()
            if others.any():
                unknown[category.name] = int(others.sum())
            gap = first + len(category.values) if category.missing else width
            codes.append(code.zip_with(text.is_not_null(), pl.Series([gap], dtype=pl.Int32)).fill_null(width))
            first += len(category.features)
        return codes, unknown

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint, of which `from_dict` makes it again."""
        return {
            "numbers": [asdict(column) for column in self.numbers],
            "categories": [{**asdict(column), "values": [*column.values]} for column in self.categories],
            "null_values": [*self.reading.null_values],
            "nan": self.reading.nan,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Features":
        """What `to_dict` was made of."""
        return cls(
            tuple(Number(**column) for column in values["numbers"]),
            tuple(
                Category(column["name"], tuple(column["values"]), column["missing"])
                for column in values["categories"]
            ),
            Reading(tuple(values["null_values"]), values["nan"]),
        )


def _fit_numbers(columns: list[pl.Series], train: np.ndarray) -> list[Number | None]:
    """None for a column that has one value in all train rows."""
    fitted: list[Number | None] = []
    for start in range(0, len(columns), FEW_COLUMNS):
        some_columns = columns[start : start + FEW_COLUMNS]
        known = _frame(some_columns)[train]
        means, deviations, gaps = known.mean(), known.std(ddof=0), known.null_count()
        least, most = known.min(), known.max()
        for i, column in enumerate(some_columns):
            # of a constant .1 the deviation is no 0, but what rounding leaves
            constant = least[str(i)][0] == most[str(i)][0]
            fitted.append(
                fit_number(
                    column.name, means[str(i)][0], deviations[str(i)][0], constant, gaps[str(i)][0] > 0
                )
            )
    return fitted


def fit_number(
    name: str, mean: float | None, std: float | None, constant: bool, missing: bool
) -> Number | None:
    """What becomes of a column of numbers; None for one that has one value in all train rows.

    Args:
        name: Of the column.
        mean, std: Of the train rows' numbers; None where there are none.
        constant: Whether these are all the same.
        missing: Whether train rows lack one.

    Raises:
        ValueError: a deviation that is no number.
    """
    if std is not None and not math.isfinite(std):
        raise DataError(
            f"The numbers of column {name!r} are so large that their standard deviation is "
            "none of float64: scale them, or leave the column out with data.exclude.",
            column=name,
        )
    if mean is None or std is None or (constant and not missing):
        return None
    return Number(name, mean, 1.0 if constant else std, missing)


def _fit_category(text: pl.Series) -> Category | None:
    values = sorted_values(text.drop_nulls().unique().to_list())
    missing = text.null_count() > 0
    return Category(text.name, tuple(map(str, values)), missing) if len(values) + missing > 1 else None


def _frame(columns: list[pl.Series]) -> pl.DataFrame:
    """Columns called "0", "1", ...: a name of the user's may be one of ours too."""
    return pl.DataFrame([column.alias(str(i)) for i, column in enumerate(columns)])


def _matrix(frame: pl.DataFrame, features: list[pl.Expr], dtype: torch.dtype, height: int) -> Tensor:
    """(height, features), row by row in memory, as batches are taken; made some rows at a time."""
    matrix = torch.empty(height, len(features), dtype=dtype)
    if features:
        for start in range(0, height, SOME_ROWS):
            part = frame.slice(start, SOME_ROWS).select(features)
            matrix[start : start + SOME_ROWS] = torch.from_numpy(part.to_numpy(writable=True))
    return matrix
