"""Checks of the settings of built-in data and of the user's files."""

from collections.abc import Mapping
from typing import Any

from lossselect.data.readers.litdata_index import check_index, check_installed, is_url
from lossselect.exceptions import ConfigError
from lossselect.run.settings import (
    FILE_DATA,
    STREAMED,
    packaged_config,
)
from lossselect.utils.checks import (
    as_list,
    check_choice,
    check_float,
    check_int,
    check_options,
    lookup,
)

MAX_SEED = 2**32 - 1  # NumPy's

DATA_TYPES: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(("path", "val_path", "test_path"), (str | None, "the path of a file")),
    **dict.fromkeys(("split", "group", "time", "id"), (str | int | None, "the name of a column")),
    **dict.fromkeys(("delimiter", "hierarchy"), (str | None, "text such as '|'")),
    "cache": (str | None, "the path of a folder"),
    "counts": (bool, "true or false"),
}
"""Types of settings of the user's files, and what they must be."""


def ensure(condition: Any, message: str, error: type[Exception] = ConfigError) -> None:
    """Raise an error with a message unless a condition is true."""
    if not condition:
        raise error(message)


def check_data(data: Mapping[str, Any]) -> None:
    """Raise ConfigError or OptionTypeError for the first invalid setting of built-in data or of a file."""
    from lossselect.data.preprocessing.scaling import SCALINGS
    from lossselect.data.readers.suffixes import ARRAYS, LIBSVM
    from lossselect.data.toy import DATASETS

    lookup({**dict.fromkeys((*FILE_DATA, STREAMED)), **DATASETS}, data.get("name", ""), "data set")
    settings = packaged_config("data", data["name"])
    check_options(data, settings, f"data={data['name']}")
    for name in settings:
        ensure(name in data, f"data.{name} is required. Set it, or remove ~data.{name}.")
    check_int("data.batch_size", data["batch_size"], 1)
    check_int("data.seed", data["seed"], 0, MAX_SEED)
    is_file = data["name"] in (*FILE_DATA, STREAMED)
    for name in ("val_fraction", "test_fraction"):
        if (value := data[name]) is not None or name == "val_fraction" or is_file:
            is_inside = check_float(f"data.{name}", value, 0, 1) not in (0, 1)
            ensure(is_inside, f"data.{name} must be > 0 and < 1, got {value}.")
    if "scaling" in settings:
        check_choice("data.scaling", data["scaling"], SCALINGS)
    if not is_file:
        return
    ensure(data["path"] is not None, "A file is required. Set data.path=... to the file with the data.")
    for name, (kind, expected) in DATA_TYPES.items():
        if name in data:
            ensure(isinstance(data[name], kind), f"data.{name} must be {expected}, got {data[name]!r}.")
    if data["name"] == STREAMED:
        check_int("data.num_workers", data["num_workers"], 0)
        for path in (data["path"], data["val_path"], data["test_path"]):
            if path is not None and not is_url(path):
                check_index(path)
        check_installed()
        return
    if data["name"] == "table" and data["path"].lower().endswith((*ARRAYS, *LIBSVM)):
        return  # the reader raises an error that suggests data=arrays
    ensure(
        data["target"] is not None or data.get("targets") is not None or data["name"] != "table",
        "A target is required. Set data.target=... to the label column, or to a list of 0/1 columns. For "
        "task=several, set data.target=[species,sick], or data.targets.",
    )
    names = ("target", "features", "missing", "no_label")
    for name in (*names, "exclude", "categorical", "text", "null_values"):
        value = data.get(name)
        message = f"data.{name} must be a name or a list of names such as [a,b], got {value!r}."
        ensure(all(isinstance(entry, str | int | float) for entry in as_list(value)), message)
    date_format = data.get("date_format")
    ensure(
        date_format in (None, "ymd", "dmy", "mdy") or (isinstance(date_format, str) and "%" in date_format),
        f"data.date_format must be ymd, dmy, mdy or a format such as %d/%m/%Y, got {date_format!r}.",
    )
    if data.get("max_memory") is not None:
        check_float("data.max_memory", data["max_memory"], 0)
    for name in ("test_fold", "val_fold"):
        ensure(
            data.get(name) is None or data.get("split") is not None,
            f"data.{name} requires data.split, the column of folds. Set data.split=COLUMN, or remove "
            f"data.{name}.",
        )
    ensure(
        data.get("time") is None or data.get("group") is None,
        "data.time and data.group cannot be combined: a group may have rows of different times. Remove one "
        "of them.",
    )
    for name in names:
        ensure(data.get(name) != [], f"data.{name} must name at least one column or array, got [].")
