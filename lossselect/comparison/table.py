"""A table of runs: one row per choice of settings, with means over the seeds."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

from lossselect.comparison.runs import Run, find_differences
from lossselect.metrics.direction import direction

SHOWN = ("accuracy", "f1_micro", "f1_macro", "auroc", "average_precision", "loss")
"""Metrics shown on a console, in this order."""
COMPARABLE = ("auroc", "average_precision", "accuracy", "f1_micro")
"""Metrics that do not depend on the loss, by which runs with different losses are compared."""


class Mean(NamedTuple):
    """A mean over n runs, and its standard error; NaN for a single run."""

    mean: float
    error: float
    n: int


def mean_of(values: Sequence[float | None]) -> Mean:
    """Return the mean of the values that are not None, and its standard error s / sqrt(n)."""
    known = [value for value in values if value is not None]
    if not known:
        return Mean(math.nan, math.nan, 0)
    mean = math.fsum(known) / len(known)
    if len(known) == 1:
        return Mean(mean, math.nan, 1)
    variance = math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1)
    return Mean(mean, math.sqrt(variance / len(known)), len(known))


@dataclass(frozen=True)
class Row:
    """Runs that differ only in their seeds.

    Args:
        runs: The runs.
        settings: The settings that differ between rows, by name.
        metrics: The mean of each metric over the runs that finished.
        seconds: The mean duration of a run that finished.
        is_best: Whether the row has the best value of the table's criterion.
    """

    runs: list[Run]
    settings: dict[str, str]
    metrics: dict[str, Mean]
    seconds: Mean
    is_best: bool = False

    @property
    def finished(self) -> int:
        """The number of runs with results."""
        return sum(not run.error for run in self.runs)


@dataclass(frozen=True)
class Table:
    """Runs of one task.

    Args:
        task: The task.
        settings: The names of the settings that differ.
        rows: The rows, in the order of the runs.
        metric: The validation metric that decides which row is the best one; "" if there is none.
        note: Why `metric` was chosen, or why there is none.
    """

    task: str
    settings: list[str]
    rows: list[Row]
    metric: str
    note: str

    @property
    def metrics(self) -> list[str]:
        """The metrics of a console: the one that decides, and up to three of the test rows."""
        known = dict.fromkeys(name for row in self.rows for name in row.metrics)
        split = "test" if any(name.startswith("test/") for name in known) else "val"
        names = [f"{split}/{name}" for name in SHOWN if f"{split}/{name}" in known]
        both = [f"{split}/accuracy", f"{split}/f1_micro"]
        if {*both} <= {*names}:  # equal if each row has one class; otherwise absent labels dominate accuracy
            equal = all(row.metrics.get(both[0]) == row.metrics.get(both[1]) for row in self.rows)
            names.remove(both[equal])
        if names == [f"{split}/loss"]:  # of several tasks: a metric of each
            first: dict[str, str] = {}
            for metric, name in product(SHOWN, known):
                if re.fullmatch(f"{split}/[^/]+/{metric}", name):
                    first.setdefault(name.split("/")[1], name)
            names = [*first.values()]
        return [*dict.fromkeys([*([self.metric] if self.metric in known else []), *names[:3]])]

    def errors(self) -> dict[str, list[str]]:
        """Return the names of the runs that did not finish, by the message of their error."""
        failed = [run for row in self.rows for run in row.runs if run.error]
        return {error: [run.name for run in failed if run.error == error] for error in _unique_errors(failed)}

    def columns(self) -> dict[str, list[Any]]:
        """Return the columns of summary.csv: names, settings, all metrics, seconds and errors."""
        names = [*dict.fromkeys(name for row in self.rows for name in row.metrics)]
        columns: dict[str, list[Any]] = {
            "run": [" ".join(run.name for run in row.runs) for row in self.rows],
            "best": ["best" if row.is_best else "" for row in self.rows],
            "task": [self.task] * len(self.rows),
            **{key: [row.settings[key] for row in self.rows] for key in self.settings},
            "seed": [" ".join(run.seed for run in row.runs) for row in self.rows],
            "finished": [row.finished for row in self.rows],
        }
        for name in names:
            means = [row.metrics.get(name) for row in self.rows]
            columns[name] = [mean and mean.mean for mean in means]
            if any(mean and mean.n > 1 for mean in means):
                columns[f"{name} (standard error)"] = [mean and mean.error for mean in means]
        columns["seconds"] = [row.seconds.mean for row in self.rows]
        columns["error"] = ["; ".join(_unique_errors(row.runs)) for row in self.rows]
        return columns


def make_tables(runs: Sequence[Run]) -> list[Table]:
    """Return a table for each task, whose metrics differ; the first runs determine the order."""
    tasks = dict.fromkeys(run.task for run in runs)
    return [_make_table(task, [run for run in runs if run.task == task]) for task in tasks]


def _unique_errors(runs: Sequence[Run]) -> list[str]:
    return [*dict.fromkeys(run.error for run in runs if run.error)]


def _make_table(task: str, runs: Sequence[Run]) -> Table:
    # runs are repetitions if all settings are equal, and their seeds differ
    groups: dict[tuple[Any, ...], list[Run]] = {}
    copies: Counter[tuple[Any, ...]] = Counter()
    typed = find_differences(runs)
    for run in runs:
        key = (*sorted(run.config.items()), *map(run.setting, typed), bool(run.setting("fold")))
        groups.setdefault((key, copies[key, run.seed]), []).append(run)
        copies[key, run.seed] += 1
    settings = _shown_settings(typed, [members[0] for members in groups.values()])
    rows = [
        _make_row(members, {key: members[0].setting(key) for key in settings}) for members in groups.values()
    ]
    metric, note = _choose_metric(runs)
    values = [row.metrics[metric].mean if metric in row.metrics else math.nan for row in rows]
    if known := [value for value in values if not math.isnan(value)]:
        best = min(known) if _direction(metric, runs) == "min" else max(known)
        rows = [
            replace(row, is_best=value == best and len(rows) > 1)
            for row, value in zip(rows, values, strict=True)
        ]
    return Table(task, settings, rows, metric, note)


def _shown_settings(typed: Sequence[str], first: Sequence[Run]) -> list[str]:
    """Return the typed settings that differ, and others that differ if these are equal in two rows."""
    shown = [key for key in typed if key != "task"]
    rows = {tuple(run.setting(key) for key in shown) for run in first}
    if len(rows) < len(first):
        keys = dict.fromkeys(key for run in first for key in run.config)
        differing = (key for key in keys if len({run.config.get(key) for run in first}) > 1)
        shown += [key for key in differing if key not in shown]
    return shown


def _make_row(runs: list[Run], settings: dict[str, str]) -> Row:
    finished = [run for run in runs if not run.error]
    names = dict.fromkeys(name for run in finished for name in _values(run))
    metrics = {name: mean_of([_values(run).get(name) for run in finished]) for name in names}
    seconds = mean_of([run.record.seconds if run.record else None for run in finished])
    return Row(runs, settings, metrics, seconds)


def _values(run: Run) -> dict[str, float | None]:
    """Return the metrics of a run, and the one that it monitors, which may be one of the training rows."""
    monitored = {run.record.metric: run.record.value} if run.record and run.record.metric else {}
    return {**monitored, **run.metrics}


def _choose_metric(runs: Sequence[Run]) -> tuple[str, str]:
    """Return the metric by which runs are compared, and a note for the reader."""
    finished = [run for run in runs if not run.error]
    if len({run.setting("data.path") or run.setting("data") for run in finished}) > 1:
        return "", "no run is marked as the best: the runs have different data"
    if len({(run.setting("folds"), bool(run.setting("fold"))) for run in finished}) > 1:
        return "", "no run is marked as the best: the runs have different validation rows"
    monitored = {run.record.metric for run in finished if run.record}
    if len(monitored) == 1:
        (metric,) = monitored
        # values of different losses have different scales
        if not metric.endswith("/loss") or all(run.loss == finished[0].loss for run in finished):
            return metric, ""
        reason = "the runs have different losses"
    else:
        reason = "the runs have different monitors"
    for name in (f"val/{name}" for name in COMPARABLE):
        if finished and all(run.metrics.get(name) is not None for run in finished):
            return name, f"because {reason}"
    if not finished:
        return "", "no run is marked as the best: none has finished"
    advice = "Set monitor to a metric other than the loss to mark one"
    return "", f"no run is marked as the best: {reason}. {advice}"


def _direction(metric: str, runs: Sequence[Run]) -> str:
    modes = {run.record.metric: run.record.mode for run in runs if run.record}
    return modes.get(metric) or direction(metric) or "max"
