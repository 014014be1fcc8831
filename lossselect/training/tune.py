"""Fit a module's decision to its validation split."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer

from lossselect.decision.advice import Advice, suggest_threshold
from lossselect.decision.fit import decision_options, fit_decision
from lossselect.exceptions import ConfigError, DataError, OptionTypeError
from lossselect.tasks.registry import make_task
from lossselect.training.epoch import OutputBuffer

if TYPE_CHECKING:
    from lossselect.training.module import TaskModule


def tune_decision(
    trainer: Trainer,
    module: "TaskModule",
    dataloaders: Any = None,
    datamodule: Any = None,
    ckpt_path: str | None = None,
    **options: Any,
) -> Mapping[str, float]:
    """Validate, and give the module the thresholds and temperature that suit the validation rows best.

    From then on it predicts by them, metrics of test are logged with (`test/f1_macro`) and without
    (`test/default_decision/f1_macro`), and checkpoints keep them.

    Args:
        trainer: As for `Trainer.validate`, as are the loaders and the checkpoint.
        module: Whose `task` is replaced.
        dataloaders: Of validation rows.
        datamodule: Instead of loaders.
        ckpt_path: Whose weights are used; None uses those of the module.
        options: Of `fit_decision`: `metric`, `per_label`, `recall`, `calibration`, `shrinkage`.

    Returns:
        The metrics of the validation split, by the predictions before.

    Raises:
        ValueError: there is no validation row, or `fit_decision` raises it.
    """
    data = {"dataloaders": dataloaders, "datamodule": datamodule, "ckpt_path": ckpt_path}
    return tune_on_validation(trainer, module, options, **data)[0]


def tune_on_validation(
    trainer: Trainer, module: "TaskModule", options: Mapping[str, Any], **data: Any
) -> tuple[Mapping[str, float], Advice | None]:
    """Tune with `data` for `Trainer.validate`; return its metrics, and advice if no threshold was tuned."""
    if not isinstance(trainer, Trainer) or not hasattr(module, "set_decision"):
        raise OptionTypeError("tune_decision(trainer, module, loaders) takes a Trainer, then a TaskModule.")
    loss, decision = module.criterion, decision_options(**options)
    goal = decision.goal(module.task, loss)  # before a pass over the rows
    if module._chunked:
        raise ConfigError(
            "A decision is fitted to all outputs of the validation rows, which a chunked head never has: "
            "head=dense."
        )
    task, base_task = module.task, module.base_task
    module.base_task, module.task = None, base_task or task
    buffer = module._val_epoch.output_buffer = OutputBuffer()
    try:
        results = trainer.validate(module, **data, verbose=False, weights_only=True)
        rows = buffer.rows()
        if rows is None:
            raise DataError("There is no validation row to tune the decision to.")
        start = module.base_task or module.task  # a checkpoint with a decision has set the base task
        fitted = fit_decision(start, *rows, **options, loss=loss, counts=module.counts)
    except BaseException:
        module.base_task, module.task = base_task, task
        raise
    finally:
        module._val_epoch.output_buffer = None
    module.base_task = start
    # processors may differ in the last digit: all use the task of the first one
    module.task = make_task(**trainer.strategy.broadcast(fitted.to_dict()))
    advised = goal is None and decision.metric == "auto"
    return results[0], suggest_threshold(module.task, *rows) if advised else None
