"""Metrics of a task: torchmetrics, given probabilities and canonical targets."""

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lossselect.compat.torchmetrics import forget_forward_value, is_synced
from lossselect.metrics.registry import RANKING, f1, make_metric
from lossselect.metrics.stat_scores import ConfusionMatrix
from lossselect.metrics.task_metric import MetricInput, Summary, TaskMetric, metric_input
from lossselect.tasks.registry import IGNORE_INDEX, Task, as_task
from lossselect.utils.checks import lookup


class TaskMetrics(MetricCollection):
    """The metrics of a task, a `torchmetrics.MetricCollection`.

    Each metric has states of its own and can be used without the others. As long as metrics with the same
    statistic have seen the same batches they hold the same tensors, which are computed, and gathered from
    other processes, once. torchmetrics' compute groups would save the same, but overwrite what a metric has
    seen on its own.
    """

    def __init__(self, task: Task, names: Sequence[str], prefix: str | None) -> None:
        metrics = {name: make_metric(task, name) for name in names}
        super().__init__(metrics, prefix=prefix, compute_groups=False)  # type: ignore[arg-type]
        self.task = task
        self.share()

    def update(  # type: ignore[override]
        self,
        probabilities: Tensor,
        target: Tensor,
        predictions: Tensor | None = None,
        log_odds: Tensor | None = None,
    ) -> None:
        """Add a batch. Metrics that were added to the collection get probabilities and target.

        Args:
            probabilities: `task.probabilities(logits)`, (N, num_probabilities, ...).
            target: `task.encode(labels)`.
            predictions: As `task.predict_from_probabilities` returns them, which is the default.
            log_odds: `task.log_odds(logits)`, by which samples are ranked. A float32 probability is exactly 1
                from a logit of 17 on, and samples with the same probability are ties for auroc,
                average_precision and the rankings of labels; log-odds still differ there.

        Raises:
            ValueError: shapes or dtypes that do not fit; on the CPU also values outside [0, 1].
        """
        seen = metric_input(self.task, probabilities, target, predictions, log_odds)
        if seen is None:
            return
        self.take(seen)
        for metric in self.values():
            if not self._is_own(metric):
                metric.update(probabilities, target)

    def take(self, seen: MetricInput) -> None:
        """Add a batch that has been checked to the task's own metrics."""
        for first, *others in self._sharing():
            first.update(seen.probabilities, seen.target, seen=seen)
            for metric in others:
                metric.follow(first)

    def forward(
        self,
        probabilities: Tensor,
        target: Tensor,
        predictions: Tensor | None = None,
        log_odds: Tensor | None = None,
    ) -> dict[str, Any]:
        """Add a batch, and return the values of this batch alone."""
        seen = metric_input(self.task, probabilities, target, predictions, log_odds)
        groups = self._sharing()
        # torchmetrics passes on the keywords that a metric's update has
        values: dict[str, Any] = super().forward(probabilities, target, seen=seen)
        for first, *others in groups:
            for metric in others:
                metric.follow(first)
        return values

    def compute(self) -> dict[str, Any]:
        """Return the scalars by name."""
        for first, *others in self._sharing():
            first.compute()
            for metric in others:
                metric.follow(first)
        values: dict[str, Any] = super().compute()
        return values

    def reset(self) -> None:
        """Forget all batches."""
        first: dict[str, TaskMetric] = {}
        for metric in self.values():
            # a metric's own reset takes long beside an epoch of a small net: one for each statistic is enough
            if self._is_own(metric) and not is_synced(metric):
                source = first.setdefault(metric.statistic, metric)
                if metric is not source:
                    metric.follow(source)
                    forget_forward_value(metric)
                    continue
            metric.reset()

    @property
    def sources(self) -> dict[str, TaskMetric]:
        """Return one metric for each statistic, whose states are those of the others too."""
        return {first.statistic: first for first, *_ in self._sharing()}

    def share(self) -> None:
        """Give metrics with the same statistic the states of the first of them."""
        sources: dict[str, TaskMetric] = {}
        for metric in filter(self._is_own, self.values()):
            first = sources.setdefault(metric.statistic, metric)
            if metric is not first:
                metric.follow(first)

    def _is_own(self, metric: Metric) -> TypeGuard[TaskMetric]:
        """Whether a metric can use what this collection has computed of a batch."""
        return isinstance(metric, TaskMetric) and metric.task is self.task

    def _sharing(self) -> list[list[TaskMetric]]:
        """Return metrics that hold the same tensors, together."""
        groups: dict[Any, list[TaskMetric]] = {}
        for metric in filter(self._is_own, self.values()):
            states = tuple(map(id, metric.metric_state.values()))
            groups.setdefault((metric.statistic, states), []).append(metric)
        return [*groups.values()]

    def _apply(self, *arguments: Any, **options: Any) -> Any:
        """Move or cast the metrics, after which those that held the same tensors do so again."""
        groups = self._sharing()
        moved = super()._apply(*arguments, **options)
        for first, *others in groups:
            for metric in others:
                metric.follow(first)
        return moved


def make_metrics(task: Task, prefix: str | None = None, names: Sequence[str] | None = None) -> TaskMetrics:
    """The metrics of a task, as a `torchmetrics.MetricCollection`.

    - `accuracy`: of predictions; for multilabel of each label's prediction (1 - `hamming_distance`).
      `exact_match`: of whole rows.
    - `balanced_accuracy`: the mean recall of the classes; for binary and of each label of the positives
      and of the negatives.
    - `f1_micro`, `f1_macro`: over classes; for binary over the two classes, and `f1` of the positive. As in
      scikit-learn a class that is predicted and does not occur counts 0 in multiclass f1_macro.
    - `auroc`, `average_precision`: macro mean over classes (one against the rest) or labels.
      Exact up to 10 million outputs, of more in bins of log-odds: see `Ranking`.
    - `ranking_loss`, `coverage_error`, `precision_at_1` (3, 5): of each row's ranking of the labels.
    - `brier_score`: the mean square of probability minus label; for multiclass summed over the classes.
      `calibration_error`: in 15 bins; see `CalibrationError`. Both score soft labels as they are; for all
      other metrics a soft label is its likelier value, .5 the positive one.
    - `mean_absolute_error`, `quadratic_kappa` (quadratic weights): of ordered classes.

    `update(probabilities, target)` takes `task.probabilities(logits)` and `task.encode(labels)`, and
    `log_odds=task.log_odds(logits.double())`: float32 probabilities of large logits are all 1, ties for
    `auroc`, `average_precision` and the rankings of labels, whereas log-odds still differ.

    Args:
        task: Decides which metrics, and with which thresholds.
        prefix: Put before the names, such as "val/".
        names: Which of them; all by default.

    Raises:
        ValueError: a name that the task does not have.

    Example:
        >>> from lossselect import Binary
        >>> task = Binary()
        >>> metrics = make_metrics(task)
        >>> metrics.update(torch.tensor([[0.9], [0.2], [0.6]]), task.encode([1, 0, 0]))
        >>> round(metrics.compute()["accuracy"].item(), 4)
        0.6667
    """
    task = as_task(task)
    for name in names or ():
        lookup(dict.fromkeys(task.metric_names), name, "metric")
    return TaskMetrics(task, names or task.metric_names, prefix)


def confusion_matrix(task: Task) -> Metric:
    """(C, C) counts: rows are the true classes, columns the predicted ones."""
    return ConfusionMatrix(num_classes=task.num_probabilities, ignore_index=IGNORE_INDEX, validate_args=False)


def per_class(metrics: TaskMetrics) -> dict[str, Tensor]:
    """Return counts and metrics of each class or label, (num_probabilities,) each; NaN where undefined."""
    scores, undefined = _summary(metrics, "accuracy")
    hits, false_alarms, quiet, misses = scores.unbind(-1)
    columns = {
        "positives": hits + misses,
        "negatives": quiet + false_alarms,
        "predicted": hits + false_alarms,
    }
    values = {
        "precision": hits / (hits + false_alarms),
        "recall": hits / (hits + misses),
        "f1": torch.where(hits + misses > 0, f1(scores), torch.nan),
        **dict(zip(RANKING, _summary(metrics, RANKING[0]).statistic, strict=True)),
    }
    # as the metrics of all classes together are NaN then
    return columns | {name: value.masked_fill(undefined, torch.nan) for name, value in values.items()}


def label_counts(metrics: TaskMetrics) -> tuple[Tensor, Tensor]:
    """Return how many positives and negatives of each probability there were, (num_probabilities,) each."""
    hits, false_alarms, quiet, misses = _summary(metrics, "accuracy").statistic.unbind(-1)
    return hits + misses, quiet + false_alarms


def _summary(metrics: TaskMetrics, name: str) -> Summary:
    """Return what a metric is read from, over all processes."""
    metric = metrics[name]
    assert isinstance(metric, TaskMetric)
    metric.compute()
    assert metric.summary is not None
    return metric.summary
