"""Reader of ARFF files, as Weka, OpenML, Mulan and KEEL write them."""

import io
import re
from pathlib import Path

import polars as pl

from lossselect.data.readers.content import AS_CSV, check_fits
from lossselect.data.readers.suffixes import ARFF
from lossselect.exceptions import DataError
from lossselect.utils.checks import show

QUOTED = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
ATTRIBUTE = re.compile(rf"@attribute\s+({QUOTED}|[^\s{{]+)\s*(.*)", re.IGNORECASE)
ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
NUMERIC = re.compile(r"(numeric|real|integer)\b", re.IGNORECASE)
CELL_BYTES = 8
"""Size of a cell, most of which are shared by all sparse rows."""


def read_arff(text: str, file: Path) -> pl.DataFrame:
    """Return the rows of an ARFF file, dense or sparse; nominal values, text and dates are text.

    Raises:
        DataError: a line is invalid, or the cells do not fit into memory.
    """
    kinds: dict[str, str] = {}
    lines = iter(io.StringIO(text, newline=None))  # str.splitlines divides cells with U+2028, for example
    for line in lines:
        if re.match(r"\s*@data\b", line, re.IGNORECASE):
            break
        if found := ATTRIBUTE.match(line.strip()):
            name = _unquote(found[1])
            if name in kinds:
                raise DataError(f"{file} has more than one attribute {name!r}. Rename one.", column=name)
            kinds[name] = found[2]
    else:
        raise DataError(f"{file} has no line @data, as an ARFF file has. Write or copy it again.")
    nominal = [kind.strip("{} ") if kind[:1] == "{" else "" for kind in kinds.values()]
    values = [[_unquote(value) for value in _split(kind)] if kind else [] for kind in nominal]
    # a cell that a sparse row does not list is 0, or the first nominal value
    empty = [options[0] if options else "0" for options in values]
    texts = [text for line in lines if (text := line.strip()) and not text.startswith("%")]
    check_fits(file, CELL_BYTES * len(texts) * len(kinds), ARFF.name, AS_CSV)
    rows = [_read_row(text, empty, number, file) for number, text in enumerate(texts)]
    columns = []
    for i, (name, kind) in enumerate(kinds.items()):
        column = pl.Series(name, [row[i] for row in rows], dtype=pl.String)
        if NUMERIC.match(kind):
            numbers = column.cast(pl.Float64, strict=False)
            invalid = numbers.is_null() & column.is_not_null()
            columns.append(numbers)
        else:
            invalid = ~column.is_in(values[i]) if values[i] else column.is_null() & False
            columns.append(column)
        if (invalid := invalid.fill_null(False)).any():
            first = invalid.arg_max() or 0
            cell = column[first]
            problem = f" is {show(cell)}, but the attribute is declared as {show(kind)}. Correct {file}."
            raise DataError.at(first, name, problem, cell)
    return pl.DataFrame(columns)


def _read_row(line: str, empty: list[str], number: int, file: Path) -> list[str | None]:
    """Return the cells of a line, None where missing; `empty` are those that a sparse row does not list."""

    def error(problem: str) -> DataError:
        return DataError(f"Row {number} of {file} {problem}: {show(line)}. Correct the row.", row=number)

    if not line.startswith("{"):
        cells = _split(line)
        if len(cells) != len(empty):
            raise error(f"has {len(cells)} cells, but there are {len(empty)} attributes")
        return [None if cell in ("?", "<null>") else _unquote(cell) for cell in cells]
    row: list[str | None] = [*empty]
    listed = set()
    for entry in [entry.split(None, 1) for entry in _split(line.strip("{} ")) if entry]:
        if len(entry) != 2 or not entry[0].isdecimal() or int(entry[0]) >= len(empty):
            raise error(f"lists {show(' '.join(entry))}, but expected an index below {len(empty)} and a cell")
        if (index := int(entry[0])) in listed:
            raise error(f"lists index {index} twice")
        listed.add(index)
        row[index] = None if entry[1] == "?" else _unquote(entry[1])
    return row


def _split(line: str) -> list[str]:
    """Return the cells between commas, with their quotes."""
    if "'" not in line and '"' not in line:
        return [cell.strip() for cell in line.split(",")]
    cells = [cell.strip() for cell in re.findall(rf"((?:{QUOTED}|[^,])*)(?:,|$)", line)]
    return cells if line.endswith(",") else cells[:-1]


def _unquote(cell: str) -> str:
    is_quoted = len(cell) > 1 and cell[0] in "'\"" and cell[0] == cell[-1]
    if not is_quoted:
        return cell
    return re.sub(r"\\(.)", lambda found: ESCAPES.get(found[1], found[1]), cell[1:-1])
