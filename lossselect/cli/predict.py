"""`lossselect predict`: class names and probabilities for the rows of a new file.

lossselect predict checkpoint=best.ckpt input=new.csv output=out.csv
"""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossselect.cli.console import parse_settings, run_command
from lossselect.exceptions import ConfigError, DataError, FileMissingError
from lossselect.utils.atomic_write import atomic_write, check_regular_file
from lossselect.utils.checks import check_int, check_options
from lossselect.utils.devices import parse_device
from lossselect.utils.terminal import print_safely
from lossselect.utils.warnings import warn

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from lossselect.data.preprocessing.preparation import Preparation

USAGE = """\
Predict for the rows of a new file with a checkpoint of a run on data=table or data=arrays.

  lossselect predict checkpoint=runs/first/checkpoints/best.ckpt input=new.csv output=out.csv

  checkpoint=FILE    of a run, or a model that lossselect export wrote (.onnx, .safetensors, .pt2)
  input=FILE         .csv, .tsv or .parquet with the columns that the model was trained on, in any order;
                     .npz or .npy for a model of arrays
  output=FILE        .csv: row, prediction, a probability for each class; of very many the 5 highest
  keep=[a,b]         columns of the input to copy into the output: an id, say
  batch_size=8192    rows at a time
  device=auto        cpu, cuda, ...
  separator=";" encoding=latin-1    of the input, if not as in training
  trust=true         read a .pt2 file, which may bring code along

The output is written whole or not at all.
"""


def main() -> None:
    """The command. A user's mistake is one message on stderr and exit code 1, without a traceback."""
    run_command(USAGE, _run)


def _run(arguments: list[str]) -> None:
    settings = read_settings(arguments)
    count = predict_file(**settings)
    print_safely(f"{count} rows in {settings['output']}")


def read_settings(arguments: list[str]) -> dict[str, Any]:
    """`key=value` as values; ValueError for a key that there is not, or one that is lacking."""
    needed = {"checkpoint": "best.ckpt", "input": "new.csv", "output": "out.csv"}
    known = inspect.signature(predict_file).parameters
    # what messages about a file advise is named as in a run
    arguments = [argument.removeprefix("data.") for argument in arguments]
    settings: dict[str, Any] = {**parse_settings(arguments, known, "lossselect predict", needed)}
    for key, value in settings.items():
        if key == "separator":
            settings[key] = value.strip("'\"")
        elif key == "keep":
            names = value.removeprefix("[").removesuffix("]").split(",")
            settings[key] = [name.strip() for name in names if name.strip() not in ("", "null")]
        elif key == "batch_size":
            settings[key] = int(value) if value.isdecimal() else value
        elif key == "trust":
            if value not in ("true", "false"):
                raise ConfigError(f"trust must be true or false, got {value!r}.")
            settings[key] = value == "true"
    return settings


def predict_file(
    checkpoint: str,
    input: str,
    output: str,
    keep: str | Sequence[str] = (),
    batch_size: int = 8192,
    device: str = "auto",
    separator: str | None = None,
    encoding: str | None = None,
    trust: bool = False,
) -> int:
    """Predict a file's rows, batch by batch, and write them; returns how many there were.

    Args:
        checkpoint: Of a run on data=table or data=arrays, or its export, which needs no Lightning.
        input: A table with the columns that the model was trained on, or a file of arrays.
        output: A .csv: row, prediction, a probability for each output, and the columns kept.
        keep: Columns of the input to copy.
        batch_size: Rows at a time.
        device: Where the net runs; "auto" takes a GPU if there is one. An export runs on the CPU.
        separator, encoding: Of the input, where they are not those of training.
        trust: Whether a .pt2 file may be read.

    Raises:
        FileNotFoundError: no such checkpoint or input.
        ValueError: a checkpoint of something else, an input that the model cannot take; after the file has
            been written, rows for which the net returned NaN, whose predictions are empty cells.
    """
    import torch

    check_int("batch_size", batch_size, 1)
    kept = [*dict.fromkeys([keep] if isinstance(keep, str) else map(str, keep))]
    preparation, run = _model(checkpoint, device, trust)
    changed = {k: v for k, v in {"separator": separator, "encoding": encoding}.items() if v is not None}
    check_options(changed, preparation.reading, f"A model of {preparation.source}")
    unknown: dict[str, int] = {}
    first, missing, first_missing = 0, 0, None
    with (
        atomic_write(_checked_output(output, input)) as path,
        path.open("wb") as file,
        torch.inference_mode(),
    ):
        for frame in preparation.frames(input, batch_size, kept, **changed):
            rows, others = preparation.features.transform(frame, input, first)
            for name, count in others.items():
                unknown[name] = unknown.get(name, 0) + count
            columns, gone = run(rows[torch.arange(len(rows))])
            if gone.any():
                missing += int(gone.sum())
                first_missing = first + int(gone.argmax()) if first_missing is None else first_missing
            _table(columns, first, len(rows), [frame[name] for name in kept]).write_csv(
                file, include_header=first == 0
            )
            first += len(rows)
        if not first:
            raise DataError(f"{input} has no rows.")
    for name, count in unknown.items():
        warn(
            "unseen_category",
            f"{count} cells of column {name!r} are missing, where no train row was, or of a category that no "
            "train row had.",
        )
    if missing:
        raise DataError(
            f"{missing} of {first} rows in {output} have no prediction, because the net returned NaN for "
            f"them: their cells are empty (the first is row {first_missing}). Check these rows of {input} "
            "for extreme values.",
            row=first_missing,
        )
    return first


def _model(
    checkpoint: str, device: str, trust: bool
) -> "tuple[Preparation, Callable[[Any], tuple[dict[str, Any], np.ndarray]]]":
    """How inputs are made of a file, and what returns their columns and which rows lack a prediction."""
    from lossselect.data.preprocessing.preparation import Preparation
    from lossselect.export.formats import find_format
    from lossselect.export.read import load_exported, topk_prediction
    from lossselect.reporting.prediction_table import prediction_columns, rows_without_prediction, top_columns

    cannot = (
        "is not of a run on data=table or data=arrays with a net of ours, so it does not say how to make "
        "inputs of a file. In Python:"
    )
    if trust and find_format(checkpoint) != "torch_export":
        raise ConfigError(f"trust=true is for a .pt2 file, and {checkpoint} needs no trust: leave it out.")
    if find_format(checkpoint):
        if device not in ("auto", "cpu"):
            raise ConfigError(f"device={device}: what lossselect export wrote runs on the CPU: leave it out.")
        served = load_exported(checkpoint, trust)
        if (preparation := served.preparation) is None:
            raise ConfigError(f"{checkpoint} {cannot} lossselect.load_exported(path)(features).")

        def of_export(rows: Any) -> "tuple[dict[str, Any], np.ndarray]":
            said = served(rows)
            if served.metadata.get("head") == "chunked":  # of so many outputs the highest are told
                top = topk_prediction(said)
                return top_columns(served.task, **top), rows_without_prediction(top["prediction"])
            columns = prediction_columns(served.task, said.probabilities, said.predictions)
            return columns, rows_without_prediction(said.predictions)

        return preparation, of_export
    from lossselect.training.checkpoints.content import read_checkpoint
    from lossselect.training.checkpoints.validation import check_loadable

    content = read_checkpoint(checkpoint)
    check_loadable(content, checkpoint)
    prepared = content.get("TensorData") or {}
    if content["class"] != "TaskModule" or "features" not in prepared:
        raise ConfigError(
            f"{checkpoint} {cannot} load_from_checkpoint, and trainer.predict on your own data."
        )
    preparation = Preparation.stored(prepared, checkpoint)
    from lossselect.training.classifier import Classifier

    classifier, where = Classifier.load(checkpoint), parse_device(device)
    classifier.to(where)

    def of_module(rows: Any) -> "tuple[dict[str, Any], np.ndarray]":
        found = classifier.predict(rows.to(where))
        columns = top_columns if classifier._chunked else prediction_columns
        return columns(classifier.task, **found), rows_without_prediction(found["prediction"])

    return preparation, of_module


def _table(columns: dict[str, Any], first: int, count: int, kept: "list[pl.Series]") -> "pl.DataFrame":
    from lossselect.utils.safe_csv import escape_formula

    columns = {"row": range(first, first + count), **columns}
    for column in kept:
        if column.name in columns:
            raise ConfigError(f"keep={column.name}: the output has a column of that name already.")
        if column.dtype.is_nested():
            raise ConfigError(f"keep={column.name}: a column of lists cannot be written to a .csv.")
        columns[column.name] = column
    return escape_formula(columns)


def _checked_output(output: str, input: str) -> Path:
    path = Path(output)
    check_regular_file(path, "Name a file.")
    if path.suffix.lower() != ".csv":
        raise ConfigError(f"output={output} must end in .csv.")
    if path.resolve() == Path(input).resolve():
        raise ConfigError(f"output={output} is the input: it would be lost.")
    if not path.parent.is_dir():
        raise FileMissingError(f"There is no folder {path.parent} for output={output}.")
    if path.is_dir():
        raise ConfigError(f"output={output} is a folder.")
    return path


if __name__ == "__main__":
    from lossselect.cli import predict

    predict.main()  # of the module by its name, which tells our errors from bugs
