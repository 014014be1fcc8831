"""Tasks of independent 0/1 outputs: binary and multilabel."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lossselect.labels.targets import as_float, clamp_rounding, is_within_unit, raise_for_invalid
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
