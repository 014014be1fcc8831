"""Data of the user's own, from tables and arrays, made the splits that a run takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch

from ..guards import warn
from ..label_lists import LabelLists
from ..label_values import as_number, some
from .arrays import read_arrays
from .classes import LabelOptions, Labels
from .columns import Reading, feature_columns
from .features import Features, TableRows
from .files import check_columns, columns_of, read_table
from .splits import SPLITS, Splits, split_rows
from .target import of_matrix, read_labels


@dataclass(frozen=True)
class Source:
    """What one file holds."""

    path: str
    features: pl.DataFrame
    labels: "Sequence[pl.Series] | np.ndarray"
    """Columns, or a matrix with a column for each label."""


def load_own(
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
    unseen: str = "error",
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
        positive, delimiter, missing, empty, unseen: As `LabelOptions` has them; `missing` may be one.
        categorical, null_values, nan: As `Features.fit` and `Reading` have them.
        reading: What `read_source` or `read_arrays` take.

    Raises:
        FileNotFoundError: no such file.
        ValueError, TypeError: a file or labels that cannot be used; says the row and the fix.
    """
    marks = missing if isinstance(missing, list | tuple) else [] if missing is None else [missing]
    if task.get("missing") is not None:
        marks = [*marks, task["missing"]]
    options = LabelOptions(
        task["name"], task.get("class_names"), positive, delimiter, tuple(marks), empty, unseen
    )
    read = read_source if name == "table" else _array_source
    source = read(path, **reading)
    labels = _labels(source, options)
    options = replace(options, task=labels.task)
    fractions = {} if test_path else {"test": test_fraction}
    fractions |= {} if val_path else {"val": val_fraction}
    strata = labels.values
    rows = split_rows(strata, fractions, seed, labels.class_names)

    cells = Reading(tuple(_names(null_values)), nan)
    categorical = _names(categorical)
    check_columns(categorical, source.features.columns, "data.categorical", path)
    features = Features.fit(source.features, rows["train"], cells, categorical)
    tables, all_labels, unknown = [], [labels], {}
    made, _ = features.transform(source.features, path)
    tables.append(made)
    hashes = [features.hashes(source.features)]
    count = len(made)
    for split, other_path in {"val": val_path, "test": test_path}.items():
        if other_path:
            try:
                other = read(other_path, **reading)
                made, unknown[other_path] = features.transform(other.features, other_path)
                all_labels.append(_labels(other, options, labels))
            except (TypeError, ValueError) as error:
                raise type(error)(f"{error} (In {other_path}.)") from None
            tables.append(made)
            hashes.append(features.hashes(other.features))
            rows[split] = np.arange(count, count + len(made))
            count += len(made)
    _warn_of_unknown(unknown)
    return Splits(
        name=path,
        features=TableRows.concatenated(tables),
        labels=_concatenated([part.values for part in all_labels]),
        class_names=labels.class_names,
        rows={split: torch.from_numpy(rows[split]) for split in SPLITS},
        preparation={
            "data": name,
            "features": features.to_dict(),
            "labels": labels.vocabulary.to_dict() if labels.vocabulary else None,
            "reading": {key: value for key, value in reading.items() if key in ("separator", "encoding")},
        },
        task=labels.task,
        reason=labels.reason,
        hashes=pl.concat(hashes).to_numpy(),
    )


def read_source(
    path: str,
    *,
    target: Any,
    features: Any = None,
    exclude: Any = None,
    separator: str | None = None,
    encoding: str = "utf-8",
) -> Source:
    """A table's columns, those of the target as they are written."""
    targets = _names(target)
    header = columns_of(path, separator, encoding)
    check_columns(targets, header, "data.target", path)
    columns = feature_columns(header, targets, _names(features), _names(exclude), path)
    frame = read_table(
        path, separator=separator, encoding=encoding, as_text=targets, columns=[*columns, *targets]
    )
    return Source(path, frame.select(columns), frame.select(targets).get_columns())


def _names(given: Any) -> list[str]:
    """One name, several, or none; a name that is a number is one that YAML took for it."""
    listed = isinstance(given, list | tuple)
    return [] if given is None else [str(name) for name in (given if listed else [given])]


def _array_source(path: str, *, features: str | None = None, target: str | None = None) -> Source:
    inputs, labels = read_arrays(path, features, target)
    frame = pl.from_numpy(inputs, schema=[f"x{i}" for i in range(inputs.shape[1])])
    return Source(path, frame, labels if labels.ndim == 2 else [pl.Series(target or "target", labels)])


def _labels(source: Source, options: LabelOptions, fitted: Labels | None = None) -> Labels:
    if isinstance(source.labels, np.ndarray):
        matrix = source.labels.astype(np.float64)
        for mark in options.missing:
            matrix[matrix == as_number(mark)] = np.nan
        return of_matrix(matrix, [str(i) for i in range(matrix.shape[1])], options, "the rows hold")
    return read_labels(source.labels, options, fitted)


def _concatenated(parts: list[Any]) -> Any:
    if isinstance(parts[0], LabelLists):
        return LabelLists.concatenated(parts)
    return np.concatenate(parts)


def _warn_of_unknown(unknown: Mapping[str, Mapping[str, int]]) -> None:
    said = [
        f"{count} in column {name!r} of {path}" for path, of in unknown.items() for name, count in of.items()
    ]
    if said:
        warn(
            "unknown_category",
            f"Categories that no train row has, and that count as none of those known: {some(said)}.",
            stacklevel=4,
        )
