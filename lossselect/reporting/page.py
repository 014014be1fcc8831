"""report.html, and its pictures as files."""

import base64
import hashlib
import io
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from lossselect.reporting.figures import (
    INK,
    MAX_CELLS,
    MAX_CURVES,
    MAX_PANELS,
    combine,
    confusion,
    loss_curves,
    metric_curves,
    precision_recall,
    reliability,
    roc,
    scores,
    styled,
)
from lossselect.reporting.outcome import Outcome
from lossselect.reporting.plan import Line, by_stage
from lossselect.utils.atomic_write import atomic_write
from lossselect.utils.terminal import escape_controls

MAX_WRONG_ROWS = 20
"""Rows in the tables of mistakes."""


NONE = "\N{EN DASH}"
"""In place of a number that is not defined; sort.js knows it."""


class Picture(NamedTuple):
    """A figure of the page."""

    name: str
    title: str
    said: str
    svg: Markup


class Grid(NamedTuple):
    """A table of the page; numbers are right-aligned, and sorted as such."""

    title: str
    said: str
    header: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def write_report(folder: Path, outcome: Outcome | None = None, ended: str = "") -> Path:
    """Write report.html and figures/*.svg, *.png, of what there is in a run's folder.

    Args:
        folder: With plan.json, metrics.json and logs/metrics.csv, or some of them.
        outcome: Of the rows that the run was tested with.
        ended: Why the run ended before its time, if it did.

    Returns:
        The page's path.
    """
    plan, metrics = _read_plan(folder), _read_metrics(folder)
    pictures = _pictures(folder, outcome)
    page = _render(
        title=plan[0]["value"] if plan else folder.name,
        ended=ended,
        plan=plan,
        metrics=_metric_grid(metrics) if metrics else None,
        highlights=_highlights(metrics, outcome),
        pictures=pictures,
        tables=[*_tables(outcome)] if outcome else [],
        outcome=outcome,
    )
    with atomic_write(folder / "report.html") as path:
        path.write_text(page, encoding="utf-8")
    return folder / "report.html"


def _read_plan(folder: Path) -> list[dict[str, Any]]:
    """The lines of plan.json; none where there are none that a page could show."""
    plan = _read_json(folder / "plan.json")
    lines = plan.get("lines") if isinstance(plan, dict) else None
    whole = isinstance(lines, list) and all(
        isinstance(line, dict) and {*Line._fields} <= line.keys() for line in lines
    )
    return lines if whole and lines else []


def _read_metrics(folder: Path) -> dict[str, float] | None:
    metrics = _read_json(folder / "metrics.json")
    whole = isinstance(metrics, dict) and all(
        isinstance(value, int | float | None) for value in metrics.values()
    )
    return metrics if whole else None


def _read_json(path: Path) -> Any:
    with suppress(OSError, ValueError):  # of a run that ended before
        return json.loads(path.read_text(encoding="utf-8"))
    return None


def _read_log(folder: Path) -> pl.DataFrame:
    with suppress(OSError, pl.exceptions.PolarsError):  # there is none, or it was cut short
        given: dict[str, Any] = {"infer_schema": False, "quote_char": None, "truncate_ragged_lines": True}
        log = pl.read_csv(folder / "logs" / "metrics.csv", **given)
        return log.with_columns(pl.all().cast(pl.Float64, strict=False))
    return pl.DataFrame()


def _pictures(folder: Path, outcome: Outcome | None) -> list[Picture]:
    log = _read_log(folder)
    drawn: list[tuple[str, str, str, Callable[[], Figure | None]]] = [
        ("loss", "Loss", "Of the train and the validation split by epoch.", lambda: loss_curves(log)),
        ("metrics", "Metrics", "Of the validation split by epoch.", lambda: metric_curves(log)),
    ]
    if outcome is not None:
        drawn += [*_of_outcome(outcome)]
    made = []
    for name, title, said, draw in drawn:
        with styled(name):
            figure = draw()
            if figure is not None:
                made.append(Picture(name, title, said, _saved(figure, name, folder / "figures")))
    return made


def _of_outcome(outcome: Outcome) -> Iterator[tuple[str, str, str, Callable[[], Figure | None]]]:
    many = len(outcome.names)
    marked = "" if outcome.thresholds is None else " Dots are where the thresholds are."
    each = " Of each class against the others." if outcome.exclusive else ""
    curves, panels, cells = (
        f" The {most} of {many} with the most rows." if many > most else ""
        for most in (MAX_CURVES, MAX_PANELS, MAX_CELLS)
    )
    yield "roc", "ROC", f"{each}{marked}{curves}".strip(), lambda: roc(outcome)
    said = f"{each}{marked}{curves}".strip()
    yield "precision_recall", "Precision and recall", said, lambda: precision_recall(outcome)
    yield (
        "reliability",
        "Reliability",
        "How often what is said with a probability is true; on the dotted line as often as said. Bars: the "
        "share of rows.",
        lambda: reliability(outcome),
    )
    line = "" if outcome.thresholds is None else " The line is the threshold."
    said = f"The probability of an output where it is true and where it is not.{line}{panels}"
    yield "scores", "Scores", said, lambda: scores(outcome)
    most = f" The {MAX_CELLS} of {many} that are confused most." if many > MAX_CELLS else ""
    said = f"Rows of each true class by what was decided; the colour is the share.{most}"
    yield "confusion", "Confusion", said, lambda: confusion(outcome)
    said = f"Of the rows that have one label (down) how many have another one (across).{cells}"
    yield "together", "Labels together", said, lambda: combine(outcome)


def _saved(figure: Figure, name: str, folder: Path) -> Markup:
    """The figure as files, and as markup for the page."""
    folder.mkdir(exist_ok=True)
    svg = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # of an emoji, in the PNG
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        figure.savefig(folder / f"{name}.png", dpi=130, facecolor="white")
    text = escape_controls(svg.getvalue())  # XML has no control characters
    (folder / f"{name}.svg").write_text(text, encoding="utf-8")
    inline = text[text.index("<svg") :]
    inline = re.sub(r"<metadata>.*?</metadata>", "", inline, flags=re.DOTALL)
    # matplotlib escapes what it writes; ids of groups would be there once for each picture
    inline = re.sub(r'<g id="[^"]*">', "<g>", inline)
    return Markup(inline.replace(INK, "currentColor"))


def _metric_grid(metrics: Mapping[str, Any]) -> Grid:
    """A row for each metric, a column for each stage."""
    stages, values = by_stage(metrics)
    rows = [(name, *row) for name, row in values.items()]
    said = "Each over all rows that were evaluated of the split, of the best checkpoint"
    said += "; default: before thresholds and calibration were fitted." if "test (tuned)" in stages else "."
    return Grid("Metrics", said, ("metric", *stages), rows)


def _highlights(metrics: Mapping[str, Any] | None, outcome: Outcome | None) -> list[tuple[str, float]]:
    """The numbers that are looked for first."""
    split = outcome.split if outcome else "test"
    names = ("accuracy", "f1_macro", "f1_micro", "auroc", "average_precision", "calibration_error")
    found = ((name, (metrics or {}).get(f"{split}/{name}")) for name in names)
    return [(f"{split} {name.replace('_', ' ')}", value) for name, value in found if value is not None]


def _tables(outcome: Outcome) -> Iterator[Grid]:
    if outcome.per_class:
        columns = {**outcome.per_class, **outcome.counts()}
        header, rows = tuple(columns), [*zip(*columns.values(), strict=True)]
        kind = "labels" if outcome.task.several_labels else "classes"
        said = f"Of the {outcome.split} split. A click on a heading sorts."
        yield Grid(f"{len(rows):,} {kind if len(rows) != 1 else 'class'}", said, header, rows)
    if pairs := outcome.confused(MAX_WRONG_ROWS):
        said = "The pairs that are taken for each other most."
        yield Grid("Taken for each other", said, ("true", "decided", "rows", "share of the true"), pairs)
    if wrong := outcome.most_wrong(MAX_WRONG_ROWS):
        said = f"Of the {outcome.split} split, by the probability of what was decided; rows count from 0."
        header = ("row", "true", "decided", "probability")
        yield Grid("Most confidently wrong", said, header, wrong)


def _render(**content: Any) -> str:
    here = files("lossselect.reporting")
    script = (here / "sort.js").read_text(encoding="utf-8")
    style = (here / "page.css").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: escape_controls(value) if type(value) is str else value,
    )
    environment.filters["cell"] = _cell
    template = environment.from_string((here / "page.html").read_text(encoding="utf-8"))
    # only this script runs, whatever a class is called
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template.render(script=Markup(script), style=Markup(style), digest=digest, **content)


def _cell(value: Any) -> str:
    """A value as it is read."""
    if value is None or value != value:
        return NONE
    return f"{value:.3f}" if isinstance(value, float | np.floating) else str(value)
