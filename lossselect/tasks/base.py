"""What all tasks share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lossselect.exceptions import ConfigError, DataError, DataTypeError
from lossselect.labels.targets import as_tensor
from lossselect.labels.values import IGNORE_INDEX, label_form
from lossselect.labels.vocabulary import Vocabulary
from lossselect.tasks.fields import check_class_names, per_output
from lossselect.tasks.tensors import as_constant, softmax
from lossselect.utils.checks import check_float


class _ClassNames(Vocabulary):
    unseen_message = "is not among the class_names."


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """What all tasks share; use `Binary`, `Multiclass` or `Multilabel`.

    Logits have shape (N, num_outputs, ...): the class dimension is 1, and trailing dimensions
    (pixels, time steps) are allowed everywhere.
    """

    class_names: Sequence[str] | None = None
    missing: float | None = None
    temperature: float | Sequence[float] = 1.0
    shift: float | Sequence[float] = 0.0
    """Subtracted from the scores before they are divided by the temperature: what weights of the loss add."""

    name: ClassVar[str]
    kind: ClassVar[str]
    """What the labels of a row are: "binary", "multiclass" (one of several) or "multilabel" (any number)."""
    activation: ClassVar[str]
    """ "sigmoid" or "softmax": which form of a loss the task takes."""
    outputs_are: ClassVar[str]
    """What the outputs stand for, for the plan."""
    averages: ClassVar[str]
    """How the metrics are averaged, for the plan."""
    monitor: ClassVar[str]
    """By which the best checkpoint is chosen: "loss", or a metric of `make_metrics`."""
    primary_metric: ClassVar[str]
    """The metric that is shown beside the loss during a run."""
    train_metrics: ClassVar[tuple[str, ...]]
    target_spec: ClassVar[str]
    """The canonical target, in words."""
    untuned_rule: ClassVar[str]
    """How a prediction follows from uncalibrated logits, in words."""
    _width_field: ClassVar[str | None] = None
    """The field that declares the width; None if the task implies it."""

    # fields of some tasks, which document them; these are the values of tasks that lack them
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
                    f"missing={self.missing:g} is a label itself; mark missing labels by another value, "
                    "such as -1."
                )
        count = self.num_probabilities
        check_temperature: Any = partial(per_output, count=count) if self.several_labels else check_float
        self._set("temperature", check_temperature("temperature", self.temperature, minimum=1e-30))
        self._set("shift", per_output("shift", self.shift, count))

    def _as_tensor(self, target: Any) -> Tensor:
        """Return a target as a tensor, with numbers in place of class names."""
        form = None if isinstance(target, Tensor) or not self.class_names else label_form(target)
        if self.several_labels and self.class_names and isinstance(target, list) and target:
            form = "lists" if all(entry is None for entry in target) else form
        if form is None:
            return as_tensor(target)
        if (form == "lists") != self.several_labels:
            received, fix = "one name a row", "Put each in a list."
            if form == "lists":
                received, fix = "lists of names", "Several labels per sample: task=multilabel."
            raise DataError(f"The target holds {received}, but the task is {self}. {fix}")
        vocabulary = _ClassNames(self.names)
        if form == "lists":
            return vocabulary.encode_lists(target).to_dense()
        indices = vocabulary.encode(target)
        return as_tensor(np.where(indices == IGNORE_INDEX, np.nan, indices))

    @classmethod
    def is_sized(cls) -> bool:
        """Whether the number of outputs is declared, not implied by the task."""
        return cls._width_field is not None

    @property
    def exclusive(self) -> bool:
        """Whether exactly one class of a row is true."""
        return self.activation == "softmax"

    @property
    def several_labels(self) -> bool:
        """Whether a row may have several labels."""
        return self.kind == "multilabel"

    @property
    def positive_name(self) -> str | None:
        """The class whose probability a single output stands for; None unless there are two names for it."""
        return self.names[1] if self._num_names > self.num_probabilities else None

    @abstractmethod
    def decision_rule(self, tuned_for: str | None = None, each: bool = False) -> str:
        """Describe how a prediction follows from probabilities.

        `tuned_for` is the metric that thresholds (of `each` label or of all) or factors are tuned for.
        """

    @property
    @abstractmethod
    def metric_names(self) -> tuple[str, ...]:
        """What `make_metrics` computes."""

    @property
    def num_probabilities(self) -> int:
        """How many probabilities there are of a sample."""
        return getattr(self, self._width_field) if self._width_field else 1

    @property
    def num_outputs(self) -> int:
        """Width of the head: `num_probabilities`, but for ordered classes."""
        return self.num_probabilities

    @property
    def _num_names(self) -> int:
        return self.num_probabilities

    @property
    def names(self) -> tuple[str, ...]:
        """The class names; "0", "1", ... where none were given."""
        return tuple(self.class_names or map(str, range(self._num_names)))

    @property
    def output_names(self) -> tuple[str, ...]:
        """The name of what each probability is of; for binary the positive class's."""
        return self.names[-self.num_probabilities :]

    @abstractmethod
    def __str__(self) -> str:
        """Return the task with its width, for messages: "multilabel with 14 labels"."""

    @abstractmethod
    def encode(self, target: Any, trailing_dims: int | None = None) -> Tensor:
        """Return the canonical target; `trailing_dims` are those of the logits after the classes, if known.

        Raises:
            ValueError: another shape or value; names the row and the fix.
            TypeError: labels that are not numbers.
        """

    def encode_first(self, target: Any) -> Tensor:
        """Encode a target before the logits are known; `settle` completes it."""
        return self.encode(target)

    def settle(self, target: Tensor, trailing_dims: int | None) -> Tensor:
        """Return what `encode` would return, given the result of `encode_first`."""
        return target

    @abstractmethod
    def to_hard_labels(self, target: Tensor) -> Tensor:
        """Return a canonical target as a prediction: soft labels rounded, `IGNORE_INDEX` where missing."""

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
        """Return the class names of a prediction, which is a tensor, array or list.

        An entry per row: a name, or for a multilabel task the list of the labels that are present; None where
        the label, or each label of the row, is missing. With trailing dimensions, names in nested lists.
        """
        prediction = torch.as_tensor(prediction)
        if not prediction.is_floating_point():
            return self._decode(prediction)
        is_target = (prediction == 0) | (prediction == 1) | prediction.isnan()
        if self.exclusive or not bool(is_target.all()):
            raise ConfigError(
                "decode takes predictions, not probabilities: task.predict(logits), or "
                "task.predict_from_probabilities(probabilities)."
            )
        return self._decode(self.to_hard_labels(prediction))

    @abstractmethod
    def _decode(self, prediction: Tensor) -> list[Any]:
        """Decode a tensor of integers."""

    def _names_at(self, indices: Any) -> Any:
        """Return the names of indices in nested lists; None where the label is missing."""
        if isinstance(indices, list):
            return [self._names_at(index) for index in indices]
        if indices == IGNORE_INDEX:
            return None
        if not 0 <= indices < len(self.names):
            raise ConfigError(
                f"There is no class {indices}: decode takes 0 to {len(self.names) - 1}, {IGNORE_INDEX} if "
                "missing."
            )
        return self.names[indices]

    def class_logits(self, logits: Tensor) -> Tensor:
        """Return the input of activation and loss, (N, num_probabilities, ...)."""
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
        """Return log p - log(1 - p), which ranks also where p rounds to 1; without a gradient."""
        scores = self.calibrated_logits(logits.detach())
        if self.activation == "sigmoid":
            return scores
        # classes first: torch's kernels go through short rows one by one
        log_p = scores.movedim(1, 0).contiguous().log_softmax(0)
        # 1 - p of the likeliest class is the sum of the other, small probabilities
        top = log_p.max(0, keepdim=True).indices
        log_others = log_p.scatter(0, top, -math.inf).logsumexp(0, keepdim=True)
        log_q = log_p.exp().neg_().log1p_().scatter_(0, top, log_others)
        return log_p.sub_(log_q).movedim(0, 1).contiguous()

    def predict(self, logits: Tensor) -> Tensor:
        """Return long 0/1 (N, 1, ...) for binary, class indices (N, ...), or 0/1 per label (N, L, ...).

        -100 (`IGNORE_INDEX`, which `decode` turns into None) for a NaN logit of the output, and under softmax
        for a NaN or +inf among the logits of the sample. Under sigmoid infinite logits are decided.
        """
        return self.predict_from_probabilities(self.probabilities(logits))

    def check_logits(self, logits: Tensor) -> None:
        """Raise ValueError unless `logits` are floats of shape (N, num_outputs, ...)."""
        self._check_width(logits, "logits", self.num_outputs)

    def check_probabilities(self, probabilities: Tensor) -> None:
        """Raise ValueError unless they are floats of shape (N, num_probabilities, ...)."""
        self._check_width(probabilities, "probabilities", self.num_probabilities)

    def _check_width(self, outputs: Tensor, kind: str, width: int) -> None:
        if outputs.is_floating_point() and outputs.ndim >= 2 and outputs.shape[1] == width:
            return
        fix = "Build its last layer with task.num_outputs."
        if not outputs.is_floating_point():
            fix = f"They are {outputs.dtype}: {kind} are floats, before any decision."
        elif outputs.ndim < 2 and width == 1:
            fix = "Keep the last dimension: no squeeze() at the end of forward."
        elif width == 1 and outputs.ndim >= 2 and outputs.shape[1] == 2:
            fix = "One output is the positive class's; for two use task=multiclass."
        raise ConfigError(
            f"The net returned {kind} of shape {tuple(outputs.shape)}, but {self} needs (N, {width}). {fix}"
        )

    def check_target(self, target: Tensor, outputs: Tensor) -> Tensor:
        """Return a canonical target in the shape that fits these logits or probabilities.

        Dimensions of size 1 are added or removed where the outputs have trailing dimensions. ValueError for
        another shape, dtype or device, TypeError unless it is a tensor; values are not checked.
        """
        if not isinstance(target, Tensor):
            raise DataTypeError(
                f"The target is a {type(target).__name__}, no tensor: pass task.encode(target)."
            )
        index = self.activation == "softmax" and not target.is_floating_point()
        columns = () if index else (self.num_probabilities,)
        shape = torch.Size((len(outputs), *columns, *outputs.shape[2:]))
        if target.shape != shape and outputs.ndim > 2 and target.shape[:1] == shape[:1]:
            sizes, expected = ([size for size in each if size != 1] for each in (target.shape[1:], shape[1:]))
            target = target.reshape(shape) if sizes == expected else target
        dtype_fits = target.dtype == torch.long if index else target.is_floating_point()
        if target.shape != shape or not dtype_fits:
            fix = "Pass task.encode(target), and a row of outputs for each row of the target."
            if index and target.ndim > 2 and target.shape == outputs.shape:
                fix = "One-hot targets with trailing dimensions are floats: pass target.float()."
            elif self.activation == "softmax" and target.ndim == outputs.ndim:
                fix += " Several labels per sample belong to task=multilabel."
            kind = "floats" if self.activation == "sigmoid" else "class indices (long) or soft labels"
            raise DataError(
                f"For outputs of shape {tuple(outputs.shape)} the {self.name} target is {kind} of shape "
                f"{tuple(shape)}, got {target.dtype} of shape {tuple(target.shape)}. {fix}"
            )
        if target.device != outputs.device:
            raise ConfigError(
                f"The outputs are on {outputs.device}, the target is on {target.device}. Move one."
            )
        return target

    @abstractmethod
    def check_values(self, target: Tensor) -> None:
        """Raise ValueError for a value that no canonical target has; only checks targets on the CPU."""

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
