"""The files of a run folder, which may be missing or damaged if the run was killed."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl

UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError)
"""Errors of files that are missing or damaged."""


def find_run_folder(path: Path, is_run: Callable[[Path], bool]) -> Path:
    """Return the run folder of a file in it or of its folder of checkpoints; any other path unchanged."""
    is_part = path.is_file() or path.name == "checkpoints"
    return next((parent for parent in path.parents if is_part and is_run(parent)), path)


def read_metrics(folder: Path) -> dict[str, float | None]:
    """Return metrics.json of a run; empty if it is missing or damaged."""
    with suppress(*UNREADABLE):
        content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return {name: value for name, value in content.items() if isinstance(value, int | float | None)}
    return {}


def read_log(folder: Path) -> pl.DataFrame:
    """Return logs/metrics.csv of a run; without columns if it is missing or damaged."""
    with suppress(OSError, pl.exceptions.PolarsError):  # missing, or cut off
        options: dict[str, Any] = {"infer_schema": False, "quote_char": None, "truncate_ragged_lines": True}
        log = pl.read_csv(folder / "logs" / "metrics.csv", **options)
        return log.with_columns(pl.all().cast(pl.Float64, strict=False))
    return pl.DataFrame()
