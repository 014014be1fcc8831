"""Any number of labels at once: one output for each."""

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.targets import as_tensor
from lossselect.labels.values import IGNORE_INDEX
from lossselect.tasks.sigmoid import SigmoidTask
from lossselect.tasks.tensors import as_constant, missing_where_nan
from lossselect.utils.checks import check_int

COLUMNS = "Declare as many labels as there are columns."


@dataclass(frozen=True)
class Multilabel(SigmoidTask):
    """Any number of L labels at once: L outputs, whose sigmoids are the labels' probabilities.

    Canonical target: float (N, L, ...) in [0, 1], NaN where missing.

    Args:
        num_labels: L, at least 1.
        class_names: L distinct names.
        missing: A value that marks a missing label, besides NaN.
        threshold: The least probability at which a label is called there, in [0, 1]: one for all
            labels or one each.
        temperature: By which logits are divided before the sigmoid, > 0: one for all labels or one each.
        shift: Subtracted from the logits before that, as the loss's weights have added it: one number, or one
            for each output.
        min_labels: So many labels each row is given, the nearest to their thresholds where fewer reach them.
        top_k: Give each row its k most probable labels, whatever the thresholds are.

    Raises:
        ValueError: no labels, names or thresholds that do not match, `missing` in [0, 1].

    Example:
        >>> task = Multilabel(3, threshold=(0.5, 0.2, 0.9))
        >>> task.predict(torch.zeros(1, 3))
        tensor([[1, 1, 0]])
    """

    num_labels: int
    min_labels: int = field(default=0, kw_only=True)
    top_k: int | None = field(default=None, kw_only=True)

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
            if self.threshold != 0.5:
                raise ConfigError("threshold has no effect beside top_k, which gives each row k labels.")
            if self.min_labels:
                raise ConfigError("min_labels has no effect beside top_k, which gives each row k labels.")

    def predict_from_probabilities(self, probabilities: Tensor) -> Tensor:
        """Return 1 where the probability is at least the threshold, else 0: long, of the same shape.

        With `min_labels` each row's nearest to their thresholds, in log-odds, as well; with `top_k` the k
        most probable. `predict` ranks by logits, which differ where probabilities are 0 or 1 in all their
        digits; of equal ones any are taken.

        -100 where the probability is NaN. `min_labels` and `top_k` compare the labels of a row, so with them
        one NaN makes the whole row -100.
        """
        if not self._ranks:
            return super().predict_from_probabilities(probabilities)
        return self._rank(probabilities, probabilities.logit())

    def predict(self, logits: Tensor) -> Tensor:
        """Return 0/1 per label, as `predict_from_probabilities` decides: long (N, L, ...)."""
        if not self._ranks:
            return super().predict(logits)
        return self._rank(self.probabilities(logits), self.log_odds(logits))

    @property
    def _ranks(self) -> bool:
        """Whether labels of a row are compared with each other."""
        return self.top_k is not None or bool(self.min_labels)

    def _rank(self, probabilities: Tensor, log_odds: Tensor) -> Tensor:
        if self.top_k is not None:
            decided = _largest(log_odds, self.top_k)
        else:
            margin = log_odds - as_constant(_log_odds(self.threshold), log_odds)
            decided = super().predict_from_probabilities(probabilities) | _largest(margin, self.min_labels)
        return missing_where_nan(decided, probabilities.sum(1, keepdim=True))

    @property
    def num_outputs(self) -> int:
        return self.num_labels

    @property
    def metric_names(self) -> tuple[str, ...]:
        more = ["balanced_accuracy", "brier_score", "calibration_error", "hamming_distance", "exact_match"]
        if self.num_labels > 1:
            more += ["ranking_loss", "coverage_error"]
        return (
            *self.train_metrics,
            *more,
            *(f"precision_at_{k}" for k in (1, 3, 5) if k < self.num_labels),
        )

    def __str__(self) -> str:
        return f"multilabel with {self.num_labels} labels"

    def encode(self, target: Any, trailing_dims: int | None = None) -> Tensor:
        """float (N, L, ...) in [0, 1], NaN where missing.

        Takes 0/1 (multi-hot) of any integer, bool or float dtype, and soft values between, of
        shape (N, L, ...); with a single label also (N,); or, where the task has class names, a list
        of names per row. `trailing_dims` changes nothing.

        Raises:
            ValueError: another shape or value; says which row, and the fix.
            TypeError: labels that are no numbers.
        """
        target = as_tensor(self._unnamed(target))
        if target.ndim == 1 and self.num_labels == 1:
            target = target.unsqueeze(1)
        if target.ndim < 2 or target.shape[1] != self.num_labels:
            column = target.ndim < 2 or target.shape[1] == 1
            fix = "Class indices of shape (N,) belong to task=multiclass, yes or no to task=binary."
            raise DataError(
                f"Multilabel targets must have shape (N, num_labels)=(N, {self.num_labels}), got "
                f"{tuple(target.shape)}. {fix if column else COLUMNS}"
            )
        return self._encode(target)

    def _decoded(self, prediction: Tensor) -> list[Any]:
        """For each row (N, L) the names that are known to be there; None where all labels are missing."""
        if prediction.ndim != 2 or prediction.shape[1] != self.num_labels:
            raise ConfigError(
                f"decode takes predictions (N, {self.num_labels}), got {tuple(prediction.shape)}."
            )
        rows = self._to_integers(prediction).cpu()
        return [
            None
            if bool((row == IGNORE_INDEX).all())
            else [self.names[i] for i in (row == 1).nonzero().flatten().tolist()]
            for row in rows
        ]


@lru_cache(maxsize=16)
def _log_odds(threshold: float | tuple[float, ...]) -> tuple[float, ...]:
    """Return the log-odds of thresholds, finite also for 0 and 1; cached, not computed for each batch."""
    values = threshold if isinstance(threshold, tuple) else (threshold,)
    return tuple(math.log(max(t, 1e-30)) - math.log(max(1 - t, 1e-30)) for t in values)


def _largest(values: Tensor, k: int) -> Tensor:
    """1 at the k largest values of each row, else 0; NaN comes last."""
    values = values.nan_to_num(-torch.inf, torch.inf, -torch.inf)
    return torch.zeros_like(values, dtype=torch.long).scatter_(1, values.topk(k, 1).indices, 1)
