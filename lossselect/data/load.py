"""Loading of the splits of a run from the user's tables and arrays."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from lossselect.data.checks import warn_target_leakage
from lossselect.data.label_parsing.array_labels import parse_label_array, parse_sparse_labels
from lossselect.data.label_parsing.long_format import collect_labels, count_ids
from lossselect.data.label_parsing.options import LabelOptions, Labels, is_marker
from lossselect.data.label_parsing.table_labels import parse_label_columns
from lossselect.data.preprocessing.array_features import fit_array, transform_array
from lossselect.data.preprocessing.columns import CellParser, column_error, feature_columns
from lossselect.data.preprocessing.preparation import Preparation
from lossselect.data.preprocessing.table_features import Features
from lossselect.data.preprocessing.table_rows import TableRows
from lossselect.data.readers.arrays import read_arrays
from lossselect.data.readers.formats import open_table
from lossselect.data.readers.tables import TableOptions, check_columns
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
from lossselect.losses.options import MAX_WEIGHT
from lossselect.utils.checks import first_duplicate, format_setting, shorten
from lossselect.utils.warnings import warn


@dataclass(frozen=True)
class Source:
    """The content of one file.

    Args:
        path: The file.
        features: Columns (`pl.DataFrame`), or an array (N, F), which may be mapped.
        labels: Columns, a matrix with a column for each label, or sparse labels.
        listed: Whether the user set a list of target columns.
        reading: Settings for reading new files of the same kind.
        weights: Sample weights (N,), or None.
        roles: The columns that determine the splits, by setting: split, group and time.
    """

    path: str
    features: Any
    labels: Sequence[pl.Series] | np.ndarray | SparseLabels
    listed: bool
    reading: Mapping[str, Any]
    weights: np.ndarray | None = None
    roles: Mapping[str, pl.Series] = field(default_factory=dict)


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
    group: str | None = None,
    time: str | None = None,
    date_format: str | None = None,
    **reading: Any,
) -> Splits:
    """Return the splits of tables (`name` "table") or arrays ("arrays").

    Means, categories and classes are computed from the training rows. A validation or test split without a
    path is a random fraction of the rows of `path`. `LabelOptions`, `Features.fit` and `CellParser` describe
    the settings; `reading` has arguments of `_read_table` or `_read_arrays`.

    Raises:
        ConfigError: settings that are unknown or cannot be combined.
        DataError: a file, feature or label that cannot be used.
        FileMissingError: a file does not exist.
    """
    is_table = name == "table"
    markers = _as_list(missing)
    all_markers = [*markers, *_as_list(task.get("missing"))]
    class_names = task.get("class_names")
    if class_names is not None:
        # the command line parses a name such as true as a boolean
        class_names = [str(n).lower() if isinstance(n, bool) else str(n) for n in class_names]
    parser = CellParser(tuple(_names(null_values)), nan)
    if is_table:
        all_markers += _missing_words(parser, [*(class_names or []), positive])
    words = tuple(_as_list(no_label))
    general = (task["name"], class_names, positive, delimiter, tuple(all_markers), empty, handle_unknown)
    options = LabelOptions(*general, words, uncertain, counts, annotators, hierarchy, id)
    categories, free_text = _names(categorical), [*dict.fromkeys(_names(text))]
    if both := [name for name in free_text if name in categories]:
        raise ConfigError(
            f"Column {both[0]!r} cannot be both data.text and data.categorical. Remove it from one of them."
        )
    if not is_table and (val_path or test_path) and Path(path).suffix.lower() == ".npy":
        raise ConfigError(
            "data.val_path and data.test_path need data.path to be a .npz file of features and labels, got "
            f"{path}. Save each split as such a file."
        )

    def read(path: str, as_text: Sequence[str], roles: Mapping[str, str]) -> Source:
        if not is_table:
            return _read_arrays(path, **reading)
        return _read_table(path, as_text=as_text, roles=roles, labels=options, **reading)

    columns = {"split": split, "group": group, "time": time}
    roles = {role: str(name) for role, name in columns.items() if name is not None}
    source = read(path, [*categories, *free_text], roles)
    if is_table:
        check_columns(categories, source.features.columns, "data.categorical", path)
        check_columns(free_text, source.features.columns, "data.text", path)
    labels = _labels(source, options)
    _warn_unmatched(source.labels, markers)
    if class_names is None:
        _warn_missing_numbers(labels, parser)
    options = replace(options, task=labels.task, fitted=labels)
    warn_target_leakage(source.features, labels.values)
    if is_table:
        warn_likely_splits(source.features.drop(free_text), has_groups=group is not None or time is not None)
    fractions = {} if test_path else {"test": test_fraction}
    fractions |= {} if val_path else {"val": val_fraction}
    rows = find_rows(source.roles, labels, fractions, seed, test_fold, date_format)
    if source.weights is not None and not source.weights[rows["train"]].any():
        raise DataError(
            "All training rows have weight 0 (data.sample_weight), so nothing would be learned. Set one > 0."
        )
    with count_ids(id):
        features = (
            Features.fit(source.features, rows["train"], parser, categories, free_text, date_format)
            if is_table
            else fit_array(source.features, rows["train"], parser)
        )

    def transform(source: Source) -> tuple[TableRows, dict[str, int]]:
        if is_table:
            return features.transform(source.features, source.path)
        return transform_array(source.features, features)

    parts: list[tuple[Any, ...]] = [(transform(source)[0], labels.values, source.weights)]
    starts, unknown = {}, {}
    for part, other_path in {"val": val_path, "test": test_path}.items():
        if not other_path:
            continue
        try:
            # categories are read as text, so that "007" stays "007" even if all cells look like numbers
            texts = [category.name for category in features.categories]
            texts += [column.name for column in features.texts]
            other = read(other_path, texts, {"other_group": roles["group"]} if "group" in roles else {})
            width, train_width = other.reading.get("width"), source.reading.get("width")
            if width != train_width:
                raise DataError(f"Expected {train_width} features per row as in training, got {width}.")
            table, unknown[other_path] = transform(other)
            values = _labels(other, options).values
            if values.shape[1:] != labels.values.shape[1:]:
                raise DataError(
                    f"The labels have shape {values.shape}, but the training labels have shape "
                    f"{labels.values.shape}."
                )
        except LossSelectError as error:
            raise error.add(f"(In {other_path}.)") from None
        starts[part] = sum(len(table) for table, *_ in parts)
        rows[part] = np.arange(starts[part], starts[part] + len(values))
        parts.append((table, values, other.weights))
        if "group" in other.roles:
            warn_shared_groups(source.roles["group"].gather(rows["train"]), other.roles["group"], part)
    _warn_unknown(unknown)
    tables, all_labels, weights = zip(*parts, strict=True)
    preparation = Preparation(name, features, source.reading).to_dict()
    preparation["vocabulary"] = labels.vocabulary.to_dict() if labels.vocabulary else None
    return Splits(
        name=path,
        features=TableRows.concatenate(tables),
        labels=(SparseLabels if isinstance(labels.values, SparseLabels) else np).concatenate(all_labels),
        class_names=labels.class_names,
        rows={split: torch.from_numpy(rows[split]) for split in SPLITS},
        preparation=preparation,
        task=labels.task,
        reason=labels.reason,
        starts=starts,
        columns=tuple(features.summary),
        weights=None if source.weights is None else torch.from_numpy(np.concatenate(weights)).float(),
        method=describe_method(source.roles, {"val": val_path, "test": test_path}),
    )


def _read_table(
    path: str,
    *,
    target: Any,
    features: Any = None,
    exclude: Any = None,
    sample_weight: Any = None,
    roles: Mapping[str, str],
    labels: LabelOptions,
    as_text: Sequence[str] = (),
    **options: Any,
) -> Source:
    """Return the content of a table; target columns are read as text.

    `roles` are the columns that determine the splits, by setting.
    """
    targets, weights, ids = [*dict.fromkeys(_names(target))], _names(sample_weight), _names(labels.id)
    table = open_table(path, TableOptions(**options))
    check_columns(targets, table.header, "data.target", path)
    check_columns(weights, table.header, "data.sample_weight", path)
    if len(weights) > 1:
        raise ConfigError(f"data.sample_weight must be one column, got {len(weights)}: {shorten(weights)}.")
    check_columns(ids, table.header, "data.id", path)
    if len(targets) > 1:
        labels.check_unused(["id"], f"{len(targets)} columns")
    settings = [("target", name) for name in targets] + [("sample_weight", name) for name in weights]
    settings += [("id", name) for name in ids]
    if roles.get("other_group") not in table.header:  # the groups of another file are only compared
        roles = {role: name for role, name in roles.items() if role != "other_group"}
    if ids and ids[0] in _names(features):
        raise ConfigError(f"Column {ids[0]!r} cannot be both data.id and a feature (data.features).")
    for role, name in roles.items():
        check_columns([name], table.header, f"data.{role}", path)
        settings.append((role, name))
        if role != "time" and name in _names(features):
            raise ConfigError(
                f"Column {name!r} cannot be a feature (data.features), because it determines the splits "
                f"(data.{role}). Remove it from data.features."
            )
    if (twice := first_duplicate(name for _, name in settings)) is not None:
        first, second = [setting for setting, name in settings if name == twice][:2]
        raise ConfigError(f"Column {twice!r} cannot be both data.{first} and data.{second}.")
    only = _names(features)
    removed = [*_names(exclude), *weights, *ids, *(name for name in roles.values() if name not in only)]
    columns = feature_columns(table.header, targets, only, removed, path)
    texts = [*targets, *ids, *(name for role, name in roles.items() if role != "time"), *as_text]
    used = dict.fromkeys([*columns, *targets, *weights, *ids, *roles.values()])
    frame = table.read([*used], as_text=texts)
    if options.get("header") is None and table.form == "CSV":
        _check_no_row_is_header(table.header, frame[targets], path)
    unnamed = [name for name in columns if name in table.unnamed and name not in only]
    columns = [name for name in columns if not (name in unnamed and _is_index(frame[name], path))]
    if ids:
        frame = frame[[*dict.fromkeys([*columns, *targets, *weights, *ids, *roles.values()])]]
        frame = collect_labels(frame, ids[0], targets[0], labels.empty)
    checked = _check_weights(frame[weights[0]], path) if weights else None
    listed = isinstance(target, list | tuple) and not ids
    role_columns = {role.removeprefix("other_"): frame[name] for role, name in roles.items()}
    return Source(path, frame[columns], frame[targets].get_columns(), listed, options, checked, role_columns)


def _check_no_row_is_header(header: Sequence[str], targets: pl.DataFrame, path: str) -> None:
    """Raise a DataError if the first line of a file seems to be a row.

    It has only numbers other than those of the columns, or numbers and a label in the target column.
    """
    numbers = [as_number(name) for name in header]
    counts = numbers in ([*range(len(header))], [*range(1, len(header) + 1)])
    named_like_label = [
        column.name
        for column in targets.iter_columns()
        if column.dtype == pl.String and (column.str.strip_chars() == column.name).any()
    ]
    if (None in numbers or counts) and not (named_like_label and {*numbers} != {None}):
        return
    problem = "its first line contains only numbers"
    if None in numbers:
        problem = f"column {named_like_label[0]!r} (data.target) contains this label, and others are numbers"
    raise DataError(
        f"{path} seems to have no header: {problem} ({shorten(header)}). Set data.header=false to name the "
        "columns 'column 0', 'column 1' and so on, or data.header=true if these are names."
    )


def _is_index(column: pl.Series, path: str) -> bool:
    """Return whether a column without a name is empty, or numbers the rows, for which there is a warning."""
    if column.null_count() == len(column):
        return True
    if not column.dtype.is_integer() or column.n_unique() < len(column):
        return False
    warn(
        "index_column",
        f"A column of {path} has no name and another integer in each row, as the index that pandas writes. "
        f"It is left out. To use it, name it {column.name!r} in data.features.",
    )
    return True


def _read_arrays(
    path: str, *, features: str | None = None, target: str | None = None, sample_weight: str | None = None
) -> Source:
    labels: Any
    inputs, labels, weights = read_arrays(path, features, target, sample_weight)
    if weights is not None:
        weights = _check_weights(pl.Series(sample_weight, weights), path)
    if isinstance(labels, np.ndarray) and labels.ndim == 1:
        labels = [pl.Series(target or "target", labels)]
    return Source(path, inputs, labels, False, {"features": features, "width": inputs.shape[1]}, weights)


def _check_weights(column: pl.Series, path: str) -> np.ndarray:
    """Return the weights as float64; raise a DataError unless all are from 0 to MAX_WEIGHT."""
    rule = f"but weights must be numbers from 0 to {MAX_WEIGHT:g}."
    if column.dtype.is_nested():
        raise column_error(column.name, f"is of type {column.dtype}, {rule}")
    numbers = column.cast(pl.Float64, strict=False)
    invalid = (numbers.is_null() | (numbers < 0) | ~(numbers <= MAX_WEIGHT)).fill_null(True)
    if invalid.any():
        row = invalid.arg_max() or 0
        weight = f"the weight {column[row]!r} ({format_setting('data.sample_weight', column.name)})"
        raise DataError(f"Row {row} of {path} has {weight}, {rule}", row=row)
    return numbers.to_numpy()


def _as_list(setting: Any) -> list[Any]:
    """Return one value, several, or none as a list."""
    return [*setting] if isinstance(setting, list | tuple) else [] if setting is None else [setting]


def _names(setting: Any) -> list[str]:
    """Return one name, several, or none as a list; YAML reads some names as numbers."""
    return [str(name) for name in _as_list(setting)]


def _labels(source: Source, options: LabelOptions) -> Labels:
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


def _warn_unmatched(labels: Sequence[pl.Series] | np.ndarray | SparseLabels, markers: list[Any]) -> None:
    """Warn about a marker that no row has, which may be misspelled."""
    if not markers or isinstance(labels, np.ndarray | SparseLabels):
        return
    flat = [column.explode() if column.dtype in (pl.List, pl.Array) else column for column in labels]
    values = [value for column in flat for value in column.unique().drop_nulls()]
    # `in`, because a cell may contain several labels
    if unmatched := [m for m in markers if not any(is_marker(v, [m]) or str(m) in str(v) for v in values)]:
        problem = f"No row has the label {shorten(unmatched)}, which data.missing marks as missing."
        warn("unmatched_missing", f"{problem} Check how the file writes missing labels.")


def _warn_unknown(unknown: Mapping[str, Mapping[str, int]]) -> None:
    cells = [f"{n} in column {name!r} of {path}" for path in unknown for name, n in unknown[path].items()]
    if cells:
        problem = "Some cells are missing in columns that have no missing training cells, or have a category"
        effect = "The net gets the column's mean or no category for them."
        warn("unseen_category", f"{problem} that no training row has: {shorten(cells)}. {effect}")
