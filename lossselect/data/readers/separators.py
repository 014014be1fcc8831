"""The separators of columns and decimals in a text file, and the cells of its lines."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from polars import selectors

from lossselect.exceptions import DataError

UNIT_SEPARATOR = "\x1f"
"""A byte that does not occur in text, for separators that Polars does not support."""
OTHER_SEPARATORS = ("::", "\t", ";", "|", ",")
POINT, UNCLEAR_POINT = r"^\s*[+-]?\d+\.\d+\s*$", r"^\s*[+-]?\d{1,3}\.\d{3}\s*$"
THOUSANDS = r"^\s*[+-]?\d{1,3}(\.\d{3})+,\d+\s*$"
DECIMAL_COMMA = r"^(\s*[+-]?\d*),(\d+(?:[eE][+-]?\d+)?\s*)$"


@contextmanager
def allow_long_cells() -> Iterator[None]:
    """Let the module csv read cells longer than its limit of 128 kB within the context."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def split_lines(lines: Iterable[str], separator: str, quote: str | None) -> Any:
    """Return an iterator over the cells of each row; " " is any number of blanks and tabs."""
    if separator == " ":
        lines = (line.replace("\t", " ").strip() + "\n" for line in lines)
    elif len(separator.encode()) > 1:
        several, separator = separator, UNIT_SEPARATOR
        lines = (line.replace(several, UNIT_SEPARATOR) for line in lines)
    return csv.reader(
        lines,
        delimiter=separator,
        skipinitialspace=True,  # blanks before a quote
        quotechar=quote,
        quoting=csv.QUOTE_NONE if quote is None else csv.QUOTE_MINIMAL,
    )


def is_plain(blocks: Iterable[bytes], separator: str, quote: str | None) -> bool:
    """Return whether Polars divides a text in the same way: a single byte, without blanks before quotes.

    Args:
        blocks: The text in parts that end with a line.
        separator: The separator of the columns.
        quote: The quotation mark, or None.
    """
    if separator == " " or len(separator.encode()) > 1:
        return False
    if quote is None:
        return True
    ends = rf"{re.escape(separator)}\n"
    mark = rf"{quote}(?!{quote}[^{ends}\r{quote}])"  # not the doubled mark in "Good, ""very"" good"
    # a pattern that starts with fixed characters is found quickly
    likely = re.compile(rf" {mark}(?<=[{ends} ] {quote})".encode())
    certain = re.compile(rf"[{ends}] +{mark}".encode())
    return not any(likely.search(b"\n" + block) and certain.search(b"\n" + block) for block in blocks)


def find_separator(lines: list[str], usual: str | None, quote: str | None, decimal: str) -> str | None:
    """Return the usual separator; another one if that divides each line into equally many cells.

    A file in which the usual separator leaves a single column has no features.
    """
    if usual is not None and len(next(split_lines(lines, usual, quote), [])) > 1:
        return usual
    found = [s for s in OTHER_SEPARATORS if s != decimal and _divides(lines, s, quote)]
    blanks = [re.sub(r",\s+", ",", line.replace("\t", " ").strip()) for line in lines]
    blanks[:1] = [re.sub(r"^[#%]+ +", "", line) for line in blanks[:1]]  # a header of numpy.savetxt
    has_blanks = usual is None and _divides(blanks, " ", quote)
    decimal_commas = found == [","] and not re.search(r"\D,|,\D", "".join(lines))
    if found and not (decimal_commas and has_blanks):  # 1,5 2,5 may be two numbers
        return found[0]
    return " " if has_blanks and not found else usual


def _divides(lines: list[str], separator: str, quote: str | None) -> bool:
    """Return whether a separator divides all lines into equally many cells.

    The header may have one less, as in R. The last line does not count, as a quoted cell may continue.
    """
    header, *rows = [len(row) for row in split_lines(lines, separator, quote)] or [0]
    widths = {*rows[: len(rows) - 1 or 1]} or {header}
    return len(widths) == 1 and header > 1 and widths <= {header, header + 1}


def without_comments(lines: list[str], comment: str, quote: str | None) -> Iterator[str]:
    """Yield the lines, empty in place of comments; a line within a quoted cell is not a comment."""
    is_quoted = False
    for line in lines:
        is_comment = not is_quoted and line.lstrip().startswith(comment)
        is_quoted ^= not is_comment and quote is not None and line.count(quote) % 2 == 1
        yield "\n" if is_comment else line


def replace_commas(frame: Any, as_written: Sequence[str]) -> Any:
    """Return a frame whose cells of text such as 1,5 are 1.5, except in the columns `as_written`."""
    texts = selectors.string() - selectors.by_name(*as_written, require_all=False)
    plain = pl.when(texts.str.contains(THOUSANDS)).then(texts.str.replace_all(".", "", literal=True))
    return frame.with_columns(plain.otherwise(texts).str.replace(DECIMAL_COMMA, "${1}.${2}"))


def check_points(frame: pl.LazyFrame, file: Path, as_written: Sequence[str]) -> None:
    """Raise DataError for cells such as 1.234 that may be 1234 next to decimal commas."""
    texts = selectors.string() - selectors.by_name(*as_written, require_all=False)
    sums = [frame.select(texts.str.contains(text).sum()) for text in (POINT, UNCLEAR_POINT)]
    for column in pl.concat(sums).collect(engine="streaming"):
        if 0 < column[0] == column[1]:
            cells = selectors.by_name(column.name)
            found = frame.select(cells.filter(cells.str.contains(POINT)).first())
            cell = found.collect(engine="streaming").item()
            raise DataError(
                f"Column {column.name!r} of {file} contains {cell!r}, and data.decimal=','. If the point "
                "separates thousands, remove it from the file. If it is a decimal point, write a comma.",
                column=column.name,
                value=cell,
            )
