"""The report of a run, report.html, and its figures as files."""

import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import polars as pl
from markupsafe import Markup

from lossselect.data.overview import Overview
from lossselect.reporting import figures
from lossselect.reporting.formulas import escape_formula
from lossselect.reporting.html import LONG_NAME, Numeric, figure_to_svg, format_cell, inline, render
from lossselect.reporting.importance import Importance
from lossselect.reporting.outcome import Outcome
from lossselect.reporting.overview import page_tables, summary_rows
from lossselect.reporting.plan import Line, by_stage, compare_decisions
from lossselect.reporting.run_files import (
    ERROR,
    HIGH,
    LOW,
    UNREADABLE,
    read_bounds,
    read_log,
    read_metrics,
    read_plan,
    read_seed,
    read_start,
)
from lossselect.utils.atomic_write import atomic_write
from lossselect.utils.names import shorten_names
from lossselect.utils.redaction import redact

MAX_WRONG = 20
"""Maximum number of rows of the table of wrong predictions."""


def write_report(
    folder: Path,
    outcomes: Mapping[str, Outcome] = MappingProxyType({}),
    ended: str = "",
    importance: Importance | None = None,
    curve: figures.LearningCurve | None = None,
) -> Path:
    """Write report.html from the files in a run folder, and figures/ as SVG, PNG and CSV; return the path.

    Args:
        folder: The run folder.
        outcomes: The predictions on the test rows by task (see `Task.tasks`); none for a run without results.
        ended: The reason if the run did not finish.
        importance: The importance of the columns, if it was computed.
        curve: The learning curve, if it was computed.
    """
    lines, metrics = read_plan(folder), read_metrics(folder)
    overview: dict[str, Any] = {}
    data = ""
    with suppress(*UNREADABLE):
        of_data = Overview.from_dict(json.loads((folder / "data.json").read_text(encoding="utf-8")))
        data = of_data.name
        overview = {"summary": [*summary_rows(of_data)], "tables": [*page_tables(of_data)]}
    facts = _identify(folder, lines, data)
    nets, trainings = (_read_table(folder / name) for name in ("nets.csv", "members.csv"))
    stages, values = by_stage(metrics)
    extra = _bounds_columns(folder, values)
    heading = ": ".join(Path(facts[key]).name for key in ("data", "task") if key in facts) or folder.name
    others = (f"{key} {value}" for key, value in facts.items() if key not in ("data", "task"))
    page = render(
        "page.html",
        title=", ".join([heading, *others]),
        heading=heading,
        facts=facts,
        ended=ended,
        plan=lines,
        stages=[*stages, *extra],
        metrics=[(name, *row, *(column[name] for column in extra.values())) for name, row in values.items()],
        worse=compare_decisions(metrics),
        by_key=metrics,
        pictures=_draw_pictures(folder, importance, curve),
        parts=[_describe_part(folder, number, *item) for number, item in enumerate(outcomes.items())],
        net_header=[*nets],
        nets=[*zip(*nets.values(), strict=True)],
        trainings=_trainings_table(trainings),
        importance=importance,
        figures=figures,
        overview=overview,
    )
    with atomic_write(folder / "report.html") as path:
        path.write_text(page, encoding="utf-8")
    return folder / "report.html"


def _read_table(path: Path) -> dict[str, Any]:
    with suppress(OSError, pl.exceptions.PolarsError):  # missing or damaged
        return pl.read_csv(path).to_dict(as_series=False)
    return {}


def _trainings_table(trainings: Mapping[str, Sequence[Any]]) -> tuple[Any, ...]:
    """Return the header and the rows, a row for each metric; empty without trainings."""
    if not trainings:
        return ()
    (_, names), *columns = trainings.items()
    rows = [(name, *values) for name, values in columns if "default_decision" not in name]
    return ["metric", *names], rows


def _bounds_columns(folder: Path, metrics: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the columns of standard errors and of 95 % intervals by metric, if there are any."""
    bounds, columns = read_bounds(folder), dict[str, dict[str, Any]]()
    for split in ("val", "test"):
        errors, intervals = {}, {}
        for name in metrics:
            low, high, errors[name] = (bounds.get(f"{split}/{name}{end}") for end in (LOW, HIGH, ERROR))
            has_interval = low is not None and high is not None
            intervals[name] = Numeric(f"{format_cell(low)} to {format_cell(high)}") if has_interval else None
        columns |= {f"{split}, standard error": errors} if any(errors.values()) else {}
        columns |= {f"{split}, 95 % interval": intervals} if any(intervals.values()) else {}
    return columns


def _identify(folder: Path, lines: Sequence[Line], data: str) -> dict[str, str]:
    """Return what identifies a run: data, task, loss, seed, date and folder, as far as its files tell."""
    values = {line.name: line.value for line in lines}
    seed = read_seed(folder)
    is_evaluation = "evaluation" in values
    facts = {
        "data": data or values.get("evaluation" if is_evaluation else "data", "").partition(": ")[0],
        "task": values.get("task", ""),
        "loss": values.get("loss", ""),
        "checkpoint": values.get("checkpoint", "") if is_evaluation else "",
        "seed": "" if seed is None else str(seed),
        "started": read_start(folder),
        "folder": values.get("outputs", str(folder.resolve())),
    }
    return {name: redact(value) for name, value in facts.items() if value}


def _wrong_table(outcome: Outcome) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
    """Return the header and the rows of the table of the most confident wrong predictions."""
    found = outcome.find_errors(MAX_WRONG)
    cells = outcome.describe([row for row, *_ in found]) if outcome.describe and found else {}
    header = ["row", "true", "predicted", "probability", *shorten_names([*cells], LONG_NAME)]
    columns = [*zip(*found, strict=True), *cells.values()]
    return header, [*zip(*columns, strict=True)]


def _describe_part(folder: Path, number: int, name: str, outcome: Outcome) -> dict[str, Any]:
    """Return the content of the page about the predictions of a task."""
    classes = {**outcome.per_class, **outcome.counts()} if outcome.per_class else {}
    return {
        "name": name,
        "number": number,  # part of the ids of figures, except for the first task
        "start": f"{name}: " if name else "",
        "outcome": outcome,
        "pictures": _draw_outcome(folder, name, outcome),
        "class_header": [*classes],
        "classes": [*zip(*classes.values(), strict=True)],
        "wrong": _wrong_table(outcome),
    }


def _draw_outcome(folder: Path, name: str, outcome: Outcome) -> dict[str, Markup]:
    """Return the figures of the predictions of a task, by name."""
    # names of tasks may contain any characters, and two may become the same
    end = f"_{re.sub(r'[^A-Za-z0-9-]+', '_', name)}_{zlib.crc32(name.encode()):08x}" if name else ""
    with figures.styled("report"):
        drawn = {
            "roc": figures.roc(outcome),
            "precision_recall": figures.precision_recall(outcome),
            "reliability": figures.reliability(outcome),
            "scores": figures.scores(outcome),
            "confusion": figures.confusion(outcome),
            "together": figures.combine(outcome),
        }
    return {key: _save(drawing, key + end, folder / "figures") for key, drawing in drawn.items() if drawing}


def _draw_pictures(
    folder: Path, importance: Importance | None, curve: figures.LearningCurve | None
) -> dict[str, Markup]:
    """Return the figures of the run for which there are data, by name; page.html has their captions."""
    log = read_log(folder)
    usual = ("val/accuracy", "val/f1_macro", "val/auroc", "val/average_precision")
    others = [name for name in log.columns if re.fullmatch(r"val/(?!loss$)[^/]+", name)]
    scores = [name for name in usual if name in others] or others[:6]
    losses = ("train/loss", "val/loss")
    with figures.styled("report"):
        drawn = {
            "loss": figures.epoch_curves([(name, log, name) for name in losses], "loss (nats)"),
            "metrics": figures.epoch_curves([(name, log, name) for name in scores], "metric"),
        }
        if curve:
            drawn["learning_curve"] = figures.learning_curve(curve)
        if importance:
            drawn["importance"] = figures.importance(importance)
    return {name: _save(drawing, name, folder / "figures") for name, drawing in drawn.items() if drawing}


def _save(drawing: figures.Drawing, name: str, folder: Path) -> Markup:
    """Write a figure and its data to files, and return it as markup for the page."""
    folder.mkdir(exist_ok=True)
    text = figure_to_svg(drawing.figure, name, folder / f"{name}.png")
    (folder / f"{name}.svg").write_text(text, encoding="utf-8")
    escape_formula(drawing.data).write_csv(folder / f"{name}.csv")
    return inline(text)
