"""Base classes of a task's metrics, and the batches that they are updated with."""

import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lossselect.compat.torchmetrics import computed_value, share_states
from lossselect.exceptions import ConfigError
from lossselect.labels.targets import flatten_positions, is_within_unit
from lossselect.metrics.direction import direction
from lossselect.tasks.registry import IGNORE_INDEX, Task


@dataclass(frozen=True)
class MetricInput:
    """A checked batch of `TaskMetrics.update`; values that several metrics need are computed once."""

    task: Task
    probabilities: Tensor
    target: Tensor
    predictions: Tensor
    log_odds: Tensor | None = None

    @cached_property
    def labels(self) -> Tensor:
        """The hard labels, `IGNORE_INDEX` where missing."""
        return self.task.to_hard_labels(self.target)

    @cached_property
    def known(self) -> Tensor:
        """A mask of the labels that are not missing."""
        return self.labels != IGNORE_INDEX

    @cached_property
    def support(self) -> Tensor:
        """The number of known labels and the number of NaN probabilities: (2,)."""
        return torch.stack([self.known.sum(), self.probabilities.isnan().sum()])

    @cached_property
    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """The probabilities (M, num_probabilities), the target and `known`, with one row per position."""
        target, known = (as_rows(values, self.probabilities) for values in (self.target, self.known))
        return flatten_positions(self.probabilities).double(), target, known

    @cached_property
    def ranking_rows(self) -> tuple[Tensor, Tensor]:
        """The finite log-odds (M, num_probabilities) and the labels, with one row per position."""
        log_odds = self.probabilities.double().logit() if self.log_odds is None else self.log_odds.double()
        return flatten_positions(log_odds).clamp(-1e30, 1e30), as_rows(self.labels, self.probabilities)


def as_rows(values: Tensor, probabilities: Tensor) -> Tensor:
    """Return labels or predictions with one row per position, as `flatten_positions(probabilities)` has."""
    return flatten_positions(values) if values.ndim == probabilities.ndim else values.flatten()


def check_batch(
    task: Task,
    probabilities: Tensor,
    target: Tensor,
    predictions: Tensor | None = None,
    log_odds: Tensor | None = None,
) -> MetricInput | None:
    """Check the arguments of `TaskMetrics.update` and return them as a batch; None if it is empty."""
    task.check_probabilities(probabilities)
    target = task.check_target(target, probabilities)
    if log_odds is not None and log_odds.shape != probabilities.shape:
        raise ConfigError(
            f"Expected log_odds of the same shape as the probabilities, {tuple(probabilities.shape)}, got "
            f"{tuple(log_odds.shape)}. Pass task.log_odds(logits)."
        )
    if probabilities.device.type == "cpu" and not is_within_unit(probabilities):
        # NaN is allowed, so that the metrics of a net that diverged are NaN
        outside = probabilities[(probabilities < 0) | (probabilities > 1)]
        if len(outside):
            raise ConfigError(
                f"Expected probabilities from 0 to 1, got {outside[0]:g}. Pass task.probabilities(logits)."
            )
    task.check_values(target)  # checks only targets on the CPU, so there is no host-device sync
    if probabilities.numel() == 0:
        return None
    probabilities = probabilities.detach()
    log_odds = None if log_odds is None else log_odds.detach()
    predictions = task.predict_from_probabilities(probabilities) if predictions is None else predictions
    return MetricInput(task, probabilities, target, predictions, log_odds)


class TaskMetric(Metric):
    """A metric of a task; created by `make_metrics`, and usable independently of its collection.

    Missing labels are ignored. Rankings also ignore classes without positives or without negatives, and macro
    means ignore labels without positives. The value is NaN if no label is known or a probability is NaN.

    Args:
        task: The task of the metric.
        base: Its name in `lossselect.metrics.names.AVERAGES`.
        statistic: The name of its statistic; metrics with the same one share their states.
        score: A function that computes the score from the statistic; None if the statistic is the score.
        outputs: The name of the mean of the scores, or of each score. With a single name of letters, digits
            and underscores, `compute` returns a scalar, else a dict.
    """

    full_state_update = False
    is_differentiable = False

    def __init__(
        self,
        task: Task,
        base: str,
        statistic: str,
        score: Callable[[Tensor], Tensor] | None = None,
        outputs: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.task, self.base, self.statistic, self.score = task, base, statistic, score
        is_scalar = len(outputs) == 1 and re.fullmatch(r"[\w-]+", outputs[0])
        self.outputs = () if is_scalar else tuple(outputs)
        self.summary: tuple[Tensor, Tensor] | None = None
        """The statistic over all ranks, and whether the value is undefined; set by `compute`."""
        self.support: Tensor
        self.add_state("support", torch.zeros(2, dtype=torch.long), dist_reduce_fx="sum")

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        return direction(self.base) == "max"

    @abstractmethod
    def accumulate(self, batch: MetricInput) -> None:
        """Add a batch; replace the states, because other metrics may share the old ones."""

    @abstractmethod
    def summarize(self) -> Tensor:
        """Compute the statistic from the states."""

    def update(
        self,
        probabilities: Tensor,
        target: Tensor,
        predictions: Tensor | None = None,
        log_odds: Tensor | None = None,
        batch: MetricInput | None = None,
    ) -> None:
        """Add a batch; see `TaskMetrics.update`. A collection passes the checked arguments as `batch`."""
        if batch is None:
            batch = check_batch(self.task, probabilities, target, predictions, log_odds)
        if batch is not None:
            self.support = self.support + batch.support
            self.accumulate(batch)

    def compute(self) -> Any:
        """Return the value, a scalar, or a dict of scalars."""
        known, nans = self.support
        self.summary = self.summarize(), (known == 0) | (nans > 0)
        return self._value(*self.summary)

    def _value(self, statistic: Tensor, undefined: Tensor) -> Any:
        values = statistic if self.score is None else self.score(statistic)
        values = values.double().masked_fill(undefined, torch.nan)
        if len(self.outputs) > 1 or (self.outputs and "/" in self.outputs[0]):
            return dict(zip(self.outputs, values, strict=True))
        return {self.outputs[0]: values.nanmean()} if self.outputs else values.nanmean()

    def reset(self) -> None:
        """Remove all batches."""
        for name, state in self.metric_state.items():
            if isinstance(state, list):
                # torchmetrics would clear the list, but other metrics may share it
                setattr(self, name, [])
        super().reset()
        self.summary = None

    def follow(self, other: "TaskMetric") -> None:
        """Share the states and the statistic of another metric, by reference."""
        summary = other.summary
        computed = None if summary is None or computed_value(other) is None else self._value(*summary)
        share_states(self, other, computed, summary=summary)


class SumMetric(TaskMetric):
    """A metric that is computed from sums over batches; the sums have the shape `shape`."""

    shape: tuple[int, ...]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # named after the statistic, because in a nested collection torchmetrics merges metrics whose states
        # have the same names and, after one batch, the same values
        self._state_name = f"{self.statistic}_sums"
        # double, because float32 can only count up to 16,777,216
        self.add_state(self._state_name, torch.zeros(self.shape, dtype=torch.double), dist_reduce_fx="sum")

    @abstractmethod
    def batch_sums(self, batch: MetricInput) -> Tensor:
        """Return the sums over a batch."""

    @property
    def sums(self) -> Tensor:
        """The sums over all batches."""
        return getattr(self, self._state_name)

    def accumulate(self, batch: MetricInput) -> None:
        setattr(self, self._state_name, self.sums + self.batch_sums(batch))
