"""Tables as .csv files, in which no cell is a formula."""

from typing import Any

import polars as pl

FORMULA = "^[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
"""How a cell begins that a spreadsheet calculates, which may start a program there (CWE-1236).

The last four are the wide forms of the first four.
"""


def escape_formula(columns: Any) -> pl.DataFrame:
    """Return a table of the columns, with a ' before names and text that a spreadsheet takes for a formula.

    Numbers as text, such as the class -1, stay as they are.
    """
    frame = pl.DataFrame(columns)
    text, names = pl.col(pl.String), pl.Series(frame.columns, dtype=pl.String)
    frame = frame.with_columns(pl.when(_is_formula(text)).then("'" + text).otherwise(text).name.keep())
    return frame.rename({name: f"'{name}" for name in names.filter(_is_formula(names))})


def _is_formula(text: Any) -> Any:
    """Return where a column, or an expression of columns, is a formula."""
    return text.str.contains(FORMULA) & text.cast(pl.Float64, strict=False).is_null()
