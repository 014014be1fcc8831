"""A comparison of runs: metrics with intervals, differences on common test rows, and classes."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import polars as pl

from lossselect.comparison.predictions import read_predictions, shared_rows
from lossselect.comparison.runs import Run
from lossselect.comparison.table import Table, make_tables
from lossselect.exceptions import DataError
from lossselect.reporting.run_files import UNREADABLE
from lossselect.reporting.statistics import Difference, Interval, Predictions, differences, intervals

TOLERANCE = 1e-3
"""Maximum difference of a metric from metrics.json."""


@dataclass(frozen=True)
class RowComparison:
    """Predictions of runs for their test rows, and what follows from them, by the name of the run.

    Args:
        intervals: The metrics of each run on its own test rows, by name, with 95 % intervals.
        differences: The number of common test rows, and the metrics of a run minus those of the reference.
        predictions: The predictions.
    """

    intervals: dict[str, dict[str, Interval]] = field(default_factory=dict)
    differences: dict[str, tuple[int, dict[str, Difference]]] = field(default_factory=dict)
    predictions: dict[str, Predictions] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Runs of one task, and one of them as the reference: the best on the validation rows, or the first.

    Args:
        table: The table of the runs.
        reference: The run with which the others are compared.
        notes: Why a run has no intervals or differences.
        test_rows: The predictions of each of several tasks; those of a single task have the name "".
    """

    table: Table
    reference: Run
    notes: list[str] = field(default_factory=list)
    test_rows: dict[str, RowComparison] = field(default_factory=dict)

    @property
    def runs(self) -> list[Run]:
        """The runs, in the order of the table."""
        return [run for row in self.table.rows for run in row.runs]

    @cached_property
    def classes(self) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The header and the rows of a table with the F1 of each class by run; without rows if unknown."""
        columns: dict[str, dict[str, float]] = {}
        for run in self.runs:
            with suppress(*UNREADABLE, pl.exceptions.PolarsError):
                table = pl.read_csv(run.folder / "per_class.csv", schema_overrides={"class": pl.String})
                names, values = table["class"].to_list(), table["f1"].cast(pl.Float64).to_list()
                if "task" in table.columns:  # of a run with several tasks
                    names = [f"{task}: {name}" for task, name in zip(table["task"], names, strict=True)]
                columns[run.name] = dict(zip(names, values, strict=True))
        names = [*dict.fromkeys(name for column in columns.values() for name in column)]
        rows = [(name, *(column.get(name) for column in columns.values())) for name in names]
        return ["class", *columns], rows

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as --json prints them; NaN becomes None."""
        runs = [
            {
                "name": run.name,
                "folder": str(run.folder),
                "seed": run.seed,
                "settings": {key: run.setting(key) for key in self.table.settings},
                "error": run.error,
                "seconds": run.record and run.record.seconds,
                "metrics": run.metrics,
                **self._test_values(run.name),
            }
            for run in self.runs
        ]
        content = {
            "task": self.table.task,
            "best": [run.name for row in self.table.rows if row.is_best for run in row.runs],
            "compared_by": self.table.metric,
            "reference": self.reference.name,
            "runs": runs,
            "notes": self.notes,
        }
        return _without_nan(content)

    def _test_values(self, run: str) -> dict[str, Any]:
        """Return intervals and differences of a run; the number of common rows is by task for several."""
        values: dict[str, Any] = {"intervals": {}, "differences": {}}
        counts = {}
        for task, rows in self.test_rows.items():
            start = _prefix(task)
            found: dict[str, Mapping[str, Any]] = {"intervals": rows.intervals.get(run, {})}
            if run in rows.differences:
                counts[task], found["differences"] = rows.differences[run]
            for name, metrics in found.items():
                values[name] |= {start + key: value._asdict() for key, value in metrics.items()}
        return {**values, "common_rows": counts.get("", counts or None)}


def _prefix(task: str) -> str:
    """Return the beginning of the names of the metrics of one of several tasks, "" for a single one."""
    return f"{task}/" if task else ""


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """Compare the runs of each task."""
    return [_compare(table) for table in make_tables(runs)]


def _check_values(found: Mapping[str, Interval], run: Run, prefix: str) -> None:
    """Raise a DataError if metrics.json differs, as when predictions.csv does not show missing labels."""
    for name, interval in found.items():
        expected = run.metrics.get(f"test/{prefix}{name}")
        if expected is not None and not abs(interval.value - expected) < TOLERANCE:
            raise DataError(
                f"{prefix}{name} is {interval.value:.3f} by predictions.csv, but {expected:.3f} by "
                "metrics.json, for example because predictions.csv does not show which labels are missing"
            )


def _compare(table: Table) -> Comparison:
    runs = [run for row in table.rows for run in row.runs]
    best = [run for row in table.rows if row.is_best for run in row.runs if not run.error]
    finished = [run for run in runs if not run.error]
    comparison = Comparison(table, (best or finished or runs)[0])
    reasons: dict[str, list[str]] = {}
    if len(data := dict.fromkeys(run.data for run in runs if run.data)) > 1:
        for text in data:
            reasons[f"the data are {text}"] = [run.name for run in runs if run.data == text]
    for run in finished:
        try:
            predictions = read_predictions(run.folder)
            found = {task: intervals(of_task) for task, of_task in predictions.items()}
            for task, values in found.items():
                _check_values(values, run, _prefix(task))
        except DataError as error:
            reasons.setdefault(f"no intervals: {error}", []).append(run.name)
            continue
        for task, values in found.items():
            rows = comparison.test_rows.setdefault(task, RowComparison())
            rows.predictions[run.name], rows.intervals[run.name] = predictions[task], values
    for task, rows in comparison.test_rows.items():
        reference = rows.predictions.get(comparison.reference.name)
        for name, of_run in rows.predictions.items():
            if reference is None or of_run is reference:
                continue
            try:
                first, second = shared_rows(of_run, reference)
                rows.differences[name] = len(first.rows), differences(first, second)
            except DataError as error:
                of_task = f" of {task}" if task else ""
                reason = f"no test{of_task} against {comparison.reference.name}: {error}"
                reasons.setdefault(reason, []).append(name)
    comparison.notes.extend(f"{', '.join(names)}: {reason}." for reason, names in reasons.items())
    return comparison
