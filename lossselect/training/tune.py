"""Fitting of a module's decision to its validation split."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning.pytorch import Trainer
from torch import Tensor

from lossselect.decision.advice import Advice, suggest_threshold
from lossselect.decision.fit import DecisionOptions, fit_decision, options_by_task
from lossselect.exceptions import ConfigError, DataError, OptionTypeError
from lossselect.labels.targets import flatten_positions
from lossselect.losses.multi_loss import losses_by_task
from lossselect.tasks.registry import as_any_task
from lossselect.tasks.task_names import naming_task
from lossselect.training.epochs.epoch import OutputBuffer

if TYPE_CHECKING:
    from lossselect.training.module import TaskModule


class Tuned(NamedTuple):
    """The result of tuning.

    Attributes:
        metrics: The metrics of the validation split with the default decision.
        advice: Advice about the threshold, by task, for tasks of which no threshold was tuned.
        rows: The number of labelled rows by task.
        options: The options of the decision by task.
    """

    metrics: Mapping[str, float]
    advice: dict[str, Advice]
    rows: dict[str, int]
    options: dict[str, DecisionOptions]


def tune_decision(
    trainer: Trainer,
    module: "TaskModule",
    dataloaders: Any = None,
    datamodule: Any = None,
    ckpt_path: str | None = None,
    **options: Any,
) -> Mapping[str, float]:
    """Fit the thresholds and the temperature to the validation rows, and set them in the module.

    From then on `predict` uses them, test metrics are logged with (`test/f1_macro`) and without
    (`test/default_decision/f1_macro`) them, and checkpoints contain them.

    Args:
        trainer: The trainer that validates the module.
        module: The module; its `task` is replaced by the one with the fitted decision.
        dataloaders: A loader of the validation rows; of several loaders, the first one is used.
        datamodule: A data module with a validation split, instead of a loader.
        ckpt_path: The checkpoint to validate, as for `Trainer.validate`; None uses the module's weights.
        options: Options of `fit_decision`: `metric`, `per_label`, `recall`, `calibration`, `shrinkage`;
            for a `MultiTask` each is one value for all tasks, or values by task.

    Returns:
        The metrics of the validation split with the default decision.

    Raises:
        OptionTypeError: the first two arguments are not a Trainer and a TaskModule.
        ConfigError: the head is chunked, or an option does not fit the task.
        DataError: the validation split has no row, or no known label.
    """
    data = {"dataloaders": dataloaders, "datamodule": datamodule, "ckpt_path": ckpt_path}
    return tune_on_validation(trainer, module, options, **data).metrics


def tune_on_validation(
    trainer: Trainer, module: "TaskModule", options: Mapping[str, Any], **data: Any
) -> Tuned:
    """Tune the decision as `tune_decision` does; `data` are the arguments of `Trainer.validate`."""
    if not isinstance(trainer, Trainer) or not hasattr(module, "set_decision"):
        raise OptionTypeError(
            "Expected a Trainer and a TaskModule, got "
            f"{type(trainer).__name__} and {type(module).__name__}. "
            "Call tune_decision(trainer, module, loaders)."
        )
    losses, by_task = losses_by_task(module.criterion), options_by_task(options, module.task)
    goals = {}  # raises for invalid options before the pass over the rows
    for name, part in module.task.tasks.items():
        with naming_task(name):
            goals[name] = by_task[name].goal(part, losses[name])
    if module._chunked:
        raise ConfigError(
            "tune_decision does not support head=chunked: it requires all logits of the validation rows. Set "
            "head=dense."
        )
    task, base_task = module.task, module._base_task
    module.set_decision(base_task or task, compare=False)
    epoch = module._epochs["val"].first
    epoch.set_output_buffers(OutputBuffer)
    counts = module._label_counts.by_task if module._label_counts else {}
    try:
        results = trainer.validate(module, **data, verbose=False, weights_only=True)
        buffers = module._epochs["val"].first.output_buffers
        rows = {name: _take_rows(buffer) for name, buffer in buffers.items()}
        start = module._base_task or module.task  # a checkpoint with a decision has set the base task
        fitted = {}
        for name, part in start.tasks.items():
            with naming_task(name):
                fitted[name] = fit_decision(
                    part, *rows[name], loss=losses[name], counts=counts.get(name), **vars(by_task[name])
                )
    except BaseException:
        module._base_task, module.task = base_task, task
        raise
    finally:
        module._epochs["val"].first.set_output_buffers(None)
    # results may differ between processors in the last digit, so all ranks use the task of rank 0
    decided = trainer.strategy.broadcast(start.with_tasks(fitted).to_dict())
    module.set_decision(as_any_task(decided))
    advice, labelled = {}, {}
    for name, part in module.task.tasks.items():
        labelled[name] = int((~flatten_positions(part.to_one_hot(rows[name][1])).isnan()).any(1).sum())
        advised = goals[name] is None and by_task[name].metric == "auto"
        if advised and (found := suggest_threshold(part, *rows[name])) is not None:
            advice[name] = found
    return Tuned(results[0], advice, labelled, by_task)


def _take_rows(buffer: OutputBuffer) -> tuple[Tensor, Tensor]:
    rows = buffer.rows()
    if rows is None:
        raise DataError("The validation split has no rows to fit the decision to. Add at least one.")
    return rows
