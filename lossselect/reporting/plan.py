"""Plans, shown on a console or in a notebook, or written as JSON; explain.py makes their lines."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from lossselect.metrics.direction import direction
from lossselect.utils.redaction import redact
from lossselect.utils.terminal import escape_controls, escape_controls_in_json, sanitize

if TYPE_CHECKING:
    from rich.table import Table


SUMMARY = {
    **dict.fromkeys(("task", "classes", "loss", "options", "target"), 1),
    **dict.fromkeys(("head", "weights", "decision", "metrics", "data", "model"), 2),
    "training": 1,
    "repetition": 2,
    "device": 1,
    **dict.fromkeys(("resumed", "previous_run", "outputs"), None),
}
"""Names of the lines in a plan's summary, and the rows of a terminal that each may fill; None: any number."""


MAX_TASKS = 4
"""Maximum number of tasks that a summary shows one by one."""
MIN_CHANGE = 0.0005
"""Smallest change of a metric that is reported."""
OF_PROBABILITIES = ("brier_score", "calibration_error")
"""Metrics that only the calibration changes."""


class Monitor(NamedTuple):
    """The logged metric that selects the best checkpoint ("last": the last epoch is kept), and the reason."""

    metric: str
    why: str


class Line(NamedTuple):
    """One choice in a plan: its value, the reason, and the settings that change it."""

    name: str
    value: str
    why: str = ""
    change: str = ""


@dataclass(frozen=True)
class Plan:
    """Choices under a title. `print` shows them as text; Rich and notebooks show a table."""

    title: str
    lines: Sequence[Line] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", tuple(Line(*map(redact, line)) for line in self.lines))

    def __getitem__(self, name: str) -> Line:
        """Return the line with this name; raise KeyError if there is none."""
        lines = {line.name: line for line in reversed(self.lines)}
        if name in lines:
            return lines[name]
        raise KeyError(
            f"Unknown line {name!r}. Choose one of: {', '.join(line.name for line in self.lines)}."
        )

    def summary(self) -> "Plan":
        """Return the main choices without reasons and settings, to fit in 24 rows of 80 columns."""
        values = {line.name: line.value for line in self.lines}
        shown: dict[str, int | None] = {**SUMMARY}
        of_tasks = {name: 1 for name in values if name.endswith((": loss", ": decision"))}
        if of_tasks:  # several tasks
            chosen = of_tasks if len(of_tasks) <= 2 * MAX_TASKS else {}
            shown = {"task": 3, **chosen, "weights of tasks": 2, **SUMMARY} | {"task": 3}
        for name, rows in shown.items():
            if rows and len(values.get(name, "")) > (width := 66 * rows - 10):
                cut = values[name][: width - 4]
                values[name] = f"{cut.rpartition(' ')[0] or cut} ..."
        return replace(self, lines=[Line(name, values[name]) for name in shown if name in values])

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, as in plan.json."""
        return {"title": self.title, "lines": [line._asdict() for line in self.lines]}

    def to_json(self) -> str:
        """Return the plan as JSON, as in plan.json."""
        return escape_controls_in_json(json.dumps(self.to_dict(), indent=1, ensure_ascii=False)) + "\n"

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=100, color_system=None)
        with console.capture() as captured:
            console.print(self)
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    def __rich__(self) -> "Table":
        from rich.text import Text

        table = make_table(self.title)
        for line in self.lines:
            name, value, why, change = map(escape_controls, line)
            cell = Text(value)  # not markup: a class may be called [red]
            for label, text, style in (("Why", why, "dim"), ("Change", change, "cyan")):
                if text:
                    cell.append(f"\n{label}: {text}", style)
            table.add_row(Text(name), cell)
        return table

    def _repr_html_(self) -> str:
        from html import escape

        heading = "<tr><th></th><th>choice</th><th>reason</th><th>change</th></tr>"
        row = "<tr><th>{}</th><td>{}</td><td>{}</td><td><code>{}</code></td></tr>"
        rows = [row.format(*(escape(escape_controls(text)) for text in line)) for line in self.lines]
        return f"<table><caption>{escape(self.title)}</caption>{heading}{''.join(rows)}</table>"


def lines_of_task(name: str, lines: Iterable[Line], loss: Any, is_table: bool = False) -> Iterator[Line]:
    """Yield lines of one of several tasks, with its name, and settings of that task as `change`.

    Args:
        name: The name of the task; "" for a single task, whose lines do not change.
        lines: The lines of a single task.
        loss: The loss of the task.
        is_table: Whether its labels are columns of a table, with settings in data.targets.
    """
    for line in lines:
        used = getattr(loss, "name", "cross_entropy")  # a custom loss has no name
        change = _settings_of(name, line.change, used, is_table) if name else line.change
        yield line._replace(name=f"{name}: {line.name}", change=change) if name else line


def _settings_of(name: str, change: str, loss: str, is_table: bool) -> str:
    """Return the settings that change a choice of one of several tasks, given those of a single task."""
    losses, targets, found = f"++task.losses.{name}", f"++data.targets.{name}", []
    for setting in filter(None, change.split(", ")):
        key, _, value = setting.partition("=")
        if key == "loss":
            found.append(f"{losses}={value}")
        elif key.startswith("loss."):
            found.append(f"{losses}={{name:{loss},{key.removeprefix('loss.')}:{value}}}")
        elif key == "metrics":
            found.append(f"++metrics.{name}=[...]")
        elif key.lstrip("+") in ("task.class_names", "task.threshold"):
            found += [f"{targets}.{key.rpartition('.')[2]}={value}"] * is_table
        elif key == "data.target":
            found += [f"{targets}.column=..."] * is_table
        elif key != "head":
            found.append(setting)
    return ", ".join(found)


# shown instead of the stages' names if the decision was fitted
HEADINGS = {"val": "val (default)", "test/default_decision": "test (default)", "test": "test (tuned)"}


def by_stage(metrics: Mapping[str, Any]) -> tuple[list[str], dict[str, list[Any]]]:
    """Return the headings of the stages, and the values of each metric by stage, None if it was not computed.

    Validation metrics use the default decision, as the tuned one is fitted on the same rows.
    """
    # "test/f1", "test/recall/cat" or "test/default_decision/f1"
    parts = [re.fullmatch(r"(?s)(\w+/default_decision|\w+)/(.*)", name) for name in metrics]
    found = dict.fromkeys(part[1] for part in parts if part)
    stages = sorted(found, key=lambda stage: [*HEADINGS].index(stage) if stage in HEADINGS else -1)
    names = dict.fromkeys(part[2] for part in parts if part)
    headings = HEADINGS if "test/default_decision" in stages else {}
    return [headings.get(stage, stage) for stage in stages], {
        name: [metrics.get(f"{stage}/{name}") for stage in stages] for name in names
    }


def compare_decisions(metrics: Mapping[str, float | None]) -> str:
    """Return a sentence if the tuned decision worsens a metric of the test rows, and one for calibration."""
    prefix = "test/default_decision/"
    better, worse, uncalibrated = list[str](), list[str](), list[str]()
    for key, before in metrics.items():
        name, after = key.removeprefix(prefix), metrics.get(f"test/{key.removeprefix(prefix)}")
        first, _, metric = name.partition("/")
        metric = metric if direction(first) is None else name  # after the name of a task
        mode = direction(metric) if key.startswith(prefix) and "/" not in metric else None
        if mode is None or before is None or after is None or not abs(after - before) >= MIN_CHANGE:
            continue  # also if one of them is NaN
        change = f"{name} ({before:.4f} to {after:.4f})"
        is_better = (after > before) == (mode == "max")
        if metric in OF_PROBABILITIES:
            uncalibrated += [] if is_better else [change]
        else:
            (better if is_better else worse).append(change)
    lines = []
    if worse:
        gains = f"improves {', '.join(better)}, but " if better else ""
        lines.append(
            f"On the test rows, the tuned decision {gains}worsens {', '.join(worse)}. decision.metric=null "
            "keeps the default one."
        )
    if uncalibrated:
        lines.append(
            f"On the test rows, calibration worsens {', '.join(uncalibrated)}. decision.calibration=none "
            "leaves it out."
        )
    return " ".join(lines)


def print_metrics(title: str, metrics: Mapping[str, float]) -> None:
    """Print a table of metrics, with a column for each stage."""
    stages, rows = by_stage(metrics)
    cells = [
        (name, *("" if value is None else f"{value:.4f}" for value in row)) for name, row in rows.items()
    ]
    print_table(title, cells, header=("", *stages))


def format_rows(columns: Mapping[str, Sequence[Any]]) -> list[list[str]]:
    """Return the rows of columns of text and numbers, with four digits; None becomes an empty cell."""
    return [
        ["" if value is None else value if isinstance(value, str) else f"{value:.4g}" for value in row]
        for row in zip(*columns.values(), strict=True)
    ]


def print_table(title: str, rows: Iterable[Sequence[str]], header: Sequence[str] = ("", "")) -> None:
    """Print a table with a title and a header."""
    table = make_table(title, header)
    for row in rows:
        table.add_row(*map(sanitize, row))
    print_renderable(table)


def print_renderable(renderable: Any) -> None:
    """Print a plan or a table on the console."""
    from rich.console import Console

    Console(markup=False, emoji=False).print(renderable)


def make_table(title: str, header: Sequence[str] = ("", "")) -> "Table":
    """Return a table without rows; columns with a heading are aligned to the right, except the first."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE, show_header=any(header))
    table.add_column(header[0], style="bold", overflow="fold")
    for name in header[1:]:
        table.add_column(name, justify="right" if name else "left", overflow="fold")
    return table
