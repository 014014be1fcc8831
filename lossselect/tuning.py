"""Fit a module's decision to its validation split."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer

from .criterion import Loss
from .decision import fit_decision
from .kept import KeptOutputs
from .tasks import IGNORE_INDEX

if TYPE_CHECKING:
    from .module import TaskModule


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
    (`test/untuned/f1_macro`), and checkpoints keep them.

    Args:
        trainer: As for `Trainer.validate`, as are the loaders and the checkpoint.
        module: Whose `task` is replaced.
        dataloaders: Of validation rows.
        datamodule: In place of loaders.
        ckpt_path: Whose weights are taken; None takes those that the module has.
        options: Of `fit_decision`: `metric`, `per_label`, `recall`, `calibration`, `shrinkage`.

    Returns:
        The metrics of the validation split, by the decisions before.

    Raises:
        ValueError: there is no validation row, or as `fit_decision` says.
    """
    if module.untuned is not None:
        module.decide_by(module.untuned)
        module.untuned = None
    kept = module.val_epoch.kept = KeptOutputs()
    try:
        results = trainer.validate(
            module, dataloaders, ckpt_path, verbose=False, datamodule=datamodule, weights_only=True
        )
    finally:
        module.val_epoch.kept = None
    rows = kept.rows()
    if rows is None:
        raise ValueError("There is no validation row to tune the decision to.")
    logits, target = rows
    if (
        not target.is_floating_point()
    ):  # -100 is the canonical form of a missing label, which encode does not know
        target = target.double().masked_fill(target == IGNORE_INDEX, torch.nan)
    loss = module.criterion if isinstance(module.criterion, Loss) else None
    module.decide_by(fit_decision(module.task, logits, target, **options, loss=loss, counts=module.counts))
    return results[0]
