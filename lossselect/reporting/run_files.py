"""The files of a run folder, which may be missing or damaged if the run was killed."""

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from lossselect.exceptions import ConfigError
from lossselect.reporting.plan import Line

UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError)
"""Errors of files that are missing or damaged."""


LOW, HIGH, ERROR = "_ci_low", "_ci_high", "_standard_error"
"""Ends of the names of the bounds of 95 % intervals, and of standard errors: "test/accuracy_ci_low"."""


def find_run_folder(path: Path, is_run: Callable[[Path], bool]) -> Path:
    """Return the run folder of a file in it or of its folder of checkpoints; any other path unchanged.

    Raises:
        ConfigError: a file that is in no run folder.
    """
    is_part = path.is_file() or path.name == "checkpoints"
    folder = next((parent for parent in path.parents if is_part and is_run(parent)), path)
    if folder.is_file():
        raise ConfigError(f"{path} is a file outside a run folder. Give a run folder, or a file in one.")
    return folder


def read_metrics(folder: Path) -> dict[str, float | None]:
    """Return the metrics in metrics.json of a run; empty if it is missing or damaged."""
    return {name: value for name, value in _read_numbers(folder).items() if not _is_bound(name)}


def read_bounds(folder: Path) -> dict[str, float | None]:
    """Return the bounds of 95 % intervals and the standard errors in metrics.json of a run."""
    return {name: value for name, value in _read_numbers(folder).items() if _is_bound(name)}


def _is_bound(name: str) -> bool:
    return name.endswith((LOW, HIGH, ERROR))


def _read_numbers(folder: Path) -> dict[str, float | None]:
    with suppress(*UNREADABLE):
        content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return {name: value for name, value in content.items() if isinstance(value, int | float | None)}
    return {}


def read_plan(folder: Path) -> list[Line]:
    """Return the lines of plan.json; none if it is missing or damaged."""
    with suppress(*UNREADABLE):
        content = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        return [Line(**line) for line in content["lines"]]
    return []


def read_start(folder: Path) -> str:
    """Return when plan.json was written, which a run does first, in UTC; "" if it is missing.

    The date is not in plan.json, so that equal runs have equal plans.
    """
    with suppress(OSError):
        written = (folder / "plan.json").stat().st_mtime
        return datetime.fromtimestamp(written, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return ""


def read_seed(folder: Path) -> int | None:
    """Return the seed in .hydra/config.yaml; None if the file is missing or damaged."""
    with suppress(*UNREADABLE, yaml.YAMLError):
        seed = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text(encoding="utf-8"))["seed"]
        return seed if isinstance(seed, int) else None
    return None


def read_log(folder: Path) -> pl.DataFrame:
    """Return logs/metrics.csv of a run; without columns if it is missing or damaged."""
    with suppress(OSError, pl.exceptions.PolarsError):  # missing, or cut off
        options: dict[str, Any] = {"infer_schema": False, "quote_char": None, "truncate_ragged_lines": True}
        log = pl.read_csv(folder / "logs" / "metrics.csv", **options)
        return log.with_columns(pl.all().cast(pl.Float64, strict=False))
    return pl.DataFrame()
