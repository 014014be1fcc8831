"""Tables for .csv files, in which a spreadsheet finds no formulas."""

from typing import Any

import polars as pl

FORMULA = "^[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
"""Pattern of cells that a spreadsheet would run as a formula (CWE-1236), full-width characters included."""


def escape_formula(columns: Any) -> pl.DataFrame:
    """Return a table of the columns, with a ' before names and text that a spreadsheet would evaluate.

    Numbers written as text, such as the class -1, are unchanged.
    """
    frame = pl.DataFrame(columns)
    text, names = pl.col(pl.String), pl.Series(frame.columns, dtype=pl.String)
    frame = frame.with_columns(pl.when(_is_formula(text)).then("'" + text).otherwise(text).name.keep())
    return frame.rename({name: f"'{name}" for name in names.filter(_is_formula(names))})


def _is_formula(text: Any) -> Any:
    """Return an expression that is true for cells that a spreadsheet would evaluate."""
    return text.str.contains(FORMULA) & text.cast(pl.Float64, strict=False).is_null()
