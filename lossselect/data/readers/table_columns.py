"""The feature columns of a table: in memory, or read from the file a few columns or rows at a time."""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from lossselect.data.readers.tables import Table

GROUP_BYTES = 1 << 28
"""Maximum size of the columns or rows of a file that are read at once, unless one column is larger."""


class TableColumns:
    """Columns of a table in memory."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame, self.columns = frame, frame.columns

    def __len__(self) -> int:
        return self.frame.height

    def groups(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """Yield frames of some columns with all rows, which together have all columns, or `columns`."""
        if columns is None or columns:
            yield self.frame.select(self.columns if columns is None else columns)

    def batches(self) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield frames of some rows with all columns, and the index of their first row."""
        yield 0, self.frame

    def cells(self, column: str, rows: np.ndarray) -> pl.Series:
        """Return a column's cells in rows with ascending indices."""
        return self.frame[column].gather(rows)


class FileColumns(TableColumns):
    """Columns of a table in a file that may be larger than the memory.

    Args:
        table: The table.
        columns: Names of the columns.
        num_rows: The number of rows of the table.
    """

    def __init__(self, table: Table, columns: Sequence[str], num_rows: int) -> None:
        self.table, self.columns, self.num_rows = table, [*columns], num_rows

    def __len__(self) -> int:
        return self.num_rows

    def groups(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """Yield frames of some columns with all rows, which together have all columns, or `columns`."""
        names = self.columns if columns is None else columns
        size = max(1, GROUP_BYTES // (8 * self.num_rows))
        for start in range(0, len(names), size):
            yield self.table.read(names[start : start + size])

    def batches(self) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield frames of some rows with all columns, and the index of their first row."""
        first, size = 0, max(1, GROUP_BYTES // (32 * len(self.columns)))
        for frame in self.table.batches(self.columns, size):
            yield first, frame
            first += frame.height

    def cells(self, column: str, rows: np.ndarray) -> pl.Series:
        """Return a column's cells in rows with ascending indices."""
        found = [
            frame[column].gather(np.asarray(rows[start:end]) - first)
            for first, frame in FileColumns(self.table, [column], self.num_rows).batches()
            for start, end in [np.searchsorted(rows, (first, first + frame.height))]
        ]
        return pl.concat(found).rename(column)
