"""`lossselect predict`: predictions and probabilities for the rows of a new file.

lossselect predict checkpoint=best.ckpt input=new.csv output=out.csv
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossselect.cli.console import Command, run_command
from lossselect.decision.text import choose_decision, describe_decision, find_source, split_list
from lossselect.exceptions import ConfigError, DataError
from lossselect.utils.atomic_write import atomic_write, check_output
from lossselect.utils.checks import check_int, check_options
from lossselect.utils.terminal import print_safely
from lossselect.utils.warnings import warn

if TYPE_CHECKING:
    import polars as pl

    from lossselect.data.preprocessing.preparation import Preparation
    from lossselect.tasks.registry import AnyTask


def predict_file(
    checkpoint: str,
    input: str,
    output: str,
    keep: str = "",
    batch_size: str = "8192",
    device: str = "auto",
    threshold: str | None = None,
    trust: str = "false",
    module: str | None = None,
    **reading: str,
) -> None:
    """Predict the rows of a file with a checkpoint or an export, and write a .csv.

    Raises:
        ConfigError: an argument is not valid, or the checkpoint cannot predict the rows of a file.
        DataError: the file has no rows, or the net returned NaN for some (after the output was written).
    """
    import torch

    from lossselect.data.files.load import warn_unseen_cells
    from lossselect.reporting import tables
    from lossselect.reporting.formulas import escape_formula

    size, trusts = parse_batch_size(batch_size), parse_bool("trust", trust)
    destination = Path(output)
    check_output(destination, [".csv"], {"the input file": input})
    copied = [] if keep == "null" else [*dict.fromkeys(split_list(keep))]
    preparation, predict, task, decision = _load_model(checkpoint, device, trusts, module, threshold)
    changed = parse_reading(preparation, reading)
    unknown: Counter[str] = Counter()
    first, missing = 0, list[int]()
    with atomic_write(destination) as path, path.open("wb") as file, torch.inference_mode():
        for frame in preparation.frames(input, size, copied, **changed):
            rows, unknown_cells = preparation.features.transform(frame, input, first)
            unknown.update(unknown_cells)
            outputs = predict(rows[torch.arange(len(rows))])
            missing += (first + tables.rows_without_prediction(outputs["prediction"]).nonzero()[0]).tolist()
            columns = {"row": range(first, first + len(rows)), **tables.prediction_columns(task, **outputs)}
            table = escape_formula(_add_columns(columns, [frame[name] for name in copied]))
            table.write_csv(file, include_header=first == 0)
            first += len(rows)
        if not first:
            raise DataError(f"{input} has no rows. Add at least one.")
    warn_unseen_cells({input: unknown})
    if missing:
        raise DataError(
            f"{len(missing)} of {first} rows in {output} have no prediction, because the net returned NaN "
            f"for them. Their cells are empty; the first is row {missing[0]}. Check these rows of {input} "
            "for extreme values.",
            row=missing[0],
        )
    print_safely(f"{decision}\nSaved {first} rows in {output}")


def find_trained(path: str) -> str:
    """Return the checkpoint of a run folder, any other path unchanged; warn if the run has not finished."""
    from lossselect.training.checkpoints.content import find_checkpoint

    checkpoint = find_checkpoint(path)
    run = checkpoint.parent.parent
    if checkpoint.is_file() and (run / "plan.json").is_file() and not (run / "metrics.json").is_file():
        warn(
            "unfinished_run",
            f"The run in {run} has not finished: its decision and the weights of several nets may not be "
            f"fitted yet. To resume it, add hydra.run.dir={run} resume=auto to the same settings.",
        )
    return str(checkpoint)


def parse_batch_size(text: str) -> int:
    """Return the number of rows of a batch; raise an error unless it is an integer >= 1."""
    return check_int("batch_size", int(text) if text.isdecimal() else text, 1)


def parse_bool(name: str, text: str) -> bool:
    """Return whether a setting is true; raise a ConfigError unless it is true or false."""
    if text not in ("true", "false"):
        raise ConfigError(f"{name} must be true or false, got {text!r}.")
    return text == "true"


MODEL = {
    "device": ("auto", "auto, cpu, cuda, ..."),
    "threshold": ("0.3", "another threshold: a number, a list, or {name: number}; for binary, multilabel"),
    "module": ("my.Model", "your own subclass of TaskModule, for a run with module._target_=my.Model"),
}
"""Settings of a model."""

READING = {
    "separator": ('";"', "column separator of the input, if it differs from training"),
    "encoding": ("latin-1", "encoding of the input, if it differs from training"),
    "header": ("false", "whether the first line of the input contains names, if unlike training"),
    "decimal": ('","', "decimal separator of the input, if it differs from training"),
    "quote": ("none", "quotation marks of the input, double, single or none, if unlike training"),
    "skip_lines": ("2", "number of lines before the header, if it differs from training"),
    "comment": ('"#"', "start of lines of the input to leave out, if it differs from training"),
    "sheet": ("NAME", "sheet of an .xlsx, if it differs from training"),
}
"""Settings for reading a file."""


def parse_reading(preparation: "Preparation", settings: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings for reading a file; raise ConfigError for one that is not valid."""
    changed: dict[str, Any] = {key: text.strip("'\"") for key, text in settings.items()}
    if "header" in changed:
        changed["header"] = parse_bool("header", changed["header"])
    if changed.get("skip_lines", "").isdecimal():
        changed["skip_lines"] = int(changed["skip_lines"])
    check_options(changed, preparation.reading, f"A model of {preparation.source}")
    return changed


COMMAND = Command(
    predict_file,
    "predict",
    "Predict the rows of a new file with a checkpoint of a run on a table, arrays or built-in data.\n\n"
    "  lossselect predict checkpoint=runs/first/checkpoints/best.ckpt input=new.csv output=out.csv",
    {
        "checkpoint": (
            "best.ckpt",
            "checkpoint or run folder, or an exported model (.onnx, .safetensors, .pt2)",
        ),
        "input": ("new.csv", "file with the training features: a table or arrays, as in training"),
        "output": (
            "out.csv",
            "file to write: row, prediction, the probability of each class (or the 5 highest)",
        ),
        "keep": ("[a,b]", "columns of the input to copy to the output, such as an id; or \"['a, b']\""),
        "batch_size": ("8192", "number of rows predicted at once"),
        **MODEL,
        **READING,
        "trust": ("true", "load a .pt2 file, which can contain code"),
    },
    required=("checkpoint", "input", "output"),
    epilog="If an error occurs, no incomplete output is left.",
)

main = partial(run_command, COMMAND)


def _load_model(
    checkpoint: str, device: str, trust: bool, module: str | None, threshold: str | None
) -> "tuple[Preparation, Callable[[Any], dict[str, Any]], AnyTask, str]":
    """Return the preparation of features, the model, its task with the threshold, and its decision."""
    from lossselect.data.preprocessing.preparation import Preparation
    from lossselect.export.formats import find_format
    from lossselect.export.read import load_exported, topk_prediction

    cannot = (
        "contains no preparation of features, as its run was not on data=table, data=arrays or built-in "
        "data. Predict in Python:"
    )
    if trust and find_format(checkpoint) != "torch_export":
        raise ConfigError(f"trust=true is only for a .pt2 file, got {checkpoint}. Remove trust.")
    if find_format(checkpoint):
        if module is not None:
            raise ConfigError("module is only for a checkpoint. Remove module.")
        if device not in ("auto", "cpu"):
            raise ConfigError(f"Exported models run on the CPU, got device={device}. Remove device.")
        model = load_exported(checkpoint, trust)
        if model.preparation is None:
            raise ConfigError(f"{checkpoint} {cannot} lossselect.load_exported(path)(features).")

        stored = model.task.join_values(dict.fromkeys(model.task.tasks, "stored in the model"))
        task, source = choose_decision(model.task, stored, threshold)
        decision = describe_decision(task, source)

        def predict_exported(rows: Any) -> dict[str, Any]:
            by_task = model.predict_tasks(rows)
            for name, outputs in by_task.items():
                if task is not model.task:
                    predictions = task.tasks[name].predict(outputs.logits)
                    by_task[name] = outputs._replace(predictions=predictions)
            if model.metadata.get("head") == "chunked":  # a chunked model has too many outputs to list
                return topk_prediction(by_task[""])
            return {
                "probabilities": task.join_values({n: part.probabilities for n, part in by_task.items()}),
                "prediction": task.join_values({n: part.predictions for n, part in by_task.items()}),
            }

        return model.preparation, predict_exported, task, decision
    from lossselect.run.custom_module import load_trained
    from lossselect.training.checkpoints.content import read_checkpoint
    from lossselect.utils.devices import parse_device

    checkpoint = find_trained(checkpoint)
    content = read_checkpoint(checkpoint)
    prepared = content.get("TensorData") or {}
    if "features" not in prepared:
        raise ConfigError(
            f"{checkpoint} {cannot} {content['class']}.load_from_checkpoint(path), then "
            "trainer.predict on your data."
        )
    preparation = Preparation.stored(prepared, checkpoint)
    classifier, torch_device = load_trained(checkpoint, content, module), parse_device(device)
    source = content.get("decision_source") or find_source(classifier.task, classifier._base_task)
    classifier.task, source = choose_decision(classifier.task, source, threshold)
    decision = describe_decision(classifier.task, source)
    if module is not None:
        from lossselect.run.results.predictions import make_predictor

        return preparation, make_predictor(classifier, torch_device), classifier.task, decision
    classifier.to(torch_device)
    return preparation, lambda rows: classifier.predict(rows.to(torch_device)), classifier.task, decision


def _add_columns(columns: dict[str, Any], copied: "list[pl.Series]") -> dict[str, Any]:
    for column in copied:
        if column.name in columns:
            raise ConfigError(
                f"keep={column.name}: the output already has a column with this name. Rename it in the input."
            )
        if column.dtype.is_nested():
            raise ConfigError(
                f"keep={column.name}: a column of lists cannot be written to a .csv. Remove it from keep."
            )
        columns[column.name] = column
    return columns
