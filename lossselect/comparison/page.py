"""The page of a comparison or of a sweep."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from lossselect.comparison.compare import Comparison, RowComparison
from lossselect.comparison.table import Mean, Table
from lossselect.reporting import figures
from lossselect.reporting.html import LONG_NAME, Numeric, figure_to_svg, inline, render
from lossselect.reporting.run_files import read_log
from lossselect.reporting.statistics import Predictions
from lossselect.utils.names import shorten_names

BINS = 15
"""Number of bins of a reliability diagram."""


def comparison_page(comparisons: Sequence[Comparison]) -> str:
    """Return the page of a comparison, with a part for each task."""
    parts = [_make_part(comparison, f"task{i}") for i, comparison in enumerate(comparisons)]
    return render("comparison.html", title="Comparison of runs", parts=parts)


def sweep_page(tables: Sequence[Table]) -> str:
    """Return the page of a sweep: the tables of its runs."""
    parts = [{**_table_of(table), "test_rows": {}, "classes": (), "pictures": ()} for table in tables]
    return render("comparison.html", title="Runs of a sweep", parts=parts)


def _table_of(table: Table) -> dict[str, Any]:
    """Return the content of two tables: the runs with their main metrics, and all metrics, a row for each."""
    columns, has_best = table.columns(), any(row.is_best for row in table.rows)
    has_failed = any(row.finished < len(row.runs) for row in table.rows)
    columns["run"] = [
        row.runs[0].name + (f" and {len(row.runs) - 1} more" if len(row.runs) > 1 else "")
        for row in table.rows
    ]
    names = dict.fromkeys(name for row in table.rows for name in row.metrics)
    means = {name: [_format_mean(row.metrics.get(name)) for row in table.rows] for name in names}
    shown = ["run", *["best"] * has_best, *table.settings, "seed", *["finished"] * has_failed]
    main = {name: means.get(name, columns[name]) for name in (*shown, *table.metrics, "seconds")}
    return {
        "task": table.task,
        "header": [*main],
        "rows": [*zip(*main.values(), strict=True)],
        "metric_header": ["metric", *shorten_names(columns["run"], LONG_NAME)],
        "metrics": [(name, *values) for name, values in means.items()],
        "best": table.metric if has_best else "",
        "note": table.note,
        "notes": [f"{', '.join(runs)}: {error}" for error, runs in table.errors().items()],
    }


def _format_mean(mean: Mean | None) -> Any:
    if mean is None or math.isnan(mean.mean):
        return None
    return mean.mean if math.isnan(mean.error) else Numeric(f"{mean.mean:.3f} ± {mean.error:.3f}")


def _make_part(comparison: Comparison, name: str) -> dict[str, Any]:
    header, rows = comparison.classes
    shown = _table_of(comparison.table)
    return {
        **shown,
        "reference": comparison.reference.name,
        "test_rows": {task: _describe(of_task) for task, of_task in comparison.test_rows.items()},
        "classes": (header, rows) if rows else (),
        "pictures": _draw(comparison, name),
        "notes": shown["notes"] + comparison.notes,
    }


def _describe(test_rows: RowComparison) -> dict[str, Any]:
    """Return the tables of a task's metrics and of their differences, None for one without rows."""
    values = [
        {"run": run}
        | {metric: Numeric(f"{v.value:.3f} [{v.low:.3f}, {v.high:.3f}]") for metric, v in metrics.items()}
        for run, metrics in test_rows.intervals.items()
    ]
    differing = [
        {"run": run, "rows": rows}
        | {
            metric: Numeric(f"{v.value:+.4f}, p = {v.p:.3f}\n[{v.low:+.4f}, {v.high:+.4f}]")
            for metric, v in metrics.items()
        }
        for run, (rows, metrics) in test_rows.differences.items()
    ]
    return {"intervals": _to_table(values), "differences": _to_table(differing)}


def _to_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]] | None:
    """Return the header and the rows of a table; a cell that a row does not have is None."""
    header = [*dict.fromkeys(name for row in rows for name in row)]
    return (header, [[row.get(name) for name in header] for row in rows]) if rows else None


def _draw(comparison: Comparison, name: str) -> list[tuple[str, str, Markup]]:
    """Return title, caption and markup of each figure."""
    shown = comparison.runs[: len(figures.COLOURS)]
    left_out = f" Shown are the first {len(shown)} runs." if len(shown) < len(comparison.runs) else ""
    with figures.styled("comparison"):
        monitored = comparison.table.metric or "val/loss"
        short = dict(
            zip((run.name for run in shown), shorten_names([run.name for run in shown]), strict=True)
        )
        logs = [(short[run.name], read_log(run.folder)) for run in shown]
        curves = {
            metric: figures.epoch_curves([(run, log, metric) for run, log in logs], metric)
            for metric in ("val/loss", monitored)
        }
        drawn = [
            (metric, f"By epoch.{left_out}", curve.figure, metric.replace("/", "_"))
            for metric, curve in curves.items()
            if curve is not None
        ]
        for number, (task, rows) in enumerate(comparison.test_rows.items()):
            predictions = {run: of_run for run, of_run in rows.predictions.items() if run in short}
            if not predictions:
                continue
            caption = (
                "How often predictions of a given probability are true, on the test rows of each run; "
                "calibrated probabilities lie on the dotted line."
            )
            title = f"Reliability of {task}" if task else "Reliability"
            figure = _reliability(predictions, short)
            drawn.append((title, caption + left_out, figure, f"reliability{number or ''}"))
    return [
        (title, caption, inline(figure_to_svg(figure, f"{name}{key}")))
        for title, caption, figure, key in drawn
    ]


def _reliability(predictions: Mapping[str, Predictions], short: Mapping[str, str]) -> Any:
    figure, axes = figures.panel()
    axes.axline((0, 0), (1, 1), **figures.DIAGONAL)
    edges = np.linspace(0, 1, BINS + 1)[1:-1]
    for name, of_run in predictions.items():
        truth, p = of_run.truth, of_run.probabilities
        if of_run.exclusive:
            largest = np.nan_to_num(p).argmax(1)[:, None]
            truth, p = (np.take_along_axis(values, largest, 1) for values in (truth, p))
        known = ~(np.isnan(truth) | np.isnan(p))
        bins = np.digitize(p[known], edges)
        count, total, hits = (np.bincount(bins, weights, BINS) for weights in (None, p[known], truth[known]))
        filled = count > 0
        x, y = total[filled] / count[filled], hits[filled] / count[filled]
        axes.plot(x, y, "o-", label=short[name], markersize=3, linewidth=1.2)
        label = "largest probability of a row" if of_run.exclusive else "probability"
    axes.set(xlabel=label, ylabel="fraction that is true", xlim=(0, 1), ylim=(0, 1.02))
    return figures.with_legend(figure)
