"""The index of a data set in litdata's format, checked before litdata reads it; imports neither of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lossselect.exceptions import DataError, FileMissingError, PackageMissingError
from lossselect.utils.checks import is_installed, shorten

INDEX = "index.json"
FORMATS = (
    *("bool", "int", "float", "str", "text", "json", "bytes"),
    *("numpy", "no_header_numpy", "tensor", "no_header_tensor"),
)
"""Formats of fields whose reader cannot run code; "pickle" and "graph" can."""
CONTAINERS = ("builtins.dict", "builtins.list", "builtins.tuple", "collections.OrderedDict")
"""Types of items; reading others, such as a defaultdict, imports modules that the file names."""


def check_installed() -> None:
    """Raise PackageMissingError if litdata is not installed."""
    if not is_installed("litdata"):
        raise PackageMissingError(
            "data=litdata requires the package litdata, which is not installed. Run pip install "
            "'lossselect[litdata]'."
        )


def is_url(path: str) -> bool:
    """Return whether a path names an object store."""
    return "://" in path


def check_index(folder: str, name: str = "") -> None:
    """Check the index in a folder; `name` is the data set's, for messages.

    Raises:
        FileMissingError: the folder, the index or a chunk of a local data set does not exist.
        DataError: the index is damaged, has no rows, or names a format that could run code.
    """
    name, path = name or folder, Path(folder)
    if not path.is_dir():
        raise FileMissingError(f"Folder not found: {folder}. Check the path.")
    if not (path / INDEX).is_file():
        raise FileMissingError(
            f"{name} contains no {INDEX}. Expected a data set that litdata.optimize has written; for a table "
            "or arrays, set data=table or data=arrays."
        )
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        config, chunks = index["config"], index["chunks"]
        files = [str(chunk["filename"]) for chunk in chunks]
        rows = sum(int(chunk["chunk_size"]) for chunk in chunks)
        spec = config["data_spec"]
        is_parquet = config.get("item_loader") == "ParquetLoader"  # read by Polars
        formats = [] if is_parquet else [str(entry).partition(":")[0] for entry in config["data_format"]]
        types = [] if spec is None else [*_list_types(json.loads(spec)[1])]
    except (KeyError, TypeError, ValueError, LookupError, RecursionError) as error:
        raise DataError(
            f"{name}/{INDEX} is damaged ({type(error).__name__}). Write the data set again."
        ) from None
    if not rows:
        raise DataError(f"{name} has no rows. Add at least one.")
    if unsafe := [entry for entry in formats if entry not in FORMATS]:
        raise DataError(
            f"{name} stores a field as {unsafe[0]!r}, which is not read, because reading a pickle can run "
            f"code. Expected fields stored as {', '.join(FORMATS)}: write numbers as int or float, and "
            "labels as str or lists of str. If you trust the data, read them in your own LightningDataModule "
            "and set data._target_.",
            value=unsafe[0],
        )
    if unsafe := [kind for kind in types if kind not in CONTAINERS]:
        raise DataError(
            f"The items of {name} contain a {unsafe[0]!r}. Expected dicts, tuples and lists. Write the data "
            "set again.",
            value=unsafe[0],
        )
    if outside := [file for file in files if Path(file).name != file]:
        raise DataError(f"{name}/{INDEX} names a chunk outside of its folder: {outside[0]!r}.")
    if name == folder and (missing := [file for file in files if not (path / file).is_file()]):
        raise FileMissingError(f"Files of {name} are missing: {shorten(missing)}. Copy the whole folder.")


def _list_types(spec: Any) -> Iterator[str]:
    """Yield the types of the containers in an item."""
    if spec["type"] is not None:
        yield str(spec["type"])
    for child in spec["children_spec"]:
        yield from _list_types(child)
