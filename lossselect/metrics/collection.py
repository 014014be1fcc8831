"""Metrics of a task: torchmetrics, given probabilities and canonical targets."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lossselect.compat.torchmetrics import clear_caches
from lossselect.metrics import scores
from lossselect.metrics.registry import CLASS_RANKINGS, f1_per_label, make_metric
from lossselect.metrics.task_metric import MetricInput, TaskMetric, check_batch
from lossselect.tasks.registry import Task, as_task
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
            log_odds: `task.log_odds(logits.double())`, for auroc, average_precision and the rankings of
                labels: float32 probabilities are exactly 1 from a logit of 17 on, and become ties.

        Raises:
            ValueError: shapes or dtypes that do not fit; on the CPU also values outside [0, 1].
        """
        batch = check_batch(self.task, probabilities, target, predictions, log_odds)
        if batch is None:
            return
        self.update_checked(batch)
        for metric in self.values():
            if not self._is_own(metric):
                metric.update(probabilities, target)

    def update_checked(self, batch: MetricInput) -> None:
        """Add a batch that needs no check to the task's own metrics."""
        with self._sharing() as groups:
            for first, *_ in groups:
                first.update(batch.probabilities, batch.target, batch=batch)

    def forward(self, probabilities: Tensor, target: Tensor, *arguments: Any, **options: Any) -> Any:
        """Add a batch as `update` does, and return the values of this batch alone."""
        batch = check_batch(self.task, probabilities, target, *arguments, **options)
        with self._sharing():
            # torchmetrics passes on the keywords that a metric's update has
            return super().forward(probabilities, target, batch=batch)

    def compute(self) -> dict[str, Any]:
        """Return the scalars by name."""
        with self._sharing() as groups:
            for first, *_ in groups:
                first.compute()
        return super().compute()

    def reset(self) -> None:
        """Forget all batches."""
        for metric in self.values():
            if not self._is_own(metric):
                metric.reset()
        for first, *_ in self._grouped(by_states=False):
            first.reset()
        self.share()  # resetting every metric takes long compared with an epoch of a small net

    @property
    def sources(self) -> dict[str, TaskMetric]:
        """One metric for each statistic, whose states the others share."""
        return {first.statistic: first for first, *_ in self._grouped()}

    def share(self) -> None:
        """Give metrics with the same statistic the states of the first of them."""
        for first, *others in self._grouped(by_states=False):
            for metric in others:
                metric.follow(first)
                clear_caches(metric)

    def _is_own(self, metric: Metric) -> TypeGuard[TaskMetric]:
        """Whether a metric can use what this collection has computed of a batch."""
        return isinstance(metric, TaskMetric) and metric.task is self.task

    def _grouped(self, by_states: bool = True) -> list[list[TaskMetric]]:
        """Group the task's own metrics by statistic and by the tensors that they hold."""
        groups: dict[Any, list[TaskMetric]] = {}
        for metric in filter(self._is_own, self.values()):
            states = tuple(map(id, metric.metric_state.values())) if by_states else ()
            groups.setdefault((metric.statistic, states), []).append(metric)
        return [*groups.values()]

    @contextmanager
    def _sharing(self) -> Iterator[list[list[TaskMetric]]]:
        """Let metrics that hold the same tensors hold those of the first of them afterwards."""
        groups = self._grouped()
        yield groups
        for first, *others in groups:
            for metric in others:
                metric.follow(first)

    def _apply(self, *arguments: Any, **options: Any) -> Any:
        """Move or cast the metrics."""
        with self._sharing():
            return super()._apply(*arguments, **options)


def make_metrics(task: Task, prefix: str | None = None, names: Sequence[str] | None = None) -> TaskMetrics:
    """Return the metrics of a task, as a `torchmetrics.MetricCollection`.

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

    `update(probabilities, target)` takes `task.probabilities(logits)`, `task.encode(labels)`, and
    `log_odds=task.log_odds(logits.double())`: float32 probabilities of large logits are all 1, hence ties.

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


def per_class(metrics: TaskMetrics) -> dict[str, Tensor]:
    """Return counts and metrics of each class or label, (num_probabilities,) each; NaN where undefined."""
    counts, undefined = _summary(metrics, "accuracy")
    positives, negatives = label_counts(metrics)
    tp, fp, fn, _ = counts
    values = {
        "precision": scores.precision(*counts).masked_fill(tp + fp == 0, torch.nan),
        "recall": scores.recall(*counts).masked_fill(tp + fn == 0, torch.nan),
        "f1": f1_per_label(counts),
        **dict(zip(CLASS_RANKINGS, _summary(metrics, CLASS_RANKINGS[0])[0], strict=True)),
    }
    # as the metrics of all classes together are NaN then
    values = {name: value.masked_fill(undefined, torch.nan) for name, value in values.items()}
    return {"positives": positives, "negatives": negatives, "predicted": (tp + fp).long(), **values}


def label_counts(metrics: TaskMetrics) -> tuple[Tensor, Tensor]:
    """Return the numbers of positives and negatives of each class or label, (num_probabilities,) each."""
    tp, fp, fn, tn = _summary(metrics, "accuracy")[0].long()
    return tp + fn, tn + fp


def _summary(metrics: TaskMetrics, name: str) -> tuple[Tensor, Tensor]:
    """Return what a metric is computed from, over all processes."""
    metric: Any = metrics[name]
    metric.compute()
    return metric.summary
