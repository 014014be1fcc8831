"""The form of a plan, for a console, a notebook or a program; explain.py says what is in one."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from lossselect.utils.redaction import redact
from lossselect.utils.terminal import escape_controls, escape_controls_in_json, sanitize

if TYPE_CHECKING:
    from rich.table import Table


class Monitor(NamedTuple):
    """The logged metric that the best checkpoint is chosen by, or "last" for the last one, and the reason."""

    metric: str
    why: str


class Line(NamedTuple):
    """One line of a plan: what is done, why, and the settings that change it."""

    name: str
    value: str
    why: str = ""
    change: str = ""


@dataclass(frozen=True)
class Plan:
    """Lines under a title. `print` shows them as text, Rich and a notebook as a table.

    Example:
        >>> from lossselect import Binary, explain_task
        >>> explain_task(Binary())["head"].value
        '1 raw logit'
    """

    title: str
    lines: Sequence[Line] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", tuple(Line(*map(redact, line)) for line in self.lines))

    def __getitem__(self, name: str) -> Line:
        """Return the line of that name; KeyError if there is none."""
        lines = {line.name: line for line in reversed(self.lines)}
        if name in lines:
            return lines[name]
        raise KeyError(f"{name!r}; there are {', '.join(line.name for line in self.lines)}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"title": self.title, "lines": [line._asdict() for line in self.lines]}

    def to_json(self) -> str:
        """Return the content of plan.json."""
        return escape_controls_in_json(json.dumps(self.to_dict(), indent=1, ensure_ascii=False)) + "\n"

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=100, color_system=None)
        with console.capture() as captured:
            console.print(self)
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    def __rich__(self) -> "Table":
        from rich.text import Text

        table = _make_table(self.title)
        table.caption, table.caption_justify = "each: what | why | the settings that change it", "left"
        for line in self.lines:
            name, value, why, change = map(escape_controls, line)
            cell = Text(value)  # in which a class name such as [red] is no markup
            for text, style in ((why, "dim"), (change, "cyan")):
                if text:
                    cell.append(" | ", "dim").append(text, style)
            table.add_row(Text(name), cell)
        return table

    def _repr_html_(self) -> str:
        from html import escape

        heading = "<tr><th></th><th>what</th><th>why</th><th>changed by</th></tr>"
        row = "<tr><th>{}</th><td>{}</td><td>{}</td><td><code>{}</code></td></tr>"
        rows = [row.format(*(escape(escape_controls(text)) for text in line)) for line in self.lines]
        return f"<table><caption>{escape(self.title)}</caption>{heading}{''.join(rows)}</table>"


# of the stages, if the decision has been fitted
HEADINGS = {"val": "val (default)", "test/default_decision": "test (default)", "test": "test (tuned)"}


def by_stage(metrics: Mapping[str, Any]) -> tuple[list[str], dict[str, list[Any]]]:
    """Return the headings of the stages, and the values of each metric in them, None where it has none.

    Validation metrics are those before the decision was fitted on the same rows.
    """
    stages = [*dict.fromkeys(name.rpartition("/")[0] for name in metrics)]
    names = dict.fromkeys(name.rpartition("/")[2] for name in metrics)
    headings = HEADINGS if "test/default_decision" in stages else {}
    return [headings.get(stage, stage) for stage in stages], {
        name: [metrics.get(f"{stage}/{name}") for stage in stages] for name in names
    }


def print_table(title: str, rows: Iterable[Sequence[str]], header: Sequence[str] = ("", "")) -> None:
    """Print rows under a title and a header."""
    table = _make_table(title, header)
    for row in rows:
        table.add_row(*map(sanitize, row))
    print_renderable(table)


def print_renderable(renderable: Any) -> None:
    """Print a plan or a table on the console."""
    from rich.console import Console

    Console(markup=False, emoji=False).print(renderable)


def _make_table(title: str, header: Sequence[str] = ("", "")) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE, show_header=any(header))
    table.add_column(header[0], style="bold", overflow="fold")
    for name in header[1:]:
        table.add_column(name, justify="right" if name else "left", overflow="fold")
    return table
