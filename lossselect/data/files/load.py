"""Loading of the splits of a run from the user's tables and arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch

from lossselect.data.checks import warn_target_leakage
from lossselect.data.files.array_source import read_array_source
from lossselect.data.files.columns import NamedColumns
from lossselect.data.files.settings import FileSettings
from lossselect.data.files.source import Source, name_file
from lossselect.data.files.table_source import read_table
from lossselect.data.label_parsing.array_labels import parse_label_array, parse_sparse_labels
from lossselect.data.label_parsing.long_format import count_ids
from lossselect.data.label_parsing.options import LabelOptions, Labels, is_marker
from lossselect.data.label_parsing.settings import describe_labels
from lossselect.data.label_parsing.several import (
    AnyLabels,
    AnyOptions,
    MultiLabels,
    MultiOptions,
    Target,
    join,
)
from lossselect.data.label_parsing.table_labels import parse_label_columns
from lossselect.data.large_tables.cache import Cache
from lossselect.data.large_tables.features import fit_large, transform_files
from lossselect.data.overview import Column, describe_columns, summarize_others
from lossselect.data.preprocessing.array_features import fit_array
from lossselect.data.preprocessing.columns import CellParser
from lossselect.data.preprocessing.preparation import Preparation
from lossselect.data.preprocessing.sparse_features import SparseFeatures
from lossselect.data.preprocessing.statistics import Statistics, sample_array, summarize
from lossselect.data.preprocessing.table_features import Features
from lossselect.data.readers.arrays import has_only_features
from lossselect.data.readers.formats import open_table
from lossselect.data.readers.libsvm import is_libsvm
from lossselect.data.split_columns import (
    describe_method,
    find_rows,
    read_groups,
    warn_likely_splits,
    warn_shared_groups,
)
from lossselect.data.splits import SPLITS, Splits
from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.values import as_number
from lossselect.utils.checks import format_setting, shorten
from lossselect.utils.devices import stays_in_memory
from lossselect.utils.warnings import warn


def load_own_data(name: str, *, task: Mapping[str, Any], **data: Any) -> Splits:
    """Return the splits of tables (`name` "table") or arrays ("arrays").

    Means, categories and classes are computed from the training rows. A validation or test split without a
    path is a random fraction of the rows of `path`.

    Args:
        name: The name of the config.
        task: The settings of the task.
        data: The other settings of the config.

    Raises:
        ConfigError: settings that are unknown or cannot be combined.
        DataError: a file, feature or label that cannot be used.
        FileMissingError: a file does not exist.
    """
    settings = FileSettings.create({"name": name, **data}, task)
    path, columns, cache = settings.path, settings.columns, Cache(settings.cache, settings.path)
    first = _read(settings, path, columns, settings.labels)
    source = first.source
    labels: Any = first.labels
    if settings.labels.class_names is None:
        for part in labels.parts.values():
            _warn_missing_numbers(part, settings.parser)
    group_of = read_groups(source.roles["group"]) if "group" in source.roles else None
    others = settings.other_paths, settings.folds, settings.date_format
    rows = find_rows(source.roles, group_of, labels, settings.fractions, settings.seed, *others)
    if source.weights is not None and not source.weights[rows["train"]].any():
        raise DataError(
            "All training rows have weight 0 (data.sample_weight), so nothing would be learned. Set one > 0."
        )
    with count_ids(columns.id):
        features, overview = _fit(settings, first, rows["train"], cache)
    options = settings.labels.with_fitted(labels)
    files, starts, groups = [first], {}, {}
    if "group" in source.roles:
        groups = {split: source.roles["group"].gather(indices) for split, indices in rows.items()}
    for split, other_path in settings.other_paths.items():
        with name_file(other_path):
            other = _read_other(settings, other_path, source, features, options)
        starts[split] = sum(len(file.labels.values) for file in files)
        rows[split] = np.arange(len(other.labels.values)) + starts[split]
        if "group" in other.source.roles:
            groups[split] = other.source.roles["group"]
        if group_of is not None:
            codes = read_groups(groups[split]) if split in groups else np.arange(len(other.labels.values))
            group_of = np.concatenate([group_of, codes + group_of.max() + 1])
        files.append(other)
    warn_shared_groups(groups)
    with count_ids(columns.id):
        table, unseen, folder = transform_files(features, [file.source for file in files], cache)
    warn_unseen_cells(dict(zip(settings.other_paths.values(), unseen[1:], strict=True)))
    _warn_unmatched([file.unmatched for file in files])
    weights = None
    if source.weights is not None:
        weights = torch.from_numpy(np.concatenate([file.source.weights for file in files])).float()
    form = "sparse matrix" if isinstance(features, SparseFeatures) else name
    label_settings = describe_labels(first.target, columns.listed, columns.sample_weight, options)
    preparation = Preparation(form, features, source.reading).to_dict()
    method = describe_method(source.roles, settings.other_paths)
    return Splits(
        name=path,
        features=table,
        labels=_join_labels([file.labels for file in files]),
        class_names=labels.class_names,
        rows={split: torch.from_numpy(rows[split]) for split in SPLITS if split in rows},
        preparation={**preparation, "labels": label_settings},
        task=labels.task,
        reason=labels.reason,
        starts=starts,
        columns=tuple(features.summary),
        scaling="" if form == "sparse matrix" else settings.scaling,
        weights=weights,
        method=f"{method}; features in {folder}" if folder else method,
        in_chunks=table.is_mapped and not stays_in_memory(table.nbytes),
        overview=overview,
        groups=group_of,
        known_task=labels.multitask,
    )


def _join_labels(parts: Sequence[AnyLabels]) -> Any:
    """Return the labels of all files."""
    if isinstance(parts[0], MultiLabels):
        return join(parts)  # type: ignore[arg-type]
    concatenate: Any = (SparseLabels if isinstance(parts[0].values, SparseLabels) else np).concatenate
    return concatenate([part.values for part in parts])


class _File(NamedTuple):
    """A file whose labels have been parsed.

    Args:
        source: Its content without the labels, which may be large.
        labels: The parsed labels.
        target: The names of the labels in the file; none if they are in another file, or in a libsvm file.
        statistics: The statistics of the columns that are not features.
        unmatched: The markers of `FileSettings.markers` that no label is.
    """

    source: Source
    labels: AnyLabels
    target: tuple[str, ...]
    statistics: Mapping[str, Statistics]
    unmatched: Mapping[str, Sequence[Any]]


def _read(
    settings: FileSettings,
    path: str,
    columns: NamedColumns,
    labels: AnyOptions,
    train: Mapping[str, Any] | None = None,
) -> _File:
    """Read a file; `train` is `Source.reading` of the training file, unless this is it."""
    target = columns.target
    if settings.is_table:
        table = open_table(path, settings.options)
        if train is None:  # files of other splits may have another format
            table.check_unused(settings.options)
        cache = Cache(settings.cache, path)
        source = read_table(table, settings.options, columns, labels, cache, settings.max_memory)
    else:
        if not is_libsvm(path) and has_only_features(path):
            target = ()
            if settings.other_paths:
                raise ConfigError(
                    "data.val_path and data.test_path require a file of features and labels for each split, "
                    f"but {path} contains only features. Join the rows of all splits, and save the split of "
                    "each row, train, val or test, for data.split=splits.npy."
                )
        source = read_array_source(path, columns, labels, train)
    parsed = parse_labels(source, labels, columns.listed)
    unmatched = _find_unmatched(source.labels, settings.markers)
    statistics = summarize_others(source, settings.parser)
    return _File(replace(source, labels=[]), parsed, target, statistics, unmatched)


def _read_other(
    settings: FileSettings, path: str, source: Source, features: Any, labels: AnyOptions
) -> _File:
    """Read the file of another split; `source` and `features` are those of the training file."""
    roles = {role: name for role, name in settings.columns.roles.items() if role == "group"}
    columns = replace(settings.columns, roles=roles)
    if settings.is_table:
        columns = columns.fitted_to(features)
    other = _read(settings, path, columns, labels, source.reading)
    width, train_width = other.source.reading["width"], source.reading["width"]
    if width != train_width:
        what, why = "features per row", ""
        if settings.is_table:
            what, why = "columns", " Without a header, columns are recognised by their position."
        raise DataError(f"Expected {train_width} {what} as in training, got {width}.{why}")
    return other


def _fit(
    settings: FileSettings, file: _File, train: np.ndarray, cache: Cache
) -> tuple[Any, tuple[Column, ...]]:
    """Return the features, fitted to the training rows of a file, and the description of its columns."""
    source, labels = file.source, file.labels
    columns, parser, inputs = settings.columns, settings.parser, source.features
    if isinstance(inputs, np.ndarray):
        for part in labels.parts.values():
            warn_target_leakage(inputs, part.values)
        features = fit_array(inputs, train, parser, settings.scaling)
        found = summarize(sample_array(inputs), parser, {})
        return features, describe_columns(source.uses, features, {**file.statistics, **found})
    if not settings.is_table:
        if parser.nan != "error":
            raise ConfigError(
                "data.nan=missing cannot be used with sparse features, which must be finite. Remove it."
            )
        if settings.scaling != "standard":
            raise ConfigError(
                f"data.scaling={settings.scaling} cannot be used with sparse features, which are divided by "
                "their largest absolute value so that zeros stay zeros. Remove it, or save dense features."
            )
        return SparseFeatures.fit(inputs, train, source.reading["first_index"]), ()
    has_groups = not columns.roles.keys().isdisjoint(("group", "time"))

    def fit() -> tuple[Features, tuple[Column, ...]]:
        found = {**file.statistics}
        dates: list[str] = []

        def inspect(frame: pl.DataFrame, formats: Mapping[str, str | None]) -> None:
            dates.extend(formats)
            for part in labels.parts.values():
                warn_target_leakage(frame, part.values)
            warn_likely_splits(frame, has_groups)
            found.update(summarize(frame, parser, formats))

        features = Features.fit(
            inputs,
            train,
            parser,
            columns.categorical,
            columns.text,
            settings.date_format,
            settings.scaling,
            inspect,
        )
        if settings.scaling != "standard" and not features.numbers:
            raise ConfigError(
                f"data.scaling={settings.scaling} has no effect: no feature of {source.path} is a number. "
                "Remove it."
            )
        for frame in inputs.groups(columns.text):
            found |= summarize(frame, parser, {})
        if settings.date_format is not None and not dates and "time" not in columns.roles:
            raise ConfigError(
                f"data.date_format has no effect: no feature of {source.path} contains dates in the "
                f"format {settings.date_format}. Correct or remove data.date_format."
            )
        return features, describe_columns(source.uses, features, found)

    if not source.is_large:
        return fit()
    key = source.uses, inputs.columns, vars(parser), asdict(columns), settings.date_format, source.reading
    arrays = train, *([labels.values] if isinstance(labels.values, np.ndarray) else [])
    return fit_large(source, cache, [*key, settings.scaling, *arrays], fit)


def parse_labels(source: Source, options: AnyOptions, listed: bool) -> AnyLabels:
    """Return the labels of a file, with the classes of `options.fitted` if there are any.

    Args:
        source: The content of the file.
        options: The settings of the labels.
        listed: Whether the user set a list of target columns.

    Raises:
        ConfigError: a setting of labels of another form.
        DataError: a label is invalid, or the labels have another form than those of training.
    """
    if isinstance(options, MultiOptions):
        columns: Any = source.labels  # not an array: `read_array_source` has checked this
        by_name = {column.name: column for column in columns}

        def parse(target: Target) -> Labels:
            part = replace(source, labels=[by_name[name] for name in target.columns])
            labels = parse_labels(part, target.options, target.listed)
            assert isinstance(labels, Labels)
            return labels

        return options.parse(parse)
    labels = _parse_labels(source, options, listed)
    options.check_shape(labels.values.shape)
    return labels


def _parse_labels(source: Source, options: LabelOptions, listed: bool) -> Labels:
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
        return parse_label_columns(source.labels, options, listed)


def _warn_missing_numbers(labels: Labels, parser: CellParser) -> None:
    """Warn about classes that are numbers which mean "missing" in the features."""
    numbers = {as_number(word) for word in parser.null_values} - {None, 0, 1}
    classes = labels.class_names if labels.vocabulary else ()
    if suspects := [name for name in classes if as_number(name) in numbers]:
        setting = format_setting("data.missing", suspects[0])
        problem = f"A class is called {suspects[0]!r}, which data.null_values marks as a missing feature."
        warn("likely_missing_marker", f"{problem} If it also marks a missing label, set {setting}.")


def _find_unmatched(labels: Any, markers: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Return the markers that no label is, by meaning; none for arrays."""
    if isinstance(labels, np.ndarray | SparseLabels) or not any(markers.values()):
        return {}
    flat = [column.explode() if column.dtype in (pl.List, pl.Array) else column for column in labels]
    values = [value for column in flat for value in column.unique().drop_nulls()]
    return {
        # `in`, because a cell may contain several labels
        meaning: [m for m in some if not any(is_marker(v, [m]) or str(m) in str(v) for v in values)]
        for meaning, some in markers.items()
    }


def _warn_unmatched(files: Sequence[Mapping[str, Sequence[Any]]]) -> None:
    """Warn about markers that no file has, which may be misspelled."""
    for meaning, markers in files[0].items():
        if absent := [marker for marker in markers if all(marker in file[meaning] for file in files)]:
            problem = f"No row has the label {shorten(absent)}, which {meaning}."
            warn("unmatched_missing", f"{problem} Check how the file writes such labels.")


def warn_unseen_cells(unknown: Mapping[str, Mapping[str, int]]) -> None:
    """Warn about cells that are unlike those of the training rows: their number by file and column."""
    cells = [f"{n} in column {name!r} of {path}" for path in unknown for name, n in unknown[path].items()]
    if cells:
        problem = "Some cells are missing in columns that have no missing training cells, or have a category"
        effect = "The net gets the column's mean or no category for them."
        warn("unseen_category", f"{problem} that no training row has: {shorten(cells)}. {effect}")
