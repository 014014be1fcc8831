"""Conversion of a table's columns to features, fitted on the training rows."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from itertools import chain
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lossselect.data.preprocessing.columns import (
    TEXT,
    Category,
    CellParser,
    Number,
    NumberFeatures,
    RawNumbers,
    fit_numbers,
    numbered_frame,
    restore_integers,
    warn_if_index,
)
from lossselect.data.preprocessing.dates import Date, fit_date
from lossselect.data.preprocessing.kinds import column_kind, join_errors, reject
from lossselect.data.preprocessing.scaling import Standardizer, check_range, sampled_rows
from lossselect.data.preprocessing.table_rows import TableRows
from lossselect.data.preprocessing.text import MAX_FITTED, Text, fit_text, join_words, warn_if_long
from lossselect.data.readers.tables import TableColumns, check_columns
from lossselect.exceptions import CheckpointError, DataError
from lossselect.labels.values import sorted_values
from lossselect.utils.checks import shorten
from lossselect.utils.warnings import warn

BLOCK_ROWS = 1 << 17
"""Number of rows that are processed at once: enough for several cores, and few enough for little memory."""
CONVERTED_ROWS = 1 << 14
"""Number of rows that NumPy converts at once: few enough for the cache of a core."""

SHOWN_WORDS = 5
"""Number of words of a text that `cells` returns."""

ARRAY_COLUMN = re.compile(r"x(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class Features:
    """Conversion of a table's columns to features, fitted on the training rows.

    With `raw`, numbers are left as they are, NaN where missing, for a model that scales them.
    """

    numbers: tuple[Number, ...]
    categories: tuple[Category, ...]
    parser: CellParser
    dates: tuple[Date, ...] = ()
    texts: tuple[Text, ...] = ()
    raw: bool = False

    @classmethod
    def fit(
        cls,
        table: TableColumns,
        train: np.ndarray,
        parser: CellParser,
        categorical: Sequence[str] = (),
        texts: Sequence[str] = (),
        date_format: str | None = None,
        scaling: str = "standard",
        inspect: Callable[[pl.DataFrame, Mapping[str, str | None]], None] | None = None,
    ) -> "Features":
        """Fit to the training rows; only the kind of a column is determined from all rows.

        Args:
            table: The columns of the features, with all rows.
            train: Indices of the training rows, in ascending order.
            parser: Parser of the cells.
            categorical: Names of columns of categories that look like another kind: codes, or text of many
                values.
            texts: Names of columns of free text.
            date_format: See `find_date_format`.
            scaling: The scaling of numbers, see `fit_scales`. Dates are standardised.
            inspect: Function that is called with groups of the columns other than `texts`, with all rows, and
                the formats of the dates among them, None for a constant one.

        Raises:
            DataError: a column cannot be a feature, or no feature varies.
        """
        columns: dict[str, Number | Category | Date | Text | None] = {}
        free_text: list[str] = []
        problems: dict[str, str] = {}
        mixed: list[DataError] = []
        for frame in table.groups([name for name in table.columns if name not in texts]):
            kinds: dict[str, list[str]] = {"number": [], "category": [], "date": []}
            parsed = [
                parser.text(column) if column.dtype in TEXT else column for column in frame.iter_columns()
            ]
            for column in parsed:
                kind, problem = "category", ""
                try:
                    if column.name not in categorical:
                        kind, problem = column_kind(column, parser, date_format)
                except DataError as error:
                    mixed.append(error)
                kinds.setdefault(kind, []).append(column.name)
                if problem:
                    problems[column.name] = problem
            free_text += kinds.get("text", [])
            if problems or mixed:  # the error names those of all columns
                continue
            for name in kinds["number"]:
                warn_if_index(frame[name])
            columns |= _fit_numbers(frame.select(kinds["number"]), train, parser, scaling)
            columns |= {name: fit_date(frame[name], train, parser, date_format) for name in kinds["date"]}
            cells = {column.name: column for column in parsed}
            for name in kinds["category"]:
                text = cells[name] if cells[name].dtype in TEXT else parser.text(cells[name])
                columns[name] = _fit_category(text.gather(train))
            if inspect:
                dates = {name: columns[name] for name in kinds["date"]}
                inspect(frame, {name: getattr(date, "format", None) for name, date in dates.items()})
        if mixed:
            raise join_errors(mixed)
        if problems:
            raise reject(problems, free_text)
        sample = train[:: -(-len(train) // MAX_FITTED)]
        columns |= {name: fit_text(parser.text(table.cells(name, sample))) for name in texts}
        return cls.from_columns(columns, parser)

    @classmethod
    def from_columns(
        cls, columns: Mapping[str, Number | Category | Date | Text | None], parser: CellParser
    ) -> "Features":
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
        kinds: Any = (
            tuple(column for column in columns.values() if isinstance(column, kind))
            for kind in (Number, Category, Date, Text)
        )
        numbers, categories, dates, texts = kinds
        return cls(numbers, categories, parser, dates, texts)

    @property
    def _columns(self) -> tuple[Number | Date | Category | Text, ...]:
        """All columns, in the order of their features."""
        return (*self.numbers, *self.dates, *self.categories, *self.texts)

    @property
    def names(self) -> list[str]:
        """Names of the features, in their order."""
        if self.raw:
            parts = [f"{date.name} {part.name}" for date in self.dates for part in date.parts]
            categories = [name for category in self.categories for name in category.features]
            words = [name for text in self.texts for name in text.features]
            return [*(number.name for number in self.numbers), *parts, *categories, *words]
        return [name for column in self._columns for name in column.features]

    @property
    def fitted_numbers(self) -> list[Number]:
        """The columns of numbers and the parts of dates, in the order of their features."""
        return [*self.numbers, *(part for date in self.dates for part in date.parts)]

    def number_converter(self, places: Sequence[int], width: int) -> NumberFeatures | RawNumbers:
        """Return the conversion of rows (N, width) with the numbers, and parts of dates, at these places."""
        return RawNumbers(places) if self.raw else NumberFeatures(self.fitted_numbers, places, width)

    @property
    def columns(self) -> list[str]:
        """Names of the columns that a table must have."""
        return [column.name for column in self._columns]

    @property
    def summary(self) -> list[str]:
        """The names of the columns, with a remark on those that become several features."""
        remarks = {column.name: "dates" for column in self.dates}
        remarks |= {column.name: f"{len(column.terms)} words" for column in self.texts}
        return [f"{name} ({remarks[name]})" if name in remarks else name for name in self.columns]

    @property
    def places(self) -> dict[str, slice]:
        """The places of the features of each column, by its name."""
        ends = np.cumsum([0, *(len(column.features) for column in self._columns)]).tolist()
        return {column.name: slice(*ends[i : i + 2]) for i, column in enumerate(self._columns)}

    def cells(self, rows: np.ndarray) -> dict[str, list[Any]]:
        """Return the cells by column whose features are these rows (N, F), None where missing.

        Numbers have six digits, as features are in single precision. Instead of a text, there are its words
        with the highest TF-IDF.
        """
        count = len(self.fitted_numbers)
        convert = NumberFeatures(self.fitted_numbers, range(count), count)
        numbers = convert.invert(rows[:, : len(convert)]).T
        low, high = convert.invert(np.array([[-0.4], [0.4]]) * np.ones(len(convert)))
        digits = 5 - np.floor(np.log10(np.maximum(high - low, 1e-30))).astype(int)
        cells = {c.name: _as_cells(*found) for c, *found in zip(self.numbers, numbers, digits, strict=False)}
        place = len(self.numbers)
        for date in self.dates:
            cells[date.name] = date.cells(numbers[place])  # the first part, the days
            place += len(date.parts)
        places = self.places
        for category in self.categories:
            codes = rows[:, places[category.name]]
            values = np.array([*category.values, None], dtype=object)
            cells[category.name] = values[np.where(codes.any(1), codes.argmax(1), -1)].tolist()
        for text in self.texts:
            weights = rows[:, places[text.name]]
            top = np.argsort(-weights, axis=1, kind="stable")[:, :SHOWN_WORDS]
            found = [
                [text.terms[i] for i in best if row[i] > 0] for best, row in zip(top, weights, strict=True)
            ]
            cells[text.name] = [", ".join(terms) or None for terms in found]
        return cells

    def transform(
        self, frame: pl.DataFrame, path: str, first_row: int = 0
    ) -> tuple[TableRows, dict[str, int]]:
        """Return the features of rows, and the number of cells per column that are unlike the training rows.

        Args:
            frame: The rows; the order of the columns does not matter, and additional columns are ignored.
            path: Name of the table in messages.
            first_row: Index of the first row in the table, for messages.

        Raises:
            DataError: a column is missing, or a cell is not a finite number or a date although its column
                consists of those.
        """
        check_columns(self.columns, frame.columns, "a feature of the model", path)
        cells = self.parser.number_columns(frame.select(number.name for number in self.numbers), first_row)
        parts = [date.numbers(frame[date.name], self.parser, first_row) for date in self.dates]
        categories = [self.parser.text(frame[category.name]) for category in self.categories]
        texts = [self.parser.text(frame[text.name]) for text in self.texts]
        columns = numbered_frame([*cells, *chain(*parts)])
        convert = self.number_converter(range(columns.width), columns.width)
        numbers = _to_tensor(columns, torch.empty(frame.height, len(convert), dtype=convert.dtype), convert)
        if not self.raw:
            check_range(numbers, self.names, first_row=first_row)
        codes, unknown = self._encode(categories, first=len(convert))
        shape = frame.height, len(codes)
        coded = _to_tensor(numbered_frame(codes), torch.empty(shape, dtype=torch.int32), np.array)
        fitted_columns: list[Number | Date] = [*self.numbers, *self.dates]
        for number, column in zip(fitted_columns, (*cells, *(part[0] for part in parts)), strict=True):
            if not number.missing and column.null_count():
                unknown[number.name] = column.null_count()
        hashes = numbered_frame([*columns, *categories, *texts]).hash_rows()
        for text in texts:
            warn_if_long(text, first_row)
        words = join_words([column.words(text) for column, text in zip(self.texts, texts, strict=True)])
        return TableRows(numbers, coded, len(self.names), hashes, words), unknown

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
                # missing cells turn integers into floats, so 1 may be written as 1.0 in one of the files
                for pattern, other in ((r"^([+-]?\d+)\.0+$", "${1}"), (r"^([+-]?\d+)$", "${1}.0")):
                    written = _category_codes(text.str.replace(pattern, other), category)
                    code = code.zip_with(code.is_not_null(), written)
            if count := code.null_count() - text.null_count():
                unknown[category.name] = count
            missing = first + len(category.values) if category.missing else no_feature
            code = (code + first).zip_with(text.is_not_null(), pl.Series([missing], dtype=pl.Int32))
            codes.append(code.fill_null(no_feature))
            first += len(category.features)
        return codes, unknown

    def check(self, width: int | None = None) -> None:
        """Raise an error if the values of a checkpoint are damaged; `width` is that of an array, if any."""
        for column in self._columns:
            column.check()
            is_known = width is None or (ARRAY_COLUMN.fullmatch(column.name) and int(column.name[1:]) < width)
            if not is_known:
                raise CheckpointError(f"{column.name!r} is not a column of an array with {width} columns")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint, which `from_dict` accepts."""
        kinds = ("numbers", "dates", "categories", "texts")
        columns = {kind: _to_plain(getattr(self, kind)) for kind in kinds}
        return {**columns, "null_values": [*self.parser.null_values], "nan": self.parser.nan}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Features":
        """Create the features from the result of `to_dict`."""
        return cls(
            tuple(map(Number.from_dict, values["numbers"])),
            tuple(Category(**_with_tuples(column)) for column in values["categories"]),
            CellParser(tuple(values["null_values"]), values["nan"]),
            tuple(Date.from_dict(column) for column in values["dates"]),
            tuple(Text(**_with_tuples(column)) for column in values["texts"]),
        )


def _as_cells(numbers: np.ndarray, digits: int) -> list[Any]:
    """Return numbers rounded to digits after the point, and to six digits."""
    rounded = [float(f"{round(number, digits):.6g}") for number in numbers.tolist()]
    return restore_integers(pl.Series(rounded)).to_list()


def _to_plain(value: Any) -> Any:
    """Return a column as a dict of its fields, and tuples as lists, faster than `asdict`."""
    if isinstance(value, tuple):
        return [*map(_to_plain, value)]
    if isinstance(value, Number):
        return value.to_dict()
    return {k: _to_plain(v) for k, v in vars(value).items()} if is_dataclass(value) else value


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _fit_numbers(
    frame: pl.DataFrame, train: np.ndarray, parser: CellParser, scaling: str
) -> dict[str, Number | None]:
    if not frame.width:
        return {}
    numbers = parser.number_columns(frame)
    standardizer = Standardizer(numbers.columns)
    for start in range(0, len(train), BLOCK_ROWS):
        standardizer.partial_fit(numbers[train[start : start + BLOCK_ROWS]])
    rows = sampled_rows(train)
    sample = (column.gather(rows).to_numpy() for column in numbers.iter_columns())
    return fit_numbers(standardizer, scaling, sample)


def _fit_category(text: pl.Series) -> Category | None:
    values = sorted_values(text.drop_nulls().unique().to_list())
    missing = text.null_count() > 0
    return Category(text.name, tuple(map(str, values)), missing) if len(values) + missing > 1 else None


def _category_codes(text: pl.Series, category: Category) -> pl.Series:
    """Return the index of each text among the category's values, null for other text."""
    return text.cast(pl.Enum(category.values), strict=False).to_physical().cast(pl.Int32)


def _to_tensor(columns: pl.DataFrame, matrix: Tensor, convert: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """Fill the matrix with the converted rows, in row-major order for fast batches; return it."""
    array = matrix.numpy()  # PyTorch waits for all threads after each block
    for start in range(0, columns.height, CONVERTED_ROWS):
        rows = columns.slice(start, CONVERTED_ROWS).to_numpy()
        array[start : start + CONVERTED_ROWS] = convert(rows)
    return matrix
