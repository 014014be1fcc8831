"""A comparison of runs: metrics with intervals, differences on common test rows, and classes."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import polars as pl

from lossselect.comparison.predictions import Predictions, read_predictions, shared_rows
from lossselect.comparison.runs import UNREADABLE, Run
from lossselect.comparison.statistics import Difference, Interval, differences, intervals
from lossselect.comparison.table import Table, make_tables
from lossselect.exceptions import DataError


@dataclass(frozen=True)
class Comparison:
    """Runs of one task, and one of them as the reference: the best on the validation rows, or the first.

    Args:
        table: The table of the runs.
        reference: The run with which the others are compared.
        intervals: The metrics of each run on its own test rows, by name, with 95 % intervals.
        differences: The number of common test rows, and the metrics of a run minus those of the reference.
        notes: Why a run has no intervals or differences.
    """

    table: Table
    reference: Run
    intervals: dict[str, dict[str, Interval]] = field(default_factory=dict)
    differences: dict[str, tuple[int, dict[str, Difference]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    predictions: dict[str, Predictions] = field(default_factory=dict)

    @property
    def runs(self) -> list[Run]:
        """The runs, in the order of the table."""
        return [run for row in self.table.rows for run in row.runs]

    @cached_property
    def classes(self) -> dict[str, list[Any]]:
        """The F1 of each class, a column per run; empty if no run has a table of classes."""
        columns: dict[str, dict[str, float]] = {}
        for run in self.runs:
            with suppress(*UNREADABLE, pl.exceptions.PolarsError):
                table = pl.read_csv(run.folder / "per_class.csv", schema_overrides={"class": pl.String})
                names, values = table["class"].to_list(), table["f1"].cast(pl.Float64).to_list()
                columns[run.name] = dict(zip(names, values, strict=True))
        names = [*dict.fromkeys(name for column in columns.values() for name in column)]
        if not names:
            return {}
        return {
            "class": names,
            **{run: [column.get(name) for name in names] for run, column in columns.items()},
        }

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
                "intervals": {k: v._asdict() for k, v in self.intervals.get(run.name, {}).items()},
                "differences": {
                    key: value._asdict() for key, value in self.differences.get(run.name, (0, {}))[1].items()
                },
                "common_rows": self.differences.get(run.name, (None, {}))[0],
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


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """Compare the runs of each task."""
    return [_compare(table) for table in make_tables(runs)]


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
            comparison.predictions[run.name] = read_predictions(run.folder)
            comparison.intervals[run.name] = intervals(comparison.predictions[run.name])
        except DataError as error:
            reasons.setdefault(f"no intervals: {error}", []).append(run.name)
    reference = comparison.predictions.get(comparison.reference.name)
    for name, predictions in comparison.predictions.items():
        if reference is None or predictions is reference:
            continue
        try:
            first, second = shared_rows(predictions, reference)
            comparison.differences[name] = len(first.rows), differences(first, second)
        except DataError as error:
            reason = f"no test against {comparison.reference.name}: {error}"
            reasons.setdefault(reason, []).append(name)
    comparison.notes.extend(f"{', '.join(names)}: {reason}." for reason, names in reasons.items())
    return comparison
