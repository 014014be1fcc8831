"""The multiclass task: exactly one of several classes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lossselect.exceptions import DataError, OptionTypeError
from lossselect.labels.targets import as_distributions, raise_for_invalid
from lossselect.labels.values import IGNORE_INDEX
from lossselect.tasks.base import Task
from lossselect.tasks.fields import check_numbers
from lossselect.tasks.tensors import as_constant, missing_where_nan
from lossselect.utils.checks import check_int, shorten
from lossselect.utils.devices import cumulative_sum
from lossselect.utils.warnings import warn_one_hot_integers


@dataclass(frozen=True)
class Multiclass(Task):
    """Multiclass task, exactly one of C classes: C outputs, whose softmax is the class probabilities.

    Canonical target: class indices, long (N, ...), -100 where missing; or soft labels, float (N, C, ...),
    whose rows sum to 1, NaN where missing.

    Args:
        num_classes: C, at least 2.
        class_names: C distinct names.
        missing: Value that marks a missing label, in addition to NaN; -100 only if declared.
        temperature: Divisor of the logits before the softmax, > 0.
        shift: Offset subtracted from the logits before the division, to undo the effect of loss weights; one
            number, or one per output.
        prior_correction: C factors > 0, which multiply the probabilities before the decision; 1 / class
            frequency minimises the balanced error.
        ordinal: True if the classes are ordered, such as grades. There are then C - 1 outputs: output k is
            the log-odds of a class above k, given a class of at least k (CORN, Shi et al., 2023,
            arXiv:2111.08851). The prediction is the median class.

    Raises:
        ConfigError: fewer than 2 classes, names or factors that do not match, `missing` that is a class.
        OptionTypeError: an argument of the wrong type.

    Example:
        >>> task = Multiclass(3)
        >>> task.encode([[0, 0, 1], [1, 0, 0]], trailing_dims=0)
        tensor([2, 0])
        >>> task.predict(torch.tensor([[0.1, 4.0, -1.0]]))
        tensor([1])
    """

    num_classes: int
    ordinal: bool = field(default=False, kw_only=True)  # type: ignore[misc]  # a constant of other tasks
    prior_correction: Sequence[float] | None = field(default=None, kw_only=True)  # type: ignore[misc]

    name = "multiclass"
    kind = "multiclass"
    outputs_are = "one logit per class"
    averages = "f1_micro pools all rows; macro averages are over classes that occur (f1: or are predicted)"
    activation = "softmax"
    untuned_rule = "the class with the largest logit"
    monitor = "loss"
    primary_metric = "accuracy"
    train_metrics = ("accuracy", "f1_micro", "f1_macro", "auroc", "average_precision")
    _width_field = "num_classes"
    target_spec = "class indices, long (N,), -100 where missing; soft labels, float (N, C)"

    def __post_init__(self) -> None:
        self._set("num_classes", check_int("num_classes", self.num_classes, 2))
        if not isinstance(self.ordinal, bool):
            raise OptionTypeError(f"ordinal must be true or false, got {self.ordinal!r}.")
        super().__post_init__()
        if self.prior_correction is not None:
            factors = check_numbers("prior_correction", self.prior_correction, self.num_classes, 1e-30, 1e30)
            self._set("prior_correction", factors)

    @property
    def num_outputs(self) -> int:
        return self.num_classes - 1 if self.ordinal else self.num_classes

    @property
    def metric_names(self) -> tuple[str, ...]:
        more = ("mean_absolute_error", "quadratic_kappa") if self.ordinal else ()
        return (*self.train_metrics, "balanced_accuracy", "brier_score", "calibration_error", *more)

    def decision_rule(self, tuned_for: str | None = None, each: bool = False) -> str:
        rule = "the median class" if self.ordinal else "the most probable class"
        if tuned_for:
            return f"{rule}, with class factors tuned for {tuned_for}"
        if self.prior_correction:
            smallest = min(self.prior_correction)  # only the ratios change predictions
            factors = shorten([f"{factor / smallest:.3g}" for factor in self.prior_correction])
            return f"{rule}, with probabilities multiplied by {factors}"
        return rule

    def __str__(self) -> str:
        return f"multiclass with {self.num_classes} {'ordered ' if self.ordinal else ''}classes"

    def class_logits(self, logits: Tensor) -> Tensor:
        """Return the logits; for ordered classes log p_c = sum_{k < c} log q_k + log(1 - q_c), q = sigmoid.

        Softmax does not change log-probabilities, so every softmax loss accepts them. Cross-entropy is then
        the negative log-likelihood of CORN, averaged over rows.
        """
        if not self.ordinal:
            return logits
        end = torch.zeros_like(logits[:, :1])
        above = cumulative_sum(logsigmoid(logits), 1)
        return torch.cat([end, above], 1) + torch.cat([logsigmoid(-logits), end], 1)

    def _from_class_logits(self, class_logits: Tensor) -> Tensor:
        if not self.ordinal:
            return class_logits
        # z_k = log sum_{c > k} p_c - log p_k, the log-odds of a class above k given class k or above
        above = (class_logits[:, k + 1 :].logsumexp(1) for k in range(self.num_outputs))
        return torch.stack([rest - class_logits[:, k] for k, rest in enumerate(above)], 1)

    def encode(self, target: Any, trailing_dims: int | None = None) -> Tensor:
        """Return the canonical target: class indices, long (N, ...), or soft labels, float (N, C, ...).

        Accepts class indices of any dtype (bool for two classes) and shape (N,), (N, 1) or (N, ...); one-hot
        rows (N, C); floats (N, C, ...) whose rows sum to 1; class names (N,), if the task has them. Integers
        with three or more dimensions are indices.

        Integers (N, C) may be one-hot rows, or class indices of C positions per row. `trailing_dims`, the
        number of dimensions of the logits after the class dimension, decides: 0 for one-hot rows, 1 for
        indices. By default they are one-hot rows, with a warning, if each row has a single 1 and is 0
        elsewhere, and indices if they contain other values. Other rows of 0 and 1 raise an error. This check
        copies a target on a GPU to the CPU.

        Raises:
            DataError: another shape or value; names the row and the fix.
            DataTypeError: labels that are not numbers.
        """
        target = self._as_tensor(target)
        soft = target.is_floating_point()
        if target.ndim == 0:
            raise DataError(f"Multiclass targets must have one entry per row, got only {target.item():g}.")
        if target.ndim == 2 and target.shape[1] == 1 and not trailing_dims:
            target = target.squeeze(1)
        if target.ndim >= 2 and target.shape[1] == self.num_classes and self._is_rows(target, trailing_dims):
            note = "For class indices of positions, call encode(target, trailing_dims=1)."
            ambiguous = not soft and trailing_dims is None
            rows = as_distributions(target, self.missing, self.name, note if ambiguous else "")
            # indices have the same loss as one-hot rows; on a GPU, checking values would stall
            is_soft = soft and (target.device.type != "cpu" or bool(((rows > 0) & (rows < 1)).any()))
            return rows if is_soft else self.to_hard_labels(rows)
        if target.ndim == 2 and soft and trailing_dims != 1:
            raise DataError(
                f"Multiclass targets must be indices (N,) or rows (N, num_classes)=(N, {self.num_classes}), "
                f"got floats of shape {tuple(target.shape)}. Set num_classes to the number of columns. If "
                "rows have several labels, set task=multilabel. Indices of positions (N, T) must be "
                "integers."
            )
        return self._encode_indices(target)

    def _is_rows(self, target: Tensor, trailing_dims: int | None) -> bool:
        """Return whether a target (N, C, ...) contains rows of C values, not class indices of positions."""
        if trailing_dims is not None:
            return target.ndim == trailing_dims + 2
        if target.is_floating_point():
            return True
        if target.ndim > 2 or target.numel() == 0:
            return False
        if target.dtype == torch.bool and self.num_classes > 2:
            return True
        values = target.cpu()
        ones, missing = values == 1, values == (math.nan if self.missing is None else self.missing)
        if not bool((ones | missing | (values == 0)).all()):
            return False
        if bool(((ones.sum(1) == 1) | missing.all(1)).all()):
            warn_one_hot_integers(target.shape)
        return True

    def encode_first(self, target: Any) -> Tensor:
        target = self._as_tensor(target)
        widths = (1,) if target.is_floating_point() else (1, self.num_classes)
        ambiguous = target.ndim == 2 and target.shape[1] in widths
        return self.encode(target, trailing_dims=1 if ambiguous else None)

    def settle(self, target: Tensor, trailing_dims: int | None) -> Tensor:
        if target.is_floating_point() or target.ndim != 2 or trailing_dims:
            return target
        task = replace(self, missing=IGNORE_INDEX)  # the marker that encode_first wrote
        return task.encode(target.cpu(), trailing_dims).to(target.device)

    def _encode_indices(self, target: Tensor) -> Tensor:
        if target.dtype == torch.bool and self.num_classes > 2:
            raise DataError(
                f"The target is bool, but {self} requires class indices. For yes/no labels, set task=binary."
            )
        if target.is_floating_point():
            # Lightning's precision=bf16-true also casts targets; bfloat16 is inexact for many classes
            exact = int(2 / torch.finfo(target.dtype).eps)
            if self.num_classes > exact + 1:
                raise DataError(
                    f"{target.dtype} represents only integers up to {exact} exactly, but there are "
                    f"{self.num_classes} classes. Give class indices as integers."
                )
            target = target.to(torch.promote_types(target.dtype, torch.float32))
        missing = target.isnan()
        if self.missing is not None:
            # the target may be encoded already, with IGNORE_INDEX
            missing = missing | (target == self.missing) | (target == IGNORE_INDEX)
        known = target.masked_fill(missing, 0)
        bad = (known < 0) | (known >= self.num_classes)
        if target.is_floating_point():
            bad = bad | (known != known.round())
        needed = f"class indices must be integers from 0 to {self.num_classes - 1}"
        raise_for_invalid(target, bad, needed, lambda values: self._hint(values - {self.missing}))
        return known.long().masked_fill(missing, IGNORE_INDEX)

    def _hint(self, values: set[float]) -> str:
        lowest, highest = min(values), max(values)
        if not math.isfinite(lowest) or not math.isfinite(highest):
            return ""
        if any(value % 1 for value in values):
            return f"Soft labels must have one column per class: shape (N, {self.num_classes})."
        if lowest == 1 and highest == self.num_classes:
            return "If the labels start at 1, subtract 1."
        if lowest < 0 or {value for value in values if value >= self.num_classes} == {255.0}:
            marker = lowest if lowest < 0 else highest
            return f"If {marker:g} marks a missing label, set task.missing={marker:g}."
        return f"If there are more classes than num_classes={self.num_classes}, increase it."

    def check_values(self, target: Tensor) -> None:
        if target.is_floating_point():
            as_distributions(target, None, self.name)
            return
        bad = ((target < 0) | (target >= self.num_classes)) & (target != IGNORE_INDEX)
        needed = f"class indices must be from 0 to {self.num_classes - 1}, or {IGNORE_INDEX} if missing"
        raise_for_invalid(target, bad, f"{needed}. Pass task.encode(target)")

    def to_hard_labels(self, target: Tensor) -> Tensor:
        if not target.is_floating_point():
            return target
        return target.nan_to_num().argmax(1).masked_fill(target.isnan().any(1), IGNORE_INDEX)

    def predict_from_probabilities(self, probabilities: Tensor) -> Tensor:
        """Return the most probable class, or the median of ordered classes, long (N, ...); -100 for NaN."""
        if self.prior_correction is not None:
            probabilities = probabilities * as_constant(self.prior_correction, probabilities)
        total = probabilities.sum(1)  # propagates NaN, unlike ONNX Runtime's maximum
        if self.ordinal:
            decided = (cumulative_sum(probabilities, 1)[:, :-1] < 0.5 * total.unsqueeze(1)).sum(1)
        else:
            decided = probabilities.max(1).indices  # faster than argmax on the CPU
        return missing_where_nan(decided, total)

    def _decode(self, prediction: Tensor) -> list[Any]:
        return self._names_at(prediction.tolist())
