"""The files of results in a run folder, except predictions."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from lightning.pytorch import Trainer

from lossselect.data.datamodule import TensorData
from lossselect.data.overview import make_overview
from lossselect.export.formats import FORMATS, find_format
from lossselect.reporting.formulas import escape_formula
from lossselect.reporting.plan import Plan
from lossselect.training.checkpoints.net_selection import NetSelection
from lossselect.training.epochs.epoch import Epoch
from lossselect.utils.atomic_write import atomic_write

RESULTS = (
    *("run.json", "plan.json", "data.json", "nets.csv", "members.csv", "metrics.json", "per_class.csv"),
    *("confusion_matrix.csv", "importance.csv", "out_of_fold.csv", "predictions.csv", "predictions.pt"),
    *("report.html", "figures", *(f"model{form.suffix}" for form in FORMATS.values())),
)
"""The files of a run except its checkpoints and its log."""


def remove_results(folder: Path) -> None:
    """Remove the results of an earlier run in the same folder, as this run may end without any."""
    for name in RESULTS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("checkpoints/*"):  # exports become outdated
        if find_format(path):
            path.unlink()


def save_plan(plan: Plan, folder: Path) -> None:
    """Write plan.json."""
    with atomic_write(folder / "plan.json") as path:
        path.write_text(plan.to_json(), encoding="utf-8")


def save_overview(data: Any, folder: Path) -> None:
    """Write data.json, the overview of built-in data or of a file, for the report."""
    if isinstance(data, TensorData):
        overview = make_overview(data.splits, data.task, data.counts)
        with atomic_write(folder / "data.json") as path:
            path.write_text(overview.to_json(), encoding="utf-8")


def save_nets(trainer: Trainer, folder: Path) -> dict[str, list[Any]]:
    """Write nets.csv, the table of `NetSelection`, and return it; empty unless several nets were trained."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    table = next((part.table() for part in callbacks if isinstance(part, NetSelection)), {})
    if table and trainer.is_global_zero:
        with atomic_write(folder / "nets.csv") as path:
            pl.DataFrame(table).write_csv(path)
    return table


def save_metrics(numbers: Mapping[str, float], folder: Path) -> None:
    """Write metrics.json; a metric that is undefined for these labels is null, as JSON has no NaN."""
    metrics = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    with atomic_write(folder / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def per_class_columns(epoch: Epoch) -> dict[str, Any]:
    """Return the columns of the table of classes."""
    task = epoch.task
    columns: dict[str, Any] = {"class": task.output_names}
    columns |= {name: values.cpu().numpy() for name, values in epoch.per_class.items()}
    if task.threshold is not None:
        columns["threshold"] = np.broadcast_to(np.array(task.threshold), len(task.output_names))
    return columns


def save_tables(epochs: Mapping[str, Any], folder: Path) -> None:
    """Write the tables of classes and of confusions of each task; of several tasks with a column "task"."""
    tables, confusions = [], []
    for name, epoch in epochs.items():
        table = escape_formula(per_class_columns(epoch)).fill_nan(None)
        tables.append(_with_task(name, table))
        if epoch.confusion_counts is not None:
            counts, names = epoch.confusion_counts.cpu().numpy(), epoch.task.names
            confusions.append(_with_task(name, escape_formula(_confusion_columns(names, counts, bool(name)))))
    for file, parts in (("per_class.csv", tables), ("confusion_matrix.csv", confusions)):
        if parts:
            with atomic_write(folder / file) as path:
                pl.concat(parts, how="diagonal").write_csv(path)


def _with_task(name: str, table: pl.DataFrame) -> pl.DataFrame:
    if not name:
        return table
    (named,) = escape_formula({"task": [name]}).get_columns()
    return table.select(pl.lit(named[0]).alias("task"), pl.all())


def _confusion_columns(names: Sequence[str], counts: np.ndarray, is_long: bool) -> dict[str, Any]:
    """Return a confusion matrix, or if it `is_long` a row for each pair of a true and a predicted class."""
    if is_long:
        pairs = [(true, predicted) for true in names for predicted in names]
        true, predicted = zip(*pairs, strict=True)
        return {"true": true, "predicted": predicted, "rows": counts.ravel()}
    corner = "true"
    while corner in names:  # if a class has that name
        corner += " class"
    return {corner: names, **dict(zip(names, counts.T, strict=True))}
