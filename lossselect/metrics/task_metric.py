"""One metric of a task: a torchmetrics metric with states of its own."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from lossselect.compat.torchmetrics import computed_value, set_computed_value, share_states
from lossselect.exceptions import ConfigError
from lossselect.labels.targets import flatten_positions, is_within_unit
from lossselect.tasks.registry import IGNORE_INDEX, Task


@dataclass(frozen=True)
class MetricInput:
    """A batch as metrics see it, with what several of them need computed once."""

    task: Task
    probabilities: Tensor
    """(N, num_probabilities, ...)."""
    target: Tensor
    """The canonical target, soft labels included."""
    predictions: Tensor
    """As `task.predict_from_probabilities` returns them."""
    log_odds: Tensor | None = None
    """As `task.log_odds` returns them; None where only the probabilities are known."""

    @cached_property
    def truth(self) -> Tensor:
        """The target as whole numbers: a soft label as its likelier value, `IGNORE_INDEX` where missing."""
        return self.task.to_hard_labels(self.target)

    @cached_property
    def known(self) -> Tensor:
        """Which elements of `truth` have a label."""
        return self.truth != IGNORE_INDEX

    @cached_property
    def support(self) -> Tensor:
        """The number of labels, and of probabilities that are NaN: (2,)."""
        return torch.stack([self.known.sum(), self.probabilities.isnan().sum()])

    @cached_property
    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities (M, num_probabilities), the target and `known`, all with one row per position."""
        target, known = (_as_rows(values, self.probabilities) for values in (self.target, self.known))
        return flatten_positions(self.probabilities).double(), target, known

    @cached_property
    def ranks(self) -> tuple[Tensor, Tensor]:
        """What ranks: log-odds (M, num_probabilities), infinity as a large number, and `truth` in rows."""
        log_odds = self.probabilities.double().logit() if self.log_odds is None else self.log_odds.double()
        return flatten_positions(log_odds).clamp(-1e30, 1e30), _as_rows(self.truth, self.probabilities)


class Summary(NamedTuple):
    """What a metric is read from."""

    statistic: Tensor
    undefined: Tensor
    """Whether there is no value, as no label is known or a probability was NaN."""


def _as_rows(values: Tensor, like: Tensor) -> Tensor:
    return flatten_positions(values) if values.ndim == like.ndim else values.flatten()


def metric_input(
    task: Task,
    probabilities: Tensor,
    target: Tensor,
    predictions: Tensor | None = None,
    log_odds: Tensor | None = None,
) -> MetricInput | None:
    """Check a batch, as `TaskMetrics.update` documents; return None for an empty one."""
    task.check_probabilities(probabilities)
    target = task.check_target(target, probabilities)
    if log_odds is not None and log_odds.shape != probabilities.shape:
        raise ConfigError(
            f"Expected log_odds of the shape of the probabilities, {tuple(probabilities.shape)}, got "
            f"{tuple(log_odds.shape)}. Pass task.log_odds(logits)."
        )
    if probabilities.device.type == "cpu" and not is_within_unit(probabilities):
        # NaN is no value outside: a net that diverged has metrics, which are NaN
        outside = probabilities[(probabilities < 0) | (probabilities > 1)]
        if len(outside):
            raise ConfigError(
                f"Metrics take probabilities, got {outside[0]:g}: pass task.probabilities(logits)."
            )
    task.check_values(target)  # on the CPU, where it need not wait
    if probabilities.numel() == 0:
        return None
    probabilities = probabilities.detach()
    log_odds = None if log_odds is None else log_odds.detach()
    predictions = task.predict_from_probabilities(probabilities) if predictions is None else predictions
    return MetricInput(task, probabilities, target, predictions, log_odds)


class TaskMetric(Metric):
    """One metric of a task as a scalar; made by `make_metrics`.

    It can be used like any torchmetrics metric: updated, computed, reset, cloned, merged, saved and logged
    independently of the collection that it belongs to.

    Decisions are made with the task's thresholds, rankings from log-odds. A missing label counts nowhere, a
    class without positives or without negatives in no ranking, a label without positives in no macro mean.
    The value is NaN where no label is known or a probability was NaN.

    Args:
        task: Whose metric it is.
        name: Its name in `lossselect.metrics.registry.METRICS`.
        statistic: The name of what it accumulates; metrics of a task with the same one accumulate the same.
        read: Turns the statistic into a scalar, or into a value per class of which the mean is taken.
        higher_is_better: Whether a higher value is better.
    """

    full_state_update = False
    is_differentiable = False

    def __init__(
        self,
        task: Task,
        name: str,
        statistic: str,
        read: Callable[[Tensor], Tensor],
        higher_is_better: bool,
    ) -> None:
        super().__init__()
        self.task, self.name, self.statistic = task, name, statistic
        self.read, self._higher_is_better = read, higher_is_better
        self.summary: Summary | None = None
        """What the last value was read from, over all processes; known after `compute`."""
        self.support: Tensor
        self.add_state("support", torch.zeros(2, dtype=torch.long), dist_reduce_fx="sum")

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """Whether a higher value is better."""
        return self._higher_is_better

    @abstractmethod
    def accumulate(self, seen: MetricInput) -> None:
        """Add a batch to the states.

        States are replaced, never changed in place: the metrics of a collection share them.
        """

    @abstractmethod
    def summarize(self) -> Tensor:
        """Return the statistic that the states amount to."""

    def update(
        self,
        probabilities: Tensor,
        target: Tensor,
        predictions: Tensor | None = None,
        log_odds: Tensor | None = None,
        seen: MetricInput | None = None,
    ) -> None:
        """Add a batch; see `TaskMetrics.update`.

        Args:
            probabilities: (N, num_probabilities, ...).
            target: As `task.encode` returns it.
            predictions: As `task.predict_from_probabilities` returns them, where they are known.
            log_odds: As `task.log_odds(logits)` returns them, where they are known.
            seen: The same batch, where a collection has checked it.
        """
        seen = metric_input(self.task, probabilities, target, predictions, log_odds) if seen is None else seen
        if seen is not None:
            self.support = self.support + seen.support
            self.accumulate(seen)

    def compute(self) -> Tensor:
        """Return the scalar."""
        known, nans = self.support
        self.summary = Summary(self.summarize(), (known == 0) | (nans > 0))
        return self.value_of(self.summary)

    def value_of(self, summary: Summary) -> Tensor:
        """Return the scalar that follows from a statistic."""
        value = self.read(summary.statistic).double()
        return (value.nanmean() if value.ndim else value).masked_fill(summary.undefined, torch.nan)

    def reset(self) -> None:
        """Forget all batches."""
        for name, state in self.metric_state.items():
            if isinstance(state, list):
                setattr(self, name, [])  # torchmetrics would clear the list, which another metric may share
        super().reset()
        self.summary = None

    def follow(self, other: "TaskMetric") -> None:
        """Take over states and value of a metric with the same statistic, by reference."""
        share_states(self, other, summary=other.summary)
        if computed_value(other) is not None and other.summary is not None:
            set_computed_value(self, self.value_of(other.summary))
