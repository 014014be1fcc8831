"""Any number of labels at once: one output for each."""

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
    """Any number of L labels at once: L outputs, whose sigmoids are the labels' probabilities.

    Canonical target: float (N, L, ...) in [0, 1], NaN where missing.

    Args:
        num_labels: L, at least 1.
        class_names: L distinct names.
        missing: A value that marks a missing label, besides NaN.
        threshold: The minimum probability of a predicted label, in [0, 1]; one for all labels or one each.
        temperature: Divides the logits before the sigmoid, > 0; one for all labels or one each.
        shift: Subtracted from the logits before that, to undo the effect of weights of the loss; one or one
            each.
        min_labels: The minimum number of labels of each row: the nearest to their thresholds are added.
        top_k: Give each row its k most probable labels, whatever the thresholds are.

    Raises:
        ValueError: no labels, names or thresholds that do not match, `missing` in [0, 1].

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
    outputs_are = "one for each label"
    averages = (
        "f1_micro pools all predictions, f1_macro, auroc and average_precision are means over labels with "
        "a positive"
    )
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
                    raise ConfigError(f"{name} has no effect beside top_k, which gives each row k labels.")

    def predict_from_probabilities(self, probabilities: Tensor) -> Tensor:
        """Return 1 where the probability is at least the threshold, else 0 (long, of the same shape).

        With `min_labels` also 1 for the labels of a row nearest to their thresholds, in log-odds; with
        `top_k` for the k most probable. `predict` ranks by logits, which differ where probabilities round to
        0 or 1; ties are broken arbitrarily.

        -100 where the probability is NaN; with `min_labels` or `top_k` in the whole row.
        """
        return self._predict(probabilities)

    def predict(self, logits: Tensor) -> Tensor:
        """Return 0/1 per label, as `predict_from_probabilities` decides: long (N, L, ...)."""
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

        Accepts 0/1 (multi-hot) of any dtype, and soft values between, of shape (N, L, ...); with a single
        label also (N,); or, if the task has class names, a list of names per row. `trailing_dims` has no
        effect.
        """
        target = self._as_tensor(target)
        if target.ndim == 1 and self.num_labels == 1:
            target = target.unsqueeze(1)
        if target.ndim < 2 or target.shape[1] != self.num_labels:
            fix = "Declare as many labels as there are columns."
            if target.ndim < 2 or target.shape[1] == 1:
                fix = "Class indices of shape (N,) belong to task=multiclass, yes or no to task=binary."
            raise DataError(
                f"Multilabel targets must have shape (N, num_labels)=(N, {self.num_labels}), got "
                f"{tuple(target.shape)}. {fix}"
            )
        return self._encode(target)

    def _decode(self, prediction: Tensor) -> list[Any]:
        if prediction.ndim != 2 or prediction.shape[1] != self.num_labels:
            raise ConfigError(
                f"decode takes predictions (N, {self.num_labels}), got {tuple(prediction.shape)}."
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
