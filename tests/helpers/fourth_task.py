"""A fourth task, as a contributor might add it: one module and one entry in TASKS."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossselect.exceptions import DataError
from lossselect.labels.values import IGNORE_INDEX
from lossselect.tasks.base import Task
from lossselect.tasks.tensors import as_constant


@dataclass(frozen=True)
class AtMostOne(Task):
    """At most one of L labels: L sigmoid outputs; the largest is predicted if it reaches its threshold."""

    num_labels: int
    threshold: float | Sequence[float] = field(default=0.5, kw_only=True)

    name: ClassVar[str] = "at_most_one"
    kind: ClassVar[str] = "multilabel"
    activation: ClassVar[str] = "sigmoid"
    monitor: ClassVar[str] = "loss"
    primary_metric: ClassVar[str] = "f1_macro"
    train_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1_macro")
    _width_field: ClassVar[str | None] = "num_labels"
    target_spec: ClassVar[str] = "float (N, L) of 0 and at most one 1"
    outputs_are: ClassVar[str] = "one logit per label"
    averages: ClassVar[str] = "f1_macro is a mean over labels"
    untuned_rule: ClassVar[str] = "the largest logit, if it is >= 0"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.threshold, float):  # a list, from a checkpoint
            object.__setattr__(self, "threshold", tuple(self.threshold))

    @property
    def metric_names(self) -> tuple[str, ...]:
        return (*self.train_metrics, "exact_match", "auroc")

    def decision_rule(self, tuned_for: str | None = None, each: bool = False) -> str:
        return f"at most one label, by thresholds{f' tuned for {tuned_for}' if tuned_for else ''}"

    def __str__(self) -> str:
        return f"at most one of {self.num_labels} labels"

    def encode(self, target: Any, trailing_dims: int | None = None) -> Tensor:
        target = torch.as_tensor(target, dtype=torch.float32)
        if bool((target.sum(1) > 1).any()):
            row = int((target.sum(1) > 1).nonzero()[0])
            raise DataError(
                f"Row {row} of the target has several labels, but at most one is possible.", row=row
            )
        return target

    def check_values(self, target: Tensor) -> None:
        self.encode(target)

    def to_hard_labels(self, target: Tensor) -> Tensor:
        return (target >= 0.5).long().masked_fill(target.isnan(), IGNORE_INDEX)

    def predict_from_probabilities(self, probabilities: Tensor) -> Tensor:
        reached = probabilities >= as_constant(self.threshold, probabilities)
        largest = torch.zeros_like(reached).scatter_(1, probabilities.argmax(1, keepdim=True), True)
        return (reached & largest).long()

    def _decode(self, prediction: Tensor) -> list[Any]:
        return [[name for name, one in zip(self.names, row, strict=True) if one] for row in prediction]
