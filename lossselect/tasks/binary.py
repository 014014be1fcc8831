"""Yes or no: one output, and what it has in common with several independent ones (multilabel)."""

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
    """What `Binary` and `Multilabel` share: independent 0/1 outputs, each with a threshold."""

    threshold: float | Sequence[float] = 0.5  # type: ignore[misc]  # a constant of other tasks

    activation = "sigmoid"
    untuned_rule = "1 where the logit is at least 0"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("threshold", per_output("threshold", self.threshold, self.num_outputs, 0, 1))

    def decision_rule(self, tuned_for: str | None = None, each: bool = False) -> str:
        if self.top_k:
            return f"the {self.top_k} most probable labels"
        minimum = str(self.threshold)
        if tuned_for:
            thresholds = "a threshold of each label" if each and self.num_outputs > 1 else "a threshold"
            minimum = f"{thresholds}, tuned on val for {tuned_for}"
        elif not isinstance(self.threshold, float):
            minimum = f"[{shorten([f'{threshold:.3g}' for threshold in self.threshold])}]"
        also = f", and at least {self.min_labels} label(s)" if self.min_labels else ""
        return f"1 where the probability is at least {minimum}{also}"

    def predict_from_probabilities(self, probabilities: Tensor) -> Tensor:
        """Return 1 where the probability is at least the threshold, else 0, and -100 for NaN (long)."""
        decided = (probabilities >= as_constant(self.threshold, probabilities)).long()
        return missing_where_nan(decided, probabilities)

    def to_hard_labels(self, target: Tensor) -> Tensor:
        return (target >= 0.5).long().masked_fill(target.isnan(), IGNORE_INDEX)

    def check_values(self, target: Tensor) -> None:
        needed = "the canonical target is in [0, 1], NaN where missing: pass task.encode(target)"
        raise_for_invalid(target, (target < 0) | (target > 1), needed, names=self.output_names)

    def _encode(self, target: Tensor) -> Tensor:
        """Return the canonical form of a target that has the canonical shape."""
        encoded = as_float(target)
        if is_within_unit(encoded):
            return encoded
        if self.missing is not None:
            encoded = encoded.masked_fill(target == self.missing, torch.nan)
        encoded = clamp_rounding(encoded)
        needed = f"{self.name} targets are 0 or 1, soft values between, or NaN where missing"
        raise_for_invalid(encoded, (encoded < 0) | (encoded > 1), needed, self._hint, self.output_names)
        return encoded

    def _hint(self, values: set[float]) -> str:
        others = values - {0.0, 1.0}
        if values <= {1.0, 2.0}:
            return "The labels seem to count from 1: subtract 1."
        if values <= {0.0, 255.0}:
            return "Divide by 255."
        if others == {-1.0}:
            return (
                "If -1 means 'not labelled', declare it with missing=-1; if it means 'negative', map it to 0."
            )
        if not all(value.is_integer() for value in others):
            return "A target holds labels, not logits."
        marker = f"If {min(others):g} marks a missing label, declare it with missing={min(others):g}."
        if min(others) < 0:
            return marker
        indices = "Class indices belong to task=multiclass, shape (N,)."
        return f"{indices} {marker}" if len(others) == 1 and min(others) > 2 else indices


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
