"""The kind of each column: numbers, categories, dates, or none of these."""

from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from lossselect.data.preprocessing.columns import COMMA, FEW, TEXT, CellParser
from lossselect.data.preprocessing.dates import is_date, suggest_formats
from lossselect.exceptions import DataError, LossSelectError
from lossselect.utils.checks import format_setting, show

MAX_CATEGORIES = 1000
"""Maximum number of distinct categories; text with more is treated as free text or an identifier."""
DATE = (
    r"^(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2}))([ t].*)?$"
    r"|^\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?[ap]m)?$"
    r"|^(\d{1,2}(\.? |[-/])?)?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
    r"(\.? \d{1,4}(,? \d{4})?|[-/](\d{2}|\d{4})|\d{4})( \d{1,2}:.*)?$"
)
"""Pattern of dates and times of day, in lower case."""
UNITS = r"^[-+]?[$\u20ac\u00a3]? ?[-+]?\d{1,3}([.,' ]?\d{3})*([.,]\d+)? ?[%$\u20ac\u00a3]?$"
"""Pattern of numbers that Polars reads as text: 51,627 and $9.50 and 37% and 1.234,5."""
IMAGE = r"(?i)\.(png|jpe?g|gif|bmp|tiff?|webp|dcm)$"
"""Pattern of paths of images."""


def column_kind(column: pl.Series, parser: CellParser, date_format: str | None = None) -> tuple[str, str]:
    """Return the kind of a column, and why it cannot be a feature, as the rest of a sentence.

    Text is what `CellParser.text` returns.
    The kind is "number", "category" or "date", and the reason is then empty, or "text" or "other".
    """
    if column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null):
        return "number", ""
    if column.dtype in (pl.Date, pl.Datetime):
        return "date", ""
    if column.dtype.is_temporal():
        return "other", f"contains times of day or durations ({column.dtype})"
    if column.dtype not in TEXT:
        return "other", f"is of type {column.dtype}"
    text = column.drop_nulls()
    values = text.unique()
    distinct, not_numbers = len(values), values.cast(pl.Float64, strict=False).null_count()
    if not_numbers == 0:
        return "number", ""
    if not_numbers < distinct / 2:
        parser.numbers(column)  # raises an error with the first cell that is not a number
    example = f"such as {show(text[0])}"
    seems_date = _share(text.head(100), DATE) > 0
    if (seems_date or date_format is not None) and is_date(values, date_format):
        return "date", ""
    share = _share(values, DATE) if seems_date else 0
    if share == 1 or (share > 0.5 and distinct > FEW):
        dates = text.filter(text.str.to_lowercase().str.contains(DATE))
        fix = suggest_formats(dates.unique()) or suggest_formats(dates.head(1))
        fix = fix or "data.date_format, or write dates such as 2024-05-31"
        return "other", f"contains dates or times in another format, such as {show(dates[0])} (set {fix})"
    if _share(values, UNITS) == 1:
        fix = "set data.decimal=',' for decimal commas, or " * (_share(values, COMMA) == 1)
        fix += "write plain numbers"
        return "other", f"contains numbers with separators or units, {example} ({fix})"
    many = distinct > len(text) / 2
    if (many or distinct > MAX_CATEGORIES) and _share(values, IMAGE) == 1:
        return "other", f"contains paths of images, {example} (examples/images trains on image files)"
    if distinct > MAX_CATEGORIES or (many and distinct > FEW):
        counts = f"{distinct} distinct values in {len(text)} rows"
        return "text", f"looks like free text or an identifier ({counts}, {example})"
    return "category", ""


def _share(values: pl.Series, pattern: str) -> float:
    """Return the fraction of the values that match a pattern in lower case."""
    return values.str.to_lowercase().str.contains(pattern).mean() or 0.0  # type: ignore[return-value]


def join_errors(errors: Sequence[DataError]) -> LossSelectError:
    """Return the error for columns of numbers and other text: that of the first one, with fixes for all."""
    repeated = [error for error in errors if error.value == error.column]  # a repeated header
    if len(errors) == 1 or repeated:
        return [*repeated, *errors][0]
    words = [*dict.fromkeys(error.value for error in errors)]
    settings = (
        format_setting("data.null_values", words),
        format_setting("data.categorical", [e.column for e in errors]),
    )
    return errors[0].add(f"{len(errors)} columns have such cells. For all of them: {' or '.join(settings)}.")


def reject(problems: Mapping[str, str], texts: Iterable[str]) -> DataError:
    """Return the error for columns that cannot be features, `texts` being those that may be free text."""
    named = "; ".join(f"{name!r} {problem}" for name, problem in problems.items())
    exclude, fixes = format_setting("data.exclude", [*problems]), ""
    if texts := [*texts]:
        fixes = (
            f" For free text, set {format_setting('data.text', texts)}, which makes its words features, or "
            "fine-tune a language model as in examples/transformers. For many categories, set "
            f"{format_setting('data.categorical', texts)}. For identifiers of persons or objects, set "
            f"{format_setting('data.group', texts[0])}, which keeps their rows in one split."
        )
    return DataError(
        f"A feature must be a number, a date or one of a few categories, but column {named}. Leave such "
        f"columns out with {exclude}.{fixes}"
    )
