"""Overviews of a data set: printed on a console, and as tables of the report."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from lossselect.data.overview import Column, Overview
from lossselect.reporting.plan import make_table, print_renderable, print_table
from lossselect.utils.checks import SPLIT_NAMES, shorten
from lossselect.utils.names import cut_middle, shorten_names
from lossselect.utils.terminal import sanitize

MAX_COLUMNS, MAX_LABELS, MAX_PAIRS = 40, 20, 10
"""Maximum numbers of columns, of classes or labels, and of pairs of labels on a console."""
MAX_ROWS, MAX_TOGETHER = 200, 20
"""Maximum numbers of rows of the report's tables, and of rows of its pairs of labels."""
LONG_NAME, LONG_TEXT = 100, 300
"""Maximum numbers of characters of a name on a console, and of a name, decision or setting in the report."""
PLURALS = {"number": "numbers", "category": "categories", "date": "dates", "text": "texts"}

USE_NAMES = {"rejected": "unusable", "sample_weight": "of sample weights"}
"""Names of uses in the summary, if they differ."""


def summary_rows(overview: Overview) -> Iterator[tuple[str, str]]:
    """Yield the names and values of the properties of a whole data set."""
    rows = overview.rows
    splits = [f"{rows[split]} {name}" for split, name in SPLIT_NAMES.items() if split in rows]
    parts = f": {', '.join(splits)}" if splits else " (only the first ones were read)" * ("first" in rows)
    yield "rows", f"{sum(rows.values())}{parts}"
    if columns := overview.columns:
        kinds = Counter(column.kind for column in columns if column.use == "feature")
        named = [f"{n} {kind if n == 1 else PLURALS.get(kind, kind)}" for kind, n in kinds.items()]
        uses = Counter(column.use for column in columns if column.use != "feature")
        left_out = sum(uses.pop(use, 0) for use in ("exclude", "features", "index", "constant"))
        named += [f"{count} {USE_NAMES.get(use, use)}" for use, count in uses.items()]
        named += [f"{left_out} left out"] if left_out else []
        yield "columns", f"{len(columns)}: {', '.join(named)}"
        gaps = sorted((c for c in columns if c.missing), key=lambda c: -c.missing / c.rows)
        most = shorten(
            [
                f"{cut_middle(column.name, LONG_NAME)} ({_percent(column.missing, column.rows)})"
                for column in gaps
            ]
        )
        share = _percent(sum(column.missing for column in gaps), sum(column.rows for column in columns))
        yield "missing", f"{share} of the cells; most in {most}" if gaps else "none"
        if constant := [cut_middle(column.name, LONG_NAME) for column in columns if column.use == "constant"]:
            yield "constant columns", shorten(constant)
    if overview.num_features:
        yield "features", f"{overview.num_features}, the inputs of the net"
    if overview.repeated is not None and overview.in_train is not None:
        found = [f"{n} repeated {SPLIT_NAMES[split]}" for split, n in overview.repeated.items() if n]
        found += [f"{n} {SPLIT_NAMES[s]} with a copy in training" for s, n in overview.in_train.items() if n]
        yield "duplicate rows", ", ".join(found) or "none"
    if overview.task:
        kind = "labels" if overview.task == "multilabel" else "classes"
        missing = [f"{n} {SPLIT_NAMES[split]}" for split, n in (overview.missing_labels or {}).items() if n]
        unknown = f"; missing labels: {', '.join(missing)}" if missing else ""
        yield "labels", f"{overview.task}, {overview.num_labels} {kind}{unknown}"


class PageTable(NamedTuple):
    """A table of the report; `names` are the columns with names of classes or columns."""

    title: str
    caption: str
    header: Sequence[str]
    rows: Sequence[tuple[Any, ...]]
    names: Sequence[int] = ()


def page_tables(overview: Overview) -> Iterator[PageTable]:
    """Yield the tables of the report."""
    if overview.labels:
        caption = f"Rows of each split.{_shown(MAX_ROWS, overview.num_labels, 'the most frequent ')}"
        rows = _label_rows(overview, MAX_ROWS, LONG_TEXT)
        yield PageTable("Labels in the data", caption, _label_header(overview), rows, [0])
    if overview.pairs:
        caption = "Rows of all splits that have both labels, and their fraction of the rows that have either."
        header = ["label", "other label", "rows with both", "fraction"]
        pairs = [
            (cut_middle(a, LONG_TEXT), cut_middle(b, LONG_TEXT), *numbers)
            for a, b, *numbers in overview.pairs[:MAX_TOGETHER]
        ]
        yield PageTable("Labels that occur together", caption, header, pairs, [0, 1])
        together = overview.together[:MAX_TOGETHER]
        rows = [(cut_middle(name, LONG_TEXT), *counts[:MAX_TOGETHER]) for name, counts in together]
        caption = "Rows of all splits with a label (down) that also have another (across)."
        caption += _shown(MAX_TOGETHER, overview.num_labels, "the most frequent ")
        header = ["label", *shorten_names([name for name, _ in together])]
        yield PageTable("Co-occurrence of labels in the data", caption, header, rows, [0])
    if columns := overview.columns:
        header = ["type", "columns", "with missing cells", "missing cells"]
        caption = "The columns that are features, and the fraction of their cells that is missing."
        yield PageTable("Features by type", caption, header, [*_feature_types(columns)])
        caption = f"{_sample_note(overview)}{_shown(MAX_ROWS, len(columns))}"
        caption += " data.json lists all." * (len(columns) > MAX_ROWS)
        header = ["column", "kind", "missing", "distinct", "values", "decision", "setting"]
        rows = [_column_row(column, LONG_TEXT) for column in _select(columns, MAX_ROWS)]
        yield PageTable(f"{len(columns):,} columns", caption, header, rows, [0])


def _feature_types(columns: Sequence[Column]) -> Iterator[tuple[str, int, int, float | None]]:
    """Yield the number of features of each type, of those with missing cells, and the fraction of cells."""
    features = [column for column in columns if column.use == "feature"]
    for kind in dict.fromkeys(column.kind for column in features):
        found = [column for column in features if column.kind == kind]
        cells, missing = sum(column.rows for column in found), sum(column.missing for column in found)
        with_missing = sum(column.missing > 0 for column in found)
        yield kind, len(found), with_missing, missing / cells if cells else None


def print_overview(overview: Overview) -> None:
    """Print an overview, shortened to fit on a console."""
    print_table(f"Data: {sanitize(overview.name)}", summary_rows(overview))
    if overview.labels:
        rows = [tuple(map(str, row)) for row in _label_rows(overview, MAX_LABELS, LONG_NAME)]
        rows += [("...",)] * (overview.num_labels > MAX_LABELS)
        print_table("Labels", rows, header=_label_header(overview))
    if pairs := overview.pairs[:MAX_PAIRS]:
        rows = [
            (f"{cut_middle(a, LONG_NAME)} + {cut_middle(b, LONG_NAME)}", str(count), f"{part:.0%}")
            for a, b, count, part in pairs
        ]
        header = ("labels", "rows with both", "of those with either")
        print_table("Labels that occur together", rows, header)
    if columns := overview.columns:
        _print_columns(columns)
        if len(columns) > MAX_COLUMNS:
            print(f"{_shown(MAX_COLUMNS, len(columns)).strip()} output=FILE.csv lists all.")
        if note := _sample_note(overview):
            print(note)


def _print_columns(columns: Sequence[Column]) -> None:
    from rich.text import Text

    table = make_table("Columns", ("column", "content", "decision and setting"))
    for place in (1, 2):
        table.columns[place].justify = "left"
    for column in _select(columns, MAX_COLUMNS):
        name, kind, _, distinct, values, decision, change = _column_row(column, LONG_NAME)
        parts = [kind, *([] if distinct is None else [f"{distinct} value{'s' * (distinct != 1)}"])]
        parts += [f"{_percent(column.missing, column.rows)} missing"] if column.missing else []
        content = Text(sanitize(", ".join(parts)) if column.rows else "not read")
        choice = Text(sanitize(decision))
        for cell, text, style in ((content, values, "dim"), (choice, change, "cyan")):
            if text:
                cell.append(f"\n{sanitize(text)}", style)
        table.add_row(Text(sanitize(name)), content, choice)
    print_renderable(table)


def _label_header(overview: Overview) -> list[str]:
    return ["label" if overview.task == "multilabel" else "class", *overview.rows]


def _label_rows(overview: Overview, limit: int, max_length: int) -> list[tuple[Any, ...]]:
    return [(cut_middle(name, max_length), *counts.values()) for name, counts in overview.labels[:limit]]


def _select(columns: Sequence[Column], limit: int) -> list[Column]:
    """Return at most `limit` columns, in order; if there are more, first those that are not features."""
    if len(columns) <= limit:
        return [*columns]
    return sorted(columns, key=lambda column: column.use == "feature")[:limit]


def _column_row(column: Column, max_length: int) -> tuple[str, str, float | None, int | None, str, str, str]:
    """Return name, kind, fraction of missing cells, distinct values, values, decision and setting."""
    missing = column.missing / column.rows if column.rows else None
    choice = cut_middle(column.decision, LONG_TEXT), cut_middle(column.change, LONG_TEXT)
    return cut_middle(column.name, max_length), column.kind, missing, column.distinct, column.values, *choice


def _sample_note(overview: Overview) -> str:
    rows = overview.sampled
    return f"Distinct and frequent values were counted in a sample of {rows} rows." if rows else ""


def _shown(limit: int, total: int, which: str = "") -> str:
    """Return a remark if not all of `total` are shown, otherwise an empty text."""
    return f" Shown are {which}{limit} of {total:,}." if total > limit else ""


def _percent(part: int, total: int) -> str:
    """Return a percentage with at most one digit after the point; "<0.1%" for a smaller one."""
    fraction = part / max(1, total)
    return "<0.1%" if 0 < fraction < 0.001 else f"{fraction:.1%}".replace(".0%", "%")
