"""A task as one of several: what `MultiTask` answers by task, for code that handles both."""

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor


class OneTask:
    """The methods of a single task that return or accept values by task, under the name ""."""

    @property
    def tasks(self) -> dict[str, Self]:
        """The task itself under the name "": what depends on a task is done for each of `tasks`."""
        return {"": self}

    @property
    def title(self) -> str:
        """The name of the task."""
        return self.name  # type: ignore[attr-defined]

    @property
    def task_weights(self) -> dict[str, float]:
        """The weight 1 under the name ""."""
        return {"": 1.0}

    @property
    def learns_weights(self) -> bool:
        """False: only several tasks have weights in the loss."""
        return False

    def with_tasks(self, tasks: Mapping[str, Self]) -> Self:
        """Return the task that replaces this one."""
        return tasks[""]

    def join_logits(self, logits: Any) -> Any:
        """Return the logits unchanged."""
        return logits

    def split_logits(self, logits: Any) -> dict[str, Any]:
        """Return the logits under the name ""."""
        return {"": logits}

    def by_task(self, values: Any) -> dict[str, Any]:
        """Return values of the task under the name ""."""
        return {"": values}

    def join_values(self, values: Mapping[str, Any]) -> Any:
        """Return the value under the name ""; reverses `by_task`."""
        return values[""]

    def split_target(self, target: Any) -> dict[str, Any]:
        """Return the canonical target under the name ""."""
        return {"": target}

    def has_columns(self, target: Tensor) -> bool:
        """Return whether a canonical target has a dimension of classes: all do but class indices."""
        return target.is_floating_point()

    def strata(self, labels: Any) -> Any:
        """Return the labels by which rows are stratified: the labels unchanged."""
        return labels
