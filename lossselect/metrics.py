"""Metrics of a task: torchmetrics, given probabilities and canonical targets."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics import classification as tm

from .metric_table import METRICS, RANKING, SOURCES, Seen, f1
from .names import lookup
from .ranks import of_all_ranks
from .targets import in_unit
from .tasks import IGNORE_INDEX, Task, as_task


class TaskMetric(Metric):
    """One metric of a task as a scalar; made by `make_metrics`.

    Decisions are taken with the task's thresholds, rankings from log-odds. A soft label counts as its
    likelier value, .5 as positive. A missing label counts nowhere, a class without positives or without
    negatives in no ranking, a label without positives in no macro mean. The value is NaN where no label is
    known or a probability was NaN.

    Args:
        task: Whose metric it is.
        name: Of `METRICS`.
        sources: What it is read from, shared with the other metrics of a collection.
    """

    def __init__(self, task: Task, name: str, sources: Mapping[str, Metric]) -> None:
        super().__init__()
        self.task, self.name = task, name
        self.source = sources[METRICS[task.name][name].source]
        self.support, self.nans = sources["stat_scores"], sources["nans"]

    # its sources do what torchmetrics wraps around both: count updates, keep the value, gather from ranks
    def _wrap_update(self, update: Callable[..., Any]) -> Callable[..., Any]:
        return update

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        return compute

    @property
    def update_called(self) -> bool:
        """Whether a batch was taken in."""
        return self.nans.update_called

    def update(self, *batch: Any, **known: Any) -> None:
        """Take in a batch; see `TaskMetrics.update`. What it shares with others is theirs as well."""
        row = METRICS[self.task.name][self.name]
        sources = {"stat_scores": self.support, "nans": self.nans, row.source: self.source}
        if seen := look(self.task, *batch, **known):
            take_in(seen, sources)

    def forward(self, *batch: Tensor) -> Tensor:
        """Take in a batch, and return the value of this batch alone."""
        self.update(*batch)
        alone = self.clone()
        alone.reset()
        alone.update(*batch)
        return alone.compute()

    def compute(self) -> Tensor:
        """The scalar."""
        return self.value(self.unknown())

    def unknown(self) -> Tensor:
        """Whether there is no value, as no label is known or a probability was NaN."""
        return (self.nans.compute() > 0) | ~self.stat_scores().any()

    def value(self, unknown: Tensor) -> Tensor:
        """The scalar, NaN where `unknown`."""
        if not any(of_all_ranks(self.source.update_called)):
            return torch.full_like(unknown, torch.nan, dtype=torch.double)
        # of several processes one may have nothing to add, which torchmetrics would warn of
        self.source._update_count = max(1, self.source._update_count)
        return self.mean(self.per_class()).masked_fill(unknown, torch.nan)

    def per_class(self) -> Tensor:
        """The metric of each class or label, NaN where it has none; a scalar for one of all together."""
        return METRICS[self.task.name][self.name].read(self.source.compute())

    def mean(self, value: Tensor) -> Tensor:
        """Over the classes that have a value; of none NaN."""
        return value.double().nanmean() if value.ndim else value

    def counts(self) -> tuple[Tensor, Tensor]:
        """How many positives and negatives of each probability there were, (num_probabilities,) each."""
        hits, false_alarms, quiet, misses = self.stat_scores().unbind(-1)
        return hits + misses, quiet + false_alarms

    def stat_scores(self) -> Tensor:
        """(num_probabilities, 4): true and false positives, true and false negatives."""
        scores: Tensor = self.support.compute()
        return scores

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        for source in (self.source, self.support, self.nans):
            source.reset()


class TaskMetrics(MetricCollection):
    """The metrics of a task, which look at a batch once and share what they are read from."""

    def __init__(self, task: Task, names: Sequence[str], prefix: str | None) -> None:
        rows = METRICS[task.name]
        wanted = dict.fromkeys(["stat_scores", "nans", *(rows[name].source for name in names)])
        sources = {key: SOURCES[key].make(task) for key in wanted}
        metrics = {name: TaskMetric(task, name, sources) for name in names}
        super().__init__(metrics, prefix=prefix, compute_groups=False)  # type: ignore[arg-type]
        self.task = task
        self.sources = sources

    def update(self, *batch: Any, **known: Any) -> None:
        """Take in a batch: probabilities (N, num_probabilities, ...), and what `task.encode` returned.

        Args:
            batch: The two.
            known: `decisions`, as `task.decide` returns them, and `log_odds`, as `task.log_odds` does, where
                they are known: probabilities near 1 are the same long before log-odds are.

        Raises:
            ValueError: shapes or dtypes of something else; on the CPU also values outside [0, 1].
        """
        if seen := look(self.task, *batch, **known):
            self.take(seen)

    def take(self, seen: Seen) -> None:
        """The same of what has been looked at."""
        take_in(seen, self.sources)

    def forward(self, *batch: Tensor) -> dict[str, Any]:
        """Take in a batch, and return the values of this batch alone."""
        self.update(*batch)
        alone = self.clone()
        alone.reset()
        alone.update(*batch)
        return alone.compute()

    def compute(self) -> dict[str, Any]:
        """The scalars by name."""
        metrics: dict[str, TaskMetric] = dict(self.items(keep_base=False))  # type: ignore[arg-type]
        if not metrics:
            return {}
        unknown = next(iter(metrics.values())).unknown()  # which is the same of all
        return {name: metric.value(unknown) for name, metric in metrics.items()}

    def reset(self) -> None:
        """Forget all batches."""
        for source in self.sources.values():
            source.reset()


def look(
    task: Task,
    probabilities: Tensor,
    target: Tensor,
    decisions: Tensor | None = None,
    log_odds: Tensor | None = None,
) -> Seen | None:
    """What metrics look at of a batch, checked as `TaskMetrics.update` says; None of an empty one."""
    task.check_probabilities(probabilities)
    task.check_target(target, probabilities)
    if probabilities.device.type == "cpu" and not in_unit(probabilities):
        # NaN is no value outside: a net that diverged has metrics, which are NaN
        outside = probabilities[(probabilities < 0) | (probabilities > 1)]
        if len(outside):
            raise ValueError(
                f"Metrics take probabilities, got {outside[0]:g}: pass task.probabilities(logits)."
            )
    task.check_values(target)  # on the CPU, where it need not wait
    if probabilities.numel() == 0:
        return None
    decisions = task.decide(probabilities) if decisions is None else decisions
    return Seen(probabilities, decisions, log_odds, task.harden(target))


def take_in(seen: Seen, sources: Mapping[str, Metric]) -> None:
    """Hand to each source what it takes; nothing, where nothing is known."""
    for name, source in sources.items():
        taken = SOURCES[name].take(seen)
        if taken[0].numel():
            source.update(*taken)


def make_metrics(task: Task, prefix: str | None = None, names: Sequence[str] | None = None) -> TaskMetrics:
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
    return TaskMetrics(task, names or task.metric_names, prefix)


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
    scores = metrics["accuracy"].stat_scores()
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
        # of a single class torchmetrics makes a scalar
        **{name: metrics[name].per_class().reshape(-1) for name in RANKING},
    }
    unknown = metrics["accuracy"].unknown()  # as the metrics of all classes together are NaN then
    return columns | {name: value.masked_fill(unknown, torch.nan) for name, value in values.items()}
