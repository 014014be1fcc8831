"""Metrics of a task: torchmetrics, given probabilities and canonical targets."""

import warnings
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection, SumMetric
from torchmetrics import classification as tm

from .tasks import IGNORE_INDEX, Task

RANKING = ("auroc", "map")
"""Metrics of how probabilities rank the samples; the others look at decisions alone."""


class TaskMetrics(MetricCollection):
    """Accuracy, F1, AUROC and average precision of a task; made by `make_metrics`.

    Decisions are taken with the task's thresholds, rankings from the probabilities themselves.
    Missing labels are left out. A soft label counts as its likelier value.
    """

    def __init__(self, task: Task, prefix: str | None = None) -> None:
        # arguments are not validated: it would sync with the device; `update` looks at what matters
        common = {"ignore_index": IGNORE_INDEX, "validate_args": False}
        metrics = METRICS[task.name](task.num_outputs, common)
        metrics["nan"] = SumMetric(nan_strategy="disable")
        super().__init__(metrics, prefix=prefix, compute_groups=False)  # type: ignore[arg-type]
        self.task = task

    def update(self, probabilities: Tensor, target: Tensor) -> None:  # type: ignore[override]
        """Take in a batch: probabilities (N, num_outputs, ...), target as `task.encode` returns it.

        Raises:
            ValueError: shapes or dtypes of something else; on the CPU also values outside [0, 1].
        """
        self.task.check_outputs(probabilities, "probabilities")
        self.task.check_target(target, probabilities)
        # NaN is no value outside: a net that diverged has metrics, which are NaN
        outside = (probabilities < 0) | (probabilities > 1)
        if probabilities.device.type == "cpu" and bool(outside.any()):
            raise ValueError(
                f"Metrics take probabilities, got {probabilities[outside][0]:g}: pass "
                "task.probabilities(logits)."
            )
        if probabilities.numel() == 0:
            return
        truth = self.task.harden(target)
        decisions = self.task.decide(probabilities)
        for name, metric in self.items(keep_base=True, copy_state=False):
            if name == "nan":
                metric.update(probabilities.isnan().sum())
            else:
                metric.update(probabilities if name in RANKING else decisions, truth)

    def forward(self, probabilities: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Take in a batch, and return the values of this batch alone."""
        self.update(probabilities, target)
        batch = TaskMetrics(self.task, self.prefix).to(probabilities.device)
        batch.update(probabilities, target)
        return batch.compute()

    def compute(self) -> dict[str, Tensor]:
        """Scalars by name: NaN where no label is known or a probability was NaN.

        A class without positives or without negatives has no ranking: it is left out of `auroc` and
        `map`. A label of which nothing is known is left out of every macro mean.
        """
        metrics = dict(self.items(keep_base=True, copy_state=False))
        undefined = metrics.pop("nan").compute() > 0
        true_positive, false_positive, true_negative, false_negative, _ = (
            metrics.pop("support").compute().unbind(-1)
        )
        positives, negatives = true_positive + false_negative, true_negative + false_positive
        known = positives + negatives > 0
        values = {}
        with warnings.catch_warnings():
            # torchmetrics puts 0 for a class without positives; here the class is left out
            warnings.filterwarnings("ignore", message="No (positive|negative) samples (found )?in target")
            for name, metric in metrics.items():
                if name in RANKING:
                    ranked = _rank(metric, self.task, known).expand(known.shape)
                    values[name] = ranked[(positives > 0) & (negatives > 0)].mean()
                else:
                    value = metric.compute()
                    values[name] = value[known].mean() if value.ndim else value
        undefined = undefined | ~known.any()
        affixed = f"{self.prefix or ''}{{}}{self.postfix or ''}"
        return {
            affixed.format(name): values[name].masked_fill(undefined, torch.nan)
            for name in self.task.metric_names
        }


def _rank(metric: Metric, task: Task, known: Tensor) -> Tensor:
    """The metric per class. A class of which nothing is known stops torchmetrics 1.9 (IndexError): in
    a copy it is given one negative, which leaves it without a ranking."""
    if not bool(known.all()):
        metric = metric.clone()
        shape = (1,) if task.activation == "softmax" else (1, task.num_outputs)
        unknown = (~known).all() if task.activation == "softmax" else ~known
        target = torch.full(shape, IGNORE_INDEX, device=known.device)
        metric.update(torch.zeros(1, task.num_outputs, device=known.device), target.masked_fill(unknown, 0))
    value: Tensor = metric.compute()
    return value


def make_metrics(task: Task, prefix: str | None = None) -> TaskMetrics:
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
    return TaskMetrics(task, prefix)


def _binary(width: int, common: dict[str, Any]) -> dict[str, Metric]:
    two = {"num_classes": 2, **common}
    return {
        "accuracy": tm.BinaryAccuracy(**common),
        "f1": tm.BinaryF1Score(**common),
        "f1_micro": tm.MulticlassF1Score(average="micro", **two),
        "f1_macro": tm.MulticlassF1Score(average="macro", **two),
        "auroc": tm.BinaryAUROC(**common),
        "map": tm.BinaryAveragePrecision(**common),
        "support": tm.BinaryStatScores(**common),
    }


def _multiclass(width: int, common: dict[str, Any]) -> dict[str, Metric]:
    common = {"num_classes": width, **common}
    return {
        "accuracy": tm.MulticlassAccuracy(average="micro", **common),
        "f1_micro": tm.MulticlassF1Score(average="micro", **common),
        "f1_macro": tm.MulticlassF1Score(average="macro", **common),
        "auroc": tm.MulticlassAUROC(average="none", **common),
        "map": tm.MulticlassAveragePrecision(average="none", **common),
        "support": tm.MulticlassStatScores(average="none", **common),
    }


def _multilabel(width: int, common: dict[str, Any]) -> dict[str, Metric]:
    common = {"num_labels": width, **common}
    return {
        "accuracy": tm.MultilabelAccuracy(average="micro", **common),
        "f1_micro": tm.MultilabelF1Score(average="micro", **common),
        "f1_macro": tm.MultilabelF1Score(average="none", **common),
        "auroc": tm.MultilabelAUROC(average="none", **common),
        "map": tm.MultilabelAveragePrecision(average="none", **common),
        "support": tm.MultilabelStatScores(average="none", **common),
    }


METRICS = {"binary": _binary, "multiclass": _multiclass, "multilabel": _multilabel}
"""The metrics of each task. `support` is not reported: it tells of which classes something is known."""
