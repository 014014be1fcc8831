"""What an epoch adds up: the loss's numerator and denominator, and the outputs for the metrics."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lossselect.labels.targets import flatten_positions
from lossselect.metrics.collection import TaskMetrics, confusion_matrix, label_counts, make_metrics, per_class
from lossselect.metrics.loss_mean import HELD_STEPS, LossMean, has_steps
from lossselect.metrics.registry import RANKING, ROWS
from lossselect.metrics.state import as_numbers, as_scalars, metric_state, set_metric_state
from lossselect.metrics.task_metric import MetricInput
from lossselect.tasks.registry import Task
from lossselect.training.diagnostics.outputs import FirstEpochChecks
from lossselect.training.output_buffer import OutputBuffer

HELD_BYTES = 1 << 28
"""Outputs are held on the device up to this size (256 MiB), then handed to the metrics."""
MAX_CONFUSED = 1000
"""Up to so many classes there is a confusion matrix: of 100,000 it would take 80 GB."""


class Epoch:
    """Loss and metrics of a task over one epoch of one stage.

    A step only keeps copies, so it costs no sync and next to no time; metrics are computed over
    the whole epoch at once. The loss is sum / count over the epoch, not a mean of batch means.

    No module: as a part of the net each metric would be walked through whenever the net is, several
    times an epoch, and `half()` would make a sum of losses soon inf. Metrics go to where the outputs are.
    """

    def __init__(self, task: Task, prefix: str, base_task: Task | None = None) -> None:
        self.task, self.prefix, training = task, prefix, prefix == "train/"
        self.metrics = make_metrics(task, prefix, task.train_metrics if training else None)
        self.base_task = base_task
        """The task before its decision was fitted, whose metrics are computed as well."""
        decided = [name for name in task.metric_names if name not in (*RANKING, *ROWS)]
        self.default_metrics = (
            make_metrics(base_task, f"{prefix}default_decision/", decided) if base_task else None
        )
        confusable = task.exclusive and task.num_probabilities <= MAX_CONFUSED
        self.confusion = None if training or not confusable else confusion_matrix(task)
        self.loss = LossMean()
        self._held: list[tuple[Tensor, Tensor | int, Tensor, Tensor]] = []
        self._held_bytes = 0
        self._known: dict[str, Tensor] | None = None
        """What comes of a complete epoch of another process, which went on to here."""
        self.kept: OutputBuffer | None = None
        """Where outputs are kept for longer than the epoch; None lets them go."""
        self.positions = False
        """Whether rows are positions of samples: pixels, time steps."""
        self.per_class: dict[str, Tensor] = {}
        """Counts and metrics of each class in the last epoch, of val and test; known after `compute`."""
        self.confusion_counts: Tensor | None = None
        """(C, C) of the last epoch: rows are the true classes, columns the predicted ones."""
        self.first: FirstEpochChecks | None = FirstEpochChecks() if prefix == "train/" else None
        """What the first epoch of training was like; None once that has been said."""
        self.counts: tuple[Tensor, Tensor] | None = None
        """How many positives and negatives of each output the last epoch had; known after `compute`."""

    def update(self, total: Tensor, count: Tensor | int, logits: Tensor, target: Tensor) -> None:
        """Take in a step: its loss's numerator and denominator, and what they were computed from."""
        # copies: a loader may fill the same buffer again, and a CUDA graph its outputs
        total, logits, target = total.detach().clone(), logits.detach().clone(), target.detach().clone()
        count = count.clone() if isinstance(count, Tensor) else count
        if logits.ndim > 2:
            # trailing dimensions become rows: lengths and image sizes may differ between batches
            self.positions = True
            target = flatten_positions(target) if target.ndim == logits.ndim else target.flatten()
            logits = flatten_positions(logits)
        self._held.append((total, count, logits, target))
        self._held_bytes += logits.nbytes + target.nbytes
        if self._held_bytes > HELD_BYTES or len(self._held) >= HELD_STEPS:
            self._flush()

    def compute(self) -> dict[str, Tensor]:
        """Loss and metrics by name, with the prefix; an epoch without a step has none."""
        self._flush()
        if self._known is not None:
            return self._known
        if not has_steps(self.loss, self.prefix):
            return {}
        values = self.metrics.compute()
        self.counts = label_counts(self.metrics)
        if self.prefix != "train/":
            self.per_class = per_class(self.metrics)
        if self.confusion is not None:
            self.confusion_counts = self.confusion.compute()
        return {
            f"{self.prefix}loss": self.loss.compute(),
            **values,
            **(self.default_metrics.compute() if self.default_metrics else {}),
        }

    def state(self, complete: bool) -> dict[str, Any]:
        """What has been taken in so far, for a checkpoint; of a complete epoch what comes of it."""
        if complete:
            self._known = self.compute()  # which is asked for again at the epoch's end
            return {"values": as_numbers(self._known)}
        self._flush()
        return {"sums": [metric_state(part) for part in self._metrics()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._known = as_scalars(state["values"]) if "values" in state else None
        if "sums" in state:
            for part, values in zip(self._metrics(), state["sums"], strict=True):
                set_metric_state(part, values)
            for metrics in self._parts():
                if isinstance(metrics, TaskMetrics):
                    metrics.share()

    def _metrics(self) -> Iterator[Metric]:
        for part in self._parts():
            yield from part.sources.values() if isinstance(part, TaskMetrics) else (part,)

    def reset(self) -> None:
        """Forget the epoch."""
        self._known = None
        if not self._held and not self.loss.update_called:
            return  # it has been forgotten
        self._held, self._held_bytes = [], 0
        with torch.inference_mode(False):  # or what is validated next within fit could not add to it
            for part in self._parts():
                part.reset()

    def _parts(self) -> Iterator[Metric | TaskMetrics]:
        parts = (self.loss, self.metrics, self.default_metrics, self.confusion)
        return (part for part in parts if part is not None)

    def _flush(self) -> None:
        if not self._held:
            return
        totals, counts, logits, targets = zip(*self._held, strict=True)
        self._held, self._held_bytes = [], 0
        outputs = torch.cat(logits)
        if outputs.device.type == "mps":  # which has no float64
            outputs = outputs.cpu()
            targets = tuple(target.cpu() for target in targets)
        if outputs.device != self.loss.device:
            for part in self._parts():
                part.to(outputs.device)
        self.loss.update(totals, counts)
        if self.kept is not None:
            self.kept.add(outputs, torch.cat([self.task.to_one_hot(target) for target in targets]))
        if any(target.is_floating_point() for target in targets):
            targets = tuple(map(self.task.to_one_hot, targets))  # batches with and without soft labels
        target = torch.cat(targets)
        # a float32 sigmoid is 1 from a logit of 17 on, and ranks no further; float64's from 37
        wide = outputs.double()
        for task, metrics in ((self.task, self.metrics), (self.base_task, self.default_metrics)):
            if task is not None and metrics is not None:
                predictions = task.predict(outputs)  # in float32, as predictions are made
                log_odds = task.log_odds(wide)
                seen = MetricInput(task, task.probabilities(wide), target, predictions, log_odds)
                metrics.take(seen)
        hard = self.task.to_hard_labels(target)
        if self.first is not None:
            self.first.update(outputs, hard)
        if self.confusion is not None:
            self.confusion.update(self.task.predict(outputs), hard)
