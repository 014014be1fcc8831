"""Conversion of a table's columns to features, fitted on the training rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lossselect.data.preprocessing.columns import Category, CellParser, Number, column_kind, warn_if_index
from lossselect.data.preprocessing.standardizer import Standardizer, check_range
from lossselect.data.readers.tables import check_columns
from lossselect.exceptions import DataError
from lossselect.labels.values import sorted_values
from lossselect.utils.checks import format_setting, shorten
from lossselect.utils.warnings import warn

BLOCK_ROWS = 1 << 17
"""Number of rows that are processed at once: enough for several cores, and few enough for little memory."""


class TableRows:
    """Rows of features, stored as numbers and codes; indexing creates the one-hot features of a batch.

    Args:
        numbers: Shape (N, numbers), a tensor or any object that is indexed by rows like one.
        codes: Shape (N, categories), the index of the feature that is 1 for each category column, or
            `num_features` if none is.
        num_features: The number of features.
        hashes: A hash of each row; equal rows of a file have equal hashes.
    """

    def __init__(self, numbers: Any, codes: Tensor, num_features: int, hashes: pl.Series) -> None:
        self.numbers, self.codes, self.hashes = numbers, codes, hashes
        self.shape = (len(numbers), num_features)

    @classmethod
    def concatenate(cls, tables: Sequence["TableRows"]) -> "TableRows":
        """Return the rows of several tables of the same features."""
        if len(tables) == 1:
            return tables[0]
        numbers = torch.cat([table.numbers for table in tables])
        codes = torch.cat([table.codes for table in tables])
        return cls(numbers, codes, tables[0].shape[1], pl.concat([table.hashes for table in tables]))

    def __len__(self) -> int:
        return len(self.numbers)

    def to(self, device: torch.device) -> "TableRows":
        """Return the same rows on a device; `numbers` must be a tensor."""
        return TableRows(self.numbers.to(device), self.codes.to(device), self.shape[1], self.hashes)

    @property
    def nbytes(self) -> int:
        """Size of numbers and codes."""
        return int(self.numbers.nbytes + self.codes.nbytes)

    def __getitem__(self, rows: Any) -> Tensor:
        """Return float32 (len(rows), num_features); for a single row (num_features,)."""
        if isinstance(rows, int):
            return self[torch.tensor([rows])][0]
        numbers = self.numbers[rows]
        if not self.codes.shape[1]:
            return numbers
        # an additional column for codes without a feature, removed below
        features = numbers.new_zeros(len(numbers), self.shape[1] + 1)
        features.scatter_(1, self.codes[rows].long(), 1)
        features = features[:, :-1]
        features[:, : numbers.shape[1]] = numbers
        return features


@dataclass(frozen=True)
class Features:
    """Conversion of a table's columns to features, fitted on the training rows."""

    numbers: tuple[Number, ...]
    categories: tuple[Category, ...]
    parser: CellParser

    @classmethod
    def fit(
        cls, frame: pl.DataFrame, train: np.ndarray, parser: CellParser, categorical: Iterable[str] = ()
    ) -> "Features":
        """Fit to the training rows; only the kind of a column is determined from all rows.

        Args:
            frame: All rows, with the columns of the features.
            train: Indices of the training rows.
            parser: Parser of the cells.
            categorical: Names of columns of categories that look like another kind: codes, or text of many
                values.

        Raises:
            DataError: a column is neither numbers nor categories, or no feature varies.
        """
        rejected: dict[str, str] = {}
        numbers: list[pl.Series] = []
        texts: list[pl.Series] = []
        for column in frame.iter_columns():
            kind = "category" if column.name in categorical else column_kind(column, parser)
            if kind == "number":
                warn_if_index(column)
                numbers.append(parser.numbers(column))
            elif kind == "category":
                texts.append(parser.text(column))
            else:
                rejected[column.name] = kind
        if rejected:
            problems = "; ".join(f"{name!r} {problem}" for name, problem in rejected.items())
            raise DataError(
                f"A feature must be a number or one of a few categories, but column {problems}. Exclude "
                f"such columns with {format_setting('data.exclude', [*rejected])}, or list columns of many "
                "categories in data.categorical=[...]. To split the rows by such a column, set data.group "
                "for identifiers of persons or objects, or data.time for dates."
            )
        standardizer = Standardizer([column.name for column in numbers])
        if numbers:
            values = _numbered_frame(numbers)
            for start in range(0, len(train), BLOCK_ROWS):
                standardizer.partial_fit(values[train[start : start + BLOCK_ROWS]])
        categories = {text.name: _fit_category(text.gather(train)) for text in texts}
        return cls.from_columns(fitted_numbers(standardizer) | categories, parser)

    @classmethod
    def from_columns(cls, columns: Mapping[str, Number | Category | None], parser: CellParser) -> "Features":
        """Return the features of fitted columns; a column is None if all training rows have one value."""
        constant = [name for name, column in columns.items() if column is None]
        if len(constant) == len(columns):
            raise DataError(
                f"All features are constant in the training rows: {shorten(constant)}. Add a column that "
                "differs between rows."
            )
        if constant:
            warn(
                "constant_feature",
                f"Columns with a single value in all training rows are left out: {shorten(constant)}.",
            )
        numbers = tuple(column for column in columns.values() if isinstance(column, Number))
        categories = tuple(column for column in columns.values() if isinstance(column, Category))
        return cls(numbers, categories, parser)

    @property
    def names(self) -> list[str]:
        """Names of the features, in their order."""
        numbers = [name for number in self.numbers for name in number.features]
        return numbers + [name for category in self.categories for name in category.features]

    @property
    def columns(self) -> list[str]:
        """Names of the columns that a table must have."""
        return [number.name for number in self.numbers] + [category.name for category in self.categories]

    def transform(
        self, frame: pl.DataFrame, path: str, first_row: int = 0
    ) -> tuple[TableRows, dict[str, int]]:
        """Return the features of rows, and the number of cells per column that are unlike the training rows.

        Args:
            frame: The rows; the order of the columns does not matter, and additional columns are ignored.
            path: Name of the table in messages.
            first_row: Index of the first row in the table, for messages.

        Raises:
            DataError: a column is missing, or a cell is not a finite number although its column is numbers.
        """
        check_columns(self.columns, frame.columns, "a feature of the model", path)
        columns = [self.parser.numbers(frame[number.name], first_row) for number in self.numbers]
        texts = [self.parser.text(frame[category.name]) for category in self.categories]
        numbers = _to_tensor(columns, self._standardized(), torch.float32, frame.height)
        check_range(numbers, self.names, first_row=first_row)
        codes, unknown = self._encode(texts, first=numbers.shape[1])
        for number, column in zip(self.numbers, columns, strict=True):
            if not number.missing and column.null_count():
                unknown[number.name] = column.null_count()
        identity = [pl.col(str(i)) for i in range(len(codes))]
        coded = _to_tensor(codes, identity, torch.int32, frame.height)
        hashes = _numbered_frame([*columns, *texts]).hash_rows()
        return TableRows(numbers, coded, len(self.names), hashes), unknown

    def _standardized(self) -> list[pl.Expr]:
        features: list[pl.Expr] = []
        for i, number in enumerate(self.numbers):
            column = pl.col(str(i))
            features.append(((column - number.mean) / number.std).fill_null(0))
            if number.missing:
                features.append(column.is_null())
        return [feature.cast(pl.Float32).alias(str(i)) for i, feature in enumerate(features)]

    def _encode(self, texts: list[pl.Series], first: int) -> tuple[list[pl.Series], dict[str, int]]:
        """Return the codes of each category column, and the number of cells with an unknown category.

        A code is the index of the feature that is 1, starting at `first`; `len(self.names)` if none is.
        """
        no_feature = len(self.names)
        codes: list[pl.Series] = []
        unknown: dict[str, int] = {}
        for category, text in zip(self.categories, texts, strict=True):
            code = _category_codes(text, category)
            if code.null_count() > text.null_count():
                # missing cells turn integers into floats, so 1 may be written as 1.0
                integers = text.str.replace(r"^([+-]?\d+)\.0+$", "${1}")
                code = code.zip_with(code.is_not_null(), _category_codes(integers, category))
            if count := code.null_count() - text.null_count():
                unknown[category.name] = count
            missing = first + len(category.values) if category.missing else no_feature
            code = (code + first).zip_with(text.is_not_null(), pl.Series([missing], dtype=pl.Int32))
            codes.append(code.fill_null(no_feature))
            first += len(category.features)
        return codes, unknown

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint, which `from_dict` accepts."""
        return {
            "numbers": [asdict(column) for column in self.numbers],
            "categories": [{**asdict(column), "values": [*column.values]} for column in self.categories],
            "null_values": [*self.parser.null_values],
            "nan": self.parser.nan,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Features":
        """Create the features from the result of `to_dict`."""
        categories = (
            Category(column["name"], tuple(column["values"]), column["missing"])
            for column in values["categories"]
        )
        parser = CellParser(tuple(values["null_values"]), values["nan"])
        return cls(tuple(Number(**column) for column in values["numbers"]), tuple(categories), parser)


def fitted_numbers(standardizer: Standardizer) -> dict[str, Number | Category | None]:
    """Return a `Number` for each column; None for a column with a single value, or no value, in all rows."""
    missing, known = standardizer.count < standardizer.num_rows, standardizer.count > 0
    varies = known & (missing | ~standardizer.constant)
    moments = standardizer.mean.tolist(), standardizer.scale.tolist()
    numbers = map(Number, standardizer.names, *moments, missing.tolist())
    return {number.name: number if keep else None for number, keep in zip(numbers, varies, strict=True)}


def _fit_category(text: pl.Series) -> Category | None:
    values = sorted_values(text.drop_nulls().unique().to_list())
    missing = text.null_count() > 0
    return Category(text.name, tuple(map(str, values)), missing) if len(values) + missing > 1 else None


def _category_codes(text: pl.Series, category: Category) -> pl.Series:
    """Return the index of each text among the category's values, null for other text."""
    return text.cast(pl.Enum(category.values), strict=False).to_physical().cast(pl.Int32)


def _numbered_frame(columns: Iterable[pl.Series]) -> pl.DataFrame:
    """Return the columns under the names "0", "1", ..., so that no expression depends on the user's names."""
    return pl.DataFrame([column.alias(str(i)) for i, column in enumerate(columns)])


def _to_tensor(columns: list[pl.Series], features: list[pl.Expr], dtype: torch.dtype, height: int) -> Tensor:
    """Return the features (height, len(features)) of the columns, in row-major order for fast batches."""
    frame, matrix = _numbered_frame(columns), torch.empty(height, len(features), dtype=dtype)
    for start in range(0, height if features else 0, BLOCK_ROWS):
        part = frame.slice(start, BLOCK_ROWS).select(features)
        matrix[start : start + BLOCK_ROWS] = torch.from_numpy(part.to_numpy(writable=True))
    return matrix
