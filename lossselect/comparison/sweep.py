"""The summary of a sweep: a table on the console, summary.csv and summary.html in the sweep's folder."""

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from lossselect.comparison.page import sweep_page
from lossselect.comparison.runs import list_runs, read_run, read_runs
from lossselect.comparison.table import Mean, Table, make_tables
from lossselect.reporting.formulas import escape_formula
from lossselect.reporting.plan import make_table
from lossselect.utils.atomic_write import atomic_write
from lossselect.utils.checks import shorten
from lossselect.utils.terminal import print_safely, sanitize

MAX_DIGITS = 8
"""Length up to which numbers among the settings are printed as they are."""

if TYPE_CHECKING:
    from rich.table import Table as RichTable


def summarise(folder: Path, before: Mapping[Path, int]) -> None:
    """Print a table of the runs of the sweep that has just ended, and write summary.csv and summary.html.

    `before` are the results of `list_runs` before the sweep.
    """
    found = list_runs(folder)
    runs = [run for run, time in found.items() if before.get(run) != time]
    if not runs:  # no job has started
        return
    if earlier := len(found) - len(runs):
        print_safely(f"Runs of an earlier sweep in {folder} are left out: {earlier}.")
    tables = make_tables(read_runs(runs))
    for table in tables:
        print_runs(table)
    # the columns of different tasks differ
    frames = [escape_formula(table.columns()) for table in tables]
    with atomic_write(folder / "summary.csv") as path:
        pl.concat(frames, how="diagonal_relaxed").write_csv(path)
    with atomic_write(folder / "summary.html") as path:
        path.write_text(sweep_page(tables), encoding="utf-8")
    print_safely(f"Saved in {folder}: summary.csv, summary.html")


def print_runs(table: Table) -> None:
    """Print the rows of a table, with the best one marked by a star."""
    from rich.console import Console

    # as many metrics and then settings as fit, as in narrow columns numbers would be broken
    sizes = [(len(table.settings), count) for count in range(len(table.metrics), 0, -1)]
    sizes += [(count, 1) for count in range(len(table.settings) - 1, 0, -1)]
    tables = ((_make_table(table, *size), size) for size in sizes)
    console, wide = Console(markup=False, emoji=False), Console(width=10_000)
    fits = (entry for entry in tables if wide.measure(entry[0]).maximum <= console.width)
    shown, (count, _) = next(fits, (_make_table(table, 0, 1), (0, 1)))
    console.print(shown)
    if left_out := table.settings[count:]:
        print_safely(f"Other settings that differ: {shorten(left_out)}.")
    if any(row.is_best for row in table.rows):
        print_safely(f"* marks the best by {table.metric}{f' ({table.note})' * bool(table.note)}.")
    elif table.note:
        print_safely(f"{table.note[0].upper()}{table.note[1:]}.")


def _make_table(table: Table, num_settings: int, num_metrics: int) -> "RichTable":
    settings, metrics = table.settings[:num_settings], table.metrics[:num_metrics]
    has_seeds = any(len(row.runs) > 1 for row in table.rows)
    title = f"Runs of task={table.task}" + ", mean ± standard error over seeds" * has_seeds
    shown = make_table(title, ("", "runs" if has_seeds else "run", *settings, *metrics, "seconds"))
    for row in table.rows:
        started = len(row.runs)
        counts = str(started) if row.finished == started else f"{row.finished} of {started}"
        cells = [
            "*" if row.is_best else "",
            counts if has_seeds else row.runs[0].name,
            *(_shorten_number(row.settings[key]) for key in settings),
            *(_format(row.metrics.get(name)) for name in metrics),
            "" if math.isnan(row.seconds.mean) else f"{row.seconds.mean:.1f}",
        ]
        shown.add_row(*map(sanitize, cells))
    return shown


def _shorten_number(text: str) -> str:
    """Return a long number, such as one drawn by a search, with four digits, and other text unchanged."""
    with suppress(ValueError):
        return text if len(text) <= MAX_DIGITS else f"{float(text):.4g}"
    return text


def _format(mean: Mean | None) -> str:
    if mean is None or math.isnan(mean.mean):
        return ""
    return f"{mean.mean:.4f}" if math.isnan(mean.error) else f"{mean.mean:.3f} ± {mean.error:.3f}"


def describe_run(folder: Path) -> str:
    """Return one line about a run that has ended: its main metrics, duration and settings."""
    run = read_run(folder, folder.name)
    settings = " ".join(f"{key}={value}" for key, value in run.overrides.items())
    seconds = f"{run.record.seconds:.1f} s" if run.record else ""
    if run.error:
        return sanitize(f"{run.name} failed after {seconds}: {run.error} [{settings}]")
    (table,) = make_tables([run])
    values = [f"{name} {_format(table.rows[0].metrics[name])}" for name in table.metrics]
    return sanitize(f"{run.name}: {', '.join([*values, seconds])} [{settings}]")
