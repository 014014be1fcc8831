"""The report of a run, report.html, and its figures as files."""

import base64
import hashlib
import io
import json
import re
import warnings
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from matplotlib.figure import Figure

from lossselect.data.overview import Overview
from lossselect.reporting import figures
from lossselect.reporting.outcome import Outcome
from lossselect.reporting.overview import page_tables, summary_rows
from lossselect.reporting.plan import Line, by_stage, format_rows
from lossselect.utils.atomic_write import atomic_write
from lossselect.utils.terminal import escape_controls

UNDEFINED = "\N{EN DASH}"  # sort.js compares cells with it


def write_report(folder: Path, outcome: Outcome | None = None, ended: str = "") -> Path:
    """Write report.html, figures/*.svg and figures/*.png from the files in a run folder; return the path.

    `ended` is the reason if the run did not finish.
    """
    lines: list[Line] = []
    metrics: dict[str, Any] = {}
    unreadable = (OSError, ValueError, TypeError, KeyError, AttributeError)  # files of a run that was killed
    with suppress(*unreadable):
        content = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        lines = [Line(**line) for line in content["lines"]]
    with suppress(*unreadable):
        content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        metrics = {name: value for name, value in content.items() if isinstance(value, int | float | None)}
    overview: dict[str, Any] = {}
    with suppress(*unreadable):
        of_data = Overview.from_dict(json.loads((folder / "data.json").read_text(encoding="utf-8")))
        overview = {"summary": [*summary_rows(of_data)], "tables": [*page_tables(of_data)]}
    nets: dict[str, Any] = {}
    with suppress(*unreadable, pl.exceptions.PolarsError):
        nets = pl.read_csv(folder / "nets.csv").to_dict(as_series=False)
    stages, values = by_stage(metrics)
    classes = {**outcome.per_class, **outcome.counts()} if outcome and outcome.per_class else {}
    page = _render(
        title=lines[0].value if lines else folder.name,
        ended=ended,
        plan=lines,
        stages=stages,
        metrics=[(name, *row) for name, row in values.items()],
        by_key=metrics,
        pictures=_draw_pictures(folder, outcome),
        net_header=[*nets],
        nets=format_rows(nets),
        class_header=[*classes],
        classes=[*zip(*classes.values(), strict=True)],
        outcome=outcome,
        figures=figures,
        overview=overview,
    )
    with atomic_write(folder / "report.html") as path:
        path.write_text(page, encoding="utf-8")
    return folder / "report.html"


def _read_log(folder: Path) -> pl.DataFrame:
    with suppress(OSError, pl.exceptions.PolarsError):  # missing, or cut off
        options: dict[str, Any] = {"infer_schema": False, "quote_char": None, "truncate_ragged_lines": True}
        log = pl.read_csv(folder / "logs" / "metrics.csv", **options)
        return log.with_columns(pl.all().cast(pl.Float64, strict=False))
    return pl.DataFrame()


def _draw_pictures(folder: Path, outcome: Outcome | None) -> dict[str, Markup]:
    """Return the figures for which there are data, by name; page.html has their captions."""
    log = _read_log(folder)
    usual = ("val/accuracy", "val/f1_macro", "val/auroc", "val/average_precision")
    others = [name for name in log.columns if re.fullmatch(r"val/(?!loss$)[^/]+", name)]
    scores = [name for name in usual if name in others] or others[:6]
    with figures.styled("report"):
        drawn = {
            "loss": figures.epoch_curves(log, ["train/loss", "val/loss"], "loss (nats)"),
            "metrics": figures.epoch_curves(log, scores, "metric"),
        }
        if outcome:
            drawn |= {
                "roc": figures.roc(outcome),
                "precision_recall": figures.precision_recall(outcome),
                "reliability": figures.reliability(outcome),
                "scores": figures.scores(outcome),
                "confusion": figures.confusion(outcome),
                "together": figures.combine(outcome),
            }
    return {name: _save(figure, name, folder / "figures") for name, figure in drawn.items() if figure}


def _save(figure: Figure, name: str, folder: Path) -> Markup:
    """Write the figure to files, and return it as markup for the page."""
    folder.mkdir(exist_ok=True)
    svg = io.StringIO()
    with figures.styled(name), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from"
        )  # an emoji in a class name, in the PNG
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        figure.savefig(folder / f"{name}.png", dpi=130, facecolor="white")
    text = escape_controls(svg.getvalue())  # XML cannot contain control characters
    (folder / f"{name}.svg").write_text(text, encoding="utf-8")
    inline = text[text.index("<svg") :]
    inline = re.sub(r"<metadata>.*?</metadata>", "", inline, flags=re.DOTALL)
    # matplotlib escapes text; the ids of groups would be repeated in each figure
    inline = re.sub(r'<g id="[^"]*">', "<g>", inline)
    return Markup(inline.replace(figures.INK, "currentColor"))


def _render(**content: Any) -> str:
    script = _read("sort.js")
    # the digest allows only this script: a script in a class name does not run
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template().render(
        script=Markup(script), style=Markup(_read("page.css")), digest=digest, **content
    )


def _read(name: str) -> str:
    return (files("lossselect.reporting") / name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: escape_controls(value) if type(value) is str else value,
    )
    environment.filters["cell"] = _format_cell
    return environment.from_string(_read("page.html"))


def _format_cell(value: Any) -> str:
    if value is None or value != value:
        return UNDEFINED
    return f"{value:.3f}" if isinstance(value, float | np.floating) else str(value)
