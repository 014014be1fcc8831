"""Tables as .csv files, in which no cell is a formula."""

from typing import Any

import polars as pl

FORMULA = "^[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
"""How a cell begins that a spreadsheet calculates, which may start a program there (CWE-1236).

The last four are the wide forms of the first four.
"""


def escape_formula(columns: Any) -> pl.DataFrame:
    """A table of the columns, with a ' before names and text that a spreadsheet would take for a formula.

    Numbers as text, such as the class -1, stay as they are.

    Args:
        columns: A table, or columns by name.
    """
    frame = pl.DataFrame(columns)
    text, names = pl.col(pl.String), pl.Series(frame.columns, dtype=pl.String)
    frame = frame.with_columns(pl.when(_is_formula(text)).then("'" + text).otherwise(text).name.keep())
    changed = {name: f"'{name}" for name in names.filter(_is_formula(names))}
    return frame.rename(changed)


def _is_formula(text: Any) -> Any:
    """Of a column, or an expression of columns."""
    return text.str.contains(FORMULA) & text.cast(pl.Float64, strict=False).is_null()
