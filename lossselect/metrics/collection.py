"""A torchmetrics collection of a task's metrics, updated with probabilities and canonical targets."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lossselect.metrics import scores
from lossselect.metrics.registry import CLASS_RANKINGS, f1_per_label, make_metric, recall_per_class
from lossselect.metrics.task_metric import MetricInput, TaskMetric, check_batch
from lossselect.tasks.registry import Task, as_task
from lossselect.utils.checks import lookup


class TaskMetrics(MetricCollection):
    """The metrics of a task, a `torchmetrics.MetricCollection`.

    Metrics with the same statistic share their states, which are computed and gathered once, as long as they
    were updated with the same batches. Each metric can also be updated independently, unlike in torchmetrics'
    compute groups.
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
        """Add a batch, as described in `make_metrics`; metrics added by the user get `probabilities, target`.

        Raises:
            ConfigError, DataError: invalid shapes or dtypes, or (checked on the CPU) values outside [0, 1].
            DataTypeError: a target that is not a tensor.
        """
        batch = check_batch(self.task, probabilities, target, predictions, log_odds)
        if batch is None:
            return
        self.update_checked(batch)
        for metric in self.values():
            if not self._is_own(metric):
                metric.update(probabilities, target)

    def update_checked(self, batch: MetricInput) -> None:
        """Add a checked batch to the metrics of the task."""
        with self._sharing() as groups:
            for first, *_ in groups:
                first.update(batch.probabilities, batch.target, batch=batch)

    def forward(self, probabilities: Tensor, target: Tensor, *arguments: Any, **options: Any) -> Any:
        """Add a batch as `update` does, and return the values of this batch."""
        batch = check_batch(self.task, probabilities, target, *arguments, **options)
        with self._sharing():
            # torchmetrics passes each metric only the keywords that its update accepts
            return super().forward(probabilities, target, batch=batch)

    def compute(self) -> dict[str, Any]:
        """Return the values by name, as scalars."""
        with self._sharing() as groups:
            for first, *_ in groups:
                first.compute()
        return super().compute()

    def reset(self) -> None:
        """Remove all batches."""
        super().reset()
        self.share()

    @property
    def sources(self) -> dict[str, TaskMetric]:
        """The first metric of each statistic, with which the others share their states."""
        return {first.statistic: first for first, *_ in self._grouped()}

    def share(self) -> None:
        """Let all metrics with the same statistic share the states of the first one."""
        for first, *others in self._grouped(by_states=False):
            for metric in others:
                metric.follow(first)

    def _is_own(self, metric: Metric) -> TypeGuard[TaskMetric]:
        """Return whether a metric belongs to the collection's task, and can use its checked batches."""
        return isinstance(metric, TaskMetric) and metric.task is self.task

    def _grouped(self, by_states: bool = True) -> list[list[TaskMetric]]:
        """Group the metrics of the task by their statistic and by the tensors of their states."""
        groups: dict[Any, list[TaskMetric]] = {}
        for metric in filter(self._is_own, self.values()):
            states = tuple(map(id, metric.metric_state.values())) if by_states else ()
            groups.setdefault((metric.statistic, states), []).append(metric)
        return [*groups.values()]

    @contextmanager
    def _sharing(self) -> Iterator[list[list[TaskMetric]]]:
        """Let metrics that share their states before the block share the new states after it."""
        groups = self._grouped()
        yield groups
        for first, *others in groups:
            for metric in others:
                metric.follow(first)

    def _apply(self, *arguments: Any, **options: Any) -> Any:
        with self._sharing():
            return super()._apply(*arguments, **options)


def make_metrics(task: Task, prefix: str | None = None, names: Sequence[str] | None = None) -> TaskMetrics:
    """Return the metrics of a task, as a `torchmetrics.MetricCollection`.

    - `accuracy`: fraction of correct predictions; for multilabel over all labels (1 - `hamming_distance`).
      `exact_match`: fraction of rows with all labels predicted correctly.
    - `balanced_accuracy`: mean recall of the classes; for binary, and for each label, the mean recall of
      positives and negatives.
    - `f1_micro`, `f1_macro`: over the classes or labels, for binary over both classes. `f1`: the F1 of the
      positive class. As in scikit-learn, a class that is predicted but does not occur counts as 0 in the
      multiclass f1_macro.
    - `auroc`, `average_precision`: macro mean over classes (one against the rest) or labels. They are exact
      for up to 10 million outputs, then computed from bins of log-odds: see `Ranking`.
    - `ranking_loss`, `coverage_error`, `precision_at_1`, `precision_at_3`, `precision_at_5`: computed from
      the ranking of the labels in each row.
    - `brier_score`: mean squared difference between probability and label; for multiclass summed over
      classes. `calibration_error`: see `CalibrationError`. These two score soft labels without rounding; all
      other metrics round them, 0.5 to the positive value.
    - `mean_absolute_error`, `quadratic_kappa` (quadratic weights): only for ordered classes.

    `update` accepts `task.probabilities(logits)` and `task.encode(labels)`, and optionally `predictions` and
    `log_odds=task.log_odds(logits.double())`. Rankings use the log-odds: float32 probabilities of logits
    above 17 are tied.

    Args:
        task: The task, which determines the metrics and their thresholds.
        prefix: Prefix of the names, such as "val/".
        names: Names of the metrics; all metrics of the task by default.

    Raises:
        ConfigError: a name that is not a metric of the task.
        OptionTypeError: `task` is not a task.

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
    """Return counts and metrics of each class or label, each (num_probabilities,); NaN where undefined."""
    counts, undefined = _summary(metrics, "accuracy")
    positives, negatives = label_counts(metrics)
    predicted = counts[:2].sum(0)
    values = {
        "precision": scores.precision(*counts).masked_fill(predicted == 0, torch.nan),
        "recall": recall_per_class(counts),
        "f1": f1_per_label(counts),
        **dict(zip(CLASS_RANKINGS, _summary(metrics, CLASS_RANKINGS[0])[0], strict=True)),
    }
    # NaN, like the metrics over all classes
    values = {name: value.masked_fill(undefined, torch.nan) for name, value in values.items()}
    return {"positives": positives, "negatives": negatives, "predicted": predicted.long(), **values}


def label_counts(metrics: TaskMetrics) -> tuple[Tensor, Tensor]:
    """Return the numbers of positives and negatives of each class or label, each (num_probabilities,)."""
    tp, fp, fn, tn = _summary(metrics, "accuracy")[0].long()
    return tp + fn, tn + fp


def _summary(metrics: TaskMetrics, name: str) -> tuple[Tensor, Tensor]:
    """Return the statistic of a metric over all ranks, and whether it is undefined."""
    metric: Any = metrics[name]
    metric.compute()
    return metric.summary
