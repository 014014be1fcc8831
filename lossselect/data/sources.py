"""The content of the user's files: columns or arrays of features, labels, weights and splits."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lossselect.data.label_parsing.long_format import collect_labels
from lossselect.data.label_parsing.options import LabelOptions
from lossselect.data.large_tables.cache import Cache, digest, identify_files
from lossselect.data.preprocessing.columns import column_error, feature_columns, is_in_runs
from lossselect.data.readers.arrays import array_names, read_arrays
from lossselect.data.readers.formats import open_table
from lossselect.data.readers.libsvm import MAX_EXACT, LibsvmRows, is_libsvm, read_libsvm
from lossselect.data.readers.tables import FileColumns, Table, TableColumns, TableOptions, check_columns
from lossselect.data.readers.text_tables import TextTable
from lossselect.exceptions import ConfigError, DataError, LossSelectError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.values import as_number
from lossselect.losses.options import MAX_WEIGHT
from lossselect.utils.checks import as_list, first_duplicate, format_setting, shorten
from lossselect.utils.devices import free_memory
from lossselect.utils.warnings import warn

MAX_MEMORY_SHARE = 0.5
"""Fraction of the free memory that a table in memory may take."""


@dataclass(frozen=True)
class Source:
    """The content of one file.

    Args:
        path: The file.
        features: `TableColumns`, or an array (N, F), which may be mapped.
        labels: Columns, a matrix with a column for each label, or sparse labels.
        listed: Whether the user set a list of target columns.
        reading: Settings for reading new files of the same kind.
        weights: Sample weights (N,), or None.
        roles: The columns that determine the splits, by setting: split, group and time.
        uses: The use of each column of a table; see `column_uses`.
        files: All files of a table.
    """

    path: str
    features: Any
    labels: Sequence[pl.Series] | np.ndarray | SparseLabels
    listed: bool
    reading: Mapping[str, Any]
    weights: np.ndarray | None = None
    roles: Mapping[str, pl.Series] = field(default_factory=dict)
    uses: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[Path] = ()


def read_table(
    path: str,
    *,
    target: Any,
    features: Any = None,
    exclude: Any = None,
    sample_weight: Any = None,
    roles: Mapping[str, str],
    labels: LabelOptions,
    as_text: Sequence[str] = (),
    max_memory: float | None = None,
    cache: str | None = None,
    **options: Any,
) -> Source:
    """Return the content of a table; target columns are read as text.

    `roles` are the columns that determine the splits, by setting. If the table takes more memory than
    `max_memory` GB, by default half of the free memory, the features stay in the file. Unless that is quickly
    read by columns, it is converted to Parquet, in the folder `cache`.
    """
    targets, weights, ids = [*dict.fromkeys(as_names(target))], as_names(sample_weight), as_names(labels.id)
    if len(targets) == 1 and targets[0].endswith(".xml") and Path(targets[0]).is_file():
        target = targets = _label_names(targets[0])
    table = open_table(path, TableOptions(**options))
    if labels.fitted is None:  # files of other splits may have another format
        table.check_unused(TableOptions(**options))
    try:
        check_columns(targets, table.header, "data.target", path)
    except DataError as error:
        skipped = table.find_line(targets[0]) if isinstance(table, TextTable) else None
        if skipped:
            error.add(f"If the names are in line {skipped + 1}, set data.skip_lines={skipped}.")
        if labels.fitted is not None:
            error.add("To predict rows without labels, use lossselect predict.")
        raise
    check_columns(weights, table.header, "data.sample_weight", path)
    if len(weights) > 1:
        raise ConfigError(f"data.sample_weight must be one column, got {len(weights)}: {shorten(weights)}.")
    check_columns(ids, table.header, "data.id", path)
    if len(targets) > 1:
        labels.check_unused(["id"], f"{len(targets)} columns")
    settings = [("target", name) for name in targets] + [("sample_weight", name) for name in weights]
    settings += [("id", name) for name in ids]
    if labels.fitted is not None:  # the groups of another file are only compared, if it has them
        roles = {role: name for role, name in roles.items() if name in table.header}
    if ids and ids[0] in as_names(features):
        raise ConfigError(f"Column {ids[0]!r} cannot be both data.id and a feature (data.features).")
    for role, name in roles.items():
        check_columns([name], table.header, f"data.{role}", path)
        settings.append((role, name))
        if role != "time" and name in as_names(features):
            raise ConfigError(
                f"Column {name!r} cannot be a feature (data.features), because it determines the splits "
                f"(data.{role}). Remove it from data.features."
            )
    if (twice := first_duplicate(name for _, name in settings)) is not None:
        first, second = [setting for setting, name in settings if name == twice][:2]
        raise ConfigError(f"Column {twice!r} cannot be both data.{first} and data.{second}.")
    only = as_names(features)
    removed = [*as_names(exclude), *weights, *ids, *(name for name in roles.values() if name not in only)]
    columns = feature_columns(table.header, targets, only, removed, path)
    texts = [*targets, *ids, *(name for role, name in roles.items() if role != "time"), *as_text]
    used = dict.fromkeys([*columns, *targets, *weights, *ids, *roles.values()])
    as_written = targets if labels.delimiter else []  # labels such as 1,2 may be two labels
    unnamed = [name for name in columns if name in table.unnamed and name not in only]
    header, is_text = table.header, isinstance(table, TextTable)
    files, is_large = table.files, table.memory > max_memory_of_table(max_memory)
    if not is_large:
        frame = table.read([*used], as_text=texts, as_written=as_written)
    else:
        if ids:
            raise ConfigError(
                f"{path} requires about {table.memory / 1e9:.1f} GB of memory, which is more than "
                "data.max_memory, and data.id requires the table in memory. Set a larger data.max_memory, "
                "or write a file with one row for each id, and lists of labels."
            )
        table = _fast_table(table, [*used], texts, as_written, options, Cache(cache, path))
        in_memory = dict.fromkeys([*targets, *weights, *roles.values(), *unnamed])
        frame = table.read([*in_memory], as_text=texts)
    if options.get("header") is None and is_text:
        _check_no_row_is_header(header, frame[targets], path)
    indices = [name for name in unnamed if _is_index(frame[name], path)]
    columns = [name for name in columns if name not in indices]
    uses = column_uses(header, settings, only, as_names(exclude), indices)
    if ids:
        frame = frame[[*dict.fromkeys([*columns, *targets, *weights, *ids, *roles.values()])]]
        frame = collect_labels(frame, ids[0], targets[0], labels.empty)
    checked = _check_weights(frame[weights[0]], path) if weights else None
    listed = isinstance(target, list | tuple) and not ids
    role_columns = {role: frame[name] for role, name in roles.items()}
    inputs = FileColumns(table, columns, frame.height) if is_large else TableColumns(frame[columns])
    parts = frame[targets].get_columns(), listed, options, checked, role_columns, uses, files
    return Source(path, inputs, *parts)


def column_uses(
    header: Sequence[str],
    settings: Sequence[tuple[str, str]],
    only: Sequence[str],
    exclude: Sequence[str],
    indices: Sequence[str] = (),
) -> dict[str, str]:
    """Return the use of each column: the setting that names it, "feature", "features" (not one) or "index".

    Args:
        header: All columns.
        settings: Settings, such as "target", and the columns that they name.
        only: The columns of data.features; empty if it is not set.
        exclude: The columns of data.exclude.
        indices: Columns without a name that number the rows.
    """
    uses = dict.fromkeys(header, "features" if only else "feature")
    for use, names in (("feature", only), ("exclude", exclude), ("index", indices)):
        uses |= {name: use for name in names if name in uses}
    return uses | {name: setting for setting, name in settings if name in uses}


def max_memory_of_table(gigabytes: float | None) -> float:
    """Return the maximum size in bytes of a table in memory, for the setting data.max_memory."""
    free = free_memory()
    if gigabytes is not None:
        return gigabytes * 1e9
    return math.inf if free is None else MAX_MEMORY_SHARE * free


def _fast_table(
    table: Table,
    columns: Sequence[str],
    as_text: Sequence[str],
    as_written: Sequence[str],
    options: Mapping[str, Any],
    cache: Cache,
) -> Table:
    """Return a table that is read quickly by columns: the same one, or its conversion to Parquet."""
    if table.format.by_columns:
        return table
    key = digest(identify_files(table.files), columns, as_text, as_written, dict(options))

    def build(folder: Path) -> None:
        table.convert(columns, folder / "table.parquet", as_text, as_written)

    return open_table(str(cache.get("table", key, build, table.size) / "table.parquet"))


def _label_names(path: str) -> list[str]:
    """Return the names of the labels in a file of Mulan: <label name="sport"></label>."""
    names = re.findall(r"<label\s+name=[\"']([^\"']+)[\"']", Path(path).read_text(encoding="utf-8"))
    if not names:
        raise DataError(
            f'{path} (data.target) has no label such as <label name="sport"></label>. Name the columns.'
        )
    return [*dict.fromkeys(map(html.unescape, names))]


def _check_no_row_is_header(header: Sequence[str], targets: pl.DataFrame, path: str) -> None:
    """Raise a DataError if the first line of a file seems to be a row.

    It has only numbers other than those of the columns, or numbers and a label in the target column.
    """
    numbers = [as_number(name) for name in header]
    counts = numbers in ([*range(len(header))], [*range(1, len(header) + 1)])
    named_like_label = [
        column.name
        for column in targets.iter_columns()
        if len(targets.columns) == 1  # of several label columns, one called x may be marked by x
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
    if column.dtype.is_integer() and (column.n_unique() == len(column) or is_in_runs(column)):
        warn(
            "index_column",
            f"A column of {path} has no name and a different integer in each row, or counts the rows of "
            f"several joined tables, like an index of pandas. It is left out. To use it, name it "
            f"{column.name!r} in data.features.",
        )
        return True
    exclude = format_setting("data.exclude", [column.name])
    problem = f"A column of {path} has no name and is used as the feature {column.name!r}."
    warn("index_column", f"{problem} If it is an index, leave it out: {exclude}.")
    return False


def read_array_source(
    path: str,
    *,
    features: str | None = None,
    target: str | None = None,
    sample_weight: str | None = None,
    roles: Mapping[str, str],
    labels: LabelOptions,
    train: Mapping[str, Any] | None = None,
) -> Source:
    """Return the content of arrays or of a libsvm file; see `read_arrays`.

    `roles` are the arrays that determine the splits, by setting. `train` is `Source.reading` of the training
    file, unless this is the training file.
    """
    if is_libsvm(path):
        used = {"features": features, "target": target, "sample_weight": sample_weight, **roles}
        return _read_libsvm_source(path, {key: name for key, name in used.items() if name}, labels, train)
    values: Any
    if train is not None:  # the groups of another file are only compared, if it has them
        roles = {role: name for role, name in roles.items() if name in array_names(path)}
    others = {**roles} if sample_weight is None else {**roles, "sample_weight": sample_weight}
    inputs, values, arrays = read_arrays(path, features, target, others)
    weights = arrays.pop("sample_weight", None)
    if weights is not None:
        weights = _check_weights(pl.Series(sample_weight, weights), path)
    if isinstance(values, np.ndarray) and values.ndim == 1:
        values = [pl.Series(target or "target", values)]
    if train is not None and "split" in arrays:
        raise ConfigError(
            f"Expected the rows of one split, got X_train and y_train in {path}. Name them X, y."
        )
    columns = {role: pl.Series(roles.get(role, "X_train, X_test"), array) for role, array in arrays.items()}
    reading: dict[str, Any] = {"features": features, "width": inputs.shape[1]}
    if not isinstance(inputs, np.ndarray):
        reading = {"width": inputs.shape[1], "first_index": None, "num_labels": None}
    return Source(path, inputs, values, False, reading, weights, columns)


def _read_libsvm_source(
    path: str, used: Mapping[str, str], labels: LabelOptions, train: Mapping[str, Any] | None
) -> Source:
    """Return the content of a libsvm file; only the query (qid) of each row is available as data.group."""
    for setting, name in used.items():
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
    parsed = _libsvm_labels(content, labels, path)
    return Source(path, content.features, parsed, False, content.reading, None, groups)


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
    try:
        return SparseLabels.from_csr(indices, bounds, num_labels)
    except LossSelectError as error:
        raise error.add(f"(In {path}.)") from None


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


def as_names(setting: Any) -> list[str]:
    """Return one name, several, or none as a list; YAML reads some names as numbers."""
    return [str(name) for name in as_list(setting)]
