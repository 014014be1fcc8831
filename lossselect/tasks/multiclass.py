"""The task of exactly one of several classes: multiclass."""

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
    """Exactly one of C classes: C outputs, whose softmax is the classes' probabilities.

    Canonical target: long (N, ...) class indices, -100 where missing; for soft labels float
    (N, C, ...) whose rows sum to 1, NaN where missing.

    Args:
        num_classes: C, at least 2.
        class_names: C distinct names.
        missing: A value that marks a missing label, besides NaN; not even -100 by default.
        temperature: Divides the logits before the softmax, > 0.
        shift: Subtracted from the logits before that, to undo the effect of weights of the loss; one or one
            per output.
        prior_correction: C factors > 0 of the probabilities before the largest is taken; 1 / class frequency
            minimises the balanced error.
        ordinal: Whether the classes have an order, as grades have. Then there are C - 1 outputs, output k
            being the log-odds of a class above k given at least k (CORN, Shi et al., 2023,
            arXiv:2111.08851), and the prediction is the median class.

    Raises:
        ValueError: fewer than 2 classes, names or factors that do not match, `missing` that is a class.

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
    outputs_are = "one for each class"
    averages = (
        "f1_micro pools all predictions, auroc and average_precision are means over the classes that "
        "occur, f1_macro over those that occur or are predicted"
    )
    activation = "softmax"
    untuned_rule = "the class of the largest logit"
    monitor = "loss"
    primary_metric = "accuracy"
    train_metrics = ("accuracy", "f1_micro", "f1_macro", "auroc", "average_precision")
    _width_field = "num_classes"
    target_spec = "long (N,) class indices, -100 where missing; float (N, C) for soft labels"

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
            return f"{rule}, by factors tuned on val for {tuned_for}"
        if self.prior_correction:
            factors = shorten([f"{factor:.3g}" for factor in self.prior_correction])
            return f"{rule}, of probabilities times {factors}"
        return rule

    def __str__(self) -> str:
        return f"multiclass with {self.num_classes} {'ordered ' if self.ordinal else ''}classes"

    def class_logits(self, logits: Tensor) -> Tensor:
        """Return the logits, for ordered classes log p_c = sum_{k < c} log q_k + log(1 - q_c), q = sigmoid.

        Softmax leaves log-probabilities as they are: every softmax loss takes them, and cross-entropy is
        CORN's likelihood, a mean over samples.
        """
        if not self.ordinal:
            return logits
        end = torch.zeros_like(logits[:, :1])
        above = cumulative_sum(logsigmoid(logits), 1)
        return torch.cat([end, above], 1) + torch.cat([logsigmoid(-logits), end], 1)

    def encode(self, target: Any, trailing_dims: int | None = None) -> Tensor:
        """Return the canonical target: long (N, ...) class indices, or float (N, C, ...) for soft labels.

        Accepts class indices of any dtype (bool for two classes) and shape (N,), (N, 1) or (N, ...); one-hot
        rows (N, C); floats (N, C, ...) whose rows sum to 1; class names (N,), if the task has them. With
        three or more dimensions integers are indices.

        Integers (N, C) may be one-hot rows, or the indices of C positions per sample. `trailing_dims`, how
        many dimensions the logits have after that of the classes, decides: 0 or 1. Without it they are
        one-hot rows if each row has a single 1 and 0 elsewhere, which a warning reports, and indices if they
        have other values; 0 and 1 in other rows are an error. This copies a target on a device to the CPU.
        """
        target = self._as_tensor(target)
        soft = target.is_floating_point()
        if target.ndim == 0:
            raise DataError(f"Multiclass targets have an entry per sample, got a single {target.item():g}.")
        if target.ndim == 2 and target.shape[1] == 1 and not trailing_dims:
            target = target.squeeze(1)
        if target.ndim >= 2 and target.shape[1] == self.num_classes and self._is_rows(target, trailing_dims):
            note = "Class indices of positions, for logits (N, C, T): encode(target, trailing_dims=1)."
            ambiguous = not soft and trailing_dims is None
            rows = as_distributions(target, self.missing, self.name, note if ambiguous else "")
            # indices give the same loss as one-hot rows; checking values on a device would make it wait
            is_soft = soft and (target.device.type != "cpu" or bool(((rows > 0) & (rows < 1)).any()))
            return rows if is_soft else self.to_hard_labels(rows)
        if target.ndim == 2 and soft and trailing_dims != 1:
            raise DataError(
                f"Multiclass targets are indices (N,) or rows (N, num_classes)=(N, {self.num_classes}), got "
                f"floats of shape {tuple(target.shape)}. Declare as many classes as there are columns; "
                "several labels per sample are task=multilabel; indices of a sequence (N, T) are integers."
            )
        return self._encode_indices(target)

    def _is_rows(self, target: Tensor, trailing_dims: int | None) -> bool:
        """Whether a target of shape (N, C, ...) has a row of C values per sample or position."""
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
        task = replace(self, missing=IGNORE_INDEX)  # encode_first has marked missing labels by that
        return task.encode(target.cpu(), trailing_dims).to(target.device)

    def _encode_indices(self, target: Tensor) -> Tensor:
        if target.dtype == torch.bool and self.num_classes > 2:
            raise DataError(f"The target is bool, but {self} needs indices. Yes or no: task=binary.")
        if target.is_floating_point():
            # Lightning's precision=bf16-true also casts targets; bfloat16 may not have the number of classes
            exact = int(2 / torch.finfo(target.dtype).eps)
            if self.num_classes > exact + 1:
                raise DataError(
                    f"{target.dtype} holds whole numbers up to {exact} alone, but there are "
                    f"{self.num_classes} classes: give class indices as integers."
                )
            target = target.to(torch.promote_types(target.dtype, torch.float32))
        missing = target.isnan()
        if self.missing is not None:
            # IGNORE_INDEX: the target may be encoded already
            missing = missing | (target == self.missing) | (target == IGNORE_INDEX)
        known = target.masked_fill(missing, 0)
        bad = (known < 0) | (known >= self.num_classes)
        if target.is_floating_point():
            bad = bad | (known != known.round())
        needed = f"a class index is a whole number from 0 to {self.num_classes - 1}"
        raise_for_invalid(target, bad, needed, lambda values: self._hint(values - {self.missing}))
        return known.long().masked_fill(missing, IGNORE_INDEX)

    def _hint(self, values: set[float]) -> str:
        lowest, highest = min(values), max(values)
        if not math.isfinite(lowest) or not math.isfinite(highest):
            return ""
        if any(value % 1 for value in values):
            return f"Soft labels have a column per class: shape (N, {self.num_classes})."
        if lowest == 1 and highest == self.num_classes:
            return "The labels seem to count from 1: subtract 1."
        if lowest < 0:
            return f"If {lowest:g} marks a missing label, declare it with missing={lowest:g}."
        return f"Is num_classes={self.num_classes} too few?"

    def check_values(self, target: Tensor) -> None:
        if target.is_floating_point():
            as_distributions(target, None, self.name)
            return
        bad = ((target < 0) | (target >= self.num_classes)) & (target != IGNORE_INDEX)
        needed = f"a class index is from 0 to {self.num_classes - 1}, or {IGNORE_INDEX} where missing"
        raise_for_invalid(target, bad, f"{needed}: pass task.encode(target)")

    def to_hard_labels(self, target: Tensor) -> Tensor:
        if not target.is_floating_point():
            return target
        return target.nan_to_num().argmax(1).masked_fill(target.isnan().any(1), IGNORE_INDEX)

    def predict_from_probabilities(self, probabilities: Tensor) -> Tensor:
        """Return the most probable class, or the median of ordered ones, long (N, ...); -100 for NaN."""
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
