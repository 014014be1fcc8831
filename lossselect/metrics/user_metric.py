"""A user's torchmetrics metric as a metric of a task."""

import inspect
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lossselect.compat.torchmetrics import set_update_count
from lossselect.exceptions import ConfigError
from lossselect.labels.targets import flatten_positions
from lossselect.metrics.names import class_keys
from lossselect.metrics.state import fill_empty_lists
from lossselect.metrics.task_metric import MetricInput, TaskMetric, as_rows, check_batch
from lossselect.tasks.registry import IGNORE_INDEX, Task

TRIAL_ROWS = 8


class UserMetric(TaskMetric):
    """A copy of a user's metric, updated with the rows whose label is known.

    It receives probabilities in float32, or predictions if the first parameter of its `update` is called
    `predictions`, and hard labels: (M,) and (M,) for binary, (M, C) and (M,) for multiclass, (M, L) and
    (M, L) for multilabel tasks. Missing labels of a row with other labels are the metric's `ignore_index`.

    Args:
        task: The task.
        name: The name under which the value is logged.
        metric: The metric, which is copied and reset.

    Raises:
        ConfigError: the metric cannot be updated with the outputs of the task.
    """

    def __init__(self, task: Task, name: str, metric: Metric) -> None:
        super().__init__(task, name, f"user {name}")
        self.metric = metric.clone()
        self.metric.reset()
        self._title = f"{name!r} ({type(metric).__name__})"
        self.takes_predictions = [*inspect.signature(metric.update).parameters][:1] == ["predictions"]
        self._try()

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        return self.metric.higher_is_better

    def accumulate(self, batch: MetricInput) -> None:
        if len((arguments := self._select(batch))[0]):
            self.metric.update(*arguments)

    def _select(self, batch: MetricInput) -> tuple[Tensor, Tensor]:
        """Return the outputs and labels of the rows with a label and without NaN."""
        probabilities = flatten_positions(batch.probabilities).float()
        labels = as_rows(batch.labels, batch.probabilities)
        outputs = as_rows(batch.predictions, batch.probabilities) if self.takes_predictions else probabilities
        known = labels != IGNORE_INDEX
        rows = ~probabilities.isnan().any(1) & (known.any(1) if known.ndim > 1 else known)
        outputs, labels, known = outputs[rows], labels[rows], known[rows]
        if self.task.positive_name is not None:
            return outputs.flatten(), labels.flatten()
        if labels.ndim > 1 and not bool(known.all()):
            ignore_index = getattr(self.metric, "ignore_index", None)
            if ignore_index is None:
                raise ConfigError(
                    f"metrics: {self._title} has no ignore_index, but some labels are missing. Build it with "
                    f"ignore_index={IGNORE_INDEX}."
                )
            labels = labels.masked_fill(~known, ignore_index)
        return outputs, labels

    def forward(self, *arguments: Any, batch: MetricInput | None = None, **options: Any) -> Any:
        """Add a batch, and return the value of this batch."""
        batch = check_batch(self.task, *arguments, **options) if batch is None else batch
        value = torch.tensor(torch.nan)
        if batch is not None:
            self.support = self.support + batch.support
            set_update_count(self, self.update_count + 1)
            if len((selected := self._select(batch))[0]):
                value = self._value(self.metric(*selected), batch.support[1] > 0)
        return value

    def summarize(self) -> Any:
        if not bool(self.support[0]):  # in all processes
            return torch.tensor(torch.nan, dtype=torch.double, device=self.device)
        fill_empty_lists(self.metric)
        return self.metric.compute()

    def _value(self, statistic: Any, undefined: Tensor) -> Any:
        """Return what the metric computed as a scalar, or as a dict of scalars with complete names."""
        width, parts = self.task.num_probabilities, {self.base: statistic}
        if isinstance(statistic, Tensor) and statistic.shape == (width,) and width > 1:
            statistic = dict(zip(self.task.output_names, statistic, strict=True))
        if isinstance(statistic, Mapping):
            keys = (f"{self.base}/{key}" for key in class_keys(statistic))
            parts = dict(zip(keys, statistic.values(), strict=True))
        for name, part in parts.items():
            if not isinstance(part, Tensor | int | float) or torch.as_tensor(part).numel() != 1:
                got = f"shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
                got += f" for {name!r}" if name != self.base else ""
                raise ConfigError(
                    f"metrics: {self._title} must compute a scalar, a dict of scalars, or {width} values, "
                    f"got {got}. Choose another average, or wrap it."
                )
            scalar = torch.as_tensor(part, device=self.device).double().reshape(())
            parts[name] = scalar.masked_fill(undefined, torch.nan)
        return parts.get(self.base, parts)

    def reset(self) -> None:
        """Remove all batches."""
        super().reset()
        self.metric.reset()

    def _try(self) -> None:
        """Raise ConfigError unless a copy of the metric accepts a random batch."""
        task, generator = self.task, torch.Generator().manual_seed(0)
        logits, others = torch.randn(2, TRIAL_ROWS, task.num_outputs, generator=generator)
        batch = check_batch(task, task.probabilities(logits), task.encode(task.predict(others)))
        outputs, labels = self._select(batch)  # type: ignore[arg-type]  # it has rows
        trial, value = self.metric.clone().cpu(), 0.0
        with warnings.catch_warnings(action="ignore"):
            try:
                trial.update(outputs, labels)
                self._check_declared()
            except Exception as error:  # a user's metric may raise any
                kind = "predictions" if self.takes_predictions else "probabilities"
                shapes = f"{kind} of shape {tuple(outputs.shape)} and targets of shape {tuple(labels.shape)}"
                problem = str(error).strip().rstrip(".") or type(error).__name__
                raise ConfigError(
                    f"metrics: {self._title} cannot be updated with "
                    f"{shapes.replace(f'({TRIAL_ROWS}', '(M')}: {problem}. Build it for {task}."
                ) from error
            with suppress(Exception):  # eight rows may be too few
                value = trial.compute()
        self._value(value, torch.tensor(False))

    def _check_declared(self) -> None:
        """Raise ValueError if the attributes of the metric, or of one within it, do not fit the task.

        torchmetrics accepts several labels in a multiclass metric, and with `validate_args=False` almost any
        shapes. Its classification metrics have the attribute `validate_args`, and those for multiclass tasks
        `num_classes`.
        """
        for part in self.metric.modules():
            declared = vars(part)  # not what a wrapper reads from the metric within it
            width = declared.get("num_classes") or declared.get("num_labels")
            if width not in (None, self.task.num_probabilities):
                raise ValueError(f"it was built for {width} classes or labels")
            if "validate_args" in declared and ("num_classes" in declared) != self.task.exclusive:
                negation = "not " if self.task.exclusive else ""
                raise ValueError(f"{type(part).__name__} is {negation}for multiclass tasks")
