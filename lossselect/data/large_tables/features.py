"""Features of tables that are larger than the memory: fitted and converted once, and kept in the cache."""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lossselect.data.large_tables.cache import Cache, digest, identify_files
from lossselect.data.large_tables.mapped_rows import count_numbers, map_rows, open_writer
from lossselect.data.overview import Column
from lossselect.data.preprocessing.table_features import Features
from lossselect.data.preprocessing.table_rows import TableRows
from lossselect.data.readers.tables import FileColumns
from lossselect.data.sources import Source
from lossselect.exceptions import DataError
from lossselect.utils.warnings import LossSelectWarning, warn

META = "meta.json"
"""File of everything but rows."""


class LargeTables:
    """Features that are fitted and converted once; later runs with the same files and settings reuse them."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    def fit(
        self, source: Source, key: Sequence[Any], fit: Callable[[], tuple[Features, tuple[Column, ...]]]
    ) -> tuple[Features, tuple[Column, ...]]:
        """Return `fit()`; its result and warnings are kept for the same file and key."""

        def build(folder: Path) -> None:
            with _record_warnings() as messages:
                features, columns = fit()
            content = {"features": features.to_dict(), "columns": [*map(asdict, columns)]}
            _write(folder, {**content, "warnings": messages})

        folder = self.cache.get("features", digest(identify_files(source.files), *key), build)
        content = _read(folder)
        columns = tuple(Column(**column) for column in content["columns"])
        return Features.from_dict(content["features"]), columns

    def transform(
        self, features: Features, sources: Sequence[Source], tables: Sequence[TableRows | None]
    ) -> tuple[TableRows, list[dict[str, int]], str]:
        """Return the features of all rows, mapped from files.

        Args:
            features: The fitted features.
            sources: The files.
            tables: The features of the files that fit into memory, None for the others.

        Returns:
            The rows, what `Features.transform` counts in each file, and the folder of the mapped files.
        """
        num_rows = sum(len(source.features) for source in sources)

        def build(folder: Path) -> None:
            unknown: list[dict[str, int]] = [{} for _ in sources]
            with _record_warnings() as messages, open_writer(folder) as writer:
                for source, table, counts in zip(sources, tables, unknown, strict=True):
                    if table is not None:
                        writer.append(table)
                        continue
                    for first, frame in source.features.batches():
                        rows, cells = features.transform(frame, source.path, first)
                        writer.append(rows)
                        for name, count in cells.items():
                            counts[name] = counts.get(name, 0) + count
            _write(folder, {"unknown": unknown, "warnings": messages})

        # the settings, because the same features may be read from other cells of a further file
        files = [(identify_files(source.files), dict(source.reading)) for source in sources]
        key = digest(files, features.to_dict())
        size = num_rows * (4 * (count_numbers(features) + len(features.categories)) + 8)
        folder = self.cache.get("rows", key, build, size)
        rows = map_rows(folder, features)
        if len(rows) != num_rows:
            raise DataError(f"{sources[0].path} was modified while it was read. Start again.")
        return rows, _read(folder)["unknown"], str(folder)


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


def is_large(source: Source) -> bool:
    """Return whether the features of a file stay in the file."""
    return isinstance(source.features, FileColumns)
