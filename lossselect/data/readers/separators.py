"""The separator of the columns of a text file, and the cells of its lines."""

import csv
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

UNIT_SEPARATOR = "\x1f"
"""A byte that does not occur in text, for separators that Polars does not support."""
OTHER_SEPARATORS = ("::", "\t", ";", "|", ",")


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


def is_plain(lines: Iterable[str], separator: str, quote: str | None) -> bool:
    """Return whether Polars divides lines in the same way: a single byte, without blanks before quotes."""
    if separator == " " or len(separator.encode()) > 1:
        return False
    return quote is None or not any(re.search(f"{re.escape(separator)} +{quote}", line) for line in lines)


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
