"""Metrics of a task: torchmetrics, given probabilities and canonical targets."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection, SumMetric
from torchmetrics import classification as tm

from .metric_table import METRICS, RANKING, Seen
from .names import lookup
from .targets import in_unit
from .tasks import IGNORE_INDEX, Task, as_task


class TaskMetric(Metric):
    """One metric of a task as a scalar, computed by torchmetrics; made by `make_metrics`.

    Decisions are taken with the task's thresholds, rankings from log-odds. A soft label counts as its
    likelier value, .5 as positive. A missing label counts nowhere, a class without positives or without
    negatives in no ranking, a label without positives in no macro mean. The value is NaN where no label is
    known or a probability was NaN.
    """

    def __init__(self, task: Task, name: str) -> None:
        super().__init__()
        self.task, self.name = task, name
        rows = METRICS[task.name]
        self.support = rows["support"].make(task)
        row = rows.get(name)
        self.metric: Metric | None = row.make(task) if row else None
        self.take = row.take if row else None
        self.nan_count = SumMetric(nan_strategy="disable")

    def update(
        self,
        probabilities: Tensor,
        target: Tensor,
        decisions: Tensor | None = None,
        log_odds: Tensor | None = None,
    ) -> None:
        """Take in a batch.

        Args:
            probabilities: (N, num_probabilities, ...).
            target: As `task.encode` returns it.
            decisions: As `task.decide` returns them, where they are known.
            log_odds: As `task.log_odds` returns them, where they are known: probabilities near 1 are the same
                long before they are.

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
        if self.metric is None or self.take is None:
            return
        taken = self.take(Seen(probabilities, decisions, log_odds, truth))
        if taken[0].numel():
            self.metric.update(*taken)

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
        unknown = (self.nan_count.compute() > 0) | ~(positives + negatives > 0).any()
        if self.metric is not None and not self.metric.update_called:
            return torch.full_like(unknown, torch.nan, dtype=torch.double)
        return self.mean(self.per_class()).masked_fill(unknown, torch.nan)

    def per_class(self) -> Tensor:
        """The metric of each class or label, NaN where it has none; a scalar for one of all together."""
        positives, _ = self.counts()
        if self.metric is None:
            recalls = self._recalls()
            return recalls if self.task.activation == "softmax" else recalls.mean(-1)
        value: Tensor = self.metric.compute()
        if value.ndim and self.name not in RANKING:
            value = torch.where(positives > 0, value, torch.nan)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """Over the classes that have a value; of none NaN."""
        return value.double().nanmean() if value.ndim else value

    def _recalls(self) -> Tensor:
        """Of each class (C,); under sigmoid of each label's positives and negatives (L, 2)."""
        counts = self.stat_scores().double()
        hits, false_alarms, quiet, misses = counts.unbind(-1)
        recall = hits / (hits + misses)
        if self.task.activation == "softmax":
            return recall
        return torch.stack([recall, quiet / (quiet + false_alarms)], -1)

    def counts(self) -> tuple[Tensor, Tensor]:
        """How many positives and negatives of each probability there were, (num_probabilities,) each."""
        true_positive, false_positive, true_negative, false_negative = self.stat_scores().unbind(-1)
        return true_positive + false_negative, true_negative + false_positive

    def stat_scores(self) -> Tensor:
        """(num_probabilities, 4): true and false positives, true and false negatives."""
        stat_scores: Tensor = self.support.compute()
        return stat_scores.reshape(-1, 5)[:, :4]

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        for metric in (self.metric, self.support, self.nan_count):
            if metric is not None:
                metric.reset()


def make_metrics(
    task: Task, prefix: str | None = None, names: Sequence[str] | None = None
) -> MetricCollection:
    """The metrics of a task, as a `torchmetrics.MetricCollection`.

    - `accuracy`: of decisions; for multilabel of each label's decision (1 - `hamming`). `exact_match`: of
      whole rows.
    - `balanced_accuracy`: the mean recall of the classes; for binary and of each label of the positives
      and of the negatives.
    - `f1_micro`, `f1_macro`: over classes; for binary over the two classes, and `f1` of the positive. As in
      scikit-learn a class that is predicted and does not occur counts 0 in multiclass f1_macro.
    - `auroc`, `map`: area under ROC, average precision; macro mean over classes (one against the
      rest) or labels. Exact up to 10 million outputs, of more in bins of log-odds: see `Ranking`.
    - `ranking_loss`, `coverage_error`, `precision_at_1` (3, 5): of each row's ranking of the labels.
    - `brier`: the mean square of probability minus label; for multiclass summed over the classes.
      `calibration_error`: in 15 bins; see `CalibrationError`.
    - `mean_absolute_error`, `kappa` (quadratic weights): of ordered classes.

    `update(probabilities, target)` takes `task.probabilities(logits)` and `task.encode(labels)`.

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
    metrics = {name: TaskMetric(task, name) for name in names or task.metric_names}
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)  # type: ignore[arg-type]


def confusion_matrix(task: Task) -> Metric:
    """(C, C) counts: rows are the true classes, columns the predicted ones."""
    return tm.MulticlassConfusionMatrix(
        num_classes=task.num_probabilities, ignore_index=IGNORE_INDEX, validate_args=False
    )


def per_class(metrics: Mapping[str, TaskMetric]) -> dict[str, Tensor]:
    """Counts and metrics of each class or label, (num_probabilities,) each; NaN where there is none.

    Args:
        metrics: Of `make_metrics`, by name.
    """
    hits, false_alarms, quiet, misses = metrics["accuracy"].stat_scores().unbind(-1)
    columns = {
        "positives": hits + misses,
        "negatives": quiet + false_alarms,
        "predicted": hits + false_alarms,
    }
    columns |= {
        "precision": hits / (hits + false_alarms),
        "recall": hits / (hits + misses),
        "f1": torch.where(hits + misses > 0, 2 * hits / (2 * hits + misses + false_alarms), torch.nan),
    }
    # of a single class torchmetrics makes a scalar
    return columns | {name: metrics[name].per_class().reshape(-1) for name in RANKING}
