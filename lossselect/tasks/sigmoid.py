"""Tasks of independent 0/1 outputs: binary and multilabel."""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossselect.exceptions import ConfigError, DataError, OptionTypeError
from lossselect.labels.targets import as_tensor, distribution, in_unit, lossless_float, refuse, within_unit
from lossselect.labels.values import IGNORE_INDEX
from lossselect.tasks.base import Task, constant, decisions, missing_where_nan, take, temperature_of
from lossselect.utils.checks import some, whole

COLUMNS = "Declare as many labels as there are columns."


@dataclass(frozen=True, kw_only=True)
class _Sigmoid(Task):
    """What `Binary` and `Multilabel` share: independent 0/1 outputs, each with a threshold."""

    threshold: float | Sequence[float] = 0.5

    activation: ClassVar[str] = "sigmoid"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("threshold", per_output("threshold", self.threshold, self.num_outputs, _threshold_of))

    def decision_rule(self, tuned_for: str | None = None, each: bool = False) -> str:
        if self.top_k:
            return f"the {self.top_k} most probable labels"
        if tuned_for:
            own = "a threshold of each label" if each and self.num_outputs > 1 else "a threshold"
            rule = f"1 where the probability is at least {own}, tuned on val for {tuned_for}"
        elif isinstance(self.threshold, float):
            rule = f"1 where the probability is at least {self.threshold}"
        else:
            rule = f"1 where the probability is at least [{some([f'{t:.3g}' for t in self.threshold])}]"
        return f"{rule}, and at least {self.at_least} label(s)" if self.at_least else rule

    @property
    def untuned_rule(self) -> str:
        return "1 where the logit is at least 0"

    def decide(self, probabilities: Tensor) -> Tensor:
        """1 where the probability is at least the threshold, else 0, -100 for NaN: long, the same shape."""
        decided = (probabilities >= constant(self.threshold, probabilities)).long()
        return missing_where_nan(decided, probabilities)

    def harden(self, target: Tensor) -> Tensor:
        return (target >= 0.5).long().masked_fill(target.isnan(), IGNORE_INDEX)

    def check_values(self, target: Tensor) -> None:
        needed = "the canonical target is in [0, 1], NaN where missing: pass task.encode(target)"
        refuse(target, (target < 0) | (target > 1), needed, names=self.output_names)

    def _encode(self, target: Tensor) -> Tensor:
        """The canonical form of a target that has the canonical shape."""
        encoded = lossless_float(target)
        if in_unit(encoded):
            return encoded
        if self.missing is not None:
            encoded = encoded.masked_fill(target == self.missing, torch.nan)
        encoded = within_unit(encoded)
        needed = f"{self.name} targets are 0 or 1, soft values between, or NaN where missing"
        refuse(encoded, (encoded < 0) | (encoded > 1), needed, self._hint, self.output_names)
        return encoded

    def _hint(self, values: set[float]) -> str:
        odd = values - {0.0, 1.0}
        whole = all(value // 1 == value for value in odd if math.isfinite(value))
        if values <= {1.0, 2.0}:
            return "The labels seem to count from 1: subtract 1."
        if values <= {0.0, 255.0}:
            return "Divide by 255."
        if odd == {-1.0}:
            return (
                "If -1 means 'not labelled', declare it with missing=-1; if it means 'negative', map it to 0."
            )
        if math.inf in odd or -math.inf in odd or not whole:
            return "A target holds labels, not logits."
        marks = f"If {min(odd):g} marks a missing label, declare it with missing={min(odd):g}."
        if min(odd) < 0:
            return marks
        indices = "Class indices belong to task=multiclass, shape (N,)."
        return f"{indices} {marks}" if len(odd) == 1 and min(odd) > 2 else indices


@dataclass(frozen=True)
class Binary(_Sigmoid):
    """Yes or no: one output, whose sigmoid is the probability of the positive class, 1.

    Canonical target: float (N, 1, ...) in [0, 1], NaN where missing.

    Args:
        class_names: The negative class's name, then the positive one's.
        missing: A value that marks a missing label, besides NaN.
        threshold: The least probability that is called positive, in [0, 1].
        temperature: By which the logit is divided before the sigmoid, > 0.
        shift: Subtracted from the logit before that, as the loss's weights have added it.

    Raises:
        ValueError: not two distinct names, a threshold outside [0, 1], `missing` in [0, 1].

    Example:
        >>> task = Binary(class_names=("ham", "spam"))
        >>> task.encode([0, 1, 1]).shape
        torch.Size([3, 1])
        >>> task.decode(task.predict(torch.tensor([[-2.0], [3.0]])))
        ['ham', 'spam']
    """

    name: ClassVar[str] = "binary"
    kind: ClassVar[str] = "binary"
    outputs_are: ClassVar[str] = "the positive class's"
    averages: ClassVar[str] = "f1 of the positive class, f1_micro and f1_macro over both classes"
    monitor: ClassVar[str] = "loss"
    headline: ClassVar[str] = "f1"
    training_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "f1_micro", "f1_macro", "auroc", "map")
    target_form: ClassVar[str] = "float (N, 1) in [0, 1], NaN where missing"

    @property
    def num_outputs(self) -> int:
        return 1

    @property
    def positive_name(self) -> str | None:
        return self.names[1]

    @property
    def metric_names(self) -> tuple[str, ...]:
        return (*self.training_metrics, "balanced_accuracy", "brier", "calibration_error")

    @property
    def _num_names(self) -> int:
        return 2

    def describe(self) -> str:
        return "binary"

    def encode(self, target: Any, trailing_dims: int | None = None) -> Tensor:
        """float (N, 1, ...) in [0, 1], NaN where missing.

        Takes 0/1 of any integer, bool or float dtype, and soft values between, of shape (N,),
        (N, 1), (N, 1, ...) or (N, H, W, ...); or rows (N, 2) that are one-hot or sum to 1, the
        second column being the positive class; or class names (N,), where the task has them.
        `trailing_dims` changes nothing: T decisions per sample have shape (N, 1, T).

        Raises:
            ValueError: another shape or value; says which row, and the fix.
            TypeError: labels that are no numbers.
        """
        target = as_tensor(self._unnamed(target))
        if target.ndim == 2 and target.shape[1] == 2:
            return distribution(target, self.missing, self.name)[:, 1:]
        if target.ndim == 0 or (target.ndim == 2 and target.shape[1] != 1):
            raise DataError(
                f"Binary targets must have shape (N,) or (N, 1), got {tuple(target.shape)}. Several labels "
                "per sample: task=multilabel; one of several classes: task=multiclass; T decisions per "
                "sample: shape (N, 1, T)."
            )
        if target.ndim == 1 or target.shape[1] != 1:
            target = target.unsqueeze(1)
        return self._encode(target)

    def _decoded(self, prediction: Tensor) -> list[Any]:
        """A name per row, None where missing; in nested lists where there are trailing dimensions."""
        if prediction.ndim < 2 or prediction.shape[1] != 1:
            raise ConfigError(f"decode takes predictions (N, 1, ...), got {tuple(prediction.shape)}.")
        return take(self.names, decisions(self, prediction).squeeze(1).tolist())


@dataclass(frozen=True)
class Multilabel(_Sigmoid):
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
        at_least: So many labels each row is given, the nearest to their thresholds where fewer reach them.
        top_k: Give each row its k most probable labels, whatever the thresholds are.

    Raises:
        ValueError: no labels, names or thresholds that do not match, `missing` in [0, 1].

    Example:
        >>> task = Multilabel(3, threshold=(0.5, 0.2, 0.9))
        >>> task.predict(torch.zeros(1, 3))
        tensor([[1, 1, 0]])
    """

    num_labels: int
    at_least: int = field(default=0, kw_only=True)
    top_k: int | None = field(default=None, kw_only=True)

    name: ClassVar[str] = "multilabel"
    kind: ClassVar[str] = "multilabel"
    outputs_are: ClassVar[str] = "one for each label"
    averages: ClassVar[str] = (
        "f1_micro pools all decisions, f1_macro, auroc and map are means over labels with a positive"
    )
    monitor: ClassVar[str] = "map"
    headline: ClassVar[str] = "f1_macro"
    training_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1_micro", "f1_macro", "auroc", "map")
    width_field: ClassVar[str | None] = "num_labels"
    target_form: ClassVar[str] = "float (N, L) in [0, 1], NaN where missing"

    def __post_init__(self) -> None:
        self._check_width(1)
        super().__post_init__()
        self._set("at_least", whole("at_least", self.at_least, 0, self.num_labels))
        if self.top_k is not None:
            self._set("top_k", whole("top_k", self.top_k, 1, self.num_labels))
            if self.threshold != 0.5:
                raise ConfigError("threshold has no effect beside top_k, which gives each row k labels.")
            if self.at_least:
                raise ConfigError("at_least has no effect beside top_k, which gives each row k labels.")

    def _checked_temperature(self) -> float | tuple[float, ...]:
        return per_output("temperature", self.temperature, self.num_labels, temperature_of)

    def decide(self, probabilities: Tensor) -> Tensor:
        """1 where the probability is at least the threshold, else 0: long, of the same shape.

        With `at_least` each row's nearest to their thresholds, in log-odds, as well; with `top_k` the k most
        probable. `predict` tells these of logits, which differ where probabilities are 0 or 1 for all digits
        that they have; of equal ones any are taken.

        -100 where the probability is NaN. `at_least` and `top_k` compare the labels of a row, so with them
        one NaN makes the whole row -100.
        """
        return (
            self._decide(probabilities, probabilities.logit())
            if self._ranks
            else super().decide(probabilities)
        )

    def predict(self, logits: Tensor) -> Tensor:
        """0/1 per label, as `decide` says: long (N, L, ...)."""
        probabilities = self.probabilities(logits)
        return (
            self._decide(probabilities, self.log_odds(logits))
            if self._ranks
            else super().decide(probabilities)
        )

    @property
    def _ranks(self) -> bool:
        """Whether labels of a row are compared with each other."""
        return self.top_k is not None or bool(self.at_least)

    def _decide(self, probabilities: Tensor, log_odds: Tensor) -> Tensor:
        if self.top_k is not None:
            decided = _largest(log_odds, self.top_k)
        else:
            margin = log_odds - constant(_log_odds(self.threshold), log_odds)
            decided = super().decide(probabilities) | _largest(margin, self.at_least)
        return missing_where_nan(decided, probabilities.sum(1, keepdim=True))

    @property
    def num_outputs(self) -> int:
        return self.num_labels

    @property
    def metric_names(self) -> tuple[str, ...]:
        more = ["balanced_accuracy", "brier", "calibration_error", "hamming", "exact_match"]
        if self.num_labels > 1:
            more += ["ranking_loss", "coverage_error"]
        return (
            *self.training_metrics,
            *more,
            *(f"precision_at_{k}" for k in (1, 3, 5) if k < self.num_labels),
        )

    def describe(self) -> str:
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
        rows = decisions(self, prediction).cpu()
        return [
            None
            if bool((row == IGNORE_INDEX).all())
            else [self.names[i] for i in (row == 1).nonzero().flatten().tolist()]
            for row in rows
        ]


@lru_cache(maxsize=16)
def _log_odds(threshold: float | tuple[float, ...]) -> float | tuple[float, ...]:
    """Of thresholds; finite also of 0 and 1. Once, not for each batch."""
    of_all = threshold if isinstance(threshold, tuple) else (threshold,)
    odds = tuple(math.log(max(t, 1e-30)) - math.log(max(1 - t, 1e-30)) for t in of_all)
    return odds if isinstance(threshold, tuple) else odds[0]


def _largest(values: Tensor, k: int) -> Tensor:
    """1 at the k largest values of each row, else 0; NaN comes last."""
    values = values.nan_to_num(-torch.inf, torch.inf, -torch.inf)
    return torch.zeros_like(values, dtype=torch.long).scatter_(1, values.topk(k, 1).indices, 1)


def per_output(name: str, value: Any, count: int, checked: Callable[..., float]) -> float | tuple[float, ...]:
    """One number, or one for each output, checked.

    Args:
        name: What messages call it.
        value: As the user gave it.
        count: How many outputs there are.
        checked: Takes a number, and of several " for output 3".
    """
    if isinstance(value, numbers.Real):
        return checked(value)
    # what has no order, or names of its own, would be taken apart wrongly
    if isinstance(value, str | bytes | Mapping | Set) or not hasattr(value, "__iter__"):
        raise OptionTypeError(f"{name} must be a number or a list of numbers, got {value!r}.")
    if getattr(value, "ndim", 1) == 0:
        return checked(value.item())
    given = tuple(checked(entry, f" for output {i}") for i, entry in enumerate(value))
    if len(given) != count:
        raise ConfigError(f"{name} must be one number or one per output ({count}), got {len(given)}.")
    return given


def _threshold_of(value: Any, which: str = "") -> float:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise OptionTypeError(f"threshold must be a number or a list of numbers, got {value!r}{which}.")
    given = float(value)
    if not 0 <= given <= 1:
        raise ConfigError(f"threshold must be a probability in [0, 1], got {given:g}{which}.")
    return given
