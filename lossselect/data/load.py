"""Loading of the splits of a run from the user's tables and arrays."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch

from lossselect.data.checks import warn_target_leakage
from lossselect.data.label_parsing.array_labels import parse_label_array, parse_sparse_labels
from lossselect.data.label_parsing.long_format import count_ids
from lossselect.data.label_parsing.options import LabelOptions, Labels, is_marker
from lossselect.data.label_parsing.settings import LabelSettings
from lossselect.data.label_parsing.table_labels import parse_label_columns
from lossselect.data.large_tables.cache import Cache
from lossselect.data.large_tables.features import LargeTables, is_large
from lossselect.data.overview import Column, describe_columns, summarize_others
from lossselect.data.preprocessing.array_features import fit_array, transform_array
from lossselect.data.preprocessing.columns import CellParser
from lossselect.data.preprocessing.preparation import Preparation
from lossselect.data.preprocessing.sparse_features import SparseFeatures
from lossselect.data.preprocessing.table_features import Features
from lossselect.data.preprocessing.table_rows import TableRows
from lossselect.data.readers.arrays import has_only_features
from lossselect.data.readers.libsvm import is_libsvm
from lossselect.data.readers.tables import check_columns
from lossselect.data.sources import Source, as_names, read_array_source, read_table
from lossselect.data.split_columns import (
    describe_method,
    find_rows,
    warn_likely_splits,
    warn_shared_groups,
)
from lossselect.data.splits import SPLITS, Splits
from lossselect.exceptions import ConfigError, DataError, LossSelectError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.values import as_number
from lossselect.utils.checks import as_list, format_setting, shorten
from lossselect.utils.devices import stays_in_memory
from lossselect.utils.warnings import warn


def load_own_data(
    name: str,
    *,
    task: Mapping[str, Any],
    path: str,
    val_path: str | None,
    test_path: str | None,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    positive: Any = None,
    delimiter: str | None = None,
    missing: Any = None,
    empty: str | None = None,
    handle_unknown: str = "error",
    no_label: Any = None,
    uncertain: str | None = None,
    counts: bool = False,
    annotators: str | None = None,
    hierarchy: str | None = None,
    id: str | None = None,
    categorical: Any = None,
    text: Any = None,
    null_values: Any = None,
    nan: str = "error",
    split: str | None = None,
    test_fold: Any = None,
    val_fold: Any = None,
    group: str | None = None,
    time: str | None = None,
    date_format: str | None = None,
    cache: str | None = None,
    **reading: Any,
) -> Splits:
    """Return the splits of tables (`name` "table") or arrays ("arrays").

    Means, categories and classes are computed from the training rows. A validation or test split without a
    path is a random fraction of the rows of `path`. `LabelOptions`, `Features.fit` and `CellParser` describe
    the settings; `reading` has arguments of `read_table` or `read_array_source`.

    Raises:
        ConfigError: settings that are unknown or cannot be combined.
        DataError: a file, feature or label that cannot be used.
        FileMissingError: a file does not exist.
    """
    is_table = name == "table"
    markers = as_list(missing)
    all_markers = [*markers, *as_list(task.get("missing"))]
    class_names = task.get("class_names")
    if class_names is not None:
        # the command line parses a name such as true as a boolean
        class_names = [str(n).lower() if isinstance(n, bool) else str(n) for n in class_names]
    parser = CellParser(tuple(as_names(null_values)), nan)
    if is_table:
        all_markers += _missing_words(parser, [*(class_names or []), positive])
    words = tuple(as_list(no_label))
    general = (task["name"], class_names, positive, delimiter, tuple(all_markers), empty, handle_unknown)
    options = LabelOptions(*general, words, uncertain, counts, annotators, hierarchy, id)
    categories, free_text = as_names(categorical), [*dict.fromkeys(as_names(text))]
    if both := [name for name in free_text if name in categories]:
        raise ConfigError(
            f"Column {both[0]!r} cannot be both data.text and data.categorical. Remove it from one of them."
        )
    if not is_table and (val_path or test_path) and not is_libsvm(path) and has_only_features(path):
        raise ConfigError(
            "data.val_path and data.test_path require a file of features and labels for each split, but "
            f"{path} contains only features. Join the rows of all splits, and save the split of each row, "
            "train, val or test, for data.split=splits.npy."
        )

    def read(path: str, as_text: Sequence[str], roles: Mapping[str, str]) -> Source:
        if not is_table:
            train = None if options.fitted is None else source.reading
            return read_array_source(path, roles=roles, labels=options, train=train, **reading)
        return read_table(path, as_text=as_text, roles=roles, labels=options, cache=cache, **reading)

    named = {"split": split, "group": group, "time": time}
    roles = {role: str(name) for role, name in named.items() if name is not None}
    source = read(path, [*categories, *free_text], roles)
    if is_table:
        check_columns(categories, source.features.columns, "data.categorical", path)
        check_columns(free_text, source.features.columns, "data.text", path)
    labels = parse_labels(source, options)
    absent = {
        "data.missing marks as missing": _find_absent(source.labels, markers),
        "data.uncertain declares": _find_absent(source.labels, [] if uncertain is None else [-1]),
    }
    if class_names is None:
        _warn_missing_numbers(labels, parser)
    options = replace(options, task=labels.task, fitted=labels)
    statistics = summarize_others(source, parser)
    # of a table, the names of the columns, which may be in a file; of a file of features, `target` is a path
    has_labels = not is_table and not (is_libsvm(path) or has_only_features(path))
    target = as_names(reading.get("target")) if has_labels else []
    columns_of_labels: Any = source.labels if is_table else ()
    target = [column.name for column in columns_of_labels] or target
    source = replace(source, labels=[])  # not needed any more, and possibly large
    fractions = {} if test_path else {"test": test_fraction}
    fractions |= {} if val_path else {"val": val_fraction}
    rows = find_rows(source.roles, labels, fractions, seed, {"test": test_fold, "val": val_fold}, date_format)
    if source.weights is not None and not source.weights[rows["train"]].any():
        raise DataError(
            "All training rows have weight 0 (data.sample_weight), so nothing would be learned. Set one > 0."
        )

    def fit() -> tuple[Any, tuple[Column, ...]]:
        train, has_groups = rows["train"], group is not None or time is not None
        fitted: Any
        if is_table:
            names = [name for name in source.features.columns if name not in free_text]
            for frame in source.features.groups(names):
                warn_target_leakage(frame, labels.values)
                warn_likely_splits(frame, has_groups)
            fitted = Features.fit(source.features, train, parser, categories, free_text, date_format)
        elif isinstance(source.features, np.ndarray):
            warn_target_leakage(source.features, labels.values)
            fitted = fit_array(source.features, train, parser)
        else:
            if nan != "error":
                raise ConfigError(
                    "data.nan=missing cannot be used with sparse features, which must be finite. Remove it."
                )
            return SparseFeatures.fit(source.features, train, source.reading["first_index"]), ()
        return fitted, describe_columns(source, fitted, statistics)

    def transform(source: Source) -> tuple[TableRows | None, dict[str, int]]:
        if is_large(source):
            return None, {}  # all files are converted together
        if isinstance(source.features, np.ndarray):
            return transform_array(source.features, features)
        return features.transform(source.features.frame if is_table else source.features, source.path)

    large_tables = LargeTables(Cache(cache, path))
    with count_ids(id):
        if is_large(source):
            key = (
                source.uses,
                source.features.columns,
                vars(parser),
                categories,
                free_text,
                date_format,
                group,
                time,
            )
            arrays = rows["train"], *([labels.values] if isinstance(labels.values, np.ndarray) else [])
            features, columns = large_tables.fit(source, [*key, dict(source.reading), *arrays], fit)
        else:
            features, columns = fit()
    column = source.roles.get("group")
    groups = {} if column is None else {split: column.gather(indices) for split, indices in rows.items()}
    parts: list[tuple[Any, ...]] = [(source, transform(source)[0], labels.values)]
    starts: dict[str, int] = {}
    unknown: dict[str, dict[str, int]] = {}
    for part, other_path in {"val": val_path, "test": test_path}.items():
        if not other_path:
            continue
        try:
            # categories are read as text, so that "007" stays "007" even if all cells look like numbers
            coded: list[Any] = [*features.categories, *features.texts] if is_table else []
            texts = [column.name for column in coded]
            other = read(other_path, texts, {"group": roles["group"]} if "group" in roles else {})
            width, train_width = other.reading.get("width"), source.reading.get("width")
            if width != train_width:
                raise DataError(f"Expected {train_width} features per row as in training, got {width}.")
            converted, unknown[other_path] = transform(other)
            absent = {meaning: _find_absent(other.labels, words) for meaning, words in absent.items()}
            values = parse_labels(other, options).values
            other = replace(other, labels=[])
            if values.shape[1:] != labels.values.shape[1:]:
                raise DataError(
                    f"The labels have shape {values.shape}, but the training labels have shape "
                    f"{labels.values.shape}."
                )
        except LossSelectError as error:
            raise error.add(f"(In {other_path}.)") from None
        starts[part] = sum(len(values) for *_, values in parts)
        rows[part] = np.arange(starts[part], starts[part] + len(values))
        parts.append((other, converted, values))
        if "group" in other.roles:
            groups[part] = other.roles["group"]
    warn_shared_groups(groups)
    sources, tables, all_labels = zip(*parts, strict=True)
    method = describe_method(source.roles, {"val": val_path, "test": test_path})
    if any(map(is_large, sources)):
        mapped, cells, folder = large_tables.transform(features, sources, tables)
        tables, method = (mapped,), f"{method}; features in {folder}"
        unknown |= {part.path: counts for part, counts in zip(sources[1:], cells[1:], strict=True) if counts}
    warn_unseen_cells(unknown)
    _warn_absent(absent)
    weights = None
    if source.weights is not None:
        weights = torch.from_numpy(np.concatenate([part.weights for part in sources])).float()
    form = "sparse matrix" if isinstance(features, SparseFeatures) else name
    preparation = Preparation(form, features, source.reading).to_dict()
    settings = LabelSettings((*dict.fromkeys(target),), source.listed, reading.get("sample_weight"), options)
    preparation["labels"] = settings.to_dict()
    table = TableRows.concatenate(tables)
    return Splits(
        name=path,
        features=table,
        labels=(SparseLabels if isinstance(labels.values, SparseLabels) else np).concatenate(all_labels),
        class_names=labels.class_names,
        rows={split: torch.from_numpy(rows[split]) for split in SPLITS},
        preparation=preparation,
        task=labels.task,
        reason=labels.reason,
        starts=starts,
        columns=tuple(features.summary),
        weights=weights,
        method=method,
        in_chunks=table.is_mapped and not stays_in_memory(table.nbytes),
        overview=columns,
    )


def parse_labels(source: Source, options: LabelOptions) -> Labels:
    """Return the labels of a file, with the classes of `options.fitted` if there are any."""
    if isinstance(source.labels, SparseLabels):
        options.check_unused(["counts"], "an array of sparse labels")
        if options.missing:
            raise DataError(
                "Sparse labels do not support a marker of missing labels (data.missing, task.missing). Mark "
                "missing rows in a boolean array 'missing', saved with 'indices' and 'offsets'."
            )
        return parse_sparse_labels(source.labels, options, "the labels are sparse")
    if isinstance(source.labels, np.ndarray):
        return parse_label_array(source.labels, options)
    with count_ids(options.id):
        return parse_label_columns(source.labels, options, source.listed)


def _missing_words(parser: CellParser, classes: Sequence[Any]) -> list[Any]:
    """Return the null values that also mean "missing" in labels: all but numbers and names of classes."""
    words: list[Any] = [word for word in parser.null_values if as_number(word) is None]
    words += [math.nan] if parser.nan == "missing" else []
    named = {str(value).lower() for value in classes}
    return [word for word in words if str(word).lower() not in named]


def _warn_missing_numbers(labels: Labels, parser: CellParser) -> None:
    """Warn about classes that are numbers which mean "missing" in the features."""
    numbers = {as_number(word) for word in parser.null_values} - {None, 0, 1}
    classes = labels.class_names if labels.vocabulary else ()
    if suspects := [name for name in classes if as_number(name) in numbers]:
        setting = format_setting("data.missing", suspects[0])
        problem = f"A class is called {suspects[0]!r}, which data.null_values marks as a missing feature."
        warn("likely_missing_marker", f"{problem} If it also marks a missing label, set {setting}.")


def _find_absent(labels: Sequence[pl.Series] | np.ndarray | SparseLabels, markers: list[Any]) -> list[Any]:
    """Return the markers that no row has."""
    if not markers or isinstance(labels, np.ndarray | SparseLabels):
        return []
    flat = [column.explode() if column.dtype in (pl.List, pl.Array) else column for column in labels]
    values = [value for column in flat for value in column.unique().drop_nulls()]
    # `in`, because a cell may contain several labels
    return [m for m in markers if not any(is_marker(v, [m]) or str(m) in str(v) for v in values)]


def _warn_absent(absent: Mapping[str, list[Any]]) -> None:
    """Warn about markers that no file has, which may be misspelled."""
    for meaning, markers in absent.items():
        if markers:
            problem = f"No row has the label {shorten(markers)}, which {meaning}."
            warn("unmatched_missing", f"{problem} Check how the file writes such labels.")


def warn_unseen_cells(unknown: Mapping[str, Mapping[str, int]]) -> None:
    """Warn about cells that are unlike those of the training rows: their number by file and column."""
    cells = [f"{n} in column {name!r} of {path}" for path in unknown for name, n in unknown[path].items()]
    if cells:
        problem = "Some cells are missing in columns that have no missing training cells, or have a category"
        effect = "The net gets the column's mean or no category for them."
        warn("unseen_category", f"{problem} that no training row has: {shorten(cells)}. {effect}")
