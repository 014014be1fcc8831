"""Overviews of a data set: printed on a console, and as tables of the report."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from lossselect.data.overview import Column, Overview
from lossselect.reporting.plan import make_table, print_renderable, print_table
from lossselect.utils.checks import SPLIT_NAMES, shorten
from lossselect.utils.terminal import sanitize

MAX_COLUMNS, MAX_LABELS, MAX_PAIRS = 40, 20, 10
"""Maximum numbers of columns, of classes or labels, and of pairs of labels on a console."""
MAX_ROWS, MAX_TOGETHER = 200, 20
"""Maximum numbers of rows of the report's tables, and of rows of its pairs of labels."""
LONG_NAME, LONG_TEXT = 100, 300
"""Maximum numbers of characters of a name, and of a decision or setting."""
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
        most = shorten([f"{_cut(column.name)} ({_percent(column.missing, column.rows)})" for column in gaps])
        share = _percent(sum(column.missing for column in gaps), sum(column.rows for column in columns))
        yield "missing", f"{share} of the cells; most in {most}" if gaps else "none"
        if constant := [_cut(column.name) for column in columns if column.use == "constant"]:
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


def page_tables(overview: Overview) -> Iterator[tuple[str, str, Sequence[str], list[tuple[Any, ...]]]]:
    """Yield title, caption, header and rows of the tables of the report."""
    if overview.labels:
        caption = f"Rows of each split.{_shown(MAX_ROWS, overview.num_labels, 'the most frequent ')}"
        yield "Labels in the data", caption, _label_header(overview), _label_rows(overview, MAX_ROWS)
    if overview.pairs:
        caption = "Rows of all splits that have both labels, and their fraction of the rows that have either."
        header = ["label", "other label", "rows with both", "fraction"]
        pairs = [(_cut(a), _cut(b), *numbers) for a, b, *numbers in overview.pairs[:MAX_TOGETHER]]
        yield "Labels that occur together", caption, header, pairs
        rows = [(_cut(name), *counts[:MAX_TOGETHER]) for name, counts in overview.together[:MAX_TOGETHER]]
        caption = "Rows of all splits with a label (down) that also have another (across)."
        caption += _shown(MAX_TOGETHER, overview.num_labels, "the most frequent ")
        yield "Co-occurrence of labels in the data", caption, ["label", *(str(row[0]) for row in rows)], rows
    if columns := overview.columns:
        caption = f"{_sample_note(overview)}{_shown(MAX_ROWS, len(columns))}"
        caption += " data.json lists all." * (len(columns) > MAX_ROWS)
        header = ["column", "kind", "missing", "distinct", "values", "decision", "setting"]
        rows = [_column_row(column) for column in _select(columns, MAX_ROWS)]
        yield f"{len(columns):,} columns", caption, header, rows


def print_overview(overview: Overview) -> None:
    """Print an overview, shortened to fit on a console."""
    print_table(f"Data: {sanitize(overview.name)}", summary_rows(overview))
    if overview.labels:
        rows = [tuple(map(str, row)) for row in _label_rows(overview, MAX_LABELS)]
        rows += [("...",)] * (overview.num_labels > MAX_LABELS)
        print_table("Labels", rows, header=_label_header(overview))
    if pairs := overview.pairs[:MAX_PAIRS]:
        rows = [(f"{_cut(a)} + {_cut(b)}", str(count), f"{part:.0%}") for a, b, count, part in pairs]
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
        name, kind, _, distinct, values, decision, change = _column_row(column)
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


def _label_rows(overview: Overview, limit: int) -> list[tuple[Any, ...]]:
    return [(_cut(name), *counts.values()) for name, counts in overview.labels[:limit]]


def _select(columns: Sequence[Column], limit: int) -> list[Column]:
    """Return at most `limit` columns, in order; if there are more, first those that are not features."""
    if len(columns) <= limit:
        return [*columns]
    return sorted(columns, key=lambda column: column.use == "feature")[:limit]


def _column_row(column: Column) -> tuple[str, str, float | None, int | None, str, str, str]:
    """Return name, kind, fraction of missing cells, distinct values, values, decision and setting."""
    missing = column.missing / column.rows if column.rows else None
    choice = _cut(column.decision, LONG_TEXT), _cut(column.change, LONG_TEXT)
    return _cut(column.name), column.kind, missing, column.distinct, column.values, *choice


def _sample_note(overview: Overview) -> str:
    rows = overview.sampled
    return f"Distinct and frequent values were counted in a sample of {rows} rows." if rows else ""


def _shown(limit: int, total: int, which: str = "") -> str:
    """Return a remark if not all of `total` are shown, otherwise an empty text."""
    return f" Shown are {which}{limit} of {total:,}." if total > limit else ""


def _cut(text: str, limit: int = LONG_NAME) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _percent(part: int, total: int) -> str:
    """Return a percentage with at most one digit after the point; "<0.1%" for a smaller one."""
    fraction = part / max(1, total)
    return "<0.1%" if 0 < fraction < 0.001 else f"{fraction:.1%}".replace(".0%", "%")
