"""Base class of the tasks."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lossselect.exceptions import ConfigError, DataError, DataTypeError
from lossselect.labels.targets import as_tensor
from lossselect.labels.values import IGNORE_INDEX, label_form
from lossselect.labels.vocabulary import Vocabulary
from lossselect.tasks.fields import check_class_names, per_output
from lossselect.tasks.one_task import OneTask
from lossselect.tasks.tensors import as_constant, check_device, softmax
from lossselect.utils.checks import check_float


class _ClassNames(Vocabulary):
    unseen_message = "is not among the class_names."


@dataclass(frozen=True, kw_only=True)
class Task(OneTask, ABC):
    """Base class of the tasks; create a `Binary`, `Multiclass` or `Multilabel`.

    Logits have shape (N, num_outputs, ...): dimension 1 contains the outputs, and trailing dimensions
    (pixels, time steps) are supported everywhere.
    """

    class_names: Sequence[str] | None = None
    missing: float | None = None
    temperature: float | Sequence[float] = 1.0
    shift: float | Sequence[float] = 0.0
    """Offset subtracted from the logits before the division by the temperature, to undo loss weights."""

    name: ClassVar[str]
    kind: ClassVar[str]
    """Kind of labels of a row: "binary", "multiclass" (one of several) or "multilabel" (any number)."""
    activation: ClassVar[str]
    """Activation of the outputs and form of the loss: "sigmoid" or "softmax"."""
    outputs_are: ClassVar[str]
    """Meaning of the outputs, for the plan."""
    averages: ClassVar[str]
    """Averages of the metrics, for the plan."""
    monitor: ClassVar[str]
    """Metric that selects the best checkpoint: "loss", or a name in `metric_names`."""
    primary_metric: ClassVar[str]
    """Metric shown next to the loss during training."""
    train_metrics: ClassVar[tuple[str, ...]]
    target_spec: ClassVar[str]
    """Description of the canonical target: dtype, shape and values."""
    untuned_rule: ClassVar[str]
    """Description of the decision on uncalibrated logits, for the plan."""
    _width_field: ClassVar[str | None] = None
    """Name of the field for the number of outputs; None if the task implies it."""

    # Defaults for tasks that do not declare these as fields.
    threshold: ClassVar[float | Sequence[float] | None] = None
    top_k: ClassVar[int | None] = None
    min_labels: ClassVar[int] = 0
    ordinal: ClassVar[bool] = False
    prior_correction: ClassVar[Sequence[float] | None] = None

    def __post_init__(self) -> None:
        self._set("class_names", check_class_names(self.class_names, self._num_names, str(self)))
        if self.missing is not None:
            check_float("missing", self.missing)
            if 0 <= self.missing <= (self._num_names - 1 if self.exclusive else 1):
                raise ConfigError(
                    f"missing={self.missing:g} is a valid label. Mark missing labels by another value, "
                    "such as missing=-1."
                )
        count = self.num_probabilities
        check_temperature: Any = partial(per_output, count=count) if self.several_labels else check_float
        self._set("temperature", check_temperature("temperature", self.temperature, minimum=1e-30))
        self._set("shift", per_output("shift", self.shift, count))

    def _as_tensor(self, target: Any) -> Tensor:
        """Convert a target to a tensor, and class names to numbers."""
        form = None if isinstance(target, Tensor) or not self.class_names else label_form(target)
        if self.several_labels and self.class_names and isinstance(target, list) and target:
            form = "lists" if all(entry is None for entry in target) else form
        if form is None:
            return as_tensor(target)
        if (form == "lists") != self.several_labels:
            received, fix = "one name per row", "Put each name in a list."
            if form == "lists":
                received, fix = "lists of names", "If rows have several labels, set task=multilabel."
            raise DataError(f"The target contains {received}, but the task is {self}. {fix}")
        vocabulary = _ClassNames(self.names)
        if form == "lists":
            return vocabulary.encode_lists(target).to_dense()
        indices = vocabulary.encode(target)
        return as_tensor(np.where(indices == IGNORE_INDEX, np.nan, indices))

    @classmethod
    def is_sized(cls) -> bool:
        """Return whether the number of outputs is declared, not implied by the task."""
        return cls._width_field is not None

    @property
    def exclusive(self) -> bool:
        """True if exactly one class of a row is true."""
        return self.activation == "softmax"

    @property
    def several_labels(self) -> bool:
        """True if a row may have several labels."""
        return self.kind == "multilabel"

    @property
    def positive_name(self) -> str | None:
        """Name of the positive class if a single output is its probability (binary tasks), else None."""
        return self.names[1] if self._num_names > self.num_probabilities else None

    @abstractmethod
    def decision_rule(self, tuned_for: str | None = None, each: bool = False) -> str:
        """Describe the decision from probabilities to predictions, for the plan.

        `tuned_for` is the metric that thresholds or class factors are tuned for; `each` is whether each label
        has its own threshold.
        """

    @property
    @abstractmethod
    def metric_names(self) -> tuple[str, ...]:
        """Names of the metrics that `make_metrics` computes."""

    @property
    def num_probabilities(self) -> int:
        """Number of probabilities per row."""
        return getattr(self, self._width_field) if self._width_field else 1

    @property
    def num_outputs(self) -> int:
        """Number of outputs of the head: `num_probabilities`, or one less for ordered classes."""
        return self.num_probabilities

    @property
    def _num_names(self) -> int:
        return self.num_probabilities

    @property
    def names(self) -> tuple[str, ...]:
        """Class names; "0", "1", ... by default."""
        return tuple(self.class_names or map(str, range(self._num_names)))

    @property
    def output_names(self) -> tuple[str, ...]:
        """Class or label name of each probability; for a binary task only the positive class."""
        return self.names[-self.num_probabilities :]

    @abstractmethod
    def __str__(self) -> str:
        """Describe the task for messages, such as "multilabel with 14 labels"."""

    @abstractmethod
    def encode(self, target: Any, trailing_dims: int | None = None) -> Tensor:
        """Return the canonical target; `trailing_dims` is the number of trailing dimensions of the logits.

        Raises:
            DataError: another shape or value; names the row and the fix.
            DataTypeError: labels that are not numbers.
        """

    def encode_first(self, target: Any) -> Tensor:
        """Encode a target before the logits are known; `settle` completes it."""
        return self.encode(target)

    def encode_tensor(self, target: Any, trailing_dims: int | None = None) -> Tensor:
        """Return the canonical target; if `trailing_dims` is unknown, `settle` completes it."""
        return self.encode_first(target) if trailing_dims is None else self.encode(target, trailing_dims)

    def settle(self, target: Tensor, trailing_dims: int | None) -> Tensor:
        """Complete a target from `encode_first` to the result of `encode`."""
        return target

    @abstractmethod
    def to_hard_labels(self, target: Tensor) -> Tensor:
        """Convert a canonical target to hard integer labels; `IGNORE_INDEX` where missing."""

    def to_one_hot(self, target: Tensor) -> Tensor:
        """Return a canonical target as floats (N, num_probabilities, ...), NaN where missing."""
        if target.is_floating_point():
            return target
        missing = target == IGNORE_INDEX
        known = target.masked_fill(missing, 0).unsqueeze(1)
        shape = (len(target), self.num_probabilities, *target.shape[1:])
        rows = torch.zeros(shape, device=target.device).scatter_(1, known, 1)
        return rows.masked_fill(missing.unsqueeze(1), torch.nan)

    @abstractmethod
    def predict_from_probabilities(self, probabilities: Tensor) -> Tensor:
        """Return the prediction for probabilities (N, num_probabilities, ...); -100 for NaN."""

    def decode(self, prediction: Any) -> list[Any]:
        """Return the class names of a prediction: a tensor, array or list.

        Each row becomes a name, or for a multilabel task the list of its labels; None if the label, or every
        label of the row, is missing. With trailing dimensions, names are in nested lists.

        Raises:
            ConfigError: probabilities, or another shape or index.
        """
        prediction = torch.as_tensor(prediction)
        if not prediction.is_floating_point():
            return self._decode(prediction)
        is_target = (prediction == 0) | (prediction == 1) | prediction.isnan()
        if self.exclusive or not bool(is_target.all()):
            raise ConfigError(
                "decode expects predictions, not probabilities. Call task.predict(logits) or "
                "task.predict_from_probabilities(probabilities) first."
            )
        return self._decode(self.to_hard_labels(prediction))

    @abstractmethod
    def _decode(self, prediction: Tensor) -> list[Any]:
        """Return the class names of a prediction of integers."""

    def _names_at(self, indices: Any) -> Any:
        """Return the names of indices in nested lists; None where the label is missing."""
        if isinstance(indices, list):
            return [self._names_at(index) for index in indices]
        if indices == IGNORE_INDEX:
            return None
        if not 0 <= indices < len(self.names):
            raise ConfigError(
                f"Class index {indices} is out of range: it must be from 0 to {len(self.names) - 1}, or "
                f"{IGNORE_INDEX} if missing."
            )
        return self.names[indices]

    def class_logits(self, logits: Tensor) -> Tensor:
        """Return the logits that activation and loss are applied to, (N, num_probabilities, ...)."""
        return logits

    def calibrated_logits(self, logits: Tensor) -> Tensor:
        """Return (class_logits - shift) / temperature, in float32 or wider."""
        self.check_logits(logits)
        scores = self.class_logits(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        if self.shift != 0:
            scores = scores - as_constant(self.shift, scores)
        return scores if self.temperature == 1 else scores / as_constant(self.temperature, scores)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return sigmoid or softmax of the calibrated logits, (N, num_probabilities, ...)."""
        scores = self.calibrated_logits(logits)
        return scores.sigmoid() if self.activation == "sigmoid" else softmax(scores)

    def log_odds(self, logits: Tensor) -> Tensor:
        """Return log p - log(1 - p), which ranks rows even if p rounds to 1; without a gradient."""
        scores = self.calibrated_logits(logits.detach())
        if self.activation == "sigmoid":
            return scores
        # classes first: torch's kernels are slow for many short rows
        log_p = scores.movedim(1, 0).contiguous().log_softmax(0)
        # for the most probable class, 1 - p is the sum of the other, small probabilities
        top = log_p.max(0, keepdim=True).indices
        log_others = log_p.scatter(0, top, -math.inf).logsumexp(0, keepdim=True)
        log_q = log_p.exp().neg_().log1p_().scatter_(0, top, log_others)
        return log_p.sub_(log_q).movedim(0, 1).contiguous()

    def mean_logits(
        self,
        logits: Tensor,
        weights: Tensor | None = None,
        shifts: Tensor | None = None,
        temperatures: Tensor | None = None,
    ) -> Tensor:
        """Return the logits of the weighted mean probability of K nets, in float32 or wider.

        Under softmax, the logarithm of sum_k w_k softmax((z_k - s_k) / T_k); under sigmoid, the log-odds of
        sum_k w_k sigmoid((z_k - s_k) / T_k).

        Args:
            logits: The raw logits z of the nets, (N, K, num_outputs).
            weights: The weights w (K,), which are > 0 and sum to 1; None for equal weights.
            shifts: The shifts s of the class logits, (K, num_probabilities); None for 0.
            temperatures: The temperatures T, (K, num_probabilities) or (K, 1); None for 1.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        scores = self.class_logits(logits.transpose(1, 2)).transpose(1, 2)  # classes are in dimension 1
        scores = scores if shifts is None else scores - shifts
        scores = scores if temperatures is None else scores / temperatures
        if weights is None:
            weights = scores.new_full((scores.shape[1],), 1 / scores.shape[1])
        log_weights = weights.log()[:, None]
        if self.activation == "softmax":
            return self._from_class_logits((scores.log_softmax(-1) + log_weights).logsumexp(1))
        positive, negative = (logsigmoid(z) + log_weights for z in (scores, -scores))
        return self._from_class_logits(positive.logsumexp(1) - negative.logsumexp(1))

    def _from_class_logits(self, class_logits: Tensor) -> Tensor:
        """Return logits (N, num_outputs) with these `class_logits`, under softmax up to a constant."""
        return class_logits

    def predict(self, logits: Tensor) -> Tensor:
        """Return predictions (long): 0/1 (N, 1, ...), class indices (N, ...) or 0/1 per label (N, L, ...).

        The prediction is -100 (`IGNORE_INDEX`, which `decode` converts to None) if its logit is NaN, or under
        softmax, if any logit of the row is NaN or +inf. Under sigmoid, infinite logits are valid.
        """
        return self.predict_from_probabilities(self.probabilities(logits))

    def check_logits(self, logits: Tensor) -> None:
        """Raise an error unless `logits` are a tensor of floats of shape (N, num_outputs, ...)."""
        self._check_width(logits, "logits", self.num_outputs)

    def check_probabilities(self, probabilities: Tensor) -> None:
        """Raise an error unless they are a tensor of floats of shape (N, num_probabilities, ...)."""
        self._check_width(probabilities, "probabilities", self.num_probabilities)

    def _check_width(self, outputs: Tensor, kind: str, width: int) -> None:
        if not hasattr(outputs, "is_floating_point"):  # `ChunkedLogits` are not a tensor, but like one
            raise DataTypeError(f"Expected a tensor as {kind}, got {type(outputs).__name__}.")
        if outputs.is_floating_point() and outputs.ndim >= 2 and outputs.shape[1] == width:
            return
        shape = tuple(outputs.shape)
        if not outputs.is_floating_point():
            fix = f"Pass {kind}, not predictions."
            raise ConfigError(
                f"Expected float {kind} for {self}, got {outputs.dtype} of shape {shape}. {fix}"
            )
        fix = "Build the last layer with task.num_outputs."
        if outputs.ndim < 2 and width == 1:
            fix = "Keep the last dimension: do not squeeze() the output, or set class_dim=None of TaskModule."
        elif outputs.ndim > 2 and outputs.shape[-1] == width:
            fix = "If the classes are last, set class_dim=-1 of TaskModule, or return outputs.movedim(-1, 1)."
        elif width == 1 and outputs.ndim >= 2 and outputs.shape[1] == 2:
            fix = "The single output is that of the positive class. For two outputs, set task=multiclass."
        raise ConfigError(f"Expected {kind} of shape (N, {width}) for {self}, got {shape}. {fix}")

    def check_target(self, target: Tensor, outputs: Tensor) -> Tensor:
        """Return a canonical target in the shape that fits these logits or probabilities.

        If the outputs have trailing dimensions, dimensions of size 1 are added or removed. Values remain
        unchecked.

        Raises:
            DataTypeError: not a tensor.
            DataError: another shape or dtype.
            ConfigError: another device.
        """
        if not isinstance(target, Tensor):
            raise DataTypeError(
                f"Expected a tensor as target, got {type(target).__name__}. Call task.encode(target) first."
            )
        index = self.activation == "softmax" and not target.is_floating_point()
        columns = () if index else (self.num_probabilities,)
        shape = torch.Size((len(outputs), *columns, *outputs.shape[2:]))
        if target.shape != shape and outputs.ndim > 2 and target.shape[:1] == shape[:1]:
            sizes, expected = ([size for size in each if size != 1] for each in (target.shape[1:], shape[1:]))
            target = target.reshape(shape) if sizes == expected else target
        dtype_fits = target.dtype == torch.long if index else target.is_floating_point()
        if target.shape != shape or not dtype_fits:
            fix = "Pass task.encode(target), and one row of outputs per row of the target."
            if index and target.ndim > 2 and target.shape == outputs.shape:
                fix = "One-hot targets with trailing dimensions must be floats: pass target.float()."
            elif self.activation == "softmax" and target.ndim == outputs.ndim:
                fix += " If rows have several labels, set task=multilabel."
            kind = "floats" if self.activation == "sigmoid" else "class indices (long) or soft labels"
            raise DataError(
                f"For outputs of shape {tuple(outputs.shape)}, the {self.name} target must be {kind} of "
                f"shape {tuple(shape)}, got {target.dtype} of shape {tuple(target.shape)}. {fix}"
            )
        check_device(target, outputs)
        return target

    @abstractmethod
    def check_values(self, target: Tensor) -> None:
        """Raise a DataError for a value that is invalid in a canonical target; only checks on the CPU."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint; `make_task(**values)` recreates the task."""
        values: dict[str, Any] = {"name": self.name, "num_outputs": self.num_probabilities}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != self._width_field:
                values[field.name] = list(value) if isinstance(value, tuple) else value
        return values

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen
