"""Several tasks of one net, each with its own outputs, target, decision and metrics."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lossselect.exceptions import ConfigError, DataError, DataTypeError, LossSelectError, OptionTypeError
from lossselect.labels.values import IGNORE_INDEX
from lossselect.tasks.base import Task
from lossselect.tasks.task_names import check_tasks, check_weights, naming_task
from lossselect.tasks.tensors import check_device, join_columns
from lossselect.utils.checks import shorten


@dataclass(frozen=True, eq=False)
class MultiTask:
    """Several tasks of one net: species (multiclass), tags (multilabel) and sick (binary), for example.

    The logits of all tasks are one tensor (N, num_outputs, ...), the outputs of the first task first. A net
    may return a mapping of logits by task instead. The methods accept logits in both forms, and return and
    accept everything else as mappings by task.

    The loss is sum_t w_t S_t / D_t, with the numerator S_t and the denominator D_t of the loss of each task.
    A task without labels in a batch contributes 0.

    Args:
        tasks: The tasks by name, at least two. The names become parts of the names of metrics, such as
            "val/species/accuracy".
        weights: The weight w_t >= 0 of each task, 1 for tasks that are left out; or "uncertainty" to learn
            the weights: w_t = exp(-s_t), and s_t / 2 is added to the loss (Kendall, Gal and Cipolla, 2018,
            arXiv:1705.07115). None for equal weights of 1.

    Raises:
        ConfigError: an invalid name, fewer than two tasks, a weight of an unknown task, or only weights of 0.
        OptionTypeError: `tasks` is not a mapping of tasks, or `weights` of numbers.

    Example:
        >>> from lossselect import Binary, Multiclass
        >>> task = MultiTask({"species": Multiclass(3, class_names=("cat", "dog", "owl")), "sick": Binary()})
        >>> task.num_outputs
        4
        >>> logits = torch.tensor([[0.0, 2.0, -1.0, -3.0]])
        >>> task.decode(task.predict(logits))
        {'species': ['dog'], 'sick': ['0']}
    """

    tasks: Mapping[str, Task]
    weights: Mapping[str, float] | str | None = None

    name: ClassVar[str] = "several"
    monitor: ClassVar[str] = "loss"

    def __post_init__(self) -> None:
        weights = check_weights(self.weights, tasks := check_tasks(self.tasks))
        object.__setattr__(self, "tasks", MappingProxyType(tasks))
        object.__setattr__(
            self, "weights", MappingProxyType(weights) if isinstance(weights, dict) else weights
        )

    @property
    def _key(self) -> tuple[Any, ...]:
        """The values that equal tasks share; the order of the tasks is that of the outputs."""
        weights = tuple(self.weights.items()) if isinstance(self.weights, Mapping) else self.weights
        return (type(self), *self.tasks.items(), weights)

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, MultiTask) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)

    def __reduce__(self) -> tuple[Any, ...]:
        weights = dict(self.weights) if isinstance(self.weights, Mapping) else self.weights
        return type(self), (dict(self.tasks), weights)  # a proxy cannot be pickled

    def __str__(self) -> str:
        return "several tasks: " + ", ".join(f"{name} ({task})" for name, task in self.tasks.items())

    @property
    def title(self) -> str:
        """The names of the tasks, by which runs are compared, such as "several (species, sick)"."""
        return f"{self.name} ({shorten([*self.tasks])})"

    @property
    def num_outputs(self) -> int:
        """Number of outputs of all tasks."""
        return sum(task.num_outputs for task in self.tasks.values())

    @property
    def num_probabilities(self) -> int:
        """Number of probabilities of all tasks."""
        return sum(task.num_probabilities for task in self.tasks.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each probability of all tasks, such as "species: cat"."""
        return tuple(f"{name}: {output}" for name, task in self.tasks.items() for output in task.output_names)

    @property
    def primary_metric(self) -> str:
        """Metric shown next to the loss during training: that of the first task."""
        name, task = next(iter(self.tasks.items()))
        return f"{name}/{task.primary_metric}"

    def by_task(self, values: Any) -> Any:
        """Return values by task unchanged."""
        return values

    def join_values(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return values by task unchanged."""
        return values

    def with_tasks(self, tasks: Mapping[str, Task]) -> "MultiTask":
        """Return the same with other tasks of the same names, such as tasks with fitted thresholds."""
        return replace(self, tasks=tasks)

    @property
    def task_weights(self) -> dict[str, float]:
        """The weight of each task that is set, 1 by default."""
        return dict(self.weights) if isinstance(self.weights, Mapping) else dict.fromkeys(self.tasks, 1.0)

    @property
    def learns_weights(self) -> bool:
        """True if the weights of the tasks in the loss are learned."""
        return self.weights == "uncertainty"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint; `as_task(values)` recreates the tasks."""
        tasks = {name: task.to_dict() for name, task in self.tasks.items()}
        weights = dict(self.weights) if isinstance(self.weights, Mapping) else self.weights
        return {"name": self.name, "tasks": tasks, "weights": weights}

    # --- logits

    def join_logits(self, logits: Any) -> Any:
        """Return logits by task as one tensor (N, num_outputs, ...), and a tensor unchanged.

        Raises:
            ConfigError: a task is missing or unknown, or its logits have another shape.
        """
        if not isinstance(logits, Mapping):
            return logits
        self._check_names(logits, "logits", ConfigError)
        for name, task in self.tasks.items():
            with naming_task(name):
                task.check_logits(logits[name])
        return join_columns({name: logits[name] for name in self.tasks}, "logits", ConfigError)

    def split_logits(self, logits: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the logits of each task, as views.

        Raises:
            ConfigError: another shape, or a mapping with a missing or unknown task.
        """
        joined = self.join_logits(logits)
        self.check_logits(joined)
        widths = [task.num_outputs for task in self.tasks.values()]
        return dict(zip(self.tasks, joined.split(widths, 1), strict=True))

    def check_logits(self, logits: Any) -> None:
        """Raise an error unless `logits` are a tensor of floats of shape (N, num_outputs, ...)."""
        if not isinstance(logits, Tensor):
            raise DataTypeError(
                f"Expected logits as a tensor, or as a mapping by task, got {type(logits).__name__}."
            )
        if not logits.is_floating_point() or logits.ndim < 2 or logits.shape[1] != self.num_outputs:
            widths = ", ".join(f"{name}: {task.num_outputs}" for name, task in self.tasks.items())
            raise ConfigError(
                f"Expected float logits of shape (N, {self.num_outputs}) for several tasks ({widths}), got "
                f"{logits.dtype} of shape {tuple(logits.shape)}. Return a mapping of logits by task, or "
                "build the last layer with task.num_outputs."
            )

    def mean_logits(
        self,
        logits: Tensor,
        weights: Tensor | None = None,
        shifts: Tensor | None = None,
        temperatures: Tensor | None = None,
    ) -> Tensor:
        """Return the logits of the weighted mean probabilities of K nets; see `Task.mean_logits`."""
        means, outputs, start = [], 0, 0
        for task in self.tasks.values():
            columns = slice(start, start + task.num_probabilities)
            shift = None if shifts is None else shifts[:, columns]
            divisor = temperatures
            if divisor is not None and divisor.shape[1] == self.num_probabilities:
                divisor = divisor[:, columns]
            part = logits[..., outputs : outputs + task.num_outputs]
            means.append(task.mean_logits(part, weights, shift, divisor))
            outputs, start = outputs + task.num_outputs, columns.stop
        return torch.cat(means, 1)

    # --- targets

    def encode(self, target: Any, trailing_dims: int | None = None) -> dict[str, Tensor]:
        """Return the canonical target of each task; see `Task.encode`.

        Args:
            target: A mapping of the labels of each task, in any form that its `encode` accepts.
            trailing_dims: The number of trailing dimensions of the logits.

        Raises:
            DataError: a task is missing or unknown, its labels do not fit it, or the tasks differ in rows.
        """
        if not isinstance(target, Mapping):
            raise DataTypeError(
                f"The target of several tasks must be a mapping with the keys {shorten([*self.tasks])}, got "
                f"{type(target).__name__}."
            )
        self._check_names(target, "target", DataError)
        encoded = {}
        for name, task in self.tasks.items():
            with naming_task(name):
                encoded[name] = task.encode(target[name], trailing_dims)
        rows = {name: len(part) for name, part in encoded.items()}
        if len({*rows.values()}) > 1:
            raise DataError(f"The targets of all tasks must have the same number of rows, got {rows}.")
        return encoded

    def encode_tensor(self, target: Any, trailing_dims: int | None = None) -> Tensor:
        """Return the canonical targets of all tasks in one tensor, which `split_target` reverses.

        A tensor or an array is returned as it is, if it may be the result of this method.

        Without soft labels it is long (N, columns, ...), with the labels of `to_hard_labels`: a column for
        each output of a task with independent outputs, and one for the class index of an exclusive task.
        Otherwise it is float (N, num_probabilities, ...), as `to_one_hot` returns it. Labels on a GPU, whose
        values are not read, count as soft.
        """
        if isinstance(target, Tensor | np.ndarray):
            return self._check_joined(torch.as_tensor(target))
        if trailing_dims is not None or not isinstance(target, Mapping):
            return self.join_target(self.encode(target, trailing_dims))
        # class indices (N, C) of positions would be indistinguishable from one-hot rows
        sizes = {name: part.ndim for name, part in target.items() if isinstance(part, Tensor)}
        columns = [n - 2 for name, n in sizes.items() if n > 2 and not self._is_exclusive(name)]
        if columns or any(n > 2 for n in sizes.values()):
            return self.join_target(self.encode(target, columns[0] if columns else None))
        try:
            return self.join_target(self.encode(target, 0))
        except DataError as error:
            with suppress(DataError):
                return self.join_target(self.encode(target, 1))
            raise error

    def _is_exclusive(self, name: Any) -> bool:
        return name not in self.tasks or self.tasks[name].exclusive

    def _check_joined(self, target: Tensor) -> Tensor:
        """Return a target of `encode_tensor`; raise a DataError for another one."""
        is_soft = target.is_floating_point()
        width = self.num_probabilities if is_soft else self._num_columns
        if (target.dtype != torch.long and not is_soft) or target.ndim < 2 or target.shape[1] != width:
            self.encode(target)  # raises that it must be a mapping
        for name, part in self.split_target(target).items():
            with naming_task(name):
                self.tasks[name].check_values(part)
        return target

    @property
    def _num_columns(self) -> int:
        """Number of columns of a target without soft labels."""
        return sum(1 if task.exclusive else task.num_probabilities for task in self.tasks.values())

    def join_target(self, target: Mapping[str, Tensor]) -> Tensor:
        """Return canonical targets by task, the result of `encode`, in one tensor; see `encode_tensor`."""
        self._check_names(target, "target", DataError)
        return self._join_targets(target, is_soft=any(map(_is_soft, target.values())))

    def _join_targets(self, target: Mapping[str, Tensor], is_soft: bool) -> Tensor:
        parts = {}
        for name, task in self.tasks.items():
            part = task.to_one_hot(target[name]) if is_soft else task.to_hard_labels(target[name])
            parts[name] = part.unsqueeze(1) if task.exclusive and not is_soft else part
        return join_columns(parts, "canonical targets", DataError)

    def split_target(self, target: Tensor) -> dict[str, Tensor]:
        """Return the canonical target of each task, from the result of `encode_tensor`."""
        is_soft = target.is_floating_point()
        widths = [1 if t.exclusive and not is_soft else t.num_probabilities for t in self.tasks.values()]
        parts = dict(zip(self.tasks, target.split(widths, 1), strict=True))
        for name, task in () if is_soft else self.tasks.items():
            part = parts[name]
            missing = part == IGNORE_INDEX
            parts[name] = part.squeeze(1) if task.exclusive else part.float().masked_fill(missing, torch.nan)
        return parts

    def settle(self, target: Tensor, trailing_dims: int | None) -> Tensor:
        """Return the target with the trailing dimensions of size 1 that `encode_tensor` took for columns."""
        missing = 0 if trailing_dims is None else trailing_dims - (target.ndim - 2)
        return target[(..., *[None] * max(missing, 0))]

    def check_target(self, target: Tensor, outputs: Tensor) -> Tensor:
        """Return a target of `encode_tensor` if it fits these logits.

        Raises:
            DataTypeError: not a tensor.
            DataError: another shape.
            ConfigError: another device.
        """
        if not isinstance(target, Tensor):
            raise DataTypeError(
                f"Expected a tensor as target, got {type(target).__name__}. Pass task.encode_tensor(target)."
            )
        width = self.num_probabilities if target.is_floating_point() else self._num_columns
        if (shape := (len(outputs), width, *outputs.shape[2:])) != tuple(target.shape):
            raise DataError(
                f"For logits of shape {tuple(outputs.shape)}, the target of several tasks must have shape "
                f"{shape}, got {target.dtype} of shape {tuple(target.shape)}. Pass "
                "task.encode_tensor(target)."
            )
        check_device(target, outputs)
        return target

    def to_one_hot(self, target: Tensor) -> Tensor:
        """Return a target of `encode_tensor` as floats (N, num_probabilities, ...), NaN where missing."""
        return self._join_targets(self.split_target(target), is_soft=True)

    def to_hard_labels(self, target: Tensor) -> Tensor:
        """Return a target of `encode_tensor` without soft labels; `IGNORE_INDEX` where missing."""
        return self._join_targets(self.split_target(target), is_soft=False)

    def has_columns(self, target: Tensor) -> bool:
        """Return True: a target of `encode_tensor` has columns for each task."""
        return True

    def strata(self, labels: Any) -> np.ndarray:
        """Return labels of `encode_tensor` as `to_one_hot` does, for splits that are stratified by them."""
        one_hot: np.ndarray = self.to_one_hot(torch.from_numpy(labels)).numpy()
        return one_hot

    # --- probabilities and decisions

    def probabilities(self, logits: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the probabilities of each task, (N, C, ...) for C classes or labels.

        The errors are those of `split_logits`; see `Task.probabilities`.
        """
        parts = self.split_logits(logits)
        return {name: task.probabilities(parts[name]) for name, task in self.tasks.items()}

    def log_odds(self, logits: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the log-odds of each task, in the shape of its probabilities; see `Task.log_odds`."""
        parts = self.split_logits(logits)
        return {name: task.log_odds(parts[name]) for name, task in self.tasks.items()}

    def predict(self, logits: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the predictions of each task, in the shapes of `Task.predict`."""
        parts = self.split_logits(logits)
        return {name: task.predict(parts[name]) for name, task in self.tasks.items()}

    def predict_from_probabilities(self, probabilities: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the predictions of each task for its probabilities, in the shapes of `predict`."""
        self._check_names(probabilities, "probabilities", ConfigError)
        return {n: task.predict_from_probabilities(probabilities[n]) for n, task in self.tasks.items()}

    def decode(self, prediction: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Return the class names of the predictions of each task, lists of N entries; see `Task.decode`."""
        self._check_names(prediction, "prediction", ConfigError)
        decoded = {}
        for name, task in self.tasks.items():
            with naming_task(name):
                decoded[name] = task.decode(prediction[name])
        return decoded

    def _check_names(self, values: Mapping[str, Any], what: str, error: type[LossSelectError]) -> None:
        """Raise an error for a mapping that lacks a task, or has another key."""
        if not isinstance(values, Mapping):
            raise OptionTypeError(f"Expected {what} as a mapping by task, got {type(values).__name__}.")
        if missing := [name for name in self.tasks if name not in values]:
            raise error(
                f"The task {missing[0]!r} is missing from the {what}. Expected the keys "
                f"{shorten([*self.tasks])}, got {shorten([*map(str, values)])}."
            )
        if unknown := [name for name in values if name not in self.tasks]:
            raise error(
                f"Got {what} of the unknown task {unknown[0]!r}. The tasks are {shorten([*self.tasks])}. "
                "Remove it, or declare the task in MultiTask."
            )


def _is_soft(target: Tensor) -> bool:
    """Return whether a canonical target has soft labels; true for floats on a GPU, which are not read."""
    if not target.is_floating_point():
        return False
    return target.device.type != "cpu" or bool(((target > 0) & (target < 1)).any())
