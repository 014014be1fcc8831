"""The content of arrays and libsvm files."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from lossselect.data.files.columns import NamedColumns
from lossselect.data.files.source import Source, check_weights, name_file
from lossselect.data.label_parsing.options import LabelOptions
from lossselect.data.label_parsing.several import AnyOptions
from lossselect.data.readers.arrays import array_names, read_arrays
from lossselect.data.readers.libsvm import MAX_EXACT, LibsvmRows, is_libsvm, read_libsvm
from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.utils.checks import format_setting, shorten
from lossselect.utils.warnings import warn


def read_array_source(
    path: str, columns: NamedColumns, labels: AnyOptions, train: Mapping[str, Any] | None = None
) -> Source:
    """Return the content of arrays or of a libsvm file; see `read_arrays`.

    Args:
        path: The file.
        columns: The arrays that settings name.
        labels: The settings of the labels.
        train: `Source.reading` of the training file, unless this is the training file.

    Raises:
        ConfigError: a setting that the file does not support.
        DataError: an array that is missing or invalid.
    """
    if is_libsvm(path):
        return _read_libsvm_source(path, columns, labels, train)
    for setting in ("features", "target"):
        if len(names := getattr(columns, setting)) > 1:
            raise ConfigError(f"data.{setting} must be the name of one array, got {shorten(names)}.")
    if train is not None:
        columns = columns.with_roles_in(array_names(path))
    features, target = (next(iter(names), None) for names in (columns.features, columns.target))
    others, weight = {**columns.roles}, columns.sample_weight
    if weight is not None:
        others["sample_weight"] = weight
    inputs, values, arrays = read_arrays(path, features, target, others)
    weights = arrays.pop("sample_weight", None)
    if weights is not None:
        weights = check_weights(pl.Series(weight, weights), path)
    parsed: Any = values
    if isinstance(values, np.ndarray) and values.ndim == 1:
        parsed = [pl.Series(target or "target", values)]
    if train is not None and "split" in arrays:
        raise ConfigError(
            f"Expected the rows of one split, got X_train and y_train in {path}. Name them X, y."
        )
    roles = {
        role: pl.Series(columns.roles.get(role, "X_train, X_test"), array) for role, array in arrays.items()
    }
    reading: dict[str, Any] = {"features": features, "width": inputs.shape[1]}
    if not isinstance(inputs, np.ndarray):
        reading = {"width": inputs.shape[1], "first_index": None, "rate_of_index_0": None, "num_labels": None}
    return Source(path, inputs, parsed, reading, weights, roles)


def _read_libsvm_source(
    path: str, columns: NamedColumns, labels: AnyOptions, train: Mapping[str, Any] | None
) -> Source:
    """Return the content of a libsvm file; only the query (qid) of each row is available as data.group."""
    used = [("features", name) for name in columns.features] + columns.settings
    for setting, name in used:
        if (setting, name) != ("group", "qid"):
            raise ConfigError(
                f"{format_setting(f'data.{setting}', name)} cannot be used: {path} is a libsvm file, which "
                "has only features, labels and queries (data.group=qid). Remove it."
            )
    content = read_libsvm(path, train, with_queries=bool(used))
    num_labels = content.reading["num_labels"]
    if train is not None and num_labels != train["num_labels"]:
        expected, found = (
            "no header" if number is None else f"a header with {number} labels"
            for number in (train["num_labels"], num_labels)
        )
        raise DataError(f"Expected {expected} as in the training file, got {found} in {path}.")
    if len(content.queries) and not used and train is None:
        warn(
            "likely_group_column",
            f"The rows of {path} have queries (qid). Set data.group=qid to keep the rows of a query in one "
            "split.",
        )
    groups = {"group": pl.Series("qid", content.queries)} if used and len(content.queries) else {}
    assert isinstance(labels, LabelOptions)  # several tasks require a table
    parsed = _libsvm_labels(content, labels, path)
    return Source(path, content.features, parsed, content.reading, None, groups)


def _libsvm_labels(content: LibsvmRows, options: LabelOptions, path: str) -> list[pl.Series] | SparseLabels:
    """Return a column of single labels or of lists, or with a header sparse labels."""
    values, bounds, num_labels = content.labels, content.bounds, content.reading["num_labels"]
    counts = np.diff(bounds)
    is_list = num_labels is not None or options.kind == "multilabel" or bool((counts != 1).any())
    exact = np.abs(values) < MAX_EXACT
    exact = exact & (values == values.round()) if is_list else exact | np.isnan(values)
    if not exact.all():
        first = int(exact.argmin())
        row = int(np.searchsorted(bounds, first, side="right")) - 1
        raise DataError(
            f"Row {row} of {path} has the label {values[first]:.17g}, but labels must be "
            f"{'integers' if is_list else 'numbers'} below 2**53. Number the labels.",
            row=row,
            value=values[first],
        )
    if not is_list:
        return [pl.Series("target", values)]
    indices = values.astype(np.int64)
    if num_labels is None:
        return [pl.Series("target", [part.tolist() for part in np.split(indices, bounds[1:-1])])]
    with name_file(path):
        return SparseLabels.from_csr(indices, bounds, num_labels)
