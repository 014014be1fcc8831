"""Fitting of a module's decision to its validation split."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning.pytorch import Trainer

from lossselect.decision.advice import Advice, suggest_threshold
from lossselect.decision.fit import decision_options, fit_decision
from lossselect.exceptions import ConfigError, DataError, OptionTypeError
from lossselect.labels.targets import flatten_positions
from lossselect.tasks.registry import make_task
from lossselect.training.epoch import OutputBuffer

if TYPE_CHECKING:
    from lossselect.training.module import TaskModule


class Tuned(NamedTuple):
    """The result of tuning: metrics with the default decision, advice, and the number of labelled rows."""

    metrics: Mapping[str, float]
    advice: Advice | None
    rows: int


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
        options: Options of `fit_decision`: `metric`, `per_label`, `recall`, `calibration`, `shrinkage`.

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
    """Tune the decision as `tune_decision` does; the result has advice if no threshold was tuned.

    `data` are the arguments of `Trainer.validate`.
    """
    if not isinstance(trainer, Trainer) or not hasattr(module, "set_decision"):
        raise OptionTypeError(
            "Expected a Trainer and a TaskModule, got "
            f"{type(trainer).__name__} and {type(module).__name__}. "
            "Call tune_decision(trainer, module, loaders)."
        )
    loss, decision = module.criterion, decision_options(**options)
    goal = decision.goal(module.task, loss)  # raises for invalid options before the pass over the rows
    if module._chunked:
        raise ConfigError(
            "tune_decision does not support head=chunked: it requires all logits of the validation rows. Set "
            "head=dense."
        )
    task, base_task = module.task, module._base_task
    module.set_decision(base_task or task, compare=False)
    buffer = module._epochs["val"].first.output_buffer = OutputBuffer()
    try:
        results = trainer.validate(module, **data, verbose=False, weights_only=True)
        rows = buffer.rows()
        if rows is None:
            raise DataError("The validation split has no rows to fit the decision to. Add at least one.")
        start = module._base_task or module.task  # a checkpoint with a decision has set the base task
        fitted = fit_decision(start, *rows, **options, loss=loss, counts=module._label_counts)
    except BaseException:
        module._base_task, module.task = base_task, task
        raise
    finally:
        module._epochs["val"].first.output_buffer = None
    # results may differ between processors in the last digit, so all ranks use the task of rank 0
    module.set_decision(make_task(**trainer.strategy.broadcast(fitted.to_dict())))
    advised = goal is None and decision.metric == "auto"
    known = ~flatten_positions(module.task.to_one_hot(rows[1])).isnan()
    advice = suggest_threshold(module.task, *rows) if advised else None
    return Tuned(results[0], advice, int(known.any(1).sum()))
