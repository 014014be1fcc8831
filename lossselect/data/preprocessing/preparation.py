"""What a file's rows go through on their way to the net, as plain values that a checkpoint keeps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from lossselect.data.preprocessing.table_features import Features
from lossselect.data.readers.arrays import array_columns, as_frame, read_features
from lossselect.data.readers.tables import check_columns, columns_of, table_batches
from lossselect.exceptions import CheckpointError, DataError
from lossselect.utils.atomic_write import check_regular_file
from lossselect.utils.checks import check_float, lookup
from lossselect.utils.structure import DictOf, find_mismatch

READING = {"table": ("separator", "encoding"), "arrays": ("features", "width")}
"""What is to be known of a file, by the source of the features."""
STRUCTURE = {
    "source": str,
    "features": {
        "numbers": [{"name": str, "mean": (int, float), "std": (int, float), "missing": bool}],
        "categories": [{"name": str, "values": [str], "missing": bool}],
        "null_values": [str],
        "nan": str,
    },
    "reading": DictOf((type(None), str, int)),
}
"""Of what `to_dict` returns."""


@dataclass(frozen=True)
class Preparation:
    """How inputs are made of a file.

    Args:
        source: "table" or "arrays".
        features: What becomes of the columns.
        reading: How the file is written: `separator` and `encoding` of a table, `features` (the name
            of their array) and `width` of arrays.
    """

    source: str
    features: Features
    reading: Mapping[str, Any]

    def frames(
        self, path: str, size: int, keep: Sequence[str] = (), **reading: Any
    ) -> Iterator[pl.DataFrame]:
        """The rows of a new file, `size` at a time, with the columns that are features and those to keep.

        Args:
            path: The file.
            size: How many rows at a time.
            keep: Columns beside those that the net needs.
            reading: What is to be read in another way than in training.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that the net's inputs cannot be made of.
        """
        check_regular_file(path)
        arrays = Path(path).suffix.lower() in (".npz", ".npy")
        if arrays != (self.source == "arrays"):
            needed = ".npz or .npy" if self.source == "arrays" else ".csv, .tsv or .parquet with its columns"
            raise DataError(
                f"The model was trained on {'arrays' if self.source == 'arrays' else 'a table'}, and takes "
                f"{needed}, got {path}."
            )
        how = {**self.reading, **reading}
        if self.source == "table":
            columns = [*dict.fromkeys([*self.features.columns, *keep])]
            header = columns_of(path, how.get("separator"), how.get("encoding") or "utf-8")
            check_columns(self.features.columns, header, "a feature of the model", path)
            check_columns(keep, header, "keep", path)
            yield from table_batches(path, columns, size, **how)
            return
        inputs = read_features(path, how["features"])
        if inputs.shape[1] != how["width"]:
            raise DataError(
                f"{path} has {inputs.shape[1]} features a row, but the model was trained on {how['width']}."
            )
        names = array_columns(inputs.shape[1])
        check_columns(keep, names, "keep", path)
        for start in range(0, len(inputs), size):
            yield as_frame(inputs[start : start + size])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint, of which `from_dict` makes it again."""
        return {"source": self.source, "features": self.features.to_dict(), "reading": dict(self.reading)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preparation":
        """What `to_dict` was made of; other entries are not looked at."""
        return cls(values["source"], Features.from_dict(values["features"]), values["reading"])

    @classmethod
    def stored(cls, values: Mapping[str, Any], path: Any) -> "Preparation":
        """As `from_dict`, for values from a file that may be damaged.

        Raises:
            ValueError: features cannot be made by it: a part is missing, of another type, or not finite.
        """
        if found := find_mismatch(values, STRUCTURE, "preparation"):
            raise CheckpointError(f"{path} is damaged: {found}.")
        try:
            made = cls.from_dict(values)
            made.check()
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged: {str(error).rstrip('.')}.") from None
        return made

    def check(self) -> None:
        """ValueError or TypeError for values of which no features can be made."""
        lookup(READING, self.source, "source of features")
        if self.reading.keys() != {*READING[self.source]}:
            raise CheckpointError(
                f"reading must have {' and '.join(READING[self.source])}, got {[*self.reading]}."
            )
        for column in self.features.numbers:
            check_float(f"The mean of column {column.name!r}", column.mean)
            if check_float(f"The deviation of column {column.name!r}", column.std, 0) == 0:
                raise CheckpointError(f"The deviation of column {column.name!r} must be above 0.")
