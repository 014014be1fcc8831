"""The settings of the user's files: `data=table` and `data=arrays`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from lossselect.data.files.columns import NamedColumns, as_names
from lossselect.data.label_parsing.options import LabelOptions
from lossselect.data.label_parsing.several import AnyOptions, MultiOptions, check_shared, read_targets
from lossselect.data.preprocessing.columns import CellParser
from lossselect.data.readers.tables import TableOptions
from lossselect.exceptions import ConfigError
from lossselect.labels.values import as_number
from lossselect.tasks.multitask import MultiTask
from lossselect.utils.checks import as_list


@dataclass(frozen=True)
class FileSettings:
    """The settings of the files of a run.

    Args:
        is_table: Whether the files are tables; otherwise arrays.
        path: The file of the training rows.
        other_paths: The files of other splits, by split.
        fractions: The fractions of the splits without a file, as in `split_rows`.
        seed: The seed of these splits.
        columns: The columns or arrays that settings name.
        labels: The settings of the labels.
        markers: Markers in the labels that settings declare, by meaning.
        parser: The parser of the features' cells.
        scaling: The scaling of numbers; see `fit_scales`.
        options: The settings for reading tables.
        folds: See `read_splits`.
        date_format: See `find_date_format`.
        max_memory: GB of memory that a table may take; see `read_table`.
        cache: The folder of all caches; see `Cache`.
    """

    is_table: bool
    path: str
    other_paths: Mapping[str, str]
    fractions: Mapping[str, float]
    seed: int
    columns: NamedColumns
    labels: AnyOptions
    markers: Mapping[str, Sequence[Any]]
    parser: CellParser
    scaling: str
    options: TableOptions
    folds: Mapping[str, Any]
    date_format: str | None
    max_memory: float | None
    cache: str | None

    @classmethod
    def create(cls, data: Mapping[str, Any], task: Mapping[str, Any]) -> "FileSettings":
        """Create the settings from those of the config's `data` and `task`.

        Raises:
            ConfigError: settings that are unknown or cannot be combined.
        """
        parser = cell_parser(data)
        is_table, missing = data["name"] == "table", as_list(data.get("missing"))
        class_names = task.get("class_names")
        if class_names is not None:
            # the command line parses a name such as true as a boolean
            class_names = [str(n).lower() if isinstance(n, bool) else str(n) for n in class_names]
        words = [*missing, *as_list(task.get("missing"))]
        if is_table:
            words += _missing_words(parser, [*(class_names or []), data.get("positive")])
        values = {field.name: data[field.name] for field in fields(LabelOptions) if field.name in data}
        values |= {"missing": tuple(words), "no_label": tuple(as_list(data.get("no_label")))}
        make = partial(_make_options, values, words)
        columns, labels = NamedColumns.create(data), None
        if task["name"] == MultiTask.name:
            if not is_table:
                raise ConfigError(
                    "task=several requires data=table. Write the features and labels to a table."
                )
            check_shared(LabelOptions("auto", **values))
            targets = read_targets(data.get("targets"), data.get("target"), make)
            labels = MultiOptions(targets)
            columns = columns.with_targets([target.columns for target in targets.values()])
        elif data.get("targets") is not None:
            raise ConfigError("data.targets describes several tasks. Set task=several, or data.target.")
        paths = {split: data.get(f"{split}_path") for split in ("val", "test")}
        return cls(
            is_table,
            data["path"],
            {split: path for split, path in paths.items() if path},
            {
                split: data[f"{split}_fraction"]
                for split in ("test", "val")
                if not paths[split] and data[f"{split}_fraction"] is not None  # with folds, none is drawn
            },
            data["seed"],
            columns,
            LabelOptions(task["name"], class_names, **values) if labels is None else labels,
            {
                "data.missing marks as missing": missing,
                "data.uncertain declares": [] if data.get("uncertain") is None else [-1],
            },
            parser,
            data.get("scaling", "standard"),
            TableOptions.select(data),
            {"test": data.get("test_fold"), "val": data.get("val_fold")},
            data.get("date_format"),
            data.get("max_memory"),
            data.get("cache"),
        )


def _make_options(
    shared: Mapping[str, Any], words: Sequence[Any], given: Mapping[str, Any], task: str
) -> LabelOptions:
    """Return the settings of the labels of one of several tasks, with what all of them share."""
    own: dict[str, Any] = {
        key: tuple(as_list(value)) if key == "no_label" else value for key, value in given.items()
    }
    missing = (*words, *as_list(own.pop("missing", None)))
    return LabelOptions(task, handle_unknown=shared.get("handle_unknown", "error"), missing=missing, **own)


def cell_parser(data: Mapping[str, Any]) -> CellParser:
    """Return the parser of the features' cells, with the settings in `data`."""
    return CellParser(tuple(as_names(data.get("null_values"))), data.get("nan", "error"))


def _missing_words(parser: CellParser, classes: Sequence[Any]) -> list[Any]:
    """Return the null values that also mean "missing" in labels: all but numbers and names of classes."""
    words: list[Any] = [word for word in parser.null_values if as_number(word) is None]
    words += [math.nan] if parser.nan == "missing" else []
    named = {str(value).lower() for value in classes}
    return [word for word in words if str(word).lower() not in named]
