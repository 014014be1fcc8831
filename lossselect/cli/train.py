"""`lossselect-train` and `python train.py`: train, evaluate and predict as a Hydra config describes.

A misspelt setting is reported before torch is imported, and most other mistakes before Lightning.
"""

import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lossselect.cli.arguments import choose_net, find_value, order_arguments
from lossselect.cli.console import (
    REWORDS_ERRORS,
    TRACEBACKS,
    announce,
    describe_error,
    is_first_process,
    print_errors_in_one_line,
    print_version,
    print_warnings_in_one_line,
    quiet,
    report_early_end,
)
from lossselect.comparison.record import RunRecord, record_run
from lossselect.compat.hydra import silence_failed_jobs
from lossselect.losses.registry import LOSSES
from lossselect.metrics.direction import best_mode
from lossselect.run.lock import lock_folder, unlock_folders
from lossselect.run.settings import (
    list_members,
    list_variants,
    report_options,
    task_monitor,
    to_plain,
)
from lossselect.run.trust import trust
from lossselect.utils.checks import as_list
from lossselect.utils.garbage import pause_collections, resume_collections
from lossselect.utils.redaction import record_environment
from lossselect.utils.terminal import prepare_streams, print_safely
from lossselect.utils.warnings import ignore_warnings, warn

START = """\
Set the task; everything else has a default. Try it on a built-in data set:
  {command} task=binary        one of two classes, such as yes or no
  {command} task=multiclass    exactly one of several classes
  {command} task=multilabel    any number of labels
With your own file:
  {command} task=multiclass data=table data.path=train.csv data.target=species
All settings: {command} --help
"""

HELP = """\
Train a classifier. Set the task; head, loss, target encoding, metrics and thresholds follow from it.

  {command} task=binary        one of two classes, such as yes or no
  {command} task=multiclass    exactly one of several classes
  {command} task=multilabel    any number of labels
  {command} task=auto          decided from the labels
  {command} task=several       several of these in one model

With your own file:

  {command} task=multiclass data=table data.path=train.csv data.target=species
  {command} task=multilabel data=table data.path=train.csv "data.target=[sport,news]"
  {command} task=... check_only=true           check data and settings without training
  {command} task=... loss=auto                 choose the loss from the training labels

Predict with `lossselect predict checkpoint=best.ckpt input=new.csv output=out.csv`.

Choose a variant of a part with PART=NAME:

{groups}

Change any setting with KEY=VALUE, add one with +KEY=VALUE:

  loss=focal loss.gamma=1         another loss and its option
  trainer.max_epochs=10 seed=1    fewer epochs and another random seed
  data.batch_size=128 optimizer.lr=3e-4
  module._target_=my.Model        your own subclass of TaskModule
  hydra.run.dir=runs/first        the run folder
  -m task=binary,multilabel       several runs, one after another
  --cfg job task=binary           print all settings without training
  --config-dir FOLDER             add a folder with your own configs
  --hydra-help                    print the options of Hydra

Results in the run folder: checkpoints/best.ckpt, metrics.json, per_class.csv, predictions.csv, report.html,
plan.json, data.json, nets.csv, logs/metrics.csv, and except for multilabel confusion_matrix.csv.
"""

CHECK = "++hydra.callbacks.check={_target_: lossselect.cli.precheck.CheckBeforeRun}"
"""An argument of each run; no config can override the command line."""


READS_NO_DATA = {
    *("--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc"),
    "explain=json",  # whose output is read by programs
}
"""Arguments with which a run does not start by announcing its data."""


def main() -> None:
    """Run the command line; print a user's mistake as one message on stderr, and exit with code 1."""
    prepare_streams()
    name = Path(sys.argv[0]).name
    command = f"python {name}" if name.endswith(".py") else name
    if name in ("__main__.py", "lossselect"):
        command = "lossselect train"
    if {"-h", "--help"} & set(sys.argv[1:]):
        _print_help(command)
        return
    if not sys.argv[1:]:
        print(START.format(command=command), end="", file=sys.stderr)
        sys.exit(1)
    if "--version" in sys.argv[1:]:
        print_version()
        return
    record_environment()
    import_module("lossselect.configs")  # its group loss, before Hydra completes a command line
    # Hydra has no null for a group; the groups that may be empty have a variant none
    sys.argv[1:] = [
        re.sub(r"^(scheduler|callbacks|logger|experiment)=null$", r"\1=none", argument)
        for argument in sys.argv[1:]
    ]
    # the arguments of the user's own module are in no config
    sys.argv[1:] = [re.sub(r"^(?=module\.)", "++", argument) for argument in sys.argv[1:]]
    # like `python train.py`, find modules in the current folder; last, so that they shadow no others
    sys.path.append(os.getcwd())
    if not is_first_process():
        _silence_process()
    # Hydra then raises its errors instead of printing them, and they can be reworded
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if not TRACEBACKS:
        os.environ[REWORDS_ERRORS] = "1"
    with print_errors_in_one_line(sys.argv[1:]), print_warnings_in_one_line():
        sys.argv[1:] = choose_net(order_arguments(sys.argv[1:]))
        if CHECK not in sys.argv:
            sys.argv.append(CHECK)
        trust(sys.argv[1:])
        silence_failed_jobs()
        if not READS_NO_DATA & {*sys.argv[1:]}:
            announce(find_value("data.path", sys.argv[1:]) or "the data")
        pause_collections()  # until `check_run` has imported torch
        try:
            run()
        finally:
            resume_collections()
            unlock_folders()
            _summarise_sweep()
        _leave_process_group()


def _summarise_sweep() -> None:
    """Print and write the table of the runs of a sweep, also if one of them failed."""
    from lossselect.cli.precheck import CheckBeforeRun

    sweep, CheckBeforeRun.sweep = CheckBeforeRun.sweep, None
    if sweep is not None and is_first_process():
        from lossselect.comparison.sweep import summarise

        summarise(*sweep)


def _print_help(command: str) -> None:
    """Print how `command` is used, with the variants of each part."""
    # Hydra's own help composes a config first, which takes a second
    lines = []
    for group in dict.fromkeys(("task", "loss", "data", "model", "optimizer", *list_variants())):
        names = ["auto", *LOSSES] if group == "loss" else list_variants(group)
        lines += [f"  {group:11}{', '.join(names)}"] if names else []
    print(HELP.format(command=command, groups="\n".join(lines)))


def _silence_process() -> None:
    """Leave the run folder and all output but errors to the first process of the run."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the process ends
    # otherwise torch prints 20 lines when the first process ends
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for key, value in (("hydra.run.dir", "."), ("hydra.output_subdir", "null")):
        if not any(argument.startswith(f"{key}=") for argument in sys.argv):
            sys.argv.append(f"{key}={value}")
    sys.argv = [argument for argument in sys.argv if not argument.startswith("hydra/job_logging=")]
    sys.argv.append("hydra/job_logging=none")


def _leave_process_group() -> None:
    """Leave the process group, if any; otherwise the other processes may end with an error."""
    if "torch.distributed" in sys.modules:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


@hydra.main(version_base="1.3", config_path="pkg://lossselect.configs", config_name="train")
def run(config: DictConfig) -> float | None:
    """Fit, evaluate and predict in Hydra's run folder; return the value that a sweeper optimises."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    is_job = HydraConfig.get().mode is RunMode.MULTIRUN
    saves_nothing = config.trainer.get("fast_dev_run") or config.check_only or config.explain
    is_verbose = (saves_nothing or not is_job) if config.verbose == "auto" else config.verbose
    recorded = folder if is_first_process() and not saves_nothing else None
    with ignore_warnings(*as_list(config.ignore_warnings)):
        try:
            # after an error in a job, Hydra runs the others, and then raises the first error
            one_line = nullcontext() if is_job else print_errors_in_one_line()
            with quiet(not is_verbose), one_line, record_run(recorded, describe_error) as record:
                return _run_job(config, folder, record) if is_job else _train(config, folder, record)
        except Exception as error:
            if is_job:
                error.add_note(folder.name)
                is_verbose = False  # each failed job prints a line
            raise
        finally:
            if recorded is not None and not is_verbose:
                from lossselect.comparison.sweep import describe_run

                print_safely(describe_run(folder))


def _run_job(config: DictConfig, folder: Path, record: RunRecord) -> float | None:
    """Run a job of a sweep; it may have settings that were not known when the sweep was checked."""
    from lossselect.cli.precheck import check_run, dry_run, is_dry_run

    check_run(config, HydraConfig.get(), sweep=True)
    if is_dry_run(config):
        dry_run(config)
        return None
    if is_first_process():
        lock_folder(folder)
    try:
        return _train(config, folder, record)
    finally:
        unlock_folders()


def _train(config: DictConfig, folder: Path, record: RunRecord) -> float | None:
    """Train once, or as often as `folds` and `repeats` say; see `train`."""
    members = list_members(config)
    if not members:
        return train(config, folder, record)
    from lossselect.cross_validation.members import member_config
    from lossselect.cross_validation.run import train_members

    if config.trainer.get("fast_dev_run"):
        print(f"fast_dev_run tries only {members[0].name}, the first of {len(members)} trainings.")
        return train(member_config(config, members[0]), folder, record)
    averaged = train_members(config, folder, record, train, describe_error)
    if config.export and averaged is not None:
        from lossselect.cli.export import export_run

        export_run(*averaged, folder, config.export, config.export_raw)
    return record.value


def train(config: DictConfig, folder: Path, record: RunRecord) -> float | None:
    """Run the composed config in a folder, and complete its `record`; see `run`.

    Returns:
        The value of `monitor` at the checkpoint that was evaluated. With `monitor=last`, the value of the
        task's own metric (`val/loss`, or for multilabel `val/average_precision`), if it was computed.
    """
    from lossselect.reporting.explain import plan
    from lossselect.reporting.plan import Plan, format_rows, print_table
    from lossselect.run.build import decision_settings, describe_training, make_trainer, prepare
    from lossselect.run.loggers import finish_loggers, log_results, log_settings
    from lossselect.run.results.evaluation import best_checkpoint, evaluate
    from lossselect.run.results.files import save_nets
    from lossselect.run.results.predictions import save_predictions
    from lossselect.run.resume import check_start, continue_log, prepare_folder, resume_path, show_plan
    from lossselect.run.trainer import convert_start_errors
    from lossselect.training.checkpoints.content import read_checkpoint

    has_default_monitor = config.monitor is None
    module, data, monitor = prepare(config)
    trainer, best_callback = make_trainer(config, folder, module._epochs["val"].first.directions)
    report = report_options(config.report)
    smoke_test = bool(config.trainer.get("fast_dev_run"))
    writes = is_first_process() and not smoke_test
    start = resume_path(config.resume, folder)
    if start is not None:
        check_start(*start, module, data, trainer)
    decision = decision_settings(config, module, data)
    described = plan(module, data, describe_training(config, data, monitor, trainer), monitor, decision)
    folder_lines = prepare_folder(folder, start, writes, bool(config.resume))
    record.task = module.task.title
    described = Plan(described.title, [*described.lines, *folder_lines])
    show_plan(described, data, folder, writes, has_overview=report is not None)
    counts_labels, loss_is_open = module._needs_counts, getattr(module.criterion, "waiting", False)
    loggers = trainer.loggers
    run_folder = Path(HydraConfig.get().runtime.output_dir)  # not that of a fold
    writes_report = report is not None and writes
    with report_early_end(trainer, folder, run_folder, writes_report), finish_loggers(loggers):
        if start is not None:
            continue_log(trainer, start[1])
        log_settings(trainer, config)
        started = time.monotonic()
        with convert_start_errors(trainer, resumes=start is not None):
            trainer.fit(module, datamodule=data, ckpt_path=start and str(start[0]), weights_only=True)
        record.fit_seconds = round(time.monotonic() - started, 3)
        folder = Path(trainer.strategy.broadcast(str(folder)))
        if smoke_test:
            print("Smoke test passed: a few batches were trained and validated. Nothing was saved.")
            return None
        if counts_labels:  # fit has counted them, for the loss or only for the head's bias
            _print_counted(module, loss_is_open)
        nets = save_nets(trainer, folder)
        if nets:
            print_table("Nets", format_rows(nets), ("", *[*nets][1:]))
        best = best_checkpoint(trainer, best_callback, resumed=start is not None)
        ended_early = trainer.current_epoch < (trainer.max_epochs or 0)
        if monitor.metric == "last" and has_default_monitor and ended_early and not nets:
            warn(
                "stopped_before_schedule_end",
                f"Training stopped after epoch {trainer.current_epoch} of {config.trainer.max_epochs}, "
                "before the learning rate reached 0. The last epoch was kept, which may not be the best one. "
                "To keep the best epoch, set monitor=val/loss.",
            )
        results, numbers, outcomes, tuned = evaluate(
            trainer, module, data, best, folder, decision, report is not None
        )
        log_results(loggers, numbers, trainer.global_step)
        predictions = save_predictions(trainer, module, data, best, folder)
        source = "the nets together" if nets else f"epoch {read_checkpoint(best)['epoch'] + 1}"
        _print_results(module.task, source, results, tuned)
        if report and writes:
            from lossselect.cli.report import report_run

            metric = (
                monitor.metric if monitor.metric in results else task_monitor(to_plain(config), module.task)
            )
            report_run(config, module, data, folder, outcomes, (metric, results.get(metric)))
    names = ("nets.csv", "per_class.csv", "confusion_matrix.csv", "importance.csv", "report.html")
    tables = [name for name in (predictions, *names) if name and (folder / name).is_file()]
    print_safely(f"Saved in {folder}: {', '.join(('checkpoints/best.ckpt', 'metrics.json', *tables))}")
    if config.export and writes:
        from lossselect.cli.export import export_run

        export_run(module, data, folder, config.export, config.export_raw)
    if monitor.metric != "last":
        record.metric, record.mode = monitor.metric, best_callback.mode
        record.value = float(best_callback.best_model_score)  # type: ignore[arg-type]  # a best checkpoint exists
    else:
        record.metric = task_monitor(to_plain(config), module.task)
        record.mode, record.value = best_mode(record.metric), results.get(record.metric)
    return record.value


def _print_counted(module: Any, has_loss: bool) -> None:
    """Print what follows from the labels that `fit` has counted: the bias, and the loss if `has_loss`."""
    from lossselect.reporting.explain import tasks_loss_lines
    from lossselect.reporting.plan import Line, Plan, print_renderable

    lines = [*tasks_loss_lines(module.criterion, module.task)] if has_loss else []
    if module._bias_source:
        lines.append(Line("initial bias", module._bias_source))
    print_renderable(Plan("From the training labels", lines))


def _print_results(task: Any, source: str, results: Mapping[str, float], tuned: Any) -> None:
    """Print the fitted decision, the metrics, and advice about the decision."""
    from lossselect.reporting.explain import decision_lines
    from lossselect.reporting.plan import compare_decisions, print_metrics, print_table

    if tuned is not None:
        for name, part in task.tasks.items():
            title = f"Decision of {name}" if name else "Decision"
            lines = decision_lines(part, tuned.rows[name], tuned.options[name].calibration != "none")
            print_table(title, lines)
    print_metrics(f"Results of {source}", results)
    if worse := compare_decisions(results):
        print(worse)
    for name, advice in tuned.advice.items() if tuned is not None else ():
        print(f"{name}: {advice}" if name else advice)
