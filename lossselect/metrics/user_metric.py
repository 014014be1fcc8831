"""A user's torchmetrics metric as a metric of a task."""

import inspect
import re
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
FAMILIES = {"binary": ("Binary",), "multiclass": ("Multiclass",), "multilabel": ("Multilabel", "Binary")}
"""Names of torchmetrics' classes start with one of these, by the kind of task that they fit."""


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
        parameters = [*inspect.signature(type(metric).update).parameters]
        self._title = f"{name!r} ({type(metric).__name__})"
        self.takes_predictions = parameters[1:2] == ["predictions"]
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
        if batch is None:
            return torch.tensor(torch.nan)
        self.support = self.support + batch.support
        value = self._outputs(self.metric(*self._select(batch)))
        set_update_count(self, self.metric.update_count)
        return value

    def summarize(self) -> Any:
        if not bool(self.support[0]):  # in all processes
            return torch.tensor(torch.nan, dtype=torch.double, device=self.device)
        if not self.metric.update_called:  # other processes have rows
            set_update_count(self.metric, 1)
        return self.metric.compute()

    def _value(self, statistic: Any, undefined: Tensor) -> Any:
        values = self._outputs(statistic)
        if isinstance(values, dict):
            return {name: value.masked_fill(undefined, torch.nan) for name, value in values.items()}
        return values.masked_fill(undefined, torch.nan)

    def _outputs(self, value: Any) -> Any:
        """Return what the metric has computed as a scalar, or as a dict of scalars with complete names."""
        width, is_tensor = self.task.num_probabilities, isinstance(value, Tensor)
        parts: Mapping[str, Any] = {"": value}
        if isinstance(value, Mapping):
            parts = dict(zip(class_keys(value), value.values(), strict=True))
        elif is_tensor and value.ndim == 1 and len(value) == width > 1:
            parts = dict(zip(class_keys(self.task.output_names), value, strict=True))
        scalars = {}
        for name, part in parts.items():
            if not isinstance(part, Tensor | int | float) or torch.as_tensor(part).numel() != 1:
                shape = getattr(part, "shape", None)
                got = f"shape {tuple(shape)}" if shape is not None else type(part).__name__
                raise ConfigError(
                    f"metrics: {self._title} must compute a scalar, a dict of scalars, or {width} values, "
                    f"got {got}{f' for {name!r}' if name else ''}. Choose another average, or wrap it."
                )
            full = f"{self.base}/{name}" if name else ""
            scalars[full] = torch.as_tensor(part, device=self.device).double().reshape(())
        return scalars.get("", scalars)

    def reset(self) -> None:
        """Remove all batches."""
        super().reset()
        self.metric.reset()

    def _try(self) -> None:
        """Raise ConfigError unless a copy of the metric accepts a random batch."""
        task, generator = self.task, torch.Generator().manual_seed(0)
        logits = torch.randn(TRIAL_ROWS, task.num_outputs, generator=generator)
        labels = task.predict(torch.randn(TRIAL_ROWS, task.num_outputs, generator=generator))
        batch = check_batch(task, task.probabilities(logits), task.encode(labels))
        outputs, target = self._select(batch)  # type: ignore[arg-type]  # it has rows
        kind = "predictions" if self.takes_predictions else "probabilities"
        shapes = " and targets of shape ".join(
            str(("M", *values.shape[1:])).replace("'", "") for values in (outputs, target)
        )
        trial = self.metric.clone().cpu()
        value: Any = 0.0
        problem = self._find_misfit()  # torchmetrics does not notice each of them
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                trial.update(outputs, target)
            except Exception as error:  # a user's metric may raise any
                problem = str(error).strip() or type(error).__name__
            with suppress(Exception):  # eight rows may be too few
                value = trial.compute()
        if problem:
            raise ConfigError(
                f"metrics: {self._title} cannot be updated with {kind} of shape {shapes}: "
                f"{problem.rstrip('.')}. Build it for {task}."
            )
        self._outputs(value)

    def _find_misfit(self) -> str:
        """Return why a metric of torchmetrics, or one within it, does not fit the task, or ""."""
        for part in self.metric.modules():
            width = getattr(part, "num_classes", None) or getattr(part, "num_labels", None)
            if width not in (None, self.task.num_probabilities):
                return f"it was built for {width} classes or labels"
            names = [cls.__name__ for cls in type(part).__mro__ if cls.__module__.startswith("torchmetrics.")]
            family = re.match("Binary|Multiclass|Multilabel", names[0]) if names else None
            if family and family[0] not in FAMILIES[self.task.kind]:
                return f"{names[0]} is for {family[0].lower()} tasks"
        return ""
