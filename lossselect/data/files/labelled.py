"""Reading of a labelled file for the evaluation of a trained model, with the settings of its run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lossselect.data.files.array_source import read_array_source
from lossselect.data.files.columns import NamedColumns, as_names
from lossselect.data.files.load import parse_labels, warn_unseen_cells
from lossselect.data.files.source import Source
from lossselect.data.files.table_source import read_table
from lossselect.data.label_parsing.long_format import count_ids
from lossselect.data.label_parsing.settings import LabelSettings, MultiLabelSettings
from lossselect.data.large_tables.cache import Cache
from lossselect.data.large_tables.features import transform_files
from lossselect.data.preprocessing.preparation import Preparation
from lossselect.data.readers.arrays import array_names
from lossselect.data.readers.sparse_matrices import check_same_width
from lossselect.data.readers.tables import TableOptions
from lossselect.data.splits import Splits
from lossselect.exceptions import CheckpointError, ConfigError, DataError
from lossselect.tasks.registry import AnyTask
from lossselect.utils.checks import shorten


def load_labelled(
    path: str,
    task: AnyTask,
    preparation: Preparation,
    labels: LabelSettings | MultiLabelSettings,
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
    preparation.check_source(path)
    # the labels of a .npy file are in another file, so that they have no name
    stored = () if Path(path).suffix.lower() == ".npy" else labels.target
    columns = NamedColumns(
        target=labels.rename(target) if target else stored,
        listed=labels.listed or len(labels.target) > 1,
        sample_weight=labels.sample_weight,
        id=labels.options.id,
    )
    caches = Cache(cache, path)
    if preparation.source == "table":
        source = _read_table(path, preparation, labels, columns, reading, caches, max_memory)
    else:
        source = _read_arrays(path, preparation, labels, columns)
    values = parse_labels(source, labels.options, columns.listed).values
    with count_ids(columns.id):
        features, unseen, _ = transform_files(preparation.features, [source], caches)
    warn_unseen_cells({path: unseen[0]})
    rows = {"test": torch.arange(len(features))}
    weights = None if source.weights is None else torch.tensor(source.weights).float()
    return Splits(path, features, values, task.names, rows, {}, weights=weights, known_task=task)


def _read_arrays(
    path: str, preparation: Preparation, labels: LabelSettings | MultiLabelSettings, columns: NamedColumns
) -> Source:
    features = preparation.reading.get("features")
    weight = columns.sample_weight
    if weight is not None and weight not in array_names(path):
        weight = None
    columns = replace(columns, features=tuple(as_names(features)), sample_weight=weight)
    source = read_array_source(path, columns, labels.options, preparation.reading)
    check_same_width(source.features.shape[1], preparation.reading["width"], path)
    return source


def _read_table(
    path: str,
    preparation: Preparation,
    labels: LabelSettings | MultiLabelSettings,
    columns: NamedColumns,
    reading: Mapping[str, Any],
    cache: Cache,
    max_memory: float | None,
) -> Source:
    table, names, features = preparation.open(path, **reading), columns.target, preparation.features
    if not names:
        raise CheckpointError("The checkpoint is damaged: it names no target column. Set target=COLUMN.")
    if missing := [name for name in names if name not in table.header]:
        raise DataError(
            f"{path} has no column {missing[0]!r}, which contains the labels. It has: "
            f"{shorten(table.header)}. If the labels are in another column, {labels.fix_name}. To predict "
            "rows without labels, use lossselect predict."
        )
    if shared := [name for name in names if name in features.columns]:
        raise ConfigError(
            f"Column {shared[0]!r} (target) is a feature of the model, so it cannot contain the labels. Set "
            "target to the column of the labels."
        )
    weight = columns.sample_weight if columns.sample_weight in table.header else None
    columns = replace(columns, features=tuple(features.columns), sample_weight=weight).fitted_to(features)
    options = TableOptions.select({**preparation.reading, **reading})
    source = read_table(table, options, columns, labels.options, cache, max_memory)
    if not source.is_large:
        preparation.check_first_row(source.features.frame, path)
    if len(names) > 1:  # the order of label columns is that of their names in training
        parsed: Any = zip(source.labels, labels.target, strict=True)  # type: ignore[arg-type]  # a list
        source = replace(source, labels=[column.alias(name) for column, name in parsed])
    return source
