"""The layouts of published data sets: their files, the commands that read them, and what they contain.

Each layout is a function that returns a `Layout`. The contents are random; only the form of the files is that of
the published ones.
"""

import csv
import io
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LAYOUTS: dict[str, "Callable[[], Layout]"] = {}
"""Functions that return a layout, by name."""

WORDS = "the movie was great bad plot good acting never again really liked it people think time"


@dataclass
class Layout:
    """Files of a data set, and the truth about them.

    Args:
        files: Contents by name.
        tries: The settings of the first natural command, and those that the message of each try adds.
        labels: For each row the class, the set of labels, a list of numbers per class, or None (missing).
        numbers: Values of the columns that must become numbers, None where missing.
        categories: Values of the columns that must become categories.
        dates: Names of the columns that must become dates.
        texts: Names of the columns of free text.
        classes: Names of the classes in order; None if they are the sorted labels.
        warnings: Names of the warnings of the last try.
        splits: The split of each row, None where it is drawn.
        groups: The group of each row.
        times: The time of each row.
        pending: Why the layout is not read yet, or "".
    """

    files: Mapping[str, bytes]
    tries: Sequence[str]
    labels: Sequence[Any]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    categories: Mapping[str, Any] = field(default_factory=dict)
    dates: Sequence[str] = ()
    texts: Sequence[str] = ()
    classes: Sequence[str] | None = None
    warnings: Sequence[str] = ()
    splits: Sequence[Any] | None = None
    groups: Sequence[Any] | None = None
    times: Sequence[Any] | None = None
    pending: str = ""


def layout(create: Callable[["Random"], Layout]) -> Callable[["Random"], Layout]:
    """Register a function that creates a layout from random values."""
    LAYOUTS[create.__name__] = lambda: create(Random(create.__name__))
    return create


class Random:
    """Random columns, the same in each process."""

    def __init__(self, name: str, rows: int = 90) -> None:
        self.rng, self.rows = np.random.default_rng(zlib.crc32(name.encode())), rows

    def numbers(self, *names: str, digits: int = 3) -> dict[str, list[float]]:
        return {name: self.rng.normal(5, 2, self.rows).round(digits).tolist() for name in names}

    def integers(self, low: int, high: int, rows: int | None = None) -> list[int]:
        return self.rng.integers(low, high, rows or self.rows).tolist()

    def choice(self, values: Any, rows: int | None = None) -> list[Any]:
        """Return values of which each occurs about equally often."""
        values, count = list(values), rows or self.rows
        return [values[i] for i in self.rng.permutation(np.arange(count) % len(values)).tolist()]

    def sets(self, labels: Sequence[Any], low: int = 0, high: int = 3) -> list[list[Any]]:
        """Return lists of labels, in their order; each label occurs."""
        sizes = self.rng.integers(low, high + 1, self.rows)
        rows = [sorted(self.rng.permutation(len(labels))[:size].tolist()) for size in sizes]
        for i in range(len(labels)):
            rows[i] = sorted({*rows[i], i})[:high] if low else [i]
        return [[labels[i] for i in row] for row in rows]

    def sentences(self, words: int = 12) -> list[str]:
        known = WORDS.split()
        return [
            " ".join(known[i] for i in self.rng.integers(0, len(known), words)) + f" {row}"
            for row in range(self.rows)
        ]

    def with_gaps(self, values: Sequence[Any], share: float = 0.1) -> list[Any]:
        missing = self.rng.random(len(values)) < share
        return [None if gap else value for value, gap in zip(values, missing.tolist(), strict=True)]

    def names(self, form: str) -> list[str]:
        """Return a different name for each row, such as form "img_{:05}.png"."""
        return [form.format(i * 37 % 100_003) for i in range(1, self.rows + 1)]


def rows_of(columns: Mapping[str, Sequence[Any]], empty: str = "") -> list[list[str]]:
    """Return the cells of each row as text; `empty` is written for None."""
    return [
        [empty if cell is None else str(cell) for cell in row] for row in zip(*columns.values(), strict=True)
    ]


def text(
    columns: Mapping[str, Sequence[Any]],
    separator: str = ",",
    header: bool = True,
    end: str = "\n",
    quote_all: bool = False,
    empty: str = "",
) -> str:
    """Return a table as text; cells are quoted where necessary."""
    output = io.StringIO()
    quoting = csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    writer = csv.writer(output, delimiter=separator[0], lineterminator=end, quoting=quoting)
    writer.writerows([[*columns]] * header + rows_of(columns, empty))
    written = output.getvalue()
    return written if len(separator) == 1 else written.replace(separator[0], separator)


def table(*args: Any, **options: Any) -> bytes:
    """Return a table as UTF-8."""
    return text(*args, **options).encode()


def labelled(
    file: str,
    columns: Mapping[str, Any],
    target: str | Sequence[str],
    *tries: str,
    task: str = "multiclass",
    write: Callable[[Mapping[str, Any]], bytes] = table,
    **truth: Any,
) -> Layout:
    """Return a table and its labels.

    Args:
        file: The name of the file.
        columns: All columns.
        target: The column of the labels, or the names of several.
        tries: Further settings of the first try, and those of the others.
        task: The task.
        write: Function that returns the content of the file.
        truth: Arguments of `Layout`; the labels are by default the cells of the target.
    """
    settings, *others = tries or [""]
    name = target if isinstance(target, str) else f"[{','.join(target)}]"
    known = {"labels": columns[target]} if isinstance(target, str) else {"classes": target}
    first = f"task={task} data.path={file} data.target={name} {settings}"
    return Layout({file: write(columns)}, [first, *others], **{**known, **truth})


def aligned(rows: Sequence[Sequence[Any]], width: int = 14) -> bytes:
    """Return lines of cells in columns of equal width, as Fortran and NumPy write them."""
    return "".join("".join(f"{cell:>{width}}" for cell in row) + "\n" for row in rows).encode()


def indicators(sets: Sequence[Any], labels: Sequence[str], yes: Any = 1, no: Any = 0) -> dict[str, list[Any]]:
    """Return one column per label."""
    return {label: [yes if label in row else no for row in sets] for label in labels}


def numbered(columns: Mapping[str, Any], start: int = 0) -> dict[str, Any]:
    """Return columns under the names of a file without a header."""
    return {f"column {i}": values for i, values in enumerate(columns.values(), start)}
