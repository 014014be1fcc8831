"""The report at the end of a run, and `lossselect report`: that of a run that ended before it wrote one."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lossselect.cli.console import Command, run_command
from lossselect.exceptions import ConfigError, DataError, FileMissingError
from lossselect.utils.terminal import print_safely
from lossselect.utils.warnings import WARNINGS, ignore_warnings

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lossselect.reporting.figures import LearningCurve

SHARES = (0.1, 0.25, 0.5)
"""Fractions of the training rows of a learning curve, in addition to all rows."""


def report_run(
    config: "DictConfig", module: Any, data: Any, folder: Path, outcomes: Any, score: tuple[str, float | None]
) -> None:
    """Write the report of a run, with the optional parts that `config.report` asks for.

    `score` is the name of the validation metric of the learning curve, and its value in this run.
    """
    from lossselect.reporting.importance import compute_importance
    from lossselect.reporting.page import write_report
    from lossselect.run.settings import report_options

    options = report_options(config.report) or {}
    importance = curve = None
    if options["importance"]:
        importance = compute_importance(module, data, options["importance_seconds"], config.seed)
        importance.save(folder)
    if options["learning_curve"]:
        curve = _compute_learning_curve(config, data, *score)
    write_report(folder, outcomes, importance=importance, curve=curve)


def _compute_learning_curve(
    config: "DictConfig", data: Any, metric: str, value: float | None
) -> "LearningCurve":
    """Train on parts of the training rows, and return the metric on the validation rows of each.

    A part contains the smaller ones. It is left out if it cannot be trained on, for example because it has a
    single class. Features are scaled as in the run, and nothing is saved.
    """
    import numpy as np
    import torch
    from lightning.pytorch import seed_everything
    from omegaconf import open_dict

    from lossselect.data.checks import check_splits
    from lossselect.data.datamodule import TensorData
    from lossselect.reporting.figures import LearningCurve
    from lossselect.run.build import build_module, make_trainer

    settings = config.copy()
    with open_dict(settings):
        settings.logger = None
        settings.trainer.enable_progress_bar = False
    train = data.splits.rows["train"].numpy()
    order = np.random.default_rng(config.seed).permutation(train)
    points = []
    for share in SHARES:
        rows = torch.from_numpy(np.sort(order[: round(share * len(train))]))
        splits = replace(data.splits, rows={**data.splits.rows, "train": rows})
        with ignore_warnings(*WARNINGS), TemporaryDirectory() as folder:
            try:
                counts = check_splits(data.task, splits)
            except DataError:
                continue
            seed_everything(config.seed, workers=True, verbose=False)
            part = TensorData(splits, data.task, data.batch_size, counts)
            module, _ = build_module(settings, data.task, part, trains=True)
            if module._chunked:
                part.use_sparse_targets()
            trainer, best = make_trainer(settings, Path(folder), module._epochs["val"].first.directions)
            trainer.fit(module, datamodule=part)
            path = best.best_model_path
            results = trainer.validate(
                module, datamodule=part, ckpt_path=path, weights_only=True, verbose=False
            )
        points.append((share, len(rows), results[0].get(metric)))
    return LearningCurve(metric, [*points, (1.0, len(train), value)])


def write_run_report(run: str) -> None:
    """Write the report of a run, given by its folder or a file in it."""
    from lossselect.reporting.run_files import find_run_folder

    folder = find_run_folder(Path(run), _is_run)
    if not folder.exists():
        raise FileMissingError(f"The folder {folder} does not exist. Set run to a run folder.")
    if not _is_run(folder):
        raise FileMissingError(
            f"{folder} is not a run folder: it has neither plan.json nor logs/metrics.csv. Set run to a run "
            "folder."
        )
    if (folder / "metrics.json").is_file() and (folder / "report.html").is_file():
        raise ConfigError(
            f"{folder / 'report.html'} already exists, and a new report would lack the results on the test "
            "rows. Remove report.html to replace it."
        )
    from lossselect.reporting.page import write_report  # takes a second

    print_safely(f"Saved {write_report(folder)}")


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("plan.json", "logs/metrics.csv"))


COMMAND = Command(
    write_run_report,
    "report",
    "Write report.html for a run that ended early, with its plan and curves.\n\n"
    "  lossselect report run=FOLDER",
    {"run": ("FOLDER", "run folder, or a file in it")},
    required=("run",),
    epilog="A complete run writes its own report, with the results on the test rows.",
)

main = partial(run_command, COMMAND)
