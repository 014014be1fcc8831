"""Accumulation of an epoch: the numerator and denominator of the loss, and the outputs for the metrics."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lossselect.chunked.topk_metrics import TopKMetrics, TopKOutputs
from lossselect.exceptions import DataError
from lossselect.labels.targets import flatten_positions
from lossselect.metrics.collection import TaskMetrics, build_metrics, label_counts, per_class
from lossselect.metrics.means import LossMean
from lossselect.metrics.names import MetricName, choose_metrics
from lossselect.metrics.registry import RANKINGS
from lossselect.metrics.stat_scores import ConfusionMatrix, StatScores
from lossselect.metrics.state import as_numbers, as_scalars, metric_state, set_metric_state
from lossselect.metrics.task_metric import MetricInput, as_rows
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import Task
from lossselect.training.diagnostics.outputs import FirstEpochChecks
from lossselect.utils.checks import SPLIT_NAMES
from lossselect.utils.distributed import all_gather, interleave

MAX_HELD_STEPS = 1024  # small tensors take more memory than their bytes
MAX_HELD_BYTES = 1 << 28  # 256 MiB of outputs on the device
MAX_BUFFERED_OUTPUTS = 10_000_000  # rows x classes
MAX_CONFUSION_CLASSES = 1000  # a confusion matrix of 100,000 classes would take 80 GB


class OutputBuffer:
    """Raw logits (N, num_outputs) and target of the rows of an epoch, on the CPU.

    Contains all rows up to `max_outputs` outputs (`MAX_BUFFERED_OUTPUTS` by default), and beyond that a
    random sample of the rows.
    """

    def __init__(self, max_outputs: int | None = None) -> None:
        self._parts: list[Any] = []  # logits and target of rows, and a random number in [0, 1) for each row
        self.share = 1.0  # fraction of rows kept, whose random number is lower; final after `rows`
        self._random = torch.Generator().manual_seed(0)
        self._max_outputs = (max_outputs or MAX_BUFFERED_OUTPUTS) // len(all_gather(None))

    def add(self, logits: Tensor, target: Tensor) -> None:
        """Add rows."""
        # NumPy has no bfloat16
        logits, target = (part.float() if part.dtype.itemsize == 2 else part for part in (logits, target))
        numbers = torch.rand(len(logits), generator=self._random)
        self._parts.append(self._select((logits.cpu(), target.cpu(), numbers)))
        while sum(logits.numel() for logits, *_ in self._parts) > self._max_outputs:
            self._thin_out(self.share / 2)

    def _select(self, part: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return part if self.share == 1 else tuple(values[part[-1] < self.share] for values in part)

    def _thin_out(self, share: float) -> None:
        if share < self.share:
            self.share = share
            self._parts = [self._select(part) for part in self._parts]

    def rows(self) -> tuple[Tensor, Tensor] | None:
        """Return logits and target of the rows of all processes; None if there are no rows."""
        self._thin_out(min(all_gather(self.share)))
        rows = [torch.cat(part) for part in zip(*self._parts, strict=True)]
        gathered = [part for part in all_gather(rows) if part]
        if not gathered:
            return None
        logits, target, _ = (interleave(part) for part in zip(*gathered, strict=True))
        return logits, target


class BaseEpoch(ABC):
    """Loss and metrics of a task over one epoch of one stage.

    A step only stores its tensors, without a host-device sync. The metrics are computed at once over the
    whole epoch, and the loss is sum / count over the epoch. The class is not an nn.Module: its metrics would
    become a part of the net, and `half()` would make the sum of the losses overflow.
    """

    def __init__(self, task: Any, prefix: str) -> None:
        self.task, self.prefix = task, prefix
        self.stage = prefix.partition("/")[0]
        self.alias: str | None = None  # a second prefix, if this is the first of several loaders
        self.loss = LossMean()
        self.metrics: Any = None
        self.default_metrics: TaskMetrics | None = None
        self.counted: StatScores | None = None  # if none of the metrics has the counts
        self.confusion: ConfusionMatrix | None = None
        self._held: list[tuple[Any, ...]] = []  # numerator, denominator, outputs, target of pending steps
        self._held_bytes = 0
        self._restored: dict[str, Tensor] | None = None  # the values of a complete epoch, from a checkpoint
        self.output_buffer: OutputBuffer | None = None  # for outputs that are needed after the epoch
        self.first_checks: FirstEpochChecks | None = None  # for training, until they have been reported
        # results of the last epoch, set by `compute`
        self.per_class: dict[str, Tensor] = {}  # counts and metrics of each class, in validation and test
        self.confusion_counts: Tensor | None = None  # (C, C): true classes in rows, predicted in columns
        self.counts: tuple[Tensor, Tensor] | None = None  # positives and negatives of each output

    @property
    def directions(self) -> Mapping[str, str | None]:
        """The directions of the metrics, as in `best_mode`."""
        return getattr(self.metrics, "directions", {})

    def _flush(self) -> None:
        if self._held:
            held, self._held, self._held_bytes = self._held, [], 0
            self._add(*zip(*held, strict=True))

    def with_loss(self, loss: Tensor, total: Tensor, count: Tensor | int) -> Tensor:
        """Return the numerator of a step for which an override of `step` returns this loss."""
        return loss * count

    def set_output_buffers(self, make: Callable[[], OutputBuffer] | None) -> None:
        """Store the outputs of the epoch in new buffers, one for each task; None stores nothing."""
        for epoch in self.by_task.values():
            epoch.output_buffer = make and make()

    @property
    def output_buffers(self) -> dict[str, Any]:
        """The buffers by task, None where nothing is stored."""
        return {name: epoch.output_buffer for name, epoch in self.by_task.items()}

    @property
    def by_task(self) -> "Mapping[str, BaseEpoch]":
        """The epoch of each of several tasks; the epoch itself under the name "" for one task."""
        return {"": self}

    @abstractmethod
    def _add(self, totals: tuple[Tensor, ...], counts: tuple[Any, ...], *outputs: tuple[Tensor, ...]) -> None:
        """Add numerators, denominators and outputs of steps to loss and metrics."""

    @abstractmethod
    def _compute_metrics(self) -> dict[str, Tensor]:
        """Return a dict of the loss and the metrics, with prefixed names."""

    def _parts(self) -> list[Metric | TaskMetrics]:
        parts = (self.loss, self.metrics, self.counted, self.default_metrics, self.confusion)
        return [part for part in parts if part is not None]

    def compute(self) -> dict[str, Tensor]:
        """Return a dict of the loss and the metrics, with prefixed names; empty without any step."""
        self._flush()
        if self._restored is not None:
            return self._restored
        has_steps = all_gather(self.loss.update_called)
        if any(has_steps) and not all(has_steps):
            raise DataError(
                f"Process {has_steps.index(False)} of {len(has_steps)} had no "
                f"{SPLIT_NAMES[self.stage]} batch, but others did. Let the loader yield at least "
                "one batch in each process."
            )
        return self._compute_metrics() if all(has_steps) else {}

    def state_dict(self, complete: bool) -> dict[str, Any]:
        """Return the accumulated sums for a checkpoint, or the computed values of a complete epoch."""
        if complete:
            self._restored = self.compute()  # for the call at the end of the epoch
            return {"values": as_numbers(self._restored)}
        self._flush()
        return {"sums": [metric_state(metric) for metric in self._metrics()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._restored = as_scalars(state["values"]) if "values" in state else None
        if "sums" in state:
            for metric, values in zip(self._metrics(), state["sums"], strict=True):
                set_metric_state(metric, values)
            for part in self._parts():
                if isinstance(part, TaskMetrics):
                    part.share()

    def _metrics(self) -> list[Metric]:
        parts = (part.sources.values() if isinstance(part, TaskMetrics) else [part] for part in self._parts())
        return [metric for metrics in parts for metric in metrics]

    def reset(self) -> None:
        """Discard everything that has been accumulated."""
        self._restored = None
        if not self._held and not self.loss.update_called:
            return
        self._held, self._held_bytes = [], 0
        with torch.inference_mode(False):  # inference tensors could not be updated by a later validation
            for part in self._parts():
                part.reset()


class DenseEpoch(BaseEpoch):
    """An epoch of which all logits are known."""

    def update(self, total: Tensor, count: Tensor | int, logits: Tensor, target: Tensor) -> None:
        """Add a step: the numerator and denominator of its loss, its logits and its target."""
        # copies, because a loader may reuse its buffers and a CUDA graph its outputs
        total, logits, target = total.detach().clone(), logits.detach().clone(), target.detach().clone()
        count = count.clone() if isinstance(count, Tensor) else count
        if logits.ndim > 2:
            # trailing dimensions become rows, because lengths and image sizes may differ between batches
            target = as_rows(target, logits)
            logits = flatten_positions(logits)
        self._held.append((total, count, logits, target))
        self._held_bytes += logits.nbytes + target.nbytes
        if self._held_bytes > MAX_HELD_BYTES or len(self._held) >= MAX_HELD_STEPS:
            self._flush()


class Epoch(DenseEpoch):
    """Loss and metrics of all outputs.

    Args:
        task: The task.
        prefix: "train/", "val/" or "test/", followed by the name of the loader and "/" if there are several.
        base_task: The task with the default decision, if its metrics are to be computed as well.
        metrics: A choice of metrics, as in `make_metrics`; by default those of the task. The task's monitor
            is always computed in validation.
        parent: The prefix of all tasks, if this is the epoch of one of several.
    """

    def __init__(
        self, task: Task, prefix: str, base_task: Task | None = None, metrics: Any = None, parent: str = ""
    ) -> None:
        super().__init__(task, prefix)
        training = prefix == "train/"
        chosen = choose_metrics(task, metrics, stage=self.stage)
        self.metrics = build_metrics(task, chosen, prefix)
        if "stat_scores" not in self.metrics.sources:
            self.counted = StatScores(task, "accuracy", "stat_scores")
        self.first_checks = FirstEpochChecks() if training else None
        if base_task:
            decided = {
                k: m for k, m in chosen.items() if isinstance(m, MetricName) and m.base not in RANKINGS
            }
            start = parent or prefix
            default_prefix = f"{start}default_decision/{prefix.removeprefix(start)}"
            self.default_metrics = build_metrics(base_task, decided, default_prefix)
        if not task.several_labels and len(task.names) <= MAX_CONFUSION_CLASSES and not training:
            self.confusion = ConfusionMatrix(task)

    def _compute_metrics(self) -> dict[str, Tensor]:
        values = {f"{self.prefix}loss": self.loss.compute(), **self.metrics.compute()}
        counted = self.counted or self.metrics.sources["stat_scores"]
        self.counts = label_counts(counted)
        if self.prefix != "train/":
            self.per_class = per_class(counted, self.metrics)
        if self.confusion is not None:
            self.confusion_counts = self.confusion.compute()
        return values if self.default_metrics is None else values | self.default_metrics.compute()

    def _add(self, totals: tuple[Tensor, ...], counts: tuple[Any, ...], *steps: tuple[Tensor, ...]) -> None:
        logits, targets = steps
        outputs = torch.cat(logits)
        if outputs.device.type == "mps":  # MPS has no float64
            outputs = outputs.cpu()
            targets = tuple(target.cpu() for target in targets)
        if outputs.device != self.loss.device:
            for part in self._parts():
                part.to(outputs.device)
        self.loss.update(totals, counts)
        if self.output_buffer is not None:
            self.output_buffer.add(outputs, torch.cat([self.task.to_one_hot(target) for target in targets]))
        if any(target.is_floating_point() for target in targets):
            # some batches may have soft labels, and others class indices
            targets = tuple(map(self.task.to_one_hot, targets))
        target = torch.cat(targets)
        # a sigmoid is 1, and no longer ranks logits, above 17 in float32 and above 37 in float64
        wide = outputs.double()

        def make_input(task: Task) -> MetricInput:
            predictions = task.predict(outputs)  # in float32, as at inference
            return MetricInput(task, task.probabilities(wide), target, predictions, task.log_odds(wide))

        batch = make_input(self.task)
        self.metrics.update_checked(batch)
        if self.counted is not None:
            self.counted.update(batch.probabilities, batch.target, batch=batch)
        if self.default_metrics is not None:
            self.default_metrics.update_checked(make_input(self.default_metrics.task))
        if self.first_checks is not None:
            self.first_checks.update(outputs, batch.labels)
        if self.confusion is not None:
            self.confusion.update(batch.predictions, batch.labels)


class TopKEpoch(BaseEpoch):
    """Loss and metrics of the highest outputs of a chunked head; only the loss in training."""

    def __init__(
        self, task: Task, prefix: str, counts: LabelCounts | None = None, metrics: Any = None
    ) -> None:
        super().__init__(task, prefix)
        self.metrics = None if prefix == "train/" else TopKMetrics(task, counts, metrics)

    def update(self, total: Tensor, count: Tensor, outputs: TopKOutputs | None, target: Any) -> None:
        """Add a step: the numerator and denominator of its loss, and its highest outputs."""
        self._held.append((total.detach(), count))
        if len(self._held) >= MAX_HELD_STEPS:
            self._flush()
        if self.metrics is not None:
            if self.metrics.device != total.device:
                self.metrics.to(total.device)
            self.metrics.update(outputs, target)

    def _compute_metrics(self) -> dict[str, Tensor]:
        metrics = {} if self.metrics is None else self.metrics.compute()
        values = {"loss": self.loss.compute(), **metrics}
        return {f"{self.prefix}{name}": value for name, value in values.items()}

    def _add(self, totals: tuple[Tensor, ...], counts: tuple[Any, ...], *steps: tuple[Tensor, ...]) -> None:
        self.loss.to(totals[0].device).update(totals, counts)


class StageEpochs:
    """The epochs of a stage: one for each of its loaders."""

    def __init__(self, stage: str, make: Callable[[str], Epoch | TopKEpoch]) -> None:
        self.stage, self._make = stage, make
        self.first = make(f"{stage}/")
        self._others: list[Epoch | TopKEpoch] = []
        self.loader = 0  # the index of the loader of the current batch

    def start(self, names: list[str]) -> None:
        """Start the epochs of several loaders with these names, or of a single loader if there are none."""
        self.loader = 0
        self.first.alias = f"{self.stage}/{names[0]}/" if names else None
        prefixes = [f"{self.stage}/{name}/" for name in names[1:]]
        if [epoch.prefix for epoch in self._others] != prefixes:
            self._others = [*map(self._make, prefixes)]
        for epoch in self:
            epoch.reset()

    @property
    def current(self) -> Epoch | TopKEpoch:
        """The epoch of the loader of the current batch."""
        return self._others[self.loader - 1] if self.loader else self.first

    def __iter__(self) -> Iterator[Epoch | TopKEpoch]:
        return iter([self.first, *self._others])
