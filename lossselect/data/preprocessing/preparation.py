"""Preparation of a file's rows for the net, stored in checkpoints as plain values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import polars as pl
from polars.selectors import by_name

from lossselect.data.preprocessing.columns import TEXT, parse_numbers
from lossselect.data.preprocessing.scaling import SCALINGS
from lossselect.data.preprocessing.sparse_features import SparseFeatures
from lossselect.data.preprocessing.table_features import Features
from lossselect.data.readers.arrays import array_columns, as_frame, read_features, read_sparse_features
from lossselect.data.readers.formats import open_table
from lossselect.data.readers.libsvm import read_libsvm
from lossselect.data.readers.sparse_matrices import check_same_width
from lossselect.data.readers.suffixes import ARRAYS
from lossselect.data.readers.tables import Table, TableOptions, check_columns
from lossselect.exceptions import CheckpointError, ConfigError, DataError
from lossselect.labels.values import as_number
from lossselect.utils.checks import lookup, shorten, show
from lossselect.utils.structure import COUNT, OneOf, OptionalOf, check_structure

MAX_VALUES = 1 << 26
"""Maximum number of values of a batch of a sparse matrix, which becomes dense (256 MB)."""
NUMBER = OneOf(tuple({"name": str, **kind.structure, "missing": bool} for kind in SCALINGS.values()))
COLUMNS = {
    "numbers": [NUMBER],
    "dates": [{"name": str, "format": str, "origin": int, "parts": [NUMBER]}],
    "categories": [{"name": str, "values": [str], "missing": bool}],
    "texts": [{"name": str, "terms": [str], "idf": [(int, float)]}],
    "null_values": [str],
    "nan": str,
}
"""Structure of the dictionary of `Features`."""
SOURCES: dict[str, tuple[Any, dict[str, Any]]] = {
    "table": (
        COLUMNS,
        {field.name: (type(None), str, int, bool) for field in fields(TableOptions)}
        | {"width": OptionalOf(COUNT)},
    ),
    "arrays": (COLUMNS, {"features": OptionalOf(str), "width": COUNT}),
    "sparse matrix": (
        {"indices": object, "scale": object},
        {
            "width": COUNT,
            "first_index": OptionalOf(COUNT),
            "rate_of_index_0": OptionalOf((int, float)),
            "num_labels": OptionalOf(COUNT),
        },
    ),
}
"""Structures of the features and of the settings for reading a file, by source.

Among the settings, "features" is the name of an array, and "width" the number of its columns, or of those of
a table without a header.
"""


@dataclass(frozen=True)
class Preparation:
    """Conversion of a file to features; `source` is a key of `SOURCES`, `reading` has the settings there."""

    source: str
    features: Any  # Features, or SparseFeatures for a sparse matrix
    reading: Mapping[str, Any]

    def raw(self) -> "Preparation":
        """Return the same preparation for a model that takes raw numbers, see `Features`."""
        return replace(self, features=replace(self.features, raw=True))

    def frames(self, path: str, size: int, keep: Sequence[str] = (), **reading: Any) -> Iterator[Any]:
        """Yield `size` rows at a time of a new file, with the columns of the features and the columns `keep`.

        `reading` replaces entries of `self.reading`. Rows of a sparse matrix are a `scipy.sparse.csr_array`.
        """
        self.check_source(path)
        if self.source == "sparse matrix":
            if keep:
                raise ConfigError(
                    f"keep={keep[0]}: the columns of a sparse matrix cannot be copied. Remove keep."
                )
            matrix = self._read_sparse(path)
            size = max(1, min(size, MAX_VALUES // len(self.features.names)))
            for start in range(0, matrix.shape[0], size):
                yield matrix[start : start + size]
            return
        if self.source == "arrays":
            inputs = read_features(path, self.reading["features"])
            check_same_width(inputs.shape[1], self.reading["width"], path)
            check_columns(keep, array_columns(inputs.shape[1]), "keep", path)
            for start in range(0, len(inputs), size):
                yield as_frame(inputs[start : start + size])
            return
        table = self.open(path, **reading)
        check_columns(keep, table.header, "keep", path)
        for i, frame in enumerate(table.batches([*dict.fromkeys([*self.features.columns, *keep])], size)):
            if i == 0:
                self.check_first_row(frame, path)
            yield frame

    def open(self, path: str, **reading: Any) -> Table:
        """Return a new table with the columns of the features; see `frames`."""
        settings = {**self.reading, **reading}
        table = open_table(path, TableOptions.select(settings))
        # only the settings of the command line: the stored ones may fit only the training file
        table.check_unused(TableOptions(**reading), prefix="")
        self.check_header(table.header, path, settings["header"])
        return table

    def check_source(self, path: str) -> None:
        """Raise a DataError unless a file is a table, or arrays, as that of the training was."""
        arrays, has_arrays = self.source == "arrays", Path(path).suffix.lower() in ARRAYS
        if self.source == "sparse matrix":
            is_text = self.reading["first_index"] is not None
            if has_arrays == is_text:
                form = "libsvm file" if is_text else ".npz file of a sparse matrix"
                raise DataError(f"Expected a {form}, got {path}: the model was trained on a {form}.")
        elif arrays != has_arrays:
            expected = ".npz or .npy file" if arrays else "table with its columns"
            raise DataError(
                f"Expected a {expected}, got {path}: the model was trained on "
                f"{'arrays' if arrays else 'a table'}."
            )

    def check_header(self, header: list[str], path: str, has_header: bool | None) -> None:
        """Raise a DataError if a column of the model is missing, perhaps because the file has no header."""
        columns, known = self.features.columns, {*header}
        had_header = self.reading["header"] is not False
        is_row = known.isdisjoint(columns) and any(as_number(name) is not None for name in header)
        missing = next((name for name in columns if name not in known), None)
        if missing is not None and had_header and (is_row or has_header is False):
            raise DataError(
                f"{path} has no column {missing!r}: the model was trained on a file with a header, and this "
                "one seems to have no header. Add a first line with the names of the columns"
                f"{', and remove header=false' * (has_header is False)}."
            )
        if missing is not None and not had_header and has_header is not False:
            raise DataError(
                "The model was trained on a file without a header (data.header=false), so its columns are "
                f"called 'column 0' and so on. Remove header=true, and the first line of {path} if it "
                "contains names."
            )
        try:
            check_columns(columns, header, "a feature of the model", path)
        except DataError as error:
            if not had_header:
                error.add(
                    "Without a header, columns are recognised by their position, so keep the label column, "
                    "with any content."
                )
            raise
        others_are_last = {*columns} == {*header[: len(columns)]}
        if not had_header and not others_are_last and len(header) != (width := self.reading["width"]):
            raise DataError(
                f"Expected {width} columns as in training, got {len(header)} in {path}. Without a header, "
                "columns are recognised by their position, so keep all of them, with any content."
            )

    def check_first_row(self, frame: pl.DataFrame, path: str) -> None:
        """Raise a DataError if the first row of a file is a header, but the training file has no header."""
        numbers, categories = self.features.numbers, self.features.categories
        if self.reading.get("header") is not False or not frame.height:
            return
        first = frame.head(1).select(by_name(*(column.name for column in numbers or categories)))
        cells = [self.features.parser.text(column) for column in first.iter_columns() if column.dtype in TEXT]
        if len(cells) < first.width:
            return
        if numbers:
            is_header = all(parse_numbers(cell)[1] is not None for cell in cells)
        else:  # a row may have one or two categories that no training row has
            known = [cell.item() in column.values for cell, column in zip(cells, categories, strict=True)]
            is_header = len(known) > 2 and not any(known)
        if is_header:
            raise DataError(
                f"The first line of {path} seems to contain names of columns "
                f"({shorten([*map(show, first.row(0))])}), but the model was trained on a file without a "
                "header (data.header=false). Remove that line."
            )

    def _read_sparse(self, path: str) -> Any:
        """Return the rows of a new file in the format of the training file."""
        if self.reading["first_index"] is not None:
            return read_libsvm(path, self.reading).features
        matrix = read_sparse_features(path)
        check_same_width(matrix.shape[1], self.reading["width"], path)
        return matrix

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint, which `from_dict` accepts."""
        return {"source": self.source, "features": self.features.to_dict(), "reading": dict(self.reading)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preparation":
        """Create a preparation from the result of `to_dict`; other entries are ignored."""
        kind: Any = SparseFeatures if values["source"] == "sparse matrix" else Features
        return cls(values["source"], kind.from_dict(values["features"]), values["reading"])

    @classmethod
    def stored(cls, values: Mapping[str, Any], path: Any) -> "Preparation":
        """Create a preparation from values of the file `path`; raise CheckpointError if they are damaged."""
        try:
            check_structure(values, {"source": str, "features": {}, "reading": {}}, "preparation")
            features, reading = lookup(SOURCES, values["source"], "feature source")
            if values["reading"].keys() != reading.keys():
                names = " and ".join(reading)
                raise CheckpointError(f"reading must have {names}, got {[*values['reading']]}.")
            check_structure(values["reading"], reading, "reading")
            check_structure(values["features"], features, "features")
            preparation = cls.from_dict(values)
            width = None if values["source"] == "table" else values["reading"]["width"]
            preparation.features.check(width)
        except (ValueError, TypeError, OverflowError, RuntimeError) as error:
            raise CheckpointError(f"{path} is damaged: {str(error).rstrip('.')}.") from None
        return preparation
