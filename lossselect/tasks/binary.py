"""Yes or no: one output."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.targets import as_distributions
from lossselect.tasks.sigmoid import SigmoidTask


@dataclass(frozen=True)
class Binary(SigmoidTask):
    """Yes or no: one output, whose sigmoid is the probability of the positive class, 1.

    Canonical target: float (N, 1, ...) in [0, 1], NaN where missing.

    Args:
        class_names: The negative class's name, then the positive one's.
        missing: A value that marks a missing label, besides NaN.
        threshold: The minimum probability of a positive prediction, in [0, 1].
        temperature: Divides the logit before the sigmoid, > 0.
        shift: Subtracted from the logit before that, to undo the effect of weights of the loss.

    Raises:
        ValueError: not two distinct names, a threshold outside [0, 1], `missing` in [0, 1].

    Example:
        >>> import torch
        >>> task = Binary(class_names=("ham", "spam"))
        >>> task.encode([0, 1, 1]).shape
        torch.Size([3, 1])
        >>> task.decode(task.predict(torch.tensor([[-2.0], [3.0]])))
        ['ham', 'spam']
    """

    name = "binary"
    kind = "binary"
    outputs_are = "the positive class's"
    averages = "f1 of the positive class, f1_micro and f1_macro over both classes"
    monitor = "loss"
    primary_metric = "f1"
    train_metrics = ("accuracy", "f1", "f1_micro", "f1_macro", "auroc", "average_precision")
    target_spec = "float (N, 1) in [0, 1], NaN where missing"

    @property
    def metric_names(self) -> tuple[str, ...]:
        return (*self.train_metrics, "balanced_accuracy", "brier_score", "calibration_error")

    @property
    def _num_names(self) -> int:
        return 2

    def __str__(self) -> str:
        return "binary"

    def encode(self, target: Any, trailing_dims: int | None = None) -> Tensor:
        """Return float (N, 1, ...) in [0, 1], NaN where missing.

        Accepts 0/1 of any dtype, and soft values between, of shape (N,), (N, 1), (N, 1, ...) or
        (N, H, W, ...); rows (N, 2) that are one-hot or sum to 1, the second column being the positive class;
        or class names (N,), if the task has them. `trailing_dims` has no effect: T predictions per sample
        have shape (N, 1, T).
        """
        target = self._as_tensor(target)
        if target.ndim == 2 and target.shape[1] == 2:
            return as_distributions(target, self.missing, self.name)[:, 1:]
        if target.ndim == 0 or (target.ndim == 2 and target.shape[1] != 1):
            raise DataError(
                f"Binary targets must have shape (N,) or (N, 1), got {tuple(target.shape)}. Several labels "
                "per sample: task=multilabel; one of several classes: task=multiclass; T predictions per "
                "sample: shape (N, 1, T)."
            )
        if target.ndim == 1 or target.shape[1] != 1:
            target = target.unsqueeze(1)
        return self._encode(target)

    def _decode(self, prediction: Tensor) -> list[Any]:
        if prediction.ndim < 2 or prediction.shape[1] != 1:
            raise ConfigError(f"decode takes predictions (N, 1, ...), got {tuple(prediction.shape)}.")
        return self._names_at(prediction.squeeze(1).tolist())
