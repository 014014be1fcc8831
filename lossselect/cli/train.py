"""`lossselect-train`, and `python train.py`: train, evaluate and predict by a Hydra config.

A misspelt config is answered before torch is imported, most others before lightning is.
"""

import os
import re
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lossselect.cli.console import (
    EXPLAINS,
    TRACEBACKS,
    first_ends,
    one_line_errors,
    print_version,
    speaks,
    warnings_in_a_line,
)
from lossselect.cli.errors import message_of
from lossselect.cli.help import print_help
from lossselect.exceptions import ConfigError, DataError
from lossselect.run.build import decision_of, own_data, plain_values, prepare, trainer_of, training_of
from lossselect.run.lock import check_unlocked, lock_folder, locked_folder, unlock_folder
from lossselect.run.loggers import check_loggers
from lossselect.run.settings import allowed, monitor_of, needs_trainer, own_monitor
from lossselect.run.trust import check_targets, trust
from lossselect.run.validation import (
    SETTINGS,
    check_config,
    check_early_stopping,
    check_task_settings,
    check_trainer,
)
from lossselect.utils.checks import nearest
from lossselect.utils.redaction import record_environment, redacted
from lossselect.utils.terminal import prepare_streams, say
from lossselect.utils.warnings import allow, warn

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint

    from lossselect.reporting.plan import Line
    from lossselect.tasks.registry import Task
    from lossselect.training.module import TaskModule


def main() -> None:
    """The command. A user's mistake is one message on stderr and exit code 1, without a traceback."""
    prepare_streams()
    if {"-h", "--help"} & set(sys.argv[1:]):
        name = Path(sys.argv[0]).name
        print_help(f"python {name}" if name.endswith(".py") else name)
        return
    if "--version" in sys.argv[1:]:
        print_version()
        return
    record_environment()
    # argparse takes settings before and after it for two lists of them
    sweeps = [argument for argument in sys.argv[1:] if argument in ("-m", "--multirun")]
    sys.argv[1:] = [*sweeps, *(argument for argument in sys.argv[1:] if argument not in sweeps)]
    # Hydra knows no null for a group; ours that may be empty have a variant none
    sys.argv[1:] = [
        re.sub(r"^(scheduler|callbacks|logger|experiment)=null$", r"\1=none", a) for a in sys.argv[1:]
    ]
    # as `python train.py` has it: the user's own parts are found from their folder, but shadow nothing
    sys.path.append(os.getcwd())
    if not speaks():
        _say_nothing()
    # Hydra then raises its errors instead of printing them, and they can be put in better words
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if not TRACEBACKS:
        os.environ[EXPLAINS] = "1"
    with one_line_errors(sys.argv[1:]), warnings_in_a_line():
        trust(sys.argv[1:])
        if CHECK not in sys.argv:
            sys.argv.append(CHECK)
        try:
            run()
        finally:
            unlock_folder()
        _leave_others()


CHECK = "++hydra.callbacks.check={_target_: lossselect.cli.train.CheckBeforeRun}"
"""On the command line, where no config can override it."""


def _say_nothing() -> None:
    """Another process of the run speaks for this one, and has the run's folder; errors are still printed."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the process ends
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else a first process that ends makes 20 lines
    if not any(argument.startswith("hydra.run.dir=") for argument in sys.argv):
        sys.argv.append("hydra.run.dir=.")
    if not any(argument.startswith("hydra.output_subdir=") for argument in sys.argv):
        sys.argv.append("hydra.output_subdir=null")
    sys.argv = [argument for argument in sys.argv if not argument.startswith("hydra/job_logging=")]
    sys.argv.append("hydra/job_logging=none")


def _leave_others() -> None:
    """Of several processes those that go without a word may end the others with an error."""
    if "torch.distributed" in sys.modules:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


class CheckBeforeRun(Callback):
    """Checks configs before Hydra makes a folder: for one that cannot be, nothing is written."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the run's config; with explain or check_only that is all. Then lock the run's folder."""
        with _nothing_passed_over():
            _check(config, config.hydra)
            if _stops(config):
                _look(config)
                sys.exit(0)
            # here, as Hydra writes .hydra/ before it calls run(); one process of several has the folder
            if speaks():
                lock_folder(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the config of each job, as far as the command line tells them: the first 100."""
        with _nothing_passed_over(config.hydra.overrides.task):
            check_targets(config)  # the jobs' configs are without Hydra's part
            overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
            choices = [
                [f"{o.key_or_group}={value}" for value in o.sweep_string_iterator()]
                if o.is_discrete_sweep()
                else [str(o.input_line)]
                for o in overrides
                if not o.is_sweep_override() or (o.is_discrete_sweep() and not isinstance(o.value(), Glob))
            ]
            read: set[str] = set()
            stops: set[bool] = set()
            for number, job in enumerate(islice(product(*choices), 100)):
                given = [*config.hydra.overrides.hydra, *job, f"hydra.job.num={number}"]
                of_job = compose(config.hydra.job.config_name, given, return_hydra_config=True)
                folder = _folder_of_job(of_job)
                with open_dict(of_job):
                    del of_job["hydra"]
                # a file is not read again for each seed
                same = str([{**plain_values(of_job.data), "seed": 0}, plain_values(of_job.task)])
                _check(of_job, config.hydra, look_at_data=same not in read, sweep=True)
                read.add(same)
                stops.add(_stops(of_job))
                if len(stops) > 1:
                    raise ConfigError("explain and check_only are for all jobs of a sweep, or for none.")
                if _stops(of_job):
                    if of_job.explain != "json":
                        say(" ".join(job))
                    _look(of_job)
                elif folder is not None:
                    check_unlocked(folder)  # each job locks its folder, but Hydra writes .hydra/ before that
            if stops == {True}:  # without the jobs' folders
                sys.exit(0)


def _folder_of_job(config: DictConfig) -> Path | None:
    """Return the folder of a sweep's job; None where it is known only when the job starts."""
    with suppress(OmegaConfBaseException):
        return Path(config.hydra.sweep.dir) / str(config.hydra.sweep.subdir)
    return None


@contextmanager
def _nothing_passed_over(arguments: Iterable[str] = ()) -> Iterator[None]:
    """Hydra makes a warning of what a callback raises, and runs on; here nothing unchecked is run."""
    try:
        with one_line_errors(arguments):
            yield
    except Exception:
        say(traceback.format_exc(), file=sys.stderr)
        sys.exit(1)


def _check(config: DictConfig, of_hydra: Any, look_at_data: bool = True, sweep: bool = False) -> None:
    """All that can be known without a folder: also whether data of ours, or from a file, fit the task."""
    _check_names(config)
    check_targets(config)
    plain = plain_values(config)
    check_config(plain)
    check_loggers(config)
    own = None
    if "_target_" not in config.data and look_at_data:
        from lossselect.data.checks import check_ranking

        with allow(*allowed(config.allow)):
            own = own_data(config)
        check_task_settings(plain, own.task, own.counts["train"], own.splits.features.shape)
        monitor = monitor_of(plain, own.task).metric
        check_ranking(monitor, own.counts)
        check_early_stopping(plain, monitor)
        _check_resume(config, of_hydra, sweep, own.task)
    elif config.resume:
        _check_resume(config, of_hydra, sweep)
    if not _stops(config) or "_target_" in config.data or needs_trainer(plain):
        ranks = check_trainer(plain, sweep and "submitit" not in str(of_hydra.launcher.get("_target_")))
        if own is not None:
            from lossselect.data.checks import check_enough_rows

            check_enough_rows(own.splits.rows, ranks)


def _check_resume(config: DictConfig, of_hydra: Any, sweep: bool, task: "Task | None" = None) -> None:
    """ValueError, FileNotFoundError where there can be nothing to go on from."""
    if config.resume is None:
        return
    if config.resume != "auto":
        from lossselect.training.checkpoints.content import check_same_task, read_checkpoint
        from lossselect.training.checkpoints.resume_validation import check_resumable

        if not Path(config.resume).exists() and (auto := nearest(config.resume, ["auto"])):
            raise ConfigError(f"There is no checkpoint {config.resume}.{auto}")
        checkpoint = read_checkpoint(config.resume)
        if task is not None:
            check_same_task(checkpoint, task)
        check_resumable(checkpoint, config.resume)
        return
    setting = "hydra.sweep.dir" if sweep else "hydra.run.dir"
    if not any(given.startswith(f"{setting}=") for given in of_hydra.overrides.hydra):
        raise ConfigError(
            "resume=auto goes on from the newest checkpoint in the run's folder, and without "
            f"{setting}=FOLDER each run has a new one."
        )


def _check_names(config: DictConfig) -> None:
    """A setting of one's own at the top is there for others to refer to; else it is a mistake."""
    text = OmegaConf.to_yaml(config)
    for name in map(str, config):
        if name not in (*SETTINGS, "hydra") and not re.search(rf"\$\{{{re.escape(name)}[.}}\[]", text):
            raise ConfigError(
                f"There is no setting {name!r}, and none that refers to it.{nearest(name, SETTINGS)} "
                f"There are: {', '.join(SETTINGS)}."
            )


@hydra.main(version_base="1.3", config_path="pkg://lossselect.configs", config_name="train")
def run(config: DictConfig) -> float | None:
    """One run: fit, then evaluate and predict with the best checkpoint, into Hydra's run folder.

    Returns what `train` does, which is what a sweeper looks for the best of.
    """
    with allow(*allowed(config.allow)):
        if HydraConfig.get().mode is not RunMode.MULTIRUN:
            with one_line_errors():
                return train(config)
        _check(config, HydraConfig.get(), sweep=True)
        if _stops(config):  # of a job that the command line did not tell
            _look(config)
            return None
        with locked_folder(Path(HydraConfig.get().runtime.output_dir)) if speaks() else nullcontext():
            return train(config)  # Hydra goes on with the other jobs, and says which one failed


def _stops(config: DictConfig) -> bool:
    """Whether nothing is to be trained."""
    return bool(config.check_only or config.explain)


def _look(config: DictConfig) -> None:
    """At what would be trained; nothing is written."""
    from lossselect.run.dry_run import check_only

    with allow(*allowed(config.allow)):
        check_only(config)


def train(config: DictConfig) -> float | None:
    """What `run` does, given the composed config.

    Returns:
        The value of `monitor` of the checkpoint that was evaluated. Where that is the last epoch's, the value
        of the task's own metric (`val/loss`, or for multilabel `val/map`); None where there is none.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)

    from lossselect.reporting.explain import decision_lines, plan
    from lossselect.reporting.plan import by_stage, print_table, show
    from lossselect.run.loggers import ended, log_results, log_settings
    from lossselect.run.results import evaluate, save_predictions, tunes
    from lossselect.run.resume import check_start, keep_log, resumed_from
    from lossselect.run.start import starting
    from lossselect.training.checkpoints.content import read_checkpoint
    from lossselect.utils.atomic_write import whole_file

    asked = config.monitor is not None
    module, data, monitor = prepare(config)
    trainer, keeper = trainer_of(config, folder)
    smoke = bool(config.trainer.get("fast_dev_run"))
    writes = speaks() and not smoke
    start = resumed_from(config.resume, folder)
    if start is not None:
        check_start(*start, module, trainer)
    decision = decision_of(config, module) if tunes(trainer, data) else None
    made = plan(module, data, training_of(config, monitor, trainer), monitor, decision)
    made = made.also(_make_ready(config, folder, module.task, start, writes))
    show(made)
    if writes:
        with whole_file(folder / "plan.json") as path:
            path.write_text(made.to_json(), encoding="utf-8")
    waited, loss_waited = module.needs_counts, getattr(module.criterion, "waiting", False)
    loggers = trainer.loggers
    with _interruptions(trainer, folder), _reported(config, writes, folder), ended(loggers):
        if start is not None:
            keep_log(trainer, start[1])
        log_settings(trainer, config)
        with starting(trainer, resumes=start is not None):
            trainer.fit(module, datamodule=data, ckpt_path=start and str(start[0]), weights_only=True)
        folder = Path(trainer.strategy.broadcast(str(folder)))
        if smoke:
            print("A few batches went through training and validation. Nothing is kept of that.")
            return None
        if waited:
            _show_what_labels_told(module, loss_waited)
        best = _best_checkpoint(trainer, keeper, resumed=start is not None)
        if monitor.metric == "epoch" and not asked and trainer.current_epoch < config.trainer.max_epochs:
            warn(
                "ended_early",
                f"Training was ended after epoch {trainer.current_epoch} of {config.trainer.max_epochs}, "
                "where the learning rate was not yet 0. The last epoch is kept, which need not be the best "
                "one: monitor=val/loss keeps that.",
            )
        results, outcome, advice = evaluate(trainer, module, data, best, folder, decision, config.report)
        log_results(loggers, results, trainer.global_step)
        written = save_predictions(trainer, module, data, best, folder)
        if module.untuned is not None:
            print_table("Decision", decision_lines(module.task))
        stages, rows = by_stage(results)
        shown = {
            name: ["" if value is None else f"{value:.4f}" for value in row] for name, row in rows.items()
        }
        print_table(f"Results of epoch {read_checkpoint(best)['epoch'] + 1}", shown, header=("", *stages))
        if advice is not None:
            print(advice)
        if config.report and writes:
            from lossselect.reporting.page import write_report

            write_report(folder, outcome)
    names = (written, "per_class.csv", "confusion_matrix.csv", "report.html")
    tables = [name for name in names if name and (folder / name).is_file()]
    say(f"In {folder}: {', '.join(('checkpoints/best.ckpt', 'metrics.json', *tables))}")
    if config.export and writes:
        from lossselect.cli.export import export_run

        export_run(module, data, folder, config.export)
    if monitor.metric != "epoch":
        return float(keeper.best_model_score)  # type: ignore[arg-type]  # there is one, as there is a best
    return results.get(own_monitor(plain_values(config), module.task))


def _make_ready(
    config: DictConfig, folder: Path, task: "Task", start: tuple[Path, Mapping[str, Any]] | None, writes: bool
) -> "list[Line]":
    """Put aside what another run has left in the folder; the plan's lines on that, and on `start`."""
    from lossselect.reporting.plan import Line
    from lossselect.run.results import forget_results
    from lossselect.run.resume import keep_earlier
    from lossselect.training.checkpoints.content import check_same_task

    # which an earlier.N has nowhere else; as written, as ${oc.env:NAME} may be a secret
    written: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    given = " ".join(written)
    lines = [
        Line("settings", given, "as they were given"),
        Line("outputs", str(folder), "", "hydra.run.dir=FOLDER"),
    ]
    begun_here = start is not None and start[0].resolve().parent.parent == folder.resolve()
    if start is not None:
        check_same_task(start[1], task)
        why = "optimizer and scheduler go on with the settings that they had"
        if not begun_here:
            why += "; the best checkpoint is looked for anew, among the epochs from here on"
        said = f"from {start[0]}, after {start[1]['global_step']} steps"
        lines.append(Line("resumed", said, why, "resume=null"))
    elif config.resume:
        said = f"from nothing: there is no checkpoint in {folder / 'checkpoints'} yet"
        lines.append(Line("resumed", said))
    if writes:
        if not begun_here and (kept := keep_earlier(folder)):
            lines.append(Line("earlier", f"what another run left in this folder is in {kept.name} now"))
        forget_results(folder)
    return lines


def _show_what_labels_told(module: "TaskModule", of_loss: bool) -> None:
    """Where fit has counted them, for the loss or for the head's bias alone."""
    from lossselect.reporting.explain import loss_lines
    from lossselect.reporting.plan import Line, Plan, show

    told = Plan("Told by the train labels", [*loss_lines(module.criterion, module.task)] if of_loss else [])
    bias = [Line("head bias", f"started from {module.started_from}")] if module.started_from else []
    show(told.also(bias))


@contextmanager
def _interruptions(trainer: "Trainer", folder: Path) -> Iterator[None]:
    """What is left of a run that a signal has ended is said; exit codes are 143 and 130."""
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    except SystemExit as stopped:
        saved = getattr(stopped, "path", None)  # of a `Stopped`
        if saved is None and stopped.code != 143 and not isinstance(stopped.__context__, KeyboardInterrupt):
            raise  # somebody else's
        if not speaks():
            first_ends()  # else Lightning might kill it before it has said what there is to say
            raise
        said = _what_is_left(trainer, folder, saved)
        if stopped.code != 143:
            raise KeyboardInterrupt(f"Interrupted {said}") from None
        say(f"Terminated {said}", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _reported(config: DictConfig, writes: bool, folder: Path) -> Iterator[None]:
    """A run that an error ends leaves a report of what there is; one that a signal ends has no time."""
    try:
        yield
    except Exception as error:
        # of a run whose export failed there is a whole one
        if config.report and writes and not (folder / "report.html").exists():
            from lossselect.reporting.page import write_report

            with suppress(OSError):  # it may be a full disk that has ended the run
                said = message_of(error) or f"{type(error).__name__}: {error}"
                write_report(folder, ended=redacted(said))
        raise


def _what_is_left(trainer: "Trainer", folder: Path, saved: Path | None) -> str:
    """Of a run that was ended after so many steps; `saved` is the checkpoint that was made for that."""
    names = sorted(f"checkpoints/{path.name}" for path in folder.glob("checkpoints/*.ckpt"))
    left = f"after {trainer.global_step} steps. In {folder}: {', '.join(names) or 'no checkpoint yet'}."
    if saved is not None:
        left += f" To go on: the same settings, hydra.run.dir={folder} resume=auto."
    return left


def _terminated(signum: int, frame: Any) -> None:
    """While nothing can be saved, SIGTERM ends the process as a signal that is handled does."""
    sys.exit(128 + signum)


def _best_checkpoint(trainer: "Trainer", keeper: "ModelCheckpoint", resumed: bool) -> str:
    if not trainer.global_step:
        raise DataError(
            "No step was taken: the train loader is empty (fewer rows than a batch, under drop_last?), or "
            "trainer.max_steps or trainer.limit_train_batches allow none."
        )
    # of a checkpoint of another folder there is a path, and no score
    best = keeper.best_model_path if keeper.best_model_score is not None else ""
    if not best and resumed:
        raise ConfigError(
            "No epoch was validated here, as the run of the checkpoint was complete or nearly so, and the "
            "best checkpoint of another folder is left alone: go on in its own folder (hydra.run.dir), or "
            "for longer (trainer.max_epochs)."
        )
    if not best:
        raise DataError(
            f"{keeper.monitor} was never computed in {trainer.current_epoch} epochs, so there is no best "
            "checkpoint: train for longer (trainer.max_steps ends within an epoch?), or validate more often "
            "(trainer.check_val_every_n_epoch)."
        )
    if keeper.best_model_score is not None and keeper.best_model_score.isnan():
        raise DataError(
            f"{keeper.monitor} was never a number, so there is no best checkpoint: the "
            "labels may lack positives or negatives. Choose by the loss: monitor=val/loss."
        )
    return best
