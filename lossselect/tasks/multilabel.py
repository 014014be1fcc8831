"""The multilabel task: any number of labels per row."""

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.values import IGNORE_INDEX
from lossselect.tasks.binary import SigmoidTask
from lossselect.tasks.tensors import as_constant, missing_where_nan
from lossselect.utils.checks import check_int


@dataclass(frozen=True)
class Multilabel(SigmoidTask):
    """Multilabel task, any number of L labels per row: L outputs, whose sigmoids are the label probabilities.

    Canonical target: float (N, L, ...) in [0, 1], NaN where missing.

    Args:
        num_labels: L, at least 1.
        class_names: L distinct names.
        missing: Value that marks a missing label, in addition to NaN.
        threshold: Minimum probability of a predicted label, in [0, 1]; one number, or one per label.
        temperature: Divisor of the logits before the sigmoid, > 0; one number, or one per label.
        shift: Offset subtracted from the logits before the division, to undo the effect of loss weights; one
            number, or one per label.
        min_labels: Minimum number of labels per row; the labels closest to their thresholds are added.
        top_k: Predict the k most probable labels of each row, without thresholds.

    Raises:
        ConfigError: no labels, names or thresholds that do not match, `missing` in [0, 1].
        OptionTypeError: an argument of the wrong type.

    Example:
        >>> task = Multilabel(3, threshold=(0.5, 0.2, 0.9))
        >>> task.predict(torch.zeros(1, 3))
        tensor([[1, 1, 0]])
    """

    num_labels: int
    min_labels: int = field(default=0, kw_only=True)  # type: ignore[misc]  # a constant of other tasks
    top_k: int | None = field(default=None, kw_only=True)  # type: ignore[misc]

    name = "multilabel"
    kind = "multilabel"
    outputs_are = "one logit per label"
    averages = "f1_micro pools all labels; macro averages are over labels with a positive"
    monitor = "average_precision"
    primary_metric = "f1_macro"
    train_metrics = ("accuracy", "f1_micro", "f1_macro", "auroc", "average_precision")
    _width_field = "num_labels"
    target_spec = "float (N, L) in [0, 1], NaN where missing"

    def __post_init__(self) -> None:
        self._set("num_labels", check_int("num_labels", self.num_labels, 1))
        super().__post_init__()
        self._set("min_labels", check_int("min_labels", self.min_labels, 0, self.num_labels))
        if self.top_k is not None:
            self._set("top_k", check_int("top_k", self.top_k, 1, self.num_labels))
            for name, default in (("threshold", 0.5), ("min_labels", 0)):
                if getattr(self, name) != default:
                    raise ConfigError(f"{name} cannot be combined with top_k. Remove one of them.")

    def predict_from_probabilities(self, probabilities: Tensor) -> Tensor:
        """Return 1 if the probability is >= the threshold, else 0 (long, of the same shape).

        With `min_labels`, the labels of a row closest to their thresholds in log-odds are also 1. With
        `top_k`, only the k most probable labels are 1. `predict` ranks by logits, which differ even if
        probabilities round to 0 or 1. Ties are broken arbitrarily.

        The prediction is -100 if the probability is NaN, with `min_labels` or `top_k` in the whole row.
        """
        return self._predict(probabilities)

    def predict(self, logits: Tensor) -> Tensor:
        """Return 0/1 per label, long (N, L, ...), by the rule of `predict_from_probabilities`."""
        return self._predict(self.probabilities(logits), logits)

    def _predict(self, probabilities: Tensor, logits: Tensor | None = None) -> Tensor:
        if self.top_k is None and not self.min_labels:
            return super().predict_from_probabilities(probabilities)
        log_odds = probabilities.logit() if logits is None else self.log_odds(logits)
        if self.top_k is not None:
            decided = _largest(log_odds, self.top_k)
        else:
            margin = log_odds - as_constant(_finite_logits(self.threshold), log_odds)
            decided = super().predict_from_probabilities(probabilities) | _largest(margin, self.min_labels)
        return missing_where_nan(decided, probabilities.sum(1, keepdim=True))

    @property
    def metric_names(self) -> tuple[str, ...]:
        more = ["balanced_accuracy", "brier_score", "calibration_error", "hamming_distance", "exact_match"]
        if self.num_labels > 1:
            more += ["ranking_loss", "coverage_error"]
        more += [f"precision_at_{k}" for k in (1, 3, 5) if k < self.num_labels]
        return (*self.train_metrics, *more)

    def __str__(self) -> str:
        return f"multilabel with {self.num_labels} labels"

    def encode(self, target: Any, trailing_dims: int | None = None) -> Tensor:
        """Return float (N, L, ...) in [0, 1], NaN where missing.

        Accepts 0/1 (multi-hot) of any dtype and soft labels in between, of shape (N, L, ...), or (N,) for a
        single label; and lists of class names, one per row, if the task has them. `trailing_dims` has no
        effect.

        Raises:
            DataError: another shape or value; names the row and the fix.
            DataTypeError: labels that are not numbers.
        """
        target = self._as_tensor(target)
        if target.ndim == 1 and self.num_labels == 1:
            target = target.unsqueeze(1)
        if target.ndim < 2 or target.shape[1] != self.num_labels:
            fix = "Set num_labels to the number of columns."
            if target.ndim < 2 or target.shape[1] == 1:
                fix = "For class indices (N,), set task=multiclass. For yes/no labels, set task=binary."
            raise DataError(
                f"Multilabel targets must have shape (N, num_labels)=(N, {self.num_labels}), got "
                f"{tuple(target.shape)}. {fix}"
            )
        return self._encode(target)

    def _decode(self, prediction: Tensor) -> list[Any]:
        if prediction.ndim != 2 or prediction.shape[1] != self.num_labels:
            raise ConfigError(
                f"decode expects predictions of shape (N, {self.num_labels}), got {tuple(prediction.shape)}."
            )
        return [
            None
            if bool((row == IGNORE_INDEX).all())
            else [self.names[i] for i in (row == 1).nonzero().flatten().tolist()]
            for row in prediction.cpu()
        ]


@lru_cache(maxsize=16)
def _finite_logits(threshold: float | tuple[float, ...]) -> tuple[float, ...]:
    """Return the log-odds of thresholds, finite also for 0 and 1."""
    values = threshold if isinstance(threshold, tuple) else (threshold,)
    return tuple(math.log(max(t, 1e-30)) - math.log(max(1 - t, 1e-30)) for t in values)


def _largest(values: Tensor, k: int) -> Tensor:
    """Return 1 at the k largest values of each row, else 0; NaN comes last."""
    values = values.nan_to_num(-torch.inf, torch.inf, -torch.inf)
    return torch.zeros_like(values, dtype=torch.long).scatter_(1, values.topk(k, 1).indices, 1)
