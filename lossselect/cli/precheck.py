"""Checks of a run's config before Hydra makes a folder for it."""

import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lossselect.cli.console import (
    print_errors_in_one_line,
    speaks,
)
from lossselect.exceptions import ConfigError
from lossselect.run.build import load_data, to_plain
from lossselect.run.lock import check_unlocked, lock_folder
from lossselect.run.loggers import check_loggers
from lossselect.run.settings import as_list, needs_trainer, resolve_monitor
from lossselect.run.trust import check_targets
from lossselect.run.validation import (
    SETTINGS,
    check_config,
    check_early_stopping,
    check_task_settings,
    check_trainer,
)
from lossselect.utils.checks import suggestion
from lossselect.utils.terminal import print_safely
from lossselect.utils.warnings import ignore_warnings

if TYPE_CHECKING:
    from lossselect.tasks.registry import Task


CHECK = "++hydra.callbacks.check={_target_: lossselect.cli.precheck.CheckBeforeRun}"
"""On the command line, where no config can override it."""


class CheckBeforeRun(Callback):
    """Checks configs before Hydra makes a folder: for one that cannot be, nothing is written."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the run's config; with explain or check_only that is all. Then lock the run's folder."""
        with nothing_passed_over():
            check_run(config, config.hydra)
            if stops_early(config):
                look_ahead(config)
                sys.exit(0)
            # here, as Hydra writes .hydra/ before it calls run(); one process of several has the folder
            if speaks():
                lock_folder(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the config of each job, as far as the command line tells them: the first 100."""
        with nothing_passed_over(config.hydra.overrides.task):
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
                same = str([{**to_plain(of_job.data), "seed": 0}, to_plain(of_job.task)])
                check_run(of_job, config.hydra, look_at_data=same not in read, sweep=True)
                read.add(same)
                stops.add(stops_early(of_job))
                if len(stops) > 1:
                    raise ConfigError("explain and check_only are for all jobs of a sweep, or for none.")
                if stops_early(of_job):
                    if of_job.explain != "json":
                        print_safely(" ".join(job))
                    look_ahead(of_job)
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
def nothing_passed_over(arguments: Iterable[str] = ()) -> Iterator[None]:
    """Hydra makes a warning of what a callback raises, and runs on; here nothing unchecked is run."""
    try:
        with print_errors_in_one_line(arguments):
            yield
    except Exception:
        print_safely(traceback.format_exc(), file=sys.stderr)
        sys.exit(1)


def check_run(config: DictConfig, of_hydra: Any, look_at_data: bool = True, sweep: bool = False) -> None:
    """All that can be known without a folder: also whether data of ours, or from a file, fit the task."""
    _check_names(config)
    check_targets(config)
    plain = to_plain(config)
    check_config(plain)
    check_loggers(config)
    own = None
    if "_target_" not in config.data and look_at_data:
        from lossselect.data.checks import check_monitor_is_defined

        with ignore_warnings(*as_list(config.ignore_warnings)):
            own = load_data(config)
        check_task_settings(plain, own.task, own.counts["train"], own.splits.features.shape)
        monitor = resolve_monitor(plain, own.task).metric
        check_monitor_is_defined(monitor, own.counts)
        check_early_stopping(plain, monitor)
        _check_resume(config, of_hydra, sweep, own.task)
    elif config.resume:
        _check_resume(config, of_hydra, sweep)
    if not stops_early(config) or "_target_" in config.data or needs_trainer(plain):
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

        if not Path(config.resume).exists() and (auto := suggestion(config.resume, ["auto"])):
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
                f"There is no setting {name!r}, and none that refers to it.{suggestion(name, SETTINGS)} "
                f"There are: {', '.join(SETTINGS)}."
            )


def stops_early(config: DictConfig) -> bool:
    """Whether nothing is to be trained."""
    return bool(config.check_only or config.explain)


def look_ahead(config: DictConfig) -> None:
    """At what would be trained; nothing is written."""
    from lossselect.run.dry_run import check_only

    with ignore_warnings(*as_list(config.ignore_warnings)):
        check_only(config)
