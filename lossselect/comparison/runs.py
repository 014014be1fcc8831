"""Run folders: their settings, metrics and outcomes, read without importing torch."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from glob import glob
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lossselect.comparison.record import NAME as RECORD
from lossselect.comparison.record import RunRecord, read_record
from lossselect.exceptions import ConfigError, FileMissingError
from lossselect.reporting.run_files import UNREADABLE, find_run_folder, read_metrics

OVERRIDES = Path(".hydra", "overrides.yaml")
NOT_COMPARED = (
    *("check_only", "explain", "export", "export_raw", "ignore_warnings", "logger", "report", "resume"),
    *("trust", "verbose", "seed", "fold"),
)
"""Settings that do not change a model, and the seed and the fold, which are shown otherwise."""
LOSS = r"loss\b|task\.(losses|weights)\b"
"""Settings that change the scale of the loss."""
DAMAGED = (*UNREADABLE, YAMLError, OmegaConfBaseException)
"""Errors of files that are missing or damaged, and of config files."""


@dataclass(frozen=True)
class Run:
    """A run folder.

    Args:
        folder: The path.
        name: A short name, unique among the runs that are compared.
        overrides: The settings of the command line, as they were typed.
        metrics: The content of metrics.json; empty if the run did not finish.
        record: The content of run.json.
    """

    folder: Path
    name: str
    overrides: dict[str, str]
    metrics: dict[str, float | None]
    record: RunRecord | None

    @cached_property
    def _config(self) -> DictConfig:
        return _load(self.folder / ".hydra" / "config.yaml")

    @cached_property
    def _choices(self) -> DictConfig:
        with suppress(*DAMAGED):
            return _load(self.folder / ".hydra" / "hydra.yaml").hydra.runtime.choices
        return OmegaConf.create()

    @property
    def task(self) -> str:
        """The name of the task."""
        return (self.record and self.record.task) or self.setting("task")

    @property
    def seed(self) -> str:
        """The seed, and the fold if it is one of several."""
        return " fold ".join(filter(None, (self.setting("seed"), self.setting("fold"))))

    @property
    def error(self) -> str:
        """The reason why there are no results, or "" for a finished run."""
        if self.record is None:
            return "" if self.metrics else "not finished"
        return self.record.error or ("" if self.metrics else "no metrics.json")

    @cached_property
    def data(self) -> str:
        """The name of the data and the numbers of rows, "" if unknown."""
        with suppress(*DAMAGED):
            content = json.loads((self.folder / "data.json").read_text(encoding="utf-8"))
            rows = ", ".join(f"{int(count):,} {split}" for split, count in content["rows"].items())
            return f"{content['name']} ({rows})"
        return ""

    @cached_property
    def config(self) -> dict[str, str]:
        """All settings that can change the result, except the seed, by name: "optimizer.lr"."""
        with suppress(*DAMAGED):
            return flatten_config(self._config)
        return {}

    @property
    def loss(self) -> dict[str, str]:
        """The settings of the loss, and for several tasks those of their losses and weights."""
        return {key: value for key, value in self.config.items() if re.match(LOSS, key)}

    def setting(self, key: str) -> str:
        """Return the name of the chosen variant or the value of a setting; "" if the run lacks it."""
        if (chosen := self._choices.get(key)) is not None:
            return str(chosen)
        value: Any = None
        with suppress(*DAMAGED):
            value = OmegaConf.select(self._config, key)
        return self.overrides.get(key, "") if value is None else str(value)


def flatten_config(config: DictConfig) -> dict[str, str]:
    """Return the settings that can change the result, except the seed, by name: "optimizer.lr"."""
    return dict(_flatten(OmegaConf.to_container(config, resolve=False)))


def _flatten(values: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield the names and values of settings."""
    for key, value in values.items():
        if not place and key in NOT_COMPARED:
            continue
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", str(value)


def _load(path: Path) -> DictConfig:
    with suppress(*DAMAGED):
        content = OmegaConf.load(path)
        if isinstance(content, DictConfig):
            return content
    return OmegaConf.create()


def read_run(folder: Path, name: str) -> Run:
    """Return a run; what cannot be read is left out."""
    words: Any = []
    with suppress(*DAMAGED):
        words = OmegaConf.to_container(OmegaConf.load(folder / OVERRIDES))
    pairs = [str(word).lstrip("+").partition("=") for word in words if isinstance(word, str)]
    overrides = {key: value for key, _, value in pairs}
    return Run(folder, name, overrides, read_metrics(folder), read_record(folder))


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Return runs with names that differ: the parts of their paths after the common folder."""
    if len(folders) == 1:
        return [read_run(folders[0], folders[0].name)]
    paths = [folder.absolute() for folder in folders]
    common = Path(os.path.commonpath(paths))
    if common in paths:  # a run and one within it
        common = common.parent
    return [
        read_run(folder, path.relative_to(common).as_posix())
        for folder, path in zip(folders, paths, strict=True)
    ]


def find_runs(path: Path) -> list[Path]:
    """Return a run folder, or those in a folder such as that of a sweep, in the order of their numbers.

    Raises:
        FileMissingError: the folder does not exist.
        ConfigError: there is no run in it.
    """
    if not path.is_dir():
        raise FileMissingError(
            f"The folder {path} does not exist. Give a run folder or the folder of a sweep."
        )
    if _is_run(path):
        return [path]
    if found := runs_below(path):
        return found
    raise ConfigError(
        f"{path} is not a run folder and contains none: there is no {OVERRIDES}. Give a run folder or that "
        "of a sweep."
    )


def runs_below(path: Path) -> list[Path]:
    """Return the run folders in a folder, except those within a run, which contain earlier results."""
    found = {file.parent.parent for file in path.rglob(str(OVERRIDES))}
    found |= {file.parent for file in path.rglob(RECORD)} - {path}  # with hydra.output_subdir=null
    found |= {link for link in path.iterdir() if link.is_symlink() and link.is_dir() and _is_run(link)}
    outer = [run for run in found if run != path and not found & {*run.parents} - {path}]
    return sorted(outer, key=lambda run: _natural(run.relative_to(path).as_posix()))


def list_runs(path: Path) -> dict[Path, int]:
    """Return the run folders in a folder, and when each was started, as the time of its files in ns."""
    times = {}
    for run in runs_below(path) if path.is_dir() else ():
        files = [run / name for name in (OVERRIDES, RECORD) if (run / name).is_file()]
        times[run] = max((file.stat().st_mtime_ns for file in files), default=0)
    return times


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (OVERRIDES, RECORD, "metrics.json"))


def _natural(text: str) -> list[Any]:
    """Return a key by which "10" follows "2"."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text)]


def find_differences(runs: Sequence[Run]) -> list[str]:
    """Return the settings of the command lines whose values differ between runs, except the seed."""
    keys = dict.fromkeys(key for run in runs for key in run.overrides)
    compared = (key for key in keys if key.partition(".")[0].lstrip("~") not in (*NOT_COMPARED, "hydra"))
    return [key for key in compared if len({run.setting(key) for run in runs}) > 1]


def expand_runs(words: Sequence[str]) -> list[Path]:
    """Return the run folders that paths of runs, of sweeps, and patterns stand for, each once.

    Raises:
        FileMissingError: a path does not exist, or a pattern matches none.
        ConfigError: there is no run in a path.
    """
    if not words:
        raise ConfigError("No run was given. Give at least two run folders, or the folder of a sweep.")
    paths: list[Path] = []
    for word in words:
        if set(word) & {*"*?["} and not Path(word).exists():
            matching = sorted(Path(found) for found in glob(word) if Path(found).is_dir())
            if not matching:
                raise FileMissingError(f"No folder matches {word!r}.")
            paths += matching
        else:
            paths.append(find_run_folder(Path(word), _is_run))
    folders = {run.resolve(): run for path in paths for run in find_runs(path)}
    return [*folders.values()]
