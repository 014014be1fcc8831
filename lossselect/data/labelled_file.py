"""Reading of a labelled file for the evaluation of a trained model, with the settings of its run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lossselect.data.label_parsing.settings import LabelSettings
from lossselect.data.large_tables.cache import Cache
from lossselect.data.large_tables.features import LargeTables, is_large
from lossselect.data.load import parse_labels, warn_unseen_cells
from lossselect.data.preprocessing.array_features import transform_array
from lossselect.data.preprocessing.preparation import Preparation
from lossselect.data.preprocessing.table_rows import TableRows
from lossselect.data.readers.arrays import has_array
from lossselect.data.sources import Source, read_array_source, read_table
from lossselect.data.splits import Splits
from lossselect.exceptions import CheckpointError, ConfigError, DataError
from lossselect.tasks.registry import Task
from lossselect.utils.checks import shorten


def load_labelled(
    path: str,
    task: Task,
    preparation: Preparation,
    labels: LabelSettings,
    target: tuple[str, ...] = (),
    max_memory: float | None = None,
    cache: str | None = None,
    **reading: Any,
) -> Splits:
    """Return the rows of a labelled file as a test split.

    Args:
        path: The file.
        task: The task of the model.
        preparation: The preparation of the features.
        labels: The settings of the labels.
        target: The names of the target columns, if they differ from those of the training.
        max_memory: GB of memory that a table may take, by default half of the free memory.
        cache: The folder of the files of a larger table.
        reading: Settings for reading the file that differ from those of the training.

    Raises:
        DataError: the file has no labels, or labels that no training row has; or it has other features.
        ConfigError: `target` does not fit the settings of the labels.
    """
    # the labels of a .npy file are in another file, so that they have no name
    stored = () if Path(path).suffix.lower() == ".npy" else labels.target
    names = labels.rename(target) if target else stored
    memory = {"max_memory": max_memory, "cache": cache}
    source = _read(path, preparation, labels, names, reading, memory)
    values = parse_labels(source, labels.options).values
    features, unseen = _transform(source, preparation, cache)
    warn_unseen_cells(unseen)
    rows = {"test": torch.arange(len(features))}
    weights = None if source.weights is None else torch.tensor(source.weights).float()
    return Splits(path, features, values, task.names, rows, {}, weights=weights)


def _transform(
    source: Source, preparation: Preparation, cache: str | None
) -> tuple[TableRows, dict[str, dict[str, int]]]:
    """Return the features, and the number of cells of each column that are unlike the training rows."""
    if is_large(source):
        large_tables = LargeTables(Cache(cache, source.path))
        table, counts, _ = large_tables.transform(preparation.features, [source], [None])
        return table, {source.path: counts[0]}
    if isinstance(source.features, np.ndarray):
        rows, unseen = transform_array(source.features, preparation.features)
    else:
        table = source.features
        rows, unseen = preparation.features.transform(getattr(table, "frame", table), source.path)
    return rows, {source.path: unseen}


def _read(
    path: str,
    preparation: Preparation,
    labels: LabelSettings,
    names: tuple[str, ...],
    reading: Any,
    memory: Mapping[str, Any],
) -> Source:
    preparation.check_source(path)
    features, weight = preparation.features, labels.sample_weight
    changed, reading = reading, {**preparation.reading, **reading}
    if preparation.source != "table":
        source = read_array_source(
            path,
            features=reading.get("features"),
            target=names[0] if names else None,
            sample_weight=weight if has_array(path, weight) else None,
            roles={},
            labels=labels.options,
            train=preparation.reading,
        )
        preparation.check_width(source.features.shape[1], path)
        return source
    table = preparation.open(path, **changed)
    if not names:
        raise CheckpointError("The checkpoint is damaged: it names no target column. Set target=COLUMN.")
    if missing := [name for name in names if name not in table.header]:
        raise DataError(
            f"{path} has no column {missing[0]!r}, which contains the labels. It has: "
            f"{shorten(table.header)}. If the labels are in another column, set target=COLUMN. To predict "
            "rows without labels, use lossselect predict."
        )
    if shared := [name for name in names if name in features.columns]:
        raise ConfigError(
            f"Column {shared[0]!r} (target) is a feature of the model, so it cannot contain the labels. Set "
            "target to the column of the labels."
        )
    source = read_table(
        path,
        target=[*names] if labels.listed or len(names) > 1 else names[0],
        features=features.columns,
        sample_weight=weight if weight in table.header else None,
        roles={},
        labels=labels.options,
        as_text=[*(c.name for c in features.categories), *(c.name for c in features.texts)],
        **memory,
        **reading,
    )
    if not is_large(source):
        preparation.check_first_row(source.features.frame, path)
    if len(names) > 1:  # the order of label columns is that of their names in training
        columns: Any = zip(source.labels, labels.target, strict=True)  # type: ignore[arg-type]  # a list
        source = replace(source, labels=[column.alias(name) for column, name in columns])
    return source
