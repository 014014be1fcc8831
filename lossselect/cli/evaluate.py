"""`lossselect evaluate`: the metrics, tables and report of a checkpoint on a labelled file.

lossselect evaluate checkpoint=best.ckpt input=labelled.csv
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossselect.cli.console import Command, run_command
from lossselect.cli.predict import MODEL, READING, find_trained, parse_batch_size, parse_reading
from lossselect.decision.text import (
    Source,
    choose_decision,
    describe_decision,
    find_source,
    split_by_task,
    split_list,
)
from lossselect.exceptions import ConfigError
from lossselect.utils.atomic_write import check_output, new_folder
from lossselect.utils.checks import check_float
from lossselect.utils.structure import COUNT, check_structure
from lossselect.utils.terminal import print_safely
from lossselect.utils.warnings import warn

if TYPE_CHECKING:
    from lossselect.data.splits import Splits
    from lossselect.training.module import TaskModule


def evaluate_file(
    checkpoint: str,
    input: str,
    output: str = "evaluation",
    target: str | None = None,
    threshold: str | None = None,
    batch_size: str | None = None,
    device: str = "auto",
    missing: str | None = None,
    empty: str | None = None,
    handle_unknown: str | None = None,
    module: str | None = None,
    max_memory: str | None = None,
    cache: str | None = None,
    save: str | None = None,
    **others: str,
) -> None:
    """Evaluate a checkpoint on the rows of a labelled file, and write the results to a new folder.

    `others` are settings for reading a file, and those of the decision to fit ("decision.metric").

    Raises:
        ConfigError: an argument is not valid, or the checkpoint cannot evaluate a file.
        DataError: the file has other columns than the training, or no valid labels.
    """
    size = None if batch_size is None else parse_batch_size(batch_size)
    fitted = {key.removeprefix("decision."): others.pop(key) for key in DECISION if key in others}
    _check_decision(fitted, threshold, save, {"the checkpoint": checkpoint, "the input file": input})
    with new_folder(Path(output)) as folder:
        from lossselect.data.files.labelled import load_labelled
        from lossselect.data.label_parsing.settings import stored_labels
        from lossselect.data.preprocessing.preparation import Preparation
        from lossselect.export.formats import check_is_checkpoint
        from lossselect.labels.values import as_number
        from lossselect.training.checkpoints.content import read_checkpoint, save_decision

        checkpoint = find_trained(checkpoint)
        check_is_checkpoint(checkpoint, "evaluate")
        content = read_checkpoint(checkpoint)
        stored = content.get("TensorData") or {}
        if "features" not in stored or "labels" not in stored:
            raise ConfigError(
                f"{checkpoint} does not contain how a file is read, as its run was not on data=table, "
                "data=arrays or built-in data. Evaluate in Python: "
                f"{content['class']}.load_from_checkpoint(path), then trainer.test on your data."
            )
        check_structure(stored, {"batch_size": COUNT}, "TensorData")
        preparation = Preparation.stored(stored, checkpoint)
        changed = parse_reading(preparation, others)
        if missing is not None and missing.startswith("{"):
            raise ConfigError(f"missing must be a value or a list of values, got {missing!r}.")
        trained = _load_module(checkpoint, content, module)
        source = content.get("decision_source") or find_source(trained.task, trained._base_task)
        task, source = choose_decision(trained.task, source, threshold)
        if threshold is not None:
            trained.set_decision(task, compare=False)
        labels = stored_labels(stored["labels"], task, checkpoint).change(
            missing=None if missing is None else tuple(split_list(missing)),
            empty=empty,
            handle_unknown=handle_unknown,
        )
        names = () if target is None else tuple(split_list(target))
        limit = None
        if max_memory is not None:
            number = as_number(max_memory)
            limit = check_float("max_memory", max_memory if number is None else number, 0)
        splits = load_labelled(input, task, preparation, labels, names, limit, cache, **changed)
        size = size or max(stored["batch_size"], 1)
        if fitted:
            source = _fit_decision(trained, splits, size, device, fitted)
        decision = describe_decision(trained.task, source)
        if fitted:
            decision += " The metrics are computed on the same rows, so they would be worse on new rows."
        _evaluate(trained, splits, size, device, folder, Path(output), checkpoint, decision)
        if save is not None:
            content["decision_source"] = source
            save_decision(save, content, trained)
        if labels.sample_weight is not None and splits.weights is None:
            print_safely(
                f"The loss is unweighted, as {input} has no {labels.sample_weight!r} (data.sample_weight)."
            )
    saved = ("metrics.json", "per_class.csv", "confusion_matrix.csv", "predictions.csv", "report.html")
    found = [name for name in saved if (Path(output) / name).is_file()]
    print_safely(f"Saved in {output}: {', '.join(found)}")
    if save is not None:
        print_safely(f"Saved {save}, the checkpoint with this decision")


DECISION = {
    "decision.metric": ("f1", "fit thresholds that maximise this metric on the input's rows; auto, null"),
    "decision.calibration": ("none", "fit no temperature, or per_label; by default temperature"),
    "decision.per_label": ("false", "fit one threshold for all labels"),
    "decision.recall": ("0.9", "minimum recall of decision.metric=precision_at_recall"),
    "decision.shrinkage": ("10", "positives at which a label's own and the common threshold weigh the same"),
}
"""Settings of a decision that is fitted to the rows of the input."""


COMMAND = Command(
    evaluate_file,
    "evaluate",
    "Evaluate a checkpoint on a new labelled file: metrics, tables, predictions and a report.\n\n"
    "  lossselect evaluate checkpoint=runs/first input=labelled.csv",
    {
        "checkpoint": ("best.ckpt", "checkpoint or run folder"),
        "input": ("labelled.csv", "file with the training features and labels, in the form of the training"),
        "output": ("evaluation", "folder to write, which must not exist; by default evaluation"),
        "target": ("[a,b]", "column, columns or array of the labels, if named unlike those of the training"),
        "batch_size": ("64", "number of rows evaluated at once; by default that of the training"),
        **MODEL,
        **DECISION,
        "save": ("new.ckpt", "file to write: the checkpoint with the threshold or the fitted decision"),
        "missing": ("NA", "value, or list of values, that marks a missing label; replaces the training's"),
        "empty": ("missing", "meaning of an empty cell of labels, if unlike the training: negative, missing"),
        "handle_unknown": ("ignore", "a label that no training row has: error, or ignore (treat as missing)"),
        **READING,
        "max_memory": ("4", "GB of memory that the table may take; by default half of the free memory"),
        "cache": ("FOLDER", "folder of the files of a larger table; by default ~/.cache/lossselect"),
    },
    required=("checkpoint", "input"),
    epilog="If an error occurs, no incomplete output is left. For a file without labels: lossselect predict.",
)

main = partial(run_command, COMMAND)


def _check_decision(
    fitted: Mapping[str, str], threshold: str | None, save: str | None, inputs: Mapping[str, str]
) -> None:
    """Raise ConfigError for settings of the decision that contradict each other or have no effect."""
    if fitted and "metric" not in fitted:
        raise ConfigError(
            f"decision.{next(iter(fitted))} requires decision.metric. Set it to auto, f1 or another metric, "
            "or to null to fit only the temperature."
        )
    if fitted and threshold is not None:
        name = f"decision.{next(iter(fitted))}"
        raise ConfigError(f"threshold cannot be combined with {name}. Remove one of them.")
    if save is not None:
        if not fitted and threshold is None:
            raise ConfigError(
                "save has no effect, as the decision has not changed. Set threshold or decision.metric, or "
                "remove save."
            )
        check_output(Path(save), [".ckpt"], inputs, "save")
        if Path(save).exists():
            raise ConfigError(f"save={save} already exists. Choose another save, or remove the file.")


def _fit_decision(
    module: "TaskModule", splits: "Splits", batch_size: int, device: str, settings: Mapping[str, str]
) -> "Source":
    """Fit the decision of a module to the rows of `splits`, and return its origin."""
    from lossselect.data.datamodule import TensorData
    from lossselect.decision.fit import options_by_task
    from lossselect.labels.values import as_number
    from lossselect.run.trainer import trainer_on
    from lossselect.tasks.label_counts import count_labels
    from lossselect.training.tune import tune_on_validation
    from lossselect.utils.devices import parse_device

    words: dict[str, Any] = {"true": True, "false": False, "null": None}

    def parse(text: str) -> Any:
        if (by_task := split_by_task(text)) is not None:
            return {name: parse(value) for name, value in by_task.items()}
        number = as_number(text)
        return words.get(text, text if number is None else number)

    options = {key: parse(text) for key, text in settings.items()}
    splits = replace(splits, rows={"val": splits.rows["test"]})
    counts = {"val": count_labels(module.task, splits.labels)}
    data = TensorData(splits, module.task, batch_size, counts)
    # the metric null keeps the decision of the checkpoint, not the default one
    base, tasks = module._base_task or module.task, module.task.tasks
    kept = {
        n: tasks[n]
        for n, decision in options_by_task(options, module.task).items()
        if decision.metric is None
    }
    module.set_decision(base.with_tasks({**base.tasks, **kept}), compare=False)
    tuned = tune_on_validation(trainer_on(parse_device(device)), module, options, datamodule=data)
    found: Source = module.task.join_values(
        {name: f"fitted to the {rows} labelled rows of {splits.name}" for name, rows in tuned.rows.items()}
    )
    return found


def _load_module(checkpoint: str, content: dict[str, Any], module: str | None) -> "TaskModule":
    from lossselect.run.custom_module import load_trained

    changed: dict[str, Any] = {}
    if "metrics" in content["not_plain"]:
        changed["metrics"] = None
        warn(
            "left_out_metrics",
            f"{checkpoint} does not contain the run's own metric objects, so the metrics of the task are "
            "computed. To compute others, evaluate in Python: load_from_checkpoint(path, metrics=...).",
        )
    return load_trained(checkpoint, content, module, evaluates=True, **changed)


def _evaluate(
    module: "TaskModule",
    splits: "Splits",
    batch_size: int,
    device: str,
    folder: Path,
    output: Path,
    checkpoint: str,
    decision: str,
) -> None:
    """Write the results of a module on the test rows of `splits`, and print its metrics.

    `folder` is renamed to `output` later.
    """
    from lossselect.data.checks import check_all_counts
    from lossselect.data.datamodule import TensorData
    from lossselect.reporting.page import write_report
    from lossselect.reporting.plan import Line, Plan, compare_decisions, print_metrics
    from lossselect.run.results.evaluation import add_intervals, evaluate_test
    from lossselect.run.results.files import save_metrics, save_plan
    from lossselect.run.results.predictions import save_predictions
    from lossselect.run.trainer import trainer_on
    from lossselect.tasks.label_counts import count_labels
    from lossselect.utils.devices import parse_device

    counts = count_labels(module.task, splits.labels)
    check_all_counts(module.task, "test", counts)
    data = TensorData(splits, module.task, batch_size, {"test": counts})
    if module._chunked:
        data.use_sparse_targets()
    trainer = trainer_on(parse_device(device))
    results, outcomes = evaluate_test(trainer, module, data, folder, datamodule=data, verbose=False)
    save_metrics(add_intervals(results, outcomes), folder)
    save_predictions(trainer, module, data, None, folder)
    missing = f"{counts.missing} missing labels are left out" if counts.missing else ""
    lines = [
        Line("evaluation", f"{splits.name}: {counts.rows} rows", missing),
        Line("task", str(module.task)),
        Line("checkpoint", checkpoint),
        Line("decision", decision, "", "threshold=..."),
        Line("outputs", str(output.resolve()), "", "output=FOLDER"),
    ]
    save_plan(Plan("Evaluation", lines), folder)
    write_report(folder, outcomes)
    print_metrics(f"Results on {splits.name}", results)
    if worse := compare_decisions(results):
        print_safely(worse)
    print_safely(decision)
