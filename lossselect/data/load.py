"""The splits of a run from the user's tables and arrays."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch

from lossselect.data.checks import warn_target_leakage
from lossselect.data.label_parsing.array_labels import parse_label_array, parse_sparse_labels
from lossselect.data.label_parsing.options import LabelOptions, Labels, is_marker
from lossselect.data.label_parsing.table_labels import parse_label_columns
from lossselect.data.preprocessing.array_features import fit_array, transform_array
from lossselect.data.preprocessing.columns import CellParser, column_error, feature_columns
from lossselect.data.preprocessing.preparation import Preparation
from lossselect.data.preprocessing.table_features import Features, TableRows
from lossselect.data.readers.arrays import read_arrays
from lossselect.data.readers.tables import check_columns, open_table
from lossselect.data.splits import SPLITS, Splits, split_rows
from lossselect.exceptions import ConfigError, DataError, LossSelectError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.values import as_number
from lossselect.losses.options import MAX_WEIGHT
from lossselect.utils.checks import format_setting, shorten
from lossselect.utils.warnings import warn


@dataclass(frozen=True)
class Source:
    """The content of one file; `listed` is whether a list of target columns was named.

    Features are columns (`pl.DataFrame`) or an array (N, F), perhaps a mapped one; labels are columns, a
    matrix with a column for each label, or sparse. `reading` is how new files of the same kind are read.
    """

    path: str
    features: Any
    labels: Sequence[pl.Series] | np.ndarray | SparseLabels
    listed: bool
    reading: Mapping[str, Any]
    weights: np.ndarray | None = None


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
    categorical: Any = None,
    null_values: Any = None,
    nan: str = "error",
    **reading: Any,
) -> Splits:
    """Return the splits of tables (`name` "table") or arrays ("arrays").

    Means, categories and classes are those of the train split. A split without a file of its own takes a
    fraction of `path`. `LabelOptions`, `Features.fit` and `CellParser` describe the settings; `reading` are
    arguments of `_read_table` or `_read_arrays`.
    """
    is_table = name == "table"
    markers = _as_list(missing)
    all_markers = [*markers, *_as_list(task.get("missing"))]
    class_names = task.get("class_names")
    if class_names is not None:
        # the command line reads a name such as true as a boolean
        class_names = [str(n).lower() if isinstance(n, bool) else str(n) for n in class_names]
    parser = CellParser(tuple(_names(null_values)), nan)
    if is_table:
        all_markers += _missing_words(parser, [*(class_names or []), positive])
    options = LabelOptions(
        task["name"], class_names, positive, delimiter, tuple(all_markers), empty, handle_unknown
    )
    categories = _names(categorical)
    if not is_table and (val_path or test_path) and not path.endswith(".npz"):
        raise ConfigError(f"{path} holds features alone, so that other files need a .npz each, with both.")

    def read(path: str, as_text: Sequence[str]) -> Source:
        return _read_table(path, as_text=as_text, **reading) if is_table else _read_arrays(path, **reading)

    source = read(path, categories)
    if is_table:
        check_columns(categories, source.features.columns, "data.categorical", path)
    labels = _labels(source, options)
    _warn_unmatched(source.labels, markers)
    if class_names is None:
        _warn_missing_numbers(labels, parser)
    options = replace(options, task=labels.task, fitted=labels)
    warn_target_leakage(source.features, labels.values)
    fractions = {} if test_path else {"test": test_fraction}
    fractions |= {} if val_path else {"val": val_fraction}
    rows = split_rows(labels.values, fractions, seed, labels.class_names)
    if source.weights is not None and not source.weights[rows["train"]].any():
        raise DataError("All train rows have the weight 0 (data.sample_weight): nothing would be learned.")
    features = (
        Features.fit(source.features, rows["train"], parser, categories)
        if is_table
        else fit_array(source.features, rows["train"], parser)
    )

    def transform(source: Source) -> tuple[TableRows, dict[str, int]]:
        if is_table:
            return features.transform(source.features, source.path)
        return transform_array(source.features, features)

    parts: list[tuple[Any, ...]] = [(transform(source)[0], labels.values, source.weights)]
    starts, unknown = {}, {}
    for split, other_path in {"val": val_path, "test": test_path}.items():
        if not other_path:
            continue
        try:
            # categories are read as text: "007" remains what it is whatever the other cells look like
            other = read(other_path, [category.name for category in features.categories])
            width, train_width = other.reading.get("width"), source.reading.get("width")
            if width != train_width:
                raise DataError(f"There are {width} features a row, but {train_width} in training.")
            table, unknown[other_path] = transform(other)
            values = _labels(other, options).values
            if values.shape[1:] != labels.values.shape[1:]:
                raise DataError(
                    f"Labels are of shape {values.shape}, but in training of shape {labels.values.shape}."
                )
        except LossSelectError as error:
            raise error.add(f"(In {other_path}.)") from None
        starts[split] = sum(len(table) for table, *_ in parts)
        rows[split] = np.arange(starts[split], starts[split] + len(values))
        parts.append((table, values, other.weights))
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
        columns=tuple(features.columns),
        weights=None if source.weights is None else torch.from_numpy(np.concatenate(weights)).float(),
    )


def _read_table(
    path: str,
    *,
    target: Any,
    features: Any = None,
    exclude: Any = None,
    separator: str | None = None,
    encoding: str = "utf-8",
    sample_weight: Any = None,
    as_text: Sequence[str] = (),
) -> Source:
    """Return a table's columns, those of the target as text."""
    targets, weights = [*dict.fromkeys(_names(target))], _names(sample_weight)
    table = open_table(path, separator, encoding)
    check_columns(targets, table.header, "data.target", path)
    check_columns(weights, table.header, "data.sample_weight", path)
    if len(weights) > 1:
        raise ConfigError(f"data.sample_weight is one column, got {len(weights)}: {shorten(weights)}.")
    if both := [name for name in weights if name in targets]:
        raise ConfigError(f"Column {both[0]!r} is the target, and data.sample_weight names it as well.")
    columns = feature_columns(table.header, targets, _names(features), [*_names(exclude), *weights], path)
    frame = table.read([*columns, *targets, *weights], as_text=[*targets, *as_text])
    checked = _check_weights(frame[weights[0]], path) if weights else None
    listed = isinstance(target, list | tuple)
    reading = {"separator": separator, "encoding": encoding}
    return Source(path, frame[columns], frame[targets].get_columns(), listed, reading, checked)


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
    """Return the weights as float64, finite and at least 0."""
    if column.dtype.is_nested():
        raise column_error(column.name, f"is of type {column.dtype}; weights are finite numbers >= 0.")
    numbers = column.cast(pl.Float64, strict=False)
    invalid = (numbers.is_null() | (numbers < 0) | ~(numbers <= MAX_WEIGHT)).fill_null(True)
    if invalid.any():
        row = invalid.arg_max() or 0
        weight = f"the weight {column[row]!r} ({format_setting('data.sample_weight', column.name)})"
        raise DataError(f"Row {row} of {path} has {weight}: weights are finite numbers >= 0.", row=row)
    return numbers.to_numpy()


def _as_list(setting: Any) -> list[Any]:
    """Return one value, several, or none as a list."""
    return [*setting] if isinstance(setting, list | tuple) else [] if setting is None else [setting]


def _names(setting: Any) -> list[str]:
    """Return one name, several, or none as a list; YAML reads some names as numbers."""
    return [str(name) for name in _as_list(setting)]


def _labels(source: Source, options: LabelOptions) -> Labels:
    if isinstance(source.labels, SparseLabels):
        if options.missing:
            raise DataError(
                "Lists of labels have no mark for a missing one (data.missing, task.missing). Mark rows "
                "without labels in an array missing, of true and false, beside indices and offsets."
            )
        return parse_sparse_labels(source.labels, options, "there are lists of labels")
    if isinstance(source.labels, np.ndarray):
        return parse_label_array(source.labels, options)
    return parse_label_columns(source.labels, options, source.listed)


def _missing_words(parser: CellParser, classes: Sequence[Any]) -> list[Any]:
    """Return what means "missing" in labels too: no class, nor a number, which may be a class."""
    words: list[Any] = [word for word in parser.null_values if as_number(word) is None]
    words += [math.nan] if parser.nan == "missing" else []
    named = {str(value).lower() for value in classes}
    return [word for word in words if str(word).lower() not in named]


def _warn_missing_numbers(labels: Labels, parser: CellParser) -> None:
    """Warn of classes that are numbers which mean "missing" among the features."""
    numbers = {as_number(word) for word in parser.null_values} - {None, 0, 1}
    classes = labels.class_names if labels.vocabulary else ()
    if suspects := [name for name in classes if as_number(name) in numbers]:
        setting = format_setting("data.missing", suspects[0])
        problem = f"A class is called {suspects[0]!r}, which data.null_values marks as a missing feature."
        warn("likely_missing_marker", f"{problem} If it marks a missing label too, set {setting}.")


def _warn_unmatched(labels: Sequence[pl.Series] | np.ndarray | SparseLabels, markers: list[Any]) -> None:
    """Warn of a marker that no row has: perhaps the file writes it otherwise."""
    if not markers or isinstance(labels, np.ndarray | SparseLabels):
        return
    flat = [column.explode() if column.dtype in (pl.List, pl.Array) else column for column in labels]
    values = [value for column in flat for value in column.unique().drop_nulls()]
    # a cell may contain several labels
    if unmatched := [m for m in markers if not any(is_marker(v, [m]) or str(m) in str(v) for v in values)]:
        warn("unmatched_missing", f"No row has the label {shorten(unmatched)}, given as data.missing.")


def _warn_unknown(unknown: Mapping[str, Mapping[str, int]]) -> None:
    cells = [f"{n} in column {name!r} of {path}" for path in unknown for name, n in unknown[path].items()]
    if cells:
        problem = "Cells that are missing where no train row is, or of a category that no train row has"
        warn("unseen_category", f"{problem}: {shorten(cells)}.")
