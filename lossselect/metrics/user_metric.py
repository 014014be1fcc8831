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
        if not self.metric.update_called:  # other processes have rows
            set_update_count(self.metric, 1)
        return self.metric.compute()

    def _value(self, statistic: Any, undefined: Tensor) -> Any:
        """Return what the metric computed as a scalar, or as a dict of scalars with complete names."""
        width, parts = self.task.num_probabilities, {self.base: statistic}
        if isinstance(statistic, Mapping):
            keys, values = class_keys(statistic), statistic.values()
            parts = {f"{self.base}/{key}": part for key, part in zip(keys, values, strict=True)}
        elif isinstance(statistic, Tensor) and statistic.shape == (width,) and width > 1:
            keys = class_keys(self.task.output_names)
            parts = {f"{self.base}/{key}": part for key, part in zip(keys, statistic, strict=True)}
        for name, part in parts.items():
            if not isinstance(part, Tensor | int | float) or torch.as_tensor(part).numel() != 1:
                got = f"shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
                raise ConfigError(
                    f"metrics: {self._title} must compute a scalar, a dict of scalars, or {width} values, "
                    f"got {got} for {name!r}. Choose another average, or wrap it."
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
        trial, value, problem = self.metric.clone().cpu(), 0.0, self._find_misfit()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                trial.update(outputs, labels)
            except Exception as error:  # a user's metric may raise any
                problem = str(error).strip() or type(error).__name__
            with suppress(Exception):  # eight rows may be too few
                value = trial.compute()
        if problem:
            kind = "predictions" if self.takes_predictions else "probabilities"
            shapes = f"{kind} of shape {tuple(outputs.shape)} and targets of shape {tuple(labels.shape)}"
            raise ConfigError(
                f"metrics: {self._title} cannot be updated with {shapes.replace(f'({TRIAL_ROWS}', '(M')}: "
                f"{problem.rstrip('.')}. Build it for {task}."
            )
        self._value(value, torch.tensor(False))

    def _find_misfit(self) -> str:
        """Return why the metric, or one within it, does not fit the task, or "".

        torchmetrics raises no error if a multiclass metric is updated with several labels, nor, with
        `validate_args=False`, in most other cases. Its classification metrics have the attribute
        `validate_args`, and those for multiclass tasks `num_classes`.
        """
        for part in self.metric.modules():
            options = vars(part)  # not those that a wrapper reads from the metric within it
            width = options.get("num_classes") or options.get("num_labels")
            if width not in (None, self.task.num_probabilities):
                return f"it was built for {width} classes or labels"
            if "validate_args" in options and ("num_classes" in options) != self.task.exclusive:
                return f"{type(part).__name__} is {'not ' * self.task.exclusive}for multiclass tasks"
        return ""
