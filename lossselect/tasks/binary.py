"""The binary task, and the base class of tasks with independent outputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.targets import (
    as_distributions,
    as_float,
    clamp_rounding,
    is_within_unit,
    raise_for_invalid,
)
from lossselect.labels.values import IGNORE_INDEX
from lossselect.tasks.base import Task
from lossselect.tasks.fields import per_output
from lossselect.tasks.tensors import as_constant, missing_where_nan
from lossselect.utils.checks import shorten


@dataclass(frozen=True, kw_only=True)
class SigmoidTask(Task):
    """Base class of `Binary` and `Multilabel`: independent 0/1 outputs, each with a threshold."""

    threshold: float | Sequence[float] = 0.5  # type: ignore[misc]  # a constant of other tasks

    activation = "sigmoid"
    untuned_rule = "1 if the logit is >= 0"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("threshold", per_output("threshold", self.threshold, self.num_outputs, 0, 1))

    def decision_rule(self, tuned_for: str | None = None, each: bool = False) -> str:
        if self.top_k:
            return f"the {self.top_k} most probable labels"
        minimum = str(self.threshold)
        if tuned_for:
            threshold = "a per-label threshold" if each and self.num_outputs > 1 else "a threshold"
            minimum = f"{threshold} tuned for {tuned_for}"
        elif not isinstance(self.threshold, float):
            minimum = f"[{shorten([f'{threshold:.3g}' for threshold in self.threshold])}]"
        labels = "label" if self.min_labels == 1 else "labels"
        also = f", with at least {self.min_labels} {labels} per row" if self.min_labels else ""
        return f"1 if the probability is >= {minimum}{also}"

    def predict_from_probabilities(self, probabilities: Tensor) -> Tensor:
        """Return 1 if the probability is >= the threshold, else 0, and -100 for NaN (long)."""
        decided = (probabilities >= as_constant(self.threshold, probabilities)).long()
        return missing_where_nan(decided, probabilities)

    def to_hard_labels(self, target: Tensor) -> Tensor:
        return (target >= 0.5).long().masked_fill(target.isnan(), IGNORE_INDEX)

    def check_values(self, target: Tensor) -> None:
        needed = "it must be in [0, 1], or NaN if missing. Pass task.encode(target)"
        raise_for_invalid(target, (target < 0) | (target > 1), needed, names=self.output_names)

    def _encode(self, target: Tensor) -> Tensor:
        """Convert a target of the canonical shape to the canonical form."""
        encoded = as_float(target)
        if is_within_unit(encoded):
            return encoded
        if self.missing is not None:
            encoded = encoded.masked_fill(target == self.missing, torch.nan)
        encoded = clamp_rounding(encoded)
        needed = f"{self.name} targets must be 0, 1, a soft label between, or NaN if missing"
        raise_for_invalid(encoded, (encoded < 0) | (encoded > 1), needed, self._hint, self.output_names)
        return encoded

    def _hint(self, values: set[float]) -> str:
        others = values - {0.0, 1.0}
        if values <= {1.0, 2.0}:
            return "If the labels start at 1, subtract 1."
        if values <= {0.0, 255.0}:
            return "If 255 means yes, divide by 255."
        if others == {-1.0}:
            return "If -1 marks a missing label, set task.missing=-1. If it means no, map it to 0."
        if not all(value.is_integer() for value in others):
            return "Pass labels, not logits."
        marker = f"If {min(others):g} marks a missing label, set task.missing={min(others):g}."
        if min(others) < 0:
            return marker
        indices = "For class indices (N,), set task=multiclass."
        return f"{indices} {marker}" if len(others) == 1 and min(others) > 2 else indices


@dataclass(frozen=True)
class Binary(SigmoidTask):
    """Binary task: one output, whose sigmoid is the probability of the positive class, 1.

    Canonical target: float (N, 1, ...) in [0, 1], NaN where missing.

    Args:
        class_names: Names of the negative and the positive class, in this order.
        missing: Value that marks a missing label, in addition to NaN.
        threshold: Minimum probability of a positive prediction, in [0, 1].
        temperature: Divisor of the logit before the sigmoid, > 0.
        shift: Offset subtracted from the logit before the division, to undo the effect of loss weights.

    Raises:
        ConfigError: not two distinct names, a threshold outside [0, 1], `missing` in [0, 1].
        OptionTypeError: an argument of the wrong type.

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
    outputs_are = "the logit of the positive class"
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

        Accepts 0/1 of any dtype and soft labels in between, of shape (N,), (N, 1), (N, 1, ...) or
        (N, H, W, ...); rows (N, 2) that are one-hot or sum to 1, with the positive class in the second
        column; and class names (N,), if the task has them. `trailing_dims` has no effect: T positions per row
        have shape (N, 1, T).

        Raises:
            DataError: another shape or value; names the row and the fix.
            DataTypeError: labels that are not numbers.
        """
        target = self._as_tensor(target)
        if target.ndim == 2 and target.shape[1] == 2:
            return as_distributions(target, self.missing, self.name)[:, 1:]
        if target.ndim == 0 or (target.ndim == 2 and target.shape[1] != 1):
            raise DataError(
                f"Binary targets must have shape (N,) or (N, 1), got {tuple(target.shape)}. If rows have "
                "several labels, set task=multilabel. For one of several classes, set task=multiclass. For T "
                "positions per row, pass shape (N, 1, T)."
            )
        if target.ndim == 1 or target.shape[1] != 1:
            target = target.unsqueeze(1)
        return self._encode(target)

    def _decode(self, prediction: Tensor) -> list[Any]:
        if prediction.ndim < 2 or prediction.shape[1] != 1:
            raise ConfigError(
                f"decode expects predictions of shape (N, 1, ...), got {tuple(prediction.shape)}."
            )
        return self._names_at(prediction.squeeze(1).tolist())
