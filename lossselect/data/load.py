"""Data of the user's own, from tables and arrays, made the splits that a run takes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch

from lossselect.data.checks import warn_target_leakage
from lossselect.data.label_parsing.array_labels import labels_of_array, labels_of_lists
from lossselect.data.label_parsing.options import LabelOptions, Labels
from lossselect.data.label_parsing.single_label import is_mark
from lossselect.data.label_parsing.table_labels import read_labels
from lossselect.data.preprocessing.array_features import fit_array, rows_of_array
from lossselect.data.preprocessing.columns import Reading, feature_columns
from lossselect.data.preprocessing.preparation import Preparation
from lossselect.data.preprocessing.table_features import Features, TableRows
from lossselect.data.readers.arrays import read_arrays, read_weights
from lossselect.data.readers.tables import check_columns, columns_of, read_table
from lossselect.data.splits import SPLITS, Splits, split_rows
from lossselect.exceptions import ConfigError, DataError, LossSelectError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.values import as_number
from lossselect.losses.options import MAX_WEIGHT
from lossselect.utils.checks import format_setting, shorten
from lossselect.utils.warnings import warn


@dataclass(frozen=True)
class Source:
    """What one file holds."""

    path: str
    features: "pl.DataFrame | np.ndarray"
    """Columns, or an array (N, F), perhaps one that is mapped."""
    labels: "Sequence[pl.Series] | np.ndarray | SparseLabels"
    """Columns, a matrix with a column for each label, or lists."""
    listed: bool
    """Whether a list of target columns was named."""
    reading: Mapping[str, Any]
    """How a new file of the same kind is to be read."""
    weights: np.ndarray | None = None
    """Of the rows, where there are some."""


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
    """The splits of a table (`name` "table") or of arrays ("arrays").

    What features and labels become is told by the train split alone: means, categories, classes. The
    order of the classes is that of the whole file where val and test rows are taken from it.

    Args:
        name: Which of the two.
        task: The task's settings: its name, perhaps `class_names` and `missing`.
        path: The file of the train rows, and of the other splits' where they have none of their own.
        val_path, test_path: Their own files.
        val_fraction, test_fraction: Which share of `path` becomes theirs, without.
        seed: Of that split.
        positive, delimiter, missing, empty, handle_unknown: As `LabelOptions` has them; `missing` may be one.
        categorical, null_values, nan: As `Features.fit` and `Reading` have them.
        reading: What `read_source` or `read_array_source` take.

    Raises:
        FileNotFoundError: no such file.
        ValueError, TypeError: a file or labels that cannot be used; says the row and the fix.
    """
    given = missing if isinstance(missing, list | tuple) else [] if missing is None else [missing]
    marks = given
    if task.get("missing") is not None:
        marks = [*given, task["missing"]]
    class_names = task.get("class_names")
    if class_names is not None:
        # a name such as true is read as a truth value from a command line
        class_names = [str(n).lower() if isinstance(n, bool) else str(n) for n in class_names]
    cells = Reading(tuple(names_of(null_values)), nan)
    if name == "table":
        marks = [*marks, *_missing_words(cells, [*(class_names or []), positive])]
    options = LabelOptions(
        task["name"], class_names, positive, delimiter, tuple(marks), empty, handle_unknown
    )
    categories = names_of(categorical)
    if name == "arrays" and (val_path or test_path) and not path.endswith(".npz"):
        raise ConfigError(f"{path} holds features alone, so that other files need a .npz each, with both.")

    def read(file: str, as_text: Sequence[str]) -> Source:
        return (
            read_source(file, as_text=as_text, **reading)
            if name == "table"
            else read_array_source(file, **reading)
        )

    source = read(path, categories)
    if isinstance(source.features, pl.DataFrame):
        check_columns(categories, source.features.columns, "data.categorical", path)
    labels = _labels(source, options)
    _warn_of_unmatched(source.labels, given)
    if class_names is None:
        _warn_of_missing_numbers(labels, cells)
    options = replace(options, task=labels.task)
    fractions = {} if test_path else {"test": test_fraction}
    fractions |= {} if val_path else {"val": val_fraction}
    warn_target_leakage(source.features, labels.values)
    rows = split_rows(labels.values, fractions, seed, labels.class_names)
    features = _fitted(source, rows["train"], cells, categories)
    made, _ = _transformed(source, features)
    tables, values, weights, starts = [made], [labels.values], [source.weights], {}
    unknown: dict[str, dict[str, int]] = {}
    count = len(made)
    for split, other_path in {"val": val_path, "test": test_path}.items():
        if not other_path:
            continue
        try:
            # as text, what are categories here: "007" stays what it is whatever the other cells look like
            other = read(other_path, [category.name for category in features.categories])
            widths = other.reading.get("width"), source.reading.get("width")
            if widths[0] != widths[1]:
                raise DataError(f"There are {widths[0]} features a row, but {widths[1]} in training.")
            made, unknown[other_path] = _transformed(other, features)
            values.append(_labels(other, options, labels).values)
            weights.append(other.weights)
        except LossSelectError as error:
            raise error.add(f"(In {other_path}.)") from None
        tables.append(made)
        rows[split] = np.arange(count, count + len(made))
        starts[split] = count
        count += len(made)
    _warn_of_unknown(unknown)
    preparation = Preparation(name, features, source.reading).to_dict()
    vocabulary = labels.vocabulary.to_dict() if labels.vocabulary else None
    return Splits(
        name=path,
        features=TableRows.concatenated(tables),
        labels=SparseLabels.concatenate(values)
        if isinstance(values[0], SparseLabels)
        else np.concatenate(values),
        class_names=labels.class_names,
        rows={split: torch.from_numpy(rows[split]) for split in SPLITS},
        preparation={**preparation, "vocabulary": vocabulary},
        task=labels.task,
        reason=labels.reason,
        starts=starts,
        columns=tuple(features.columns),
        weights=None if source.weights is None else _weights_of_rows(weights, rows["train"]),
    )


def _fitted(source: Source, train: np.ndarray, reading: Reading, categories: Sequence[str]) -> Features:
    if isinstance(source.features, pl.DataFrame):
        return Features.fit(source.features, train, reading, categories)
    return fit_array(source.features, train, reading)


def _transformed(source: Source, features: Features) -> tuple[TableRows, dict[str, int]]:
    if isinstance(source.features, pl.DataFrame):
        return features.transform(source.features, source.path)
    return rows_of_array(source.features, features)


def _weights_of_rows(weights: "Sequence[np.ndarray | None]", train: np.ndarray) -> torch.Tensor:
    together = np.concatenate([weight for weight in weights if weight is not None])
    if not together[train].any():
        raise DataError("All train rows have the weight 0 (data.sample_weight): nothing would be learned.")
    return torch.from_numpy(together.astype(np.float32))


def read_source(
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
    """A table's columns, those of the target as they are written."""
    targets, weighing = [*dict.fromkeys(names_of(target))], names_of(sample_weight)
    header = columns_of(path, separator, encoding)
    check_columns(targets, header, "data.target", path)
    check_columns(weighing, header, "data.sample_weight", path)
    if len(weighing) > 1:
        raise ConfigError(f"data.sample_weight is one column, got {len(weighing)}: {shorten(weighing)}.")
    if both := [name for name in weighing if name in targets]:
        raise ConfigError(f"Column {both[0]!r} is the target, and data.sample_weight names it as well.")
    no_features = [*names_of(exclude), *weighing]
    columns = feature_columns(header, targets, names_of(features), no_features, path)
    frame = read_table(
        path,
        separator=separator,
        encoding=encoding,
        as_text=[*targets, *as_text],
        columns=[*columns, *targets, *weighing],
    )
    weights = _checked_weights(frame[weighing[0]], path) if weighing else None
    listed = isinstance(target, list | tuple)
    reading = {"separator": separator, "encoding": encoding}
    return Source(path, frame[columns], frame[targets].get_columns(), listed, reading, weights)


def _checked_weights(column: pl.Series, path: str) -> np.ndarray:
    """float64, finite and at least 0."""
    numbers = column.cast(pl.Float64, strict=False)
    bad = (numbers.is_null() | (numbers < 0) | ~(numbers <= MAX_WEIGHT)).fill_null(True)
    if bad.any():
        row = bad.arg_max() or 0
        raise DataError(
            f"Row {row} of {path} has the weight {column[row]!r} "
            f"({format_setting('data.sample_weight', column.name)}): weights are finite numbers of at "
            "least 0.",
            row=row,
        )
    return numbers.to_numpy()


def read_array_source(
    path: str, *, features: str | None = None, target: str | None = None, sample_weight: str | None = None
) -> Source:
    """Features and labels of arrays, as columns."""
    inputs, labels = read_arrays(path, features, target)
    weights = None
    if sample_weight is not None:
        weights = _checked_weights(pl.Series(sample_weight, read_weights(path, sample_weight)), path)
        if len(weights) != len(inputs):
            raise DataError(f"There are {len(inputs)} rows, but {len(weights)} weights, in {path}.")
    columns = (
        [pl.Series(target or "target", labels)]
        if isinstance(labels, np.ndarray) and labels.ndim == 1
        else labels
    )
    reading = {"features": features, "width": inputs.shape[1]}
    return Source(path, inputs, columns, False, reading, weights)


def names_of(given: Any) -> list[str]:
    """One name, several, or none; a name that is a number is one that YAML took for it."""
    listed = isinstance(given, list | tuple)
    return [] if given is None else [str(name) for name in (given if listed else [given])]


def _labels(source: Source, options: LabelOptions, fitted: Labels | None = None) -> Labels:
    if isinstance(source.labels, SparseLabels):
        if options.missing:
            raise DataError(
                "Lists of labels have no mark for a missing one (data.missing, task.missing). Which rows are "
                "not labelled says an array missing, of true and false, beside indices, offsets and "
                "num_labels."
            )
        return labels_of_lists(source.labels, options, "there are lists of labels")
    if isinstance(source.labels, np.ndarray):
        return labels_of_array(source.labels, options, fitted)
    return read_labels(source.labels, options, fitted, source.listed)


def _missing_words(cells: Reading, classes: Sequence[Any]) -> list[Any]:
    """Return the words that mean "missing" in any column of a table, the labels' too.

    Not what the user names as a class, nor a number: 0 may stand for a missing feature and be a class.
    """
    words: list[Any] = [word for word in cells.null_values if as_number(word) is None]
    words += [math.nan] if cells.nan == "missing" else []
    named = {str(value).lower() for value in classes}
    return [word for word in words if str(word).lower() not in named]


def _warn_of_missing_numbers(labels: Labels, cells: Reading) -> None:
    """Warn of classes that are numbers which mean "missing" among the features."""
    numbers = {as_number(word) for word in cells.null_values} - {None, 0, 1}
    found = [name for name in labels.class_names if as_number(name) in numbers] if labels.vocabulary else []
    if found:
        warn(
            "likely_missing_marker",
            f"A class is called {found[0]!r}, which data.null_values says is missing among the features. If "
            f"that marks a missing label too, say {format_setting('data.missing', found[0])}.",
        )


def _warn_of_unmatched(
    labels: "Sequence[pl.Series] | np.ndarray | SparseLabels", marks: Sequence[Any]
) -> None:
    """A mark that no row has is perhaps written otherwise there."""
    if not marks or isinstance(labels, np.ndarray | SparseLabels):
        return
    flat = [column.explode() if column.dtype in (pl.List, pl.Array) else column for column in labels]
    there = [value for column in flat for value in column.unique().drop_nulls().to_list()]
    # a cell may hold several labels
    unmatched = [m for m in marks if not any(is_mark(value, [m]) or str(m) in str(value) for value in there)]
    if unmatched:
        warn("unmatched_missing", f"No row has the label {shorten(unmatched)}, given as data.missing.")


def _warn_of_unknown(unknown: Mapping[str, Mapping[str, int]]) -> None:
    said = [
        f"{count} in column {name!r} of {path}" for path, of in unknown.items() for name, count in of.items()
    ]
    if said:
        warn(
            "unseen_category",
            "Cells that are missing where no train row is, or of a category that no train row has: "
            f"{shorten(said)}.",
        )
