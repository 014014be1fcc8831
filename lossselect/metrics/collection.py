"""A torchmetrics collection of a task's metrics, updated with probabilities and canonical targets."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lossselect.metrics import scores
from lossselect.metrics.names import MetricName, choose_metrics
from lossselect.metrics.registry import CLASS_RANKINGS, f1_per_label, make_metric, recall_per_class
from lossselect.metrics.stat_scores import StatScores
from lossselect.metrics.task_metric import MetricInput, TaskMetric, check_batch
from lossselect.metrics.user_metric import UserMetric
from lossselect.tasks.registry import Task, as_task


class TaskMetrics(MetricCollection):
    """The metrics of a task, a `torchmetrics.MetricCollection`.

    Metrics with the same statistic share their states, which are computed and gathered once, as long as they
    were updated with the same batches. Each metric can also be updated independently, unlike in torchmetrics'
    compute groups.
    """

    def __init__(self, task: Task, metrics: Mapping[str, TaskMetric], prefix: str | None) -> None:
        super().__init__(dict(metrics), prefix=prefix, compute_groups=False)
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
    def directions(self) -> dict[str, str | None]:
        """The direction of each metric, "min" or "max"; None if it is unknown."""
        modes = {True: "max", False: "min", None: None}
        return {name: modes[metric.higher_is_better] for name, metric in self.items(keep_base=True)}

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


def make_metrics(
    task: Task, prefix: str | None = None, names: Any = None, exclude: Sequence[str | int] = ()
) -> TaskMetrics:
    """Return the metrics of a task, as a `torchmetrics.MetricCollection`.

    `names` is a name; a mapping of a name and options, such as `{"name": "jaccard", "average": "macro"}`; a
    `torchmetrics.Metric` or `MetricCollection`; a mapping of any of these by the names to log them under,
    such as `{"iou": "jaccard"}`; or a list of all of these. The key "exclude" in a mapping of metrics applies
    to all built-in metrics.

    These metrics have a value for each class or label. Append `_macro`, `_micro`, `_weighted` (by the number
    of positives) or `_none` (a value for each class, logged as `recall/CLASS`):

    - `precision`, `recall`, `specificity`, `jaccard` (intersection over union), `f1`, and F-beta as `f2`,
      `f0.5` or `{"name": "f_beta", "beta": 2}`. Without an average: the value of the positive class for
      binary, and the macro mean for other tasks.
    - `accuracy`: fraction of correct predictions, for multilabel over all labels (1 - `hamming_distance`).
      For multiclass, the accuracy of a class is its recall. Binary tasks have no averages of it.
    - `balanced_accuracy`: mean recall of the classes; for binary, and for each label, the mean recall of
      positives and negatives. `mcc`: Matthews' correlation coefficient. Both have averages for multilabel.
    - `auroc`, `average_precision`: macro mean over classes (one against the rest) or labels; also `_none`.
      They are exact for up to 10 million outputs, then computed from bins of log-odds: see `Ranking`.

    Averages of binary tasks are over both classes. As in scikit-learn, 0 / 0 is 0, and averages are over the
    classes that occur or are predicted. For multilabel, they are over labels with a positive (`specificity`:
    with a negative; `balanced_accuracy`, `mcc`, rankings: with both). `_none` is NaN for the others.

    These have one value:

    - `accuracy_at_5` (any k): fraction of rows whose class is among the k most probable, for multiclass.
    - `exact_match`: fraction of rows with all labels predicted correctly, for multilabel.
    - `ranking_loss`, `coverage_error`, `precision_at_3` (any k): computed from the ranking of the labels in
      each row, for multilabel.
    - `brier_score`: mean squared difference between probability and label; for multiclass summed over
      classes. `calibration_error`: see `CalibrationError`. These two score soft labels without rounding; all
      other metrics round them, 0.5 to the positive value.
    - `mean_absolute_error`, `quadratic_kappa` (quadratic weights): only for ordered classes.

    `update` accepts `task.probabilities(logits)` and `task.encode(labels)`, and optionally `predictions` and
    `log_odds=task.log_odds(logits.double())`. Rankings use the log-odds: float32 probabilities of logits
    above 17 are tied. A `Metric` of yours is copied, and updated as described in `UserMetric`.

    Args:
        task: The task, which determines the metrics and their thresholds.
        prefix: Prefix of the names, such as "val/".
        names: The choice of metrics; by default `task.metric_names`, with `exclude` only those that are
            averages over classes.
        exclude: Names or indices of classes that are left out of the averages, such as ["background"]. Their
            rows still count as errors of other classes.

    Raises:
        ConfigError: a metric or an option that the task does not have, an option without an effect, or a
            `Metric` that does not fit the task.
        OptionTypeError: `task` is not a task, or an entry of `names` is of another type.

    Example:
        >>> from lossselect import Binary
        >>> task = Binary()
        >>> metrics = make_metrics(task, names=["accuracy", "recall_none"])
        >>> metrics.update(torch.tensor([[0.9], [0.2], [0.6]]), task.encode([1, 0, 0]))
        >>> {name: round(value.item(), 4) for name, value in metrics.compute().items()}
        {'accuracy': 0.6667, 'recall/0': 0.5, 'recall/1': 1.0}
    """
    task = as_task(task)
    return build_metrics(task, choose_metrics(task, expand(names), exclude), prefix)


def build_metrics(task: Task, chosen: Mapping[str, Any], prefix: str | None) -> TaskMetrics:
    """Return the metrics that `choose_metrics` returned."""
    metrics = {
        # the name of a module must not contain a dot
        name.replace(".", "_"): make_metric(task, entry)
        if isinstance(entry, MetricName)
        else UserMetric(task, name, entry)
        for name, entry in chosen.items()
    }
    return TaskMetrics(task, metrics, prefix)


def expand(spec: Any) -> Any:
    """Return a choice of metrics with each `MetricCollection` replaced by a mapping of its metrics.

    The result is not a module, so it can be an attribute of a net without becoming a part of it.
    """
    if isinstance(spec, Metric):
        return [spec]
    if isinstance(spec, MetricCollection):
        return dict(spec.items(keep_base=True))
    if isinstance(spec, Mapping):
        expanded: dict[str, Any] = {}
        for name, entry in spec.items():
            inner = expand(entry) if isinstance(entry, MetricCollection) else None
            expanded |= {name: entry} if inner is None else {f"{name}_{key}": m for key, m in inner.items()}
        return expanded
    return [*map(expand, spec)] if isinstance(spec, list | tuple) else spec


def per_class(counted: StatScores, metrics: TaskMetrics) -> dict[str, Tensor]:
    """Return counts and metrics of each class or label, each (num_probabilities,); NaN where undefined."""
    counts, undefined = _summary(counted)
    positives, negatives = label_counts(counted)
    predicted = counts[:2].sum(0)
    values = {
        "precision": scores.precision(*counts).masked_fill(predicted == 0, torch.nan),
        "recall": recall_per_class(counts),
        "f1": f1_per_label(counts),
    }
    if ranking := metrics.sources.get("ranking"):
        values |= dict(zip(CLASS_RANKINGS, _summary(ranking)[0], strict=True))
    # NaN, like the metrics over all classes
    values = {name: value.masked_fill(undefined, torch.nan) for name, value in values.items()}
    return {"positives": positives, "negatives": negatives, "predicted": predicted.long(), **values}


def label_counts(counted: StatScores) -> tuple[Tensor, Tensor]:
    """Return the numbers of positives and negatives of each class or label, each (num_probabilities,)."""
    tp, fp, fn, tn = _summary(counted)[0].long()
    return tp + fn, tn + fp


def _summary(metric: Any) -> tuple[Tensor, Tensor]:
    """Return the statistic of a metric over all ranks, and whether it is undefined."""
    metric.compute()
    return metric.summary
