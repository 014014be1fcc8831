"""report.html, and its pictures as files."""

import base64
import hashlib
import io
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from lossselect.reporting import figures
from lossselect.reporting.figures import MAX_CELLS, MAX_CURVES, MAX_PANELS
from lossselect.reporting.outcome import Outcome
from lossselect.reporting.plan import Line, by_stage
from lossselect.utils.atomic_write import atomic_write
from lossselect.utils.terminal import escape_controls

MAX_ERRORS = 20  # in the tables of errors
UNDEFINED = "\N{EN DASH}"  # sort.js has it, too


class Picture(NamedTuple):
    """A figure of the page, None if there is nothing to draw."""

    name: str
    title: str
    caption: str
    figure: Figure | None


class Grid(NamedTuple):
    """A table of the page; numbers are right-aligned, and sorted as such."""

    title: str
    caption: str
    header: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def write_report(folder: Path, outcome: Outcome | None = None, ended: str = "") -> Path:
    """Write report.html and figures/*.svg, *.png from what a run has left in its folder; return the path.

    `ended` is why the run ended before its time, if it did.
    """
    lines: list[Line] = []
    metrics: dict[str, Any] = {}
    unreadable = (OSError, ValueError, TypeError, KeyError, AttributeError)  # of a run that ended before
    with suppress(*unreadable):
        content = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        lines = [Line(**line) for line in content["lines"]]
    with suppress(*unreadable):
        content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        metrics = {name: value for name, value in content.items() if isinstance(value, int | float | None)}
    page = _render(
        title=lines[0].value if lines else folder.name,
        ended=ended,
        plan=lines,
        metrics=_metric_grid(metrics) if metrics else None,
        highlights=_highlights(metrics, outcome.split if outcome else "test"),
        pictures=[*_draw_pictures(folder, outcome)],
        tables=[*_tables(outcome)] if outcome else [],
        outcome=outcome,
    )
    with atomic_write(folder / "report.html") as path:
        path.write_text(page, encoding="utf-8")
    return folder / "report.html"


def _read_log(folder: Path) -> pl.DataFrame:
    with suppress(OSError, pl.exceptions.PolarsError):  # there is none, or it was cut short
        options: dict[str, Any] = {"infer_schema": False, "quote_char": None, "truncate_ragged_lines": True}
        log = pl.read_csv(folder / "logs" / "metrics.csv", **options)
        return log.with_columns(pl.all().cast(pl.Float64, strict=False))
    return pl.DataFrame()


def _draw_pictures(folder: Path, outcome: Outcome | None) -> Iterator[tuple[Picture, Markup]]:
    with figures.styled("report"):
        pictures = [*_log_pictures(_read_log(folder)), *(_outcome_pictures(outcome) if outcome else ())]
    for picture in pictures:
        if picture.figure is not None:
            yield picture, _save(picture.figure, picture.name, folder / "figures")


def _log_pictures(log: pl.DataFrame) -> Iterator[Picture]:
    figure = figures.epoch_curves(log, ["train/loss", "val/loss"], "loss (nats)")
    yield Picture("loss", "Loss", "Of the train and the validation split by epoch.", figure)
    names = ["val/accuracy", "val/f1_macro", "val/auroc", "val/average_precision"]
    figure = figures.epoch_curves(log, names, "metric")
    yield Picture("metrics", "Metrics", "Of the validation split by epoch.", figure)


def _outcome_pictures(outcome: Outcome) -> Iterator[Picture]:
    count, has_thresholds = len(outcome.names), outcome.thresholds is not None
    curves, panels, cells = (
        f" The {shown} of {count} with the most rows." * (count > shown)
        for shown in (MAX_CURVES, MAX_PANELS, MAX_CELLS)
    )
    each = " Of each class against the others." * outcome.task.exclusive
    caption = f"{each}{' Dots are where the thresholds are.' * has_thresholds}{curves}".strip()
    yield Picture("roc", "ROC", caption, figures.roc(outcome))
    figure = figures.precision_recall(outcome)
    yield Picture("precision_recall", "Precision and recall", caption, figure)
    caption = "How often what is said with a probability is true; on the dotted line as often as said."
    caption += " Bars: the share of rows."
    yield Picture("reliability", "Reliability", caption, figures.reliability(outcome))
    line = " The line is the threshold." * has_thresholds
    caption = f"The probability of an output where it is true and where it is not.{line}{panels}"
    yield Picture("scores", "Scores", caption, figures.scores(outcome))
    selection = f" The {MAX_CELLS} of {count} that are confused most." * (count > MAX_CELLS)
    caption = f"Rows of each true class by what was decided; the colour is the share.{selection}"
    yield Picture("confusion", "Confusion", caption, figures.confusion(outcome))
    caption = f"Of the rows that have one label (down) how many have another one (across).{cells}"
    yield Picture("together", "Labels together", caption, figures.combine(outcome))


def _save(figure: Figure, name: str, folder: Path) -> Markup:
    """Write the figure to files, and return it as markup for the page."""
    folder.mkdir(exist_ok=True)
    svg = io.StringIO()
    with figures.styled(name), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # of an emoji, in the PNG
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        figure.savefig(folder / f"{name}.png", dpi=130, facecolor="white")
    text = escape_controls(svg.getvalue())  # XML has no control characters
    (folder / f"{name}.svg").write_text(text, encoding="utf-8")
    inline = text[text.index("<svg") :]
    inline = re.sub(r"<metadata>.*?</metadata>", "", inline, flags=re.DOTALL)
    # matplotlib escapes what it writes; ids of groups would be there once for each picture
    inline = re.sub(r'<g id="[^"]*">', "<g>", inline)
    return Markup(inline.replace(figures.INK, "currentColor"))


def _metric_grid(metrics: Mapping[str, Any]) -> Grid:
    """Return a row for each metric, and a column for each stage."""
    stages, values = by_stage(metrics)
    end = "; default: before thresholds and calibration were fitted" * ("test (tuned)" in stages)
    caption = f"Each over all rows that were evaluated of the split, of the best checkpoint{end}."
    return Grid("Metrics", caption, ("metric", *stages), [(name, *row) for name, row in values.items()])


def _highlights(metrics: Mapping[str, Any], split: str) -> list[tuple[str, float]]:
    """Return the most important numbers."""
    names = ("accuracy", "f1_macro", "f1_micro", "auroc", "average_precision", "calibration_error")
    values = {f"{split} {name.replace('_', ' ')}": metrics.get(f"{split}/{name}") for name in names}
    return [(name, value) for name, value in values.items() if value is not None]


def _tables(outcome: Outcome) -> Iterator[Grid]:
    split = f"Of the {outcome.split} split"
    if outcome.per_class:
        columns = {**outcome.per_class, **outcome.counts()}
        rows = [*zip(*columns.values(), strict=True)]
        kind = "class" if len(rows) == 1 else "labels" if outcome.task.several_labels else "classes"
        yield Grid(f"{len(rows):,} {kind}", f"{split}. A click on a heading sorts.", tuple(columns), rows)
    if pairs := outcome.find_confusions(MAX_ERRORS):
        header = ("true", "decided", "rows", "share of the true")
        yield Grid("Taken for each other", "The pairs that are taken for each other most.", header, pairs)
    if wrong := outcome.find_errors(MAX_ERRORS):
        caption = f"{split}, by the probability of what was decided; rows count from 0."
        header = ("row", "true", "decided", "probability")
        yield Grid("Most confidently wrong", caption, header, wrong)


def _render(**content: Any) -> str:
    script, style, template = (
        (files("lossselect.reporting") / name).read_text(encoding="utf-8")
        for name in ("sort.js", "page.css", "page.html")
    )
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: escape_controls(value) if type(value) is str else value,
    )
    environment.filters["cell"] = _format_cell
    # only this script runs, whatever a class is called
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.from_string(template).render(
        script=Markup(script), style=Markup(style), digest=digest, **content
    )


def _format_cell(value: Any) -> str:
    if value is None or value != value:
        return UNDEFINED
    return f"{value:.3f}" if isinstance(value, float | np.floating) else str(value)
