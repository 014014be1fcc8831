"""Checks of a run's config before Hydra makes a folder for it."""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice, product
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lossselect.cli.console import is_first_process, print_errors_in_one_line
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


class CheckBeforeRun(Callback):
    """Checks configs before Hydra makes a folder: for an invalid one nothing is written."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the run's config; with explain or check_only that is all. Then lock the run's folder."""
        with print_errors_in_one_line(in_callback=True):
            check_run(config, config.hydra)
            if is_dry_run(config):
                dry_run(config)
                sys.exit(0)
            # here, as Hydra writes .hydra/ before it calls run(); one process of several has the folder
            if is_first_process():
                lock_folder(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the config of each job, as far as the command line tells them: the first 100."""
        with print_errors_in_one_line(config.hydra.overrides.task, in_callback=True):
            check_targets(config)  # the jobs' configs are without Hydra's part
            checked_data: set[str] = set()
            dry: set[bool] = set()
            for number, overrides in enumerate(islice(_split_jobs(config.hydra.overrides.task), 100)):
                job_overrides = [*config.hydra.overrides.hydra, *overrides, f"hydra.job.num={number}"]
                job = compose(config.hydra.job.config_name, job_overrides, return_hydra_config=True)
                if not is_dry_run(job):
                    with suppress(OmegaConfBaseException):  # the folder may be known only when the job starts
                        # each job locks its folder, but Hydra writes .hydra/ before that
                        check_unlocked(Path(job.hydra.sweep.dir) / str(job.hydra.sweep.subdir))
                with open_dict(job):
                    del job["hydra"]
                # a file is not read again for each seed
                data = str([{**to_plain(job.data), "seed": 0}, to_plain(job.task)])
                check_run(job, config.hydra, look_at_data=data not in checked_data, sweep=True)
                checked_data.add(data)
                dry.add(is_dry_run(job))
                if len(dry) > 1:
                    raise ConfigError("explain and check_only are for all jobs of a sweep, or for none.")
                if is_dry_run(job):
                    if job.explain != "json":
                        print_safely(" ".join(overrides))
                    dry_run(job)
            if dry == {True}:  # without the jobs' folders
                sys.exit(0)


def _split_jobs(overrides: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Return the overrides of each job of a sweep, without values that only its sweeper knows."""
    choices: list[list[str]] = []
    for override in OverridesParser.create().parse_overrides([*overrides]):
        if not override.is_sweep_override():
            choices.append([str(override.input_line)])
        elif override.is_discrete_sweep() and not isinstance(override.value(), Glob):
            choices.append([f"{override.key_or_group}={value}" for value in override.sweep_string_iterator()])
    return product(*choices)


def check_run(config: DictConfig, hydra_config: Any, look_at_data: bool = True, sweep: bool = False) -> None:
    """Check all that needs no folder: also whether data of ours, or from a file, fit the task."""
    _check_names(config)
    check_targets(config)
    plain, task, splits = to_plain(config), None, None
    check_config(plain)
    check_loggers(config)
    if "_target_" not in config.data and look_at_data:
        from lossselect.data.checks import check_monitor_is_defined

        with ignore_warnings(*as_list(config.ignore_warnings)):
            splits, task, counts = load_data(config)
        check_task_settings(plain, task, counts["train"], splits.features.shape)
        monitor = resolve_monitor(plain, task).metric
        check_monitor_is_defined(monitor, counts)
        check_early_stopping(plain, monitor)
    if config.resume == "auto":
        setting = "hydra.sweep.dir" if sweep else "hydra.run.dir"
        if not any(override.startswith(f"{setting}=") for override in hydra_config.overrides.hydra):
            raise ConfigError(
                "resume=auto goes on from the newest checkpoint in the run's folder, and without "
                f"{setting}=FOLDER each run has a new one."
            )
        if not sweep and task is not None:
            _check_folder(Path(hydra_config.run.dir), task)
    elif config.resume is not None:
        _check_resume(config.resume, task)
    if not is_dry_run(config) or "_target_" in config.data or needs_trainer(plain):
        ranks = check_trainer(plain, sweep and "submitit" not in str(hydra_config.launcher.get("_target_")))
        if splits is not None:
            from lossselect.data.batches import check_enough_rows

            for split, rows in splits.rows.items():
                check_enough_rows(f"{split} split", len(rows), ranks)


def _check_folder(folder: Path, task: Any) -> None:
    """Raise CheckpointError for a run of another task, whose .hydra/ Hydra would overwrite."""
    from lossselect.training.checkpoints.content import check_same_task, read_checkpoint

    for path in folder.glob("checkpoints/*.ckpt"):
        try:
            content = read_checkpoint(path)
        except ValueError:
            continue  # damaged: passed over once the run starts
        check_same_task(content, task)


def _check_resume(path: str, task: Any) -> None:
    from lossselect.training.checkpoints.content import check_same_task, read_checkpoint
    from lossselect.training.checkpoints.validation import check_resumable

    if not Path(path).exists() and (auto := suggestion(path, ["auto"])):
        raise ConfigError(f"There is no checkpoint {path}.{auto}")
    checkpoint = read_checkpoint(path)
    if task is not None:
        check_same_task(checkpoint, task)
    check_resumable(checkpoint, path)


def _check_names(config: DictConfig) -> None:
    """Raise ConfigError for an unknown setting at the top level, unless another setting refers to it."""
    text = OmegaConf.to_yaml(config)
    for name in map(str, config):
        if name not in (*SETTINGS, "hydra") and not re.search(rf"\$\{{{re.escape(name)}[.}}\[]", text):
            raise ConfigError(
                f"There is no setting {name!r}, and none that refers to it.{suggestion(name, SETTINGS)} "
                f"There are: {', '.join(SETTINGS)}."
            )


def is_dry_run(config: DictConfig) -> bool:
    """Return whether nothing is to be trained."""
    return bool(config.check_only or config.explain)


def dry_run(config: DictConfig) -> None:
    """Print what would be trained; nothing is written."""
    from lossselect.run.dry_run import check_only

    with ignore_warnings(*as_list(config.ignore_warnings)):
        check_only(config)
