"""Features of files; those of tables that are larger than the memory are kept in the cache."""

import json
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lossselect.data.files.source import Source, name_file
from lossselect.data.large_tables.cache import Cache, digest, identify_files
from lossselect.data.large_tables.mapped_rows import count_numbers, map_rows, open_writer
from lossselect.data.overview import Column
from lossselect.data.preprocessing.array_features import transform_array
from lossselect.data.preprocessing.table_features import Features
from lossselect.data.preprocessing.table_rows import TableRows
from lossselect.data.readers.tables import TableColumns
from lossselect.exceptions import DataError
from lossselect.utils.warnings import LossSelectWarning, warn

META = "meta.json"
"""File of everything but rows."""


class Transformed(NamedTuple):
    """Features of the rows of several files.

    Args:
        rows: The features.
        unseen: What `Features.transform` counts in each file.
        folder: The folder of the files from which the rows are mapped; "" if they are in memory.
    """

    rows: TableRows
    unseen: list[dict[str, int]]
    folder: str = ""


def fit_large(
    source: Source, cache: Cache, key: Sequence[Any], fit: Callable[[], tuple[Features, tuple[Column, ...]]]
) -> tuple[Features, tuple[Column, ...]]:
    """Return `fit()`; its result and warnings are kept in the cache for the same file and key."""

    def build(folder: Path) -> None:
        with _record_warnings() as messages:
            features, columns = fit()
        content = {"features": features.to_dict(), "columns": [*map(asdict, columns)]}
        _write(folder, {**content, "warnings": messages})

    content = _read(cache.get("features", digest(identify_files(source.files), *key), build))
    columns = tuple(Column(**column) for column in content["columns"])
    return Features.from_dict(content["features"]), columns


def transform_files(features: Any, sources: Sequence[Source], cache: Cache) -> Transformed:
    """Return the features of all rows of files; mapped from files of the cache if a table is large.

    Args:
        features: The fitted features.
        sources: The content of the files.
        cache: The cache of the first file.

    Raises:
        DataError: a cell is invalid.
    """
    tables: list[TableRows | None] = []
    unseen: list[dict[str, int]] = [{} for _ in sources]
    for i, source in enumerate(sources):
        if source.is_large:  # all files are converted together
            tables.append(None)
            continue
        with name_file(source.path if i else None):
            rows, unseen[i] = _transform(features, source)
        tables.append(rows)
    in_memory = [table for table in tables if table is not None]
    if len(in_memory) == len(tables):
        return Transformed(TableRows.concatenate(in_memory), unseen)
    mapped = _transform_large(features, sources, tables, cache)
    return mapped._replace(unseen=[*map(operator.or_, mapped.unseen, unseen)])


def _transform(features: Any, source: Source) -> tuple[TableRows, dict[str, int]]:
    content = source.features
    if isinstance(content, np.ndarray):
        return transform_array(content, features)
    rows = content.frame if isinstance(content, TableColumns) else content
    return features.transform(rows, source.path)


def _transform_large(
    features: Features, sources: Sequence[Source], tables: Sequence[TableRows | None], cache: Cache
) -> Transformed:
    """Return the features of all rows, mapped from files; `tables` are those of files that are not large."""
    num_rows = sum(len(source.features) for source in sources)

    def build(folder: Path) -> None:
        unseen: list[dict[str, int]] = [{} for _ in sources]
        with _record_warnings() as messages, open_writer(folder) as append:
            for source, table, counts in zip(sources, tables, unseen, strict=True):
                if table is not None:
                    append(table)
                    continue
                for first, frame in source.features.batches():
                    with name_file(source.path if source is not sources[0] else None):
                        rows, cells = features.transform(frame, source.path, first)
                    append(rows)
                    for name, count in cells.items():
                        counts[name] = counts.get(name, 0) + count
        _write(folder, {"unseen": unseen, "warnings": messages})

    # the settings, because the same features may be read from other cells of a further file
    files = [(identify_files(source.files), dict(source.reading)) for source in sources]
    size = num_rows * (4 * (count_numbers(features) + len(features.categories)) + 8)
    folder = cache.get("rows", digest(files, features.to_dict()), build, size)
    rows = map_rows(folder, features)
    if len(rows) != num_rows:
        raise DataError(f"{sources[0].path} was modified while it was read. Start again.")
    return Transformed(rows, _read(folder)["unseen"], str(folder))


@contextmanager
def _record_warnings() -> Iterator[list[list[str]]]:
    """Yield a list to which the named warnings within the context are added instead of being issued."""
    messages: list[list[str]] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LossSelectWarning)
        yield messages
    for warning in caught:
        if isinstance(warning.message, LossSelectWarning):
            messages.append([warning.message.name, warning.message.message])
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _write(folder: Path, content: dict[str, Any]) -> None:
    (folder / META).write_text(json.dumps(content), encoding="utf-8")


def _read(folder: Path) -> Any:
    """Return the content, and issue the warnings in it."""
    content = json.loads((folder / META).read_text(encoding="utf-8"))
    for name, message in content["warnings"]:
        warn(name, message)
    return content
