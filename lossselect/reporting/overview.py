"""Overviews of a data set on a console, and as rows for tables."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from lossselect.data.overview import Column, Overview
from lossselect.reporting.plan import make_table, print_renderable, print_table
from lossselect.utils.checks import SPLIT_NAMES, shorten
from lossselect.utils.terminal import sanitize

MAX_COLUMNS, MAX_LABELS, MAX_PAIRS = 40, 20, 10
"""Numbers of columns, classes and pairs of labels that are shown on a console."""
LONG_NAME, LONG_TEXT = 100, 300
"""Maximum numbers of characters of a name, and of a decision or setting."""
PLURALS = {"number": "numbers", "category": "categories", "date": "dates", "text": "texts"}


def summarize(overview: Overview) -> Iterator[tuple[str, str]]:
    """Yield the names and values of the properties of a whole data set."""
    splits = [f"{count} {SPLIT_NAMES[split]}" for split, count in overview.rows.items() if split != "all"]
    yield "rows", f"{sum(overview.rows.values())}{': ' * bool(splits)}{', '.join(splits)}"
    columns = overview.columns
    features = [column for column in columns if column.use == "feature"]
    if columns:
        kinds = Counter(column.kind for column in features)
        named = [f"{n} {kind if n == 1 else PLURALS.get(kind, kind)}" for kind, n in kinds.items()]
        uses = Counter(column.use for column in columns if column.use != "feature")
        left_out = sum(uses.pop(use, 0) for use in ("exclude", "features", "index", "constant"))
        named += [f"{count} {use.replace('_', ' ')}" for use, count in uses.items()]
        named += [f"{left_out} left out"] if left_out else []
        yield "columns", f"{len(columns)}: {', '.join(named)}"
        gaps = sorted((c for c in columns if c.missing), key=lambda c: -c.missing / c.rows)
        cells = sum(column.rows for column in columns)
        value = f"{_percent(sum(c.missing for c in gaps), cells)} of the cells; most in " if gaps else "none"
        yield "missing", value + shorten([f"{_cut(c.name)} ({_percent(c.missing, c.rows)})" for c in gaps])
        if constant := [_cut(column.name) for column in columns if column.use == "constant"]:
            yield "constant columns", shorten(constant)
    if overview.repeated is not None and overview.in_train is not None:
        found = [f"{n} repeated {SPLIT_NAMES[split]}" for split, n in overview.repeated.items() if n]
        found += [f"{n} {SPLIT_NAMES[s]} with a copy in training" for s, n in overview.in_train.items() if n]
        yield "duplicate rows", ", ".join(found) or "none"
    if overview.task:
        missing = [f"{n} {SPLIT_NAMES[split]}" for split, n in (overview.missing_labels or {}).items() if n]
        kind = "labels" if overview.task == "multilabel" else "classes"
        gaps_text = f"; missing labels: {', '.join(missing)}" if missing else ""
        yield "labels", f"{overview.task}, {overview.num_labels} {kind}{gaps_text}"


def label_rows(overview: Overview, limit: int) -> list[tuple[Any, ...]]:
    """Return the name and the count in each split of the most frequent classes or labels."""
    return [(_cut(name), *counts.values()) for name, counts in overview.labels[:limit]]


def together_rows(overview: Overview, limit: int) -> list[tuple[Any, ...]]:
    """Return the names of the most frequent labels, and the rows that also have each of these labels."""
    return [(_cut(name), *counts[:limit]) for name, counts in overview.together[:limit]]


def select_columns(columns: Sequence[Column], limit: int) -> list[Column]:
    """Return at most `limit` columns, in order; if there are more, first those that are not features."""
    if len(columns) <= limit:
        return [*columns]
    return sorted(columns, key=lambda column: column.use == "feature")[:limit]


COLUMN_HEADER = ("column", "kind", "missing", "distinct", "values", "decision", "setting")
"""Headings of the cells of `column_row`."""


def column_row(column: Column) -> tuple[str, str, float | None, int | None, str, str, str]:
    """Return the cells of a column; None for unknown numbers."""
    missing = column.missing / column.rows if column.rows else None
    choice = _cut(column.decision, LONG_TEXT), _cut(column.change, LONG_TEXT)
    return _cut(column.name), column.kind, missing, column.distinct, column.values, *choice


def column_rows(overview: Overview, limit: int) -> list[tuple[Any, ...]]:
    """Return the cells of at most `limit` columns."""
    return [column_row(column) for column in select_columns(overview.columns, limit)]


def sample_note(overview: Overview) -> str:
    """Return a remark if values were counted in a sample, otherwise ""."""
    sampled = min((column.sampled for column in overview.columns if column.rows), default=0)
    is_sample = any(column.sampled < column.rows for column in overview.columns)
    return f"Distinct and frequent values are those of a sample of {sampled} rows." if is_sample else ""


def print_overview(overview: Overview) -> None:
    """Print an overview, shortened to fit on a console."""
    print_table(f"Data: {overview.name}", summarize(overview))
    if overview.labels:
        rows = [tuple(map(str, row)) for row in label_rows(overview, MAX_LABELS)]
        rows += [("...",)] * (overview.num_labels > MAX_LABELS)
        kind = "label" if overview.task == "multilabel" else "class"
        print_table("Labels", rows, header=(kind, *overview.rows))
    if pairs := overview.pairs[:MAX_PAIRS]:
        rows = [(f"{_cut(a)} + {_cut(b)}", str(count), f"{part:.0%}") for a, b, count, part in pairs]
        print_table(
            "Labels that occur together", rows, header=("labels", "rows with both", "of those with either")
        )
    if not overview.columns:
        return
    from rich.text import Text

    table = make_table("Columns", ("column", "content", "decision and setting"))
    for place in (1, 2):
        table.columns[place].justify = "left"
    for column in select_columns(overview.columns, MAX_COLUMNS):
        name, kind, _, distinct, values, decision, change = column_row(column)
        parts = [kind, *([] if distinct is None else [f"{distinct} value{'s' * (distinct != 1)}"])]
        parts += [f"{_percent(column.missing, column.rows)} missing"] if column.missing else []
        content = Text(", ".join(parts) if column.rows else "not read")
        choice = Text(sanitize(decision))
        for cell, text, style in ((content, values, "dim"), (choice, change, "cyan")):
            if text:
                cell.append(f"\n{sanitize(text)}", style)
        table.add_row(Text(sanitize(name)), content, choice)
    print_renderable(table)
    if len(overview.columns) > MAX_COLUMNS:
        print(f"Shown are {MAX_COLUMNS} of {len(overview.columns)} columns. output=FILE.csv lists all.")
    if note := sample_note(overview):
        print(note)


def _cut(text: str, limit: int = LONG_NAME) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _percent(part: int, total: int) -> str:
    """Return a percentage with at most one digit after the point; "<0.1%" for a smaller one."""
    fraction = part / max(1, total)
    return "<0.1%" if 0 < fraction < 0.001 else f"{fraction:.1%}".replace(".0%", "%")
