"""Reading a layout as the command line does, and comparison with what it contains."""

import copy
import re
import shlex
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from layouts.cases import Layout
from lossselect.cli.arguments import order_arguments
from lossselect.data import loading
from lossselect.exceptions import LossSelectError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.values import sorted_values
from lossselect.run import build
from lossselect.run.settings import to_plain
from lossselect.run.validation import check_config
from lossselect.utils.warnings import LossSelectWarning


@dataclass
class Outcome:
    """The data that one try loaded (None after an error), and what it printed."""

    data: Any
    message: str
    warnings: tuple[str, ...] = ()


def write(layout: Layout, folder: Path) -> None:
    """Write the files of a layout."""
    for name, content in layout.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def try_command(settings: str) -> Outcome:
    """Read the data in the current folder with these settings; settings without data= mean a table."""
    arguments = shlex.split(settings)
    if not any(argument.startswith("data=") for argument in arguments):
        arguments.insert(0, "data=table")
    loading.load_checked.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        warnings.simplefilter("always", LossSelectWarning)
        try:
            config = _compose(arguments)
            check_config(to_plain(config))
            data, message = build.load_data(config), ""
        except (LossSelectError, HydraException) as error:
            data, message = None, str(error)
    # small tables may repeat rows
    found = [warning.message for warning in caught if warning.message.name != "duplicate_rows"]
    message += "".join(f"\n{warning}" for warning in found)
    return Outcome(data, message, tuple(dict.fromkeys(warning.name for warning in found)))


@cache
def _compose_groups(*groups: str) -> DictConfig:
    with initialize_config_module("lossselect.configs", version_base="1.3"):
        return compose("train", [*groups])


def _compose(arguments: list[str]) -> DictConfig:
    """Return the config of a command line; `compose` alone takes longer than reading a file."""
    arguments = order_arguments(arguments)
    groups = [argument for argument in arguments if "." not in argument.partition("=")[0]]
    config = copy.deepcopy(_compose_groups(*groups))
    others = [argument for argument in arguments if argument not in groups]
    for override in OverridesParser.create().parse_overrides(others):
        OmegaConf.update(config, override.key_or_group, override.value(), force_add=True)
    return config


def check(layout: Layout) -> list[str]:
    """Try the commands of a layout in the current folder; return the faults."""
    settings: list[str] = []
    outcome = Outcome(None, "")
    for number, words in enumerate(layout.tries, 1):
        added = shlex.split(words)
        if number > 1:
            faults = [
                f"try {number - 1} does not name {word}: {outcome.message}"
                for word in added
                if not _names(outcome.message, word)
            ]
            if faults:
                return faults
        keys = {word.partition("=")[0] for word in added}
        settings = [word for word in settings if word.partition("=")[0] not in keys] + added
        outcome = try_command(shlex.join(settings))
        if number < len(layout.tries) and outcome.data is not None and not outcome.warnings:
            return [f"try {number} has no message"]
    if outcome.data is None:
        return [f"try {number}: {outcome.message}"]
    faults = compare(outcome.data, layout)
    if {*outcome.warnings} != {*layout.warnings}:
        faults.append(f"warnings: {outcome.message}")
    return faults


def _names(message: str, word: str) -> bool:
    """Return whether a message names a setting, perhaps with more entries in its list."""
    key, _, value = word.partition("=")
    plain = re.sub(r"[\"'\\]", "", message)
    value = re.sub(r"[\"'\\]", "", value)
    if key == "data.path":  # a file that the user writes as the message says
        return value in plain
    if value.startswith("column "):  # the names of columns in a file without a header
        return "column 0" in plain or "last column" in plain
    has_entries = value.startswith("[") and all(part in plain for part in value[1:-1].split(","))
    return key in plain and (has_entries or re.search(rf"(?<!\w){re.escape(value)}(?!\w)", plain) is not None)


def compare(data: Any, layout: Layout) -> list[str]:
    """Return the differences between the data and the truth."""
    splits, faults = data.splits, []
    labels = splits.labels.to_dense().numpy() if isinstance(splits.labels, SparseLabels) else splits.labels
    labels = np.asarray(labels, dtype=float)
    truth, classes = _truth(layout, data.task.name)
    if list(splits.class_names) != classes:
        faults.append(f"classes: {splits.class_names} instead of {classes}")
    elif labels.shape != truth.shape or not np.allclose(labels, truth, atol=1e-6, equal_nan=True):
        faults.append(f"labels: {labels[:3]} instead of {truth[:3]}")
    return faults + _compare_features(splits, layout) + _compare_splits(splits, layout)


def _truth(layout: Layout, task: str) -> tuple[np.ndarray, list[str]]:
    known = [row for row in layout.labels if row is not None]
    first = known[0]
    if layout.classes is not None:
        classes = [*layout.classes]
    elif isinstance(first, set | frozenset):
        classes = sorted_values({str(label) for row in known for label in row})
    else:
        classes = sorted_values({*map(str, known)})
    rows: list[Any] = []
    for row in layout.labels:
        if isinstance(first, set | frozenset):
            names = {str(label) for label in row or ()}
            rows.append([np.nan if row is None else float(name in names) for name in classes])
        elif isinstance(first, list | tuple):
            rows.append([np.nan] * len(classes) if row is None else row)
        else:
            rows.append(np.nan if row is None else float(classes.index(str(row))))
    return np.array(rows, dtype=float), classes


def _compare_features(splits: Any, layout: Layout) -> list[str]:
    if "features" not in splits.preparation or "numbers" not in splits.preparation["features"]:
        return []
    fitted, faults = splits.preparation["features"], []
    for kind in ("numbers", "categories", "dates", "texts"):
        found, expected = sorted(column["name"] for column in fitted[kind]), sorted(getattr(layout, kind))
        if found != expected:
            faults.append(f"{kind}: {found} instead of {expected}")
    if faults:
        return faults
    matrix = splits.features[np.arange(len(splits.features))].numpy()
    place = 0
    for column in fitted["numbers"]:
        values = matrix[:, place] * column["std"] + column["mean"]
        place += 1 + column["missing"]
        truth = np.array([np.nan if v is None else float(v) for v in layout.numbers[column["name"]]])
        known = ~np.isnan(truth)
        tolerance = 1e-4 * max(1.0, float(np.abs(truth[known]).max()))
        if len(values) != len(truth) or np.abs(values - truth)[known].max() > tolerance:
            faults.append(f"numbers in {column['name']}: {values[:3]} instead of {truth[:3]}")
    place += sum(len(part_names(date)) for date in fitted["dates"])
    for column in fitted["categories"]:
        width = len(column["values"])
        known = [value if value is None else str(value) for value in layout.categories[column["name"]]]
        codes = matrix[:, place : place + width]
        place += width + column["missing"]
        for row, value in enumerate(known):
            read = column["values"][int(codes[row].argmax())] if codes[row].any() else None
            if read != value and not (read is None and value not in column["values"]):
                faults.append(f"category in {column['name']}, row {row}: {read!r} instead of {value!r}")
                break
    return faults


def part_names(date: Any) -> list[str]:
    """Return the features of a column of dates."""
    return [part["name"] for part in date["parts"] for _ in range(1 + part["missing"])]


def _compare_splits(splits: Any, layout: Layout) -> list[str]:
    rows, faults = {split: index.numpy() for split, index in splits.rows.items()}, []
    if not np.array_equal(np.sort(np.concatenate([*rows.values()])), np.arange(len(layout.labels))):
        faults.append("splits: rows are missing, or in several splits")
    for row, split in enumerate(layout.splits or ()):
        if split is not None and row not in rows[split]:
            faults.append(f"splits: row {row} is not in {split}")
            break
    if layout.groups is not None:
        groups = [{layout.groups[i] for i in index} for index in rows.values()]
        if groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2]:
            faults.append("groups: one is in several splits")
    if layout.times is not None:
        times = np.array(layout.times)
        if (
            not times[rows["train"]].max()
            < times[rows["val"]].min()
            <= times[rows["val"]].max()
            < times[rows["test"]].min()
        ):
            faults.append("times: the splits overlap")
    return faults
