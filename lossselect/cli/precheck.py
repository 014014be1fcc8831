"""Checks of a run's config before Hydra creates its folder."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice, product
from pathlib import Path
from typing import Any, ClassVar

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lossselect.cli.arguments import find_value, guess
from lossselect.cli.console import is_first_process, print_errors_in_one_line
from lossselect.comparison.runs import list_runs
from lossselect.cross_validation.members import check_members
from lossselect.exceptions import ConfigError
from lossselect.models.auto import check_encoding
from lossselect.run.build import build_metrics, load_data
from lossselect.run.lock import check_unlocked, lock_folder
from lossselect.run.loggers import check_loggers
from lossselect.run.settings import (
    list_members,
    list_variants,
    needs_trainer,
    report_options,
    resolve_head,
    resolve_monitor,
    to_plain,
)
from lossselect.run.trust import check_targets
from lossselect.run.validation import (
    SETTINGS,
    check_config,
    check_early_stopping,
    check_task_settings,
    check_trainer,
)
from lossselect.utils.checks import SPLIT_NAMES, as_list, suggestion
from lossselect.utils.garbage import resume_collections
from lossselect.utils.terminal import print_safely
from lossselect.utils.warnings import ignore_warnings


class CheckBeforeRun(Callback):
    """Checks configs before Hydra creates a folder, so that an invalid config writes nothing."""

    sweep: ClassVar[tuple[Path, dict[Path, int]] | None] = None
    """The folder of the sweep that this process has started, and the runs that were in it."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the run's config, then lock the run folder; with explain or check_only print and exit."""
        with print_errors_in_one_line(in_callback=True):
            check_run(config, config.hydra)
            if is_dry_run(config):
                dry_run(config)
                sys.exit(0)
            # before run(), because Hydra writes .hydra/ first; one process locks the folder for all
            if is_first_process():
                lock_folder(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the configs of the first 100 jobs that the command line describes.

        Of jobs that differ only in the seed, one is checked, as each check takes a quarter of a second.
        """
        with print_errors_in_one_line(config.hydra.overrides.task, in_callback=True):
            check_targets(config)  # the jobs' configs lack Hydra's part
            checked_data: set[str] = set()
            checked: set[tuple[str, ...]] = set()
            dry: set[bool] = set()
            is_new = not Path(config.hydra.sweep.dir).exists()  # so that no job's folder can be locked
            for number, overrides in enumerate(islice(_split_jobs(config.hydra.overrides.task), 100)):
                without_seed = tuple(re.sub(r"^seed=\d{1,9}$", "", override) for override in overrides)
                if without_seed in checked and is_new:
                    continue  # composing takes a tenth of a second
                job_overrides = [*config.hydra.overrides.hydra, *overrides, f"hydra.job.num={number}"]
                job = compose(config.hydra.job.config_name, job_overrides, return_hydra_config=True)
                if not is_dry_run(job):
                    with suppress(OmegaConfBaseException):  # the folder may be known only when the job starts
                        # each job locks its folder, but Hydra writes .hydra/ before that
                        check_unlocked(Path(job.hydra.sweep.dir) / str(job.hydra.sweep.subdir))
                if without_seed in checked:
                    continue
                checked.add(without_seed)
                with open_dict(job):
                    del job["hydra"]
                # jobs may differ in settings of the model only, and read the same data
                data = str([{**to_plain(job.data), "seed": 0}, to_plain(job.task)])
                check_run(job, config.hydra, check_data=data not in checked_data, sweep=True)
                checked_data.add(data)
                dry.add(is_dry_run(job))
                if len(dry) > 1:
                    raise ConfigError("explain and check_only must be the same for all jobs of a sweep.")
                if is_dry_run(job):
                    checked.clear()  # each is printed
                    if job.explain != "json":
                        print_safely(" ".join(overrides))
                    dry_run(job)
            if dry == {True}:  # before Hydra creates the jobs' folders
                sys.exit(0)
            if not job.trainer.get("fast_dev_run"):  # which saves nothing
                folder = Path(config.hydra.sweep.dir).absolute()
                CheckBeforeRun.sweep = folder, list_runs(folder)


def _split_jobs(overrides: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Return the overrides of each job of a sweep, except for values that only its sweeper knows."""
    choices: list[list[str]] = []
    for override in OverridesParser.create().parse_overrides([*overrides]):
        if not override.is_sweep_override():
            choices.append([str(override.input_line)])
        elif override.is_discrete_sweep() and not isinstance(override.value(), Glob):
            key = override.get_key_element()  # with its plus signs
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
    return product(*choices)


def check_run(config: DictConfig, hydra_config: Any, check_data: bool = True, sweep: bool = False) -> None:
    """Check a run's config, and whether built-in data or a file fit the task; needs no run folder."""
    overrides, splits, task = hydra_config.overrides.task, None, None
    _check_names(config, overrides)
    check_targets(config)
    plain = to_plain(config)
    check_config(plain)  # imports torch
    check_members(plain, overrides)
    report = report_options(plain.get("report"))
    resume_collections()
    check_loggers(config)
    if config.get("module"):
        from lossselect.run.custom_module import CustomModule

        CustomModule(config.module).check(config, overrides)
        plain = to_plain(config)
    is_custom = "_target_" in config.data
    if check_data and not is_custom:
        splits, task = _check_data(config, plain)
    if config.export_raw and (is_custom or splits is not None):
        from lossselect.export.raw import raw_features

        raw_features(splits.preparation if splits is not None else None)
    _check_resume(config, hydra_config, task, sweep)
    ranks = 1
    if not is_dry_run(config) or is_custom or needs_trainer(plain):
        several = sweep and "submitit" not in str(hydra_config.launcher.get("_target_"))
        ranks = check_trainer(plain, several or bool(list_members(plain)))
        if splits is not None:
            from lossselect.data.batches import check_enough_rows

            for split, rows in splits.rows.items():
                check_enough_rows(f"{SPLIT_NAMES[split]} split", len(rows), ranks)
    if report and check_data:
        _check_report(report, plain, splits, task, ranks)


def _check_data(config: DictConfig, plain: Mapping[str, Any]) -> tuple[Any, Any]:
    """Check data and the settings that depend on them; return the splits and the task."""
    from lossselect.data.checks import check_monitor_is_defined

    with ignore_warnings(*as_list(config.ignore_warnings)):
        splits, task, counts = load_data(config)
    check_task_settings(plain, task, counts["train"], splits.features.shape)
    if "_target_" not in config.model:
        check_encoding(plain["model"], splits)
    if config.metrics is not None and resolve_head(plain, task)["name"] == "dense":
        from lossselect.metrics.collection import make_metrics
        from lossselect.metrics.names import metrics_by_task

        chosen = metrics_by_task(build_metrics(config), task)
        for name, part in task.tasks.items():
            make_metrics(part, names=chosen[name])
    monitor = resolve_monitor(plain, task).metric
    check_monitor_is_defined(monitor, counts)
    check_early_stopping(plain, monitor)
    return splits, task


def _check_report(
    report: Mapping[str, Any], plain: Mapping[str, Any], splits: Any, task: Any, ranks: int
) -> None:
    """Raise ConfigError for a part of the report that cannot be computed in a run."""
    problems = {
        "data=table, data=arrays or built-in data": splits is None,
        f"one process, but there are {ranks}": ranks > 1,
    }
    if report["importance"] and splits is not None:
        problems["dense features"] = splits.preparation["source"] == "sparse matrix"
        problems["head=dense"] = resolve_head(plain, task)["name"] == "chunked"
    if report["learning_curve"]:
        problems["validation rows"] = plain["trainer"].get("limit_val_batches") == 0
    for name in ("importance", "learning_curve"):
        for needed, lacks in problems.items():
            if report[name] and lacks:
                raise ConfigError(f"report.{name}=true requires {needed}. Set report.{name}=false.")


def _check_folder(folder: Path, task: Any) -> None:
    """Raise CheckpointError for a run of another task in the folder; Hydra would overwrite its .hydra/."""
    from lossselect.training.checkpoints.content import check_same_task, read_checkpoint

    for path in folder.glob("checkpoints/*.ckpt"):
        try:
            content = read_checkpoint(path)
        except ValueError:
            continue  # damaged: skipped when the run starts
        check_same_task(content, task)


def _check_resume(config: DictConfig, hydra_config: Any, task: Any, sweep: bool) -> None:
    """Raise an error if the run cannot resume; `task` is None if it is not known yet."""
    if config.resume is None:
        return
    from lossselect.training.checkpoints.content import check_same_task, read_checkpoint
    from lossselect.training.checkpoints.validation import check_resumable

    path = config.resume
    if path == "auto":
        setting = "hydra.sweep.dir" if sweep else "hydra.run.dir"
        if not any(override.startswith(f"{setting}=") for override in hydra_config.overrides.hydra):
            raise ConfigError(
                "resume=auto resumes from the newest checkpoint in the run folder, but by default each run "
                f"has a new folder. Set {setting}=FOLDER."
            )
        if not sweep and task is not None:
            _check_folder(Path(hydra_config.run.dir), task)
        return
    if not Path(path).exists() and (auto := suggestion(path, ["auto"])):
        raise ConfigError(f"Checkpoint not found: {path}.{auto}")
    checkpoint = read_checkpoint(path)
    if task is not None:
        check_same_task(checkpoint, task)
    check_resumable(checkpoint, path)


def _check_names(config: DictConfig, overrides: Sequence[str]) -> None:
    """Raise ConfigError for an unknown setting at the top level, unless another setting refers to it."""
    # Hydra itself reports unknown settings without a plus
    added = [override for override in overrides if override.startswith("+")]
    for key in (override.lstrip("+").partition("=")[0] for override in added):
        part = config.get(key.partition(".")[0]) if "." in key and not key.startswith("hydra.") else None
        is_built_in = isinstance(part, DictConfig) and "_target_" not in part
        if is_built_in and (answer := guess(key, find_value(key, overrides))):
            raise ConfigError(f"Unknown setting {key!r}. {answer}")
    if (net := find_value("model.name", overrides)) in list_variants("model"):
        raise ConfigError(f"model.name={net} would keep the options of another net. Set model={net} instead.")
    others = [name for name in map(str, config) if name not in (*SETTINGS, "hydra")]
    text = OmegaConf.to_yaml(config) if others else ""
    for name in others:
        if not re.search(rf"\$\{{{re.escape(name)}[.}}\[]", text):
            if answer := guess(name, find_value(name, overrides) or str(config[name]), overrides):
                raise ConfigError(f"Unknown setting {name!r}. {answer}")
            raise ConfigError(
                f"Unknown setting {name!r}, and no other setting refers to it.{suggestion(name, SETTINGS)} "
                f"Choose one of: {', '.join(SETTINGS)}."
            )


def is_dry_run(config: DictConfig) -> bool:
    """Return whether a config only prints what would be trained."""
    return bool(config.check_only or config.explain)


def dry_run(config: DictConfig) -> None:
    """Print what would be trained, and write nothing."""
    from lossselect.run.dry_run import check_only

    with ignore_warnings(*as_list(config.ignore_warnings)):
        check_only(config)
