"""`lossselect data`: rows, columns and labels of a file, without training.

lossselect data data.path=train.csv data.target=species
"""

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossselect.cli.arguments import find_value, guess, order_arguments
from lossselect.cli.console import announce, print_errors_in_one_line, print_warnings_in_one_line
from lossselect.data.readers.suffixes import ARRAYS, LIBSVM
from lossselect.exceptions import ConfigError, LossSelectError
from lossselect.run.data_settings import check_data
from lossselect.run.settings import FILE_DATA, packaged_config
from lossselect.run.validation import SETTINGS
from lossselect.utils.atomic_write import atomic_write, check_output
from lossselect.utils.checks import as_list
from lossselect.utils.redaction import redact
from lossselect.utils.terminal import print_safely
from lossselect.utils.warnings import LossSelectWarning, ignore_warnings

if TYPE_CHECKING:
    from lossselect.data.overview import Overview

USED = ("data", "task", "seed", "ignore_warnings")
"""The settings of a run that determine its data."""

READING_TYPES = {"path": str, "date_format": str | None, "max_memory": int | float | None}
"""Types of the settings without which the columns of a file cannot be read."""

HELP = """\
Show rows, columns and labels of a file, what becomes of each column, and the setting that changes it.

  lossselect data data.path=train.csv data.target=species
  lossselect data data.path=X.npy data.target=Y.npy task=multilabel

Nothing is trained. If the file cannot be trained on as it is, the columns are shown before the error.

  data.path=FILE       a table (data=table), or a .npy, .npz or libsvm file (data=arrays)
  data.NAME=VALUE      any other setting of data=table or data=arrays; docs/data.md describes them
  task=NAME            binary, multiclass, multilabel or auto (the default)
  seed=0               seed of the split
  ignore_warnings=[]   names of warnings to silence
  output=FILE          also write everything to a .json, or the table of columns to a .csv
"""


def main() -> None:
    """Run the command line; print a user's mistake as one message on stderr, and exit with code 1."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & {*arguments}:
        print(HELP, end="")
        return
    arguments = _add_defaults(arguments)
    with print_errors_in_one_line(arguments), print_warnings_in_one_line():
        announce(find_value("data.path", arguments) or "the data")
        show_data(arguments)


def _add_defaults(arguments: Sequence[str]) -> list[str]:
    """Return the arguments after `task=auto` and `data=table` or `data=arrays`, unless they contain these."""
    path = find_value("data.path", arguments).lower()
    kind = "arrays" if path.endswith((*ARRAYS, *LIBSVM)) else "table"
    defaults = {"task": "auto", "data": kind}
    missing = [f"{key}={value}" for key, value in defaults.items() if not find_value(key, arguments)]
    return [*missing, *arguments]


def show_data(arguments: Sequence[str]) -> None:
    """Print the overview of a file, then warnings, and raise the error if it cannot be trained on.

    Raises:
        ConfigError: a setting that is unknown or has no effect.
        LossSelectError: an error that training would raise.
    """
    from lossselect.reporting.overview import print_overview
    from lossselect.run.settings import to_plain

    output = find_value("output", arguments)
    config = _compose([argument for argument in arguments if not argument.startswith("output=")])
    data = to_plain(config.data)
    if output:
        paths = {f"data.{name}": data.get(name) for name in ("path", "val_path", "test_path")}
        files = {name: path for name, path in paths.items() if isinstance(path, str)}
        check_output(Path(output), (".json", ".csv"), files)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LossSelectWarning)
        with ignore_warnings(*as_list(config.ignore_warnings)):
            overview, error = _load(config, data)
    print_overview(overview)
    if output:
        named = [
            {"name": warning.message.name, "message": redact(warning.message.message)}
            for warning in caught
            if isinstance(warning.message, LossSelectWarning)
        ]
        _write(overview, Path(output), {"warnings": named, "error": error and redact(str(error))})
        print_safely(f"Saved {output}")
    sys.stdout.flush()  # before the messages on stderr
    for warning in caught:
        warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
    if error is not None:
        raise error


def _load(config: Any, data: Mapping[str, Any]) -> "tuple[Overview, LossSelectError | None]":
    """Return the overview; if the data cannot be loaded, only of the columns, and the error."""
    from lossselect.data.overview import make_overview, outline
    from lossselect.run.build import load_data

    if "_target_" in data:
        raise ConfigError(
            "lossselect data reads tables, arrays and built-in data, got a data module. To check "
            "data=litdata or your own module, run lossselect-train with check_only=true."
        )
    try:
        check_data(data)
        return make_overview(*load_data(config)), None
    except LossSelectError as error:
        if not _names_file(data):
            raise
        try:
            with warnings.catch_warnings(action="ignore"):  # loading has issued them
                return outline(data), error
        except LossSelectError as unreadable:  # such as a missing file
            raise (unreadable if data["name"] == "table" else error) from None


def _names_file(data: Mapping[str, Any]) -> bool:
    """Return whether the settings name a file and contain how its columns are read; others may be invalid."""
    if data.get("name") not in FILE_DATA or not packaged_config("data", data["name"]).keys() <= data.keys():
        return False
    return all(isinstance(data.get(name), kind) for name, kind in READING_TYPES.items())


def _compose(arguments: Sequence[str]) -> Any:
    """Return the config of a run on these data."""
    from hydra import compose, initialize_config_module

    settings = order_arguments(arguments)
    for setting in settings:
        key, _, value = setting.lstrip("+~").partition("=")
        name = key.partition(".")[0]
        if name in USED and not setting.startswith("-"):
            continue
        if name in (*SETTINGS, "hydra") or setting.startswith("-"):
            raise ConfigError(f"{key} has no effect on lossselect data, which only reads data. Remove it.")
        if setting[0] in "+~":
            raise ConfigError(f"Unknown setting {key!r}. {guess(key, value) or 'Remove it.'}")
    with initialize_config_module("lossselect.configs", version_base="1.3"):
        return compose("train", overrides=settings)


def _write(overview: "Overview", output: Path, more: Mapping[str, Any]) -> None:
    with atomic_write(output) as path:
        if output.suffix.lower() == ".json":
            path.write_text(overview.to_json(**more), encoding="utf-8")
            return
        import polars as pl

        from lossselect.reporting.formulas import escape_formula

        columns = pl.DataFrame([vars(column) for column in overview.columns], infer_schema_length=None)
        escape_formula(columns).write_csv(path)
