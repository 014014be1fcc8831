"""A run with `folds` or `repeats`: it trains several times, and writes means and averaged predictions."""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import polars as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lossselect.comparison.record import RunRecord, record_run
from lossselect.comparison.sweep import describe_run
from lossselect.comparison.table import Mean, mean_of
from lossselect.cross_validation.average import save_average
from lossselect.cross_validation.members import check_same_members, member_config, write_settings
from lossselect.cross_validation.out_of_fold import save_out_of_fold
from lossselect.decision.text import describe_decision
from lossselect.reporting.explain import plan
from lossselect.reporting.plan import Plan, compare_decisions, print_table
from lossselect.reporting.run_files import ERROR, read_metrics
from lossselect.run.build import (
    build_data,
    build_metrics,
    decision_settings,
    describe_training,
    has_loader,
    load_data,
    prepare,
)
from lossselect.run.custom_module import load_trained
from lossselect.run.results.evaluation import add_intervals, evaluate_test
from lossselect.run.results.files import remove_results, save_metrics
from lossselect.run.results.predictions import save_predictions
from lossselect.run.resume import prepare_folder, settings_lines, show_plan
from lossselect.run.settings import Member, list_members, report_options
from lossselect.run.trainer import trainer_on
from lossselect.utils.atomic_write import atomic_write
from lossselect.utils.devices import parse_device
from lossselect.utils.terminal import print_safely
from lossselect.utils.warnings import ignore_warnings

FILES = (
    *("checkpoints/best.ckpt", "metrics.json", "members.csv", "out_of_fold.csv", "predictions.csv"),
    *("per_class.csv", "confusion_matrix.csv", "importance.csv", "report.html"),
)
"""The files that are named at the end of a run."""

Train = Callable[[DictConfig, Path, RunRecord], float | None]


def train_members(
    config: DictConfig,
    folder: Path,
    record: RunRecord,
    train: Train,
    describe: Callable[[BaseException], str],
) -> tuple[Any, Any] | None:
    """Train as often as `folds` and `repeats` say, and write the results to the run folder.

    Args:
        config: The config of the run.
        folder: The run folder, which will contain a folder for each training.
        record: The record of the run, to complete.
        train: Trains an ordinary run.
        describe: Returns the message of an error.

    Returns:
        The module of the averaged nets and its data; None if the nets cannot be averaged.
    """
    members = list_members(config)
    configs = {member.name: member_config(config, member) for member in members}
    if config.resume == "auto":
        check_same_members(folder, configs)
    record.task, data = _start(config, configs[members[0].name].copy(), folder, members)
    overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    records: list[RunRecord] = []
    for number, member in enumerate(members):
        place = folder / member.name
        write_settings(
            place, configs[member.name], [*overrides, *(f"{k}={v}" for k, v in member.settings.items())]
        )
        # the first training has already warned about the data
        repeated = ("duplicate_rows", "rare_class") if number else ()
        shown = nullcontext() if config.verbose is True else redirect_stdout(io.StringIO())
        try:
            with ignore_warnings(*repeated), shown, record_run(place, describe) as member_record:
                train(configs[member.name], place, member_record)
        except Exception as error:
            error.add_note(f"{member.name} (training {number + 1} of {len(members)})")
            raise
        records.append(member_record)
        print_safely(describe_run(place))
    return _finish(config, folder, record, configs, records, data)


def _start(config: DictConfig, first: DictConfig, folder: Path, members: Sequence[Member]) -> tuple[str, Any]:
    """Print and write the plan of the run; return the name of the task and the data of the first training."""
    module, data, monitor = prepare(first)
    training = describe_training(config, data, monitor)
    described = plan(module, data, training, monitor, decision_settings(first, module, data))
    resumes = config.resume == "auto" and any((folder / member.name).is_dir() for member in members)
    if resumes:
        lines = settings_lines(folder)
        remove_results(folder)
    else:
        lines = prepare_folder(folder, None, writes=True, resumes=False)
    described = Plan(described.title, [*described.lines, *lines])
    show_plan(described, data, folder, writes=True, has_overview=report_options(config.report) is not None)
    return module.task.name, data


def _finish(
    config: DictConfig,
    folder: Path,
    record: RunRecord,
    configs: Mapping[str, DictConfig],
    records: Sequence[RunRecord],
    data: Any,
) -> tuple[Any, Any] | None:
    """Write the results of the trainings; return the module of the averaged nets, and its data, if any."""
    values = {name: read_metrics(folder / name) for name in configs}
    names = dict.fromkeys(name for metrics in values.values() for name in metrics)
    means = {name: mean_of([metrics.get(name) for metrics in values.values()]) for name in names}
    _save_members(folder, configs, values, means, records)
    averaged = _average(config, folder, configs, data)
    results = {name: mean.mean for name, mean in means.items()}
    tested: dict[str, float] = {}
    outcomes: dict[str, Any] = {}
    if averaged is None:
        print("Your own nets and modules, and nets with a chunked head, are not averaged.")
    elif has_loader(data, "test"):
        trainer = trainer_on(_device(config))
        tested, outcomes = evaluate_test(trainer, *averaged, folder, datamodule=averaged[1], verbose=False)
        save_predictions(trainer, *averaged, None, folder)
        # the test metrics are those of the average, which have no standard error
        results = {name: value for name, value in results.items() if not name.startswith("test/")}
    errors = {name + ERROR: means[name].error for name in results if not math.isnan(means[name].error)}
    save_metrics(add_intervals({**results, **tested, **errors}, outcomes), folder)
    _print_results(means, tested)
    if averaged is not None:
        task = averaged[0].task
        source = task.join_values(dict.fromkeys(task.tasks, "mean of the trainings"))
        print_safely(describe_decision(task, source))
    if worse := compare_decisions(tested):
        print(worse)
    if options := report_options(config.report):
        from lossselect.reporting.importance import compute_importance
        from lossselect.reporting.page import write_report

        importance = None
        if options["importance"] and averaged is not None:
            importance = compute_importance(*averaged, options["importance_seconds"], config.seed)
            importance.save(folder)
        write_report(folder, outcomes, importance=importance)
    known = [value for each in records if (value := each.value) is not None]
    record.metric, record.mode = records[0].metric, records[0].mode
    record.value = mean_of(known).mean if known else None
    record.fit_seconds = round(sum(each.fit_seconds or 0 for each in records), 3)
    print_safely(f"Saved in {folder}: {', '.join(name for name in FILES if (folder / name).is_file())}")
    return averaged


def _average(
    config: DictConfig, folder: Path, configs: Mapping[str, DictConfig], data: Any
) -> tuple[Any, Any] | None:
    """Write the checkpoint of the average and the out-of-fold predictions; return its module and its data."""
    checkpoints = {name: folder / name / "checkpoints" / "best.ckpt" for name in configs}
    path = folder / "checkpoints" / "best.ckpt"
    content = save_average(
        checkpoints, path, data.counts["train"] + data.counts["val"] if config.folds else None
    )
    if content is None:
        return None
    changed = {"metrics": build_metrics(config)} if "metrics" in content["not_plain"] else {}
    module = load_trained(str(path), content, None, evaluates=True, **changed)
    if config.folds:
        with ignore_warnings("duplicate_rows", "rare_class"):  # each training has issued them
            splits = {name: load_data(each).splits for name, each in configs.items()}
        save_out_of_fold(folder, module.task, checkpoints, splits, _device(config))
    return module, build_data(next(iter(configs.values())))


def _device(config: DictConfig) -> Any:
    return parse_device("cpu" if config.trainer.get("accelerator") == "cpu" else "auto")


def _save_members(
    folder: Path,
    configs: Mapping[str, DictConfig],
    values: Mapping[str, Mapping[str, float | None]],
    means: Mapping[str, Mean],
    records: Iterable[RunRecord],
) -> None:
    """Write members.csv: the metrics of each training, their mean and their standard error."""
    has_folds = any(config.folds for config in configs.values())
    columns: dict[str, list[Any]] = {
        "training": [*configs, "mean", "standard error"],
        "seed": [*(config.seed for config in configs.values()), None, None],
        **({"fold": [*(config.fold for config in configs.values()), None, None]} if has_folds else {}),
    }
    for name, mean in means.items():
        columns[name] = [*(metrics.get(name) for metrics in values.values()), mean.mean, mean.error]
    seconds = [record.seconds for record in records]
    columns["seconds"] = [*seconds, *mean_of(seconds)[:2]]
    with atomic_write(folder / "members.csv") as path:
        pl.DataFrame(columns).fill_nan(None).write_csv(path)


def _print_results(means: Mapping[str, Mean], results: Mapping[str, float]) -> None:
    """Print the mean and the standard error of each metric, and the `results` of the averaged nets.

    Their losses are left out: they are those of calibrated logits, but the losses of the trainings are those
    of raw logits.
    """
    names = dict.fromkeys(name.removeprefix("val/") for name in means if name.startswith("val/"))
    names |= dict.fromkeys(name.removeprefix("test/") for name in means if name.startswith("test/"))
    rows = []
    for name in names:
        if not name.startswith("default_decision/"):
            value = results.get(f"test/{name}")
            averaged = "" if value is None or name.rpartition("/")[2] == "loss" else f"{value:.4f}"
            rows.append((name, _format(means, f"val/{name}"), _format(means, f"test/{name}"), averaged))
    width = 4 if any(row[3] for row in rows) else 3
    header = ("", "val", "test", "test (averaged)")[:width]
    print_table("Mean ± standard error", [row[:width] for row in rows], header)


def _format(means: Mapping[str, Mean], name: str) -> str:
    mean = means.get(name)
    return "" if mean is None or math.isnan(mean.mean) else f"{mean.mean:.4f} ± {mean.error:.4f}"
