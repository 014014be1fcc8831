"""Metrics of a task: torchmetrics, given probabilities and canonical targets."""

import warnings
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection, SumMetric
from torchmetrics import classification as tm

from .targets import in_unit
from .tasks import IGNORE_INDEX, Task

RANKING = ("auroc", "map")
"""Metrics of how probabilities rank the samples; the others look at decisions alone."""


class TaskMetric(Metric):
    """One metric of a task as a scalar, computed by torchmetrics; made by `make_metrics`.

    Decisions are taken with the task's thresholds, rankings from the probabilities themselves. A soft
    label counts as its likelier value, .5 as positive. A missing label counts nowhere, a class without
    positives or without negatives in no ranking, a label without positives in no macro mean.
    The value is NaN where no label is known or a probability was NaN.
    """

    def __init__(self, task: Task, name: str) -> None:
        super().__init__()
        self.task, self.ranks = task, name in RANKING
        self.metric, self.support = _made(task, name), _made(task, "support")
        self.nan_count = SumMetric(nan_strategy="disable")

    def update(self, probabilities: Tensor, target: Tensor, decisions: Tensor | None = None) -> None:
        """Take in a batch.

        Args:
            probabilities: (N, num_probabilities, ...).
            target: As `task.encode` returns it.
            decisions: As `task.decide` returns them, where they are known.

        Raises:
            ValueError: shapes or dtypes of something else; on the CPU also values outside [0, 1].
        """
        self.task.check_probabilities(probabilities)
        self.task.check_target(target, probabilities)
        if probabilities.device.type == "cpu" and not in_unit(probabilities):
            # NaN is no value outside: a net that diverged has metrics, which are NaN
            outside = probabilities[(probabilities < 0) | (probabilities > 1)]
            if len(outside):
                raise ValueError(
                    f"Metrics take probabilities, got {outside[0]:g}: pass task.probabilities(logits)."
                )
        self.task.check_values(target)  # on the CPU, where it need not wait
        if probabilities.numel() == 0:
            return
        truth = self.task.harden(target)
        decisions = self.task.decide(probabilities) if decisions is None else decisions
        self.nan_count.update(probabilities.isnan().sum())
        self.support.update(decisions, truth)
        self.metric.update(probabilities if self.ranks else decisions, truth)

    def forward(self, *batch: Tensor) -> Tensor:
        """Take in a batch, and return the value of this batch alone."""
        self.update(*batch)
        alone = self.clone()
        alone.reset()
        alone.update(*batch)
        return alone.compute()

    def compute(self) -> Tensor:
        """The scalar."""
        positives, negatives = self.counts()
        known = positives + negatives > 0
        with warnings.catch_warnings():
            # torchmetrics puts 0 for a class without positives; here the class is left out
            warnings.filterwarnings("ignore", message="No (positive|negative) samples (found )?in target")
            value = self._ranked(known).expand(known.shape) if self.ranks else self.metric.compute()
        if value.ndim:
            value = value[(positives > 0) & (negatives > 0) if self.ranks else positives > 0].mean()
        return value.masked_fill((self.nan_count.compute() > 0) | ~known.any(), torch.nan)

    def counts(self) -> tuple[Tensor, Tensor]:
        """How many positives and negatives of each output there were, (num_outputs,) each."""
        counts = self.support.compute().reshape(-1, 5)
        true_positive, false_positive, true_negative, false_negative, _ = counts.unbind(-1)
        return true_positive + false_negative, true_negative + false_positive

    def _ranked(self, known: Tensor) -> Tensor:
        """The metric per class. A class of which nothing is known stops torchmetrics 1.9 (IndexError):
        in a copy it is given one negative, which leaves it without a ranking."""
        metric = self.metric
        if not bool(known.all()):
            target = torch.where(known, IGNORE_INDEX, 0)
            target = target[:1] if self.task.activation == "softmax" else target.unsqueeze(0)
            metric = metric.clone()
            metric.update(torch.zeros(1, len(known), device=known.device), target)
        value: Tensor = metric.compute()
        return value

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        for metric in (self.metric, self.support, self.nan_count):
            metric.reset()


def _made(task: Task, name: str) -> Metric:
    kind, options = METRICS[task.name][name]
    width = {task.width_field: task.num_probabilities} if task.width_field else {}
    # arguments are not validated: it would sync with the device, and `update` looks at what matters
    return kind(**options, **width, ignore_index=IGNORE_INDEX, validate_args=False)


def make_metrics(task: Task, prefix: str | None = None) -> MetricCollection:
    """The metrics of a task, as a `torchmetrics.MetricCollection`.

    - `accuracy`: of decisions; for multilabel of each label's decision (1 - Hamming loss).
    - `f1_micro`, `f1_macro`: over classes; for binary over the two classes, and `f1` of the positive.
    - `auroc`, `map`: area under ROC, average precision; macro mean over classes (one against the
      rest) or labels.

    `update(probabilities, target)` takes `task.probabilities(logits)` and `task.encode(labels)`.

    Args:
        task: Decides which metrics, and with which thresholds.
        prefix: Put before the names, such as "val/".

    Example:
        >>> from lossselect import Binary
        >>> task = Binary()
        >>> metrics = make_metrics(task)
        >>> metrics.update(torch.tensor([[0.9], [0.2], [0.6]]), task.encode([1, 0, 0]))
        >>> round(metrics.compute()["accuracy"].item(), 4)
        0.6667
    """
    metrics = {name: TaskMetric(task, name) for name in task.metric_names}
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)  # type: ignore[arg-type]


METRICS: dict[str, dict[str, tuple[type[Metric], dict[str, Any]]]] = {
    "binary": {
        "accuracy": (tm.BinaryAccuracy, {}),
        "f1": (tm.BinaryF1Score, {}),
        "f1_micro": (tm.MulticlassF1Score, {"num_classes": 2, "average": "micro"}),
        "f1_macro": (tm.MulticlassF1Score, {"num_classes": 2, "average": "macro"}),
        "auroc": (tm.BinaryAUROC, {}),
        "map": (tm.BinaryAveragePrecision, {}),
        "support": (tm.BinaryStatScores, {}),
    },
    "multiclass": {
        "accuracy": (tm.MulticlassAccuracy, {"average": "micro"}),
        "f1_micro": (tm.MulticlassF1Score, {"average": "micro"}),
        "f1_macro": (tm.MulticlassF1Score, {"average": "macro"}),
        "auroc": (tm.MulticlassAUROC, {"average": "none"}),
        "map": (tm.MulticlassAveragePrecision, {"average": "none"}),
        "support": (tm.MulticlassStatScores, {"average": "none"}),
    },
    "multilabel": {
        "accuracy": (tm.MultilabelAccuracy, {"average": "micro"}),
        "f1_micro": (tm.MultilabelF1Score, {"average": "micro"}),
        "f1_macro": (tm.MultilabelF1Score, {"average": "none"}),
        "auroc": (tm.MultilabelAUROC, {"average": "none"}),
        "map": (tm.MultilabelAveragePrecision, {"average": "none"}),
        "support": (tm.MultilabelStatScores, {"average": "none"}),
    },
}
"""The metrics of each task, with their options. `support` tells of which classes something is known."""
