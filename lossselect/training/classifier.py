"""A task, a net, and the loss and the head that follow from them; requires only torch.

`TaskModule` adds Lightning's hooks; the dry run and the commands that load a checkpoint use it directly.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lossselect.chunked.linear import ChunkedLinear, ChunkedLogits, Observer
from lossselect.chunked.loss import check_chunkable, chunked_loss
from lossselect.chunked.options import check_topk_task
from lossselect.exceptions import ConfigError, DataError, OptionTypeError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.targets import EncodedBatch
from lossselect.losses.auto import AutoLoss, loss_by_name
from lossselect.losses.loss import Loss, safe_divide, select_loss
from lossselect.losses.options import check_sample_weight
from lossselect.losses.torch_compat import check_mixes, check_torch_loss
from lossselect.models.head import set_head_bias, use_chunked
from lossselect.models.nets import check_head_bias, head_options, make_net
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import IGNORE_INDEX, Task, as_task
from lossselect.training.checkpoints.content import read_checkpoint
from lossselect.training.checkpoints.load import RecordsArguments, rebuild
from lossselect.training.diagnostics.outputs import OutputChecks
from lossselect.training.mixup import make_mix
from lossselect.training.optimizers import OptimizerSpec, SchedulerSpec
from lossselect.utils.checks import split_name


class Classifier(RecordsArguments, nn.Module):
    """A task, a net, and the loss and the head that follow from them; for the arguments see `TaskModule`."""

    _optimizer_spec: OptimizerSpec = None
    _scheduler_spec: SchedulerSpec = None

    def __init__(
        self,
        task: Task,
        net: nn.Module | Mapping[str, Any] | None = None,
        loss: str | Mapping[str, Any] | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
        bias_init: str | None = None,
        mix: str | Mapping[str, Any] | None = None,
        head: str | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        task = as_task(task)
        if not isinstance(net, nn.Module | Mapping | None):
            raise OptionTypeError(
                'net must be a torch.nn.Module, {"name": "mlp", "num_features": ...} or None, where a '
                f"subclass sets self.net, got {net!r}."
            )
        # Any: a subclass that sets its own net calls it without a check for None
        self.net: Any = make_net(net, task.num_outputs) if isinstance(net, Mapping) else net
        self.criterion = _make_criterion(loss, task)
        check_head_bias(bias_init)
        self.bias_init = bias_init
        self._bias_source = ""  # what the head's bias was initialised from, for reports
        self._head_spec = head_options(head)
        self._chunked = False  # whether the head is a `ChunkedLinear`
        self.mix = make_mix(mix)
        check_mixes(mix, self.criterion)
        # number of dimensions of the logits after the classes, known from the first batch on
        self._trailing_dims: int | None = None
        self._output_checks = OutputChecks()
        self.counts: LabelCounts | None = None  # of the train labels, if they have been counted
        self.base_task: Task | None = None  # the task as it was before its decision was fitted
        self.task = task
        self._build_head()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "criterion" and "_task" in self.__dict__:
            # ported modules set one of their own, which may not be for the task
            value = _make_criterion(value, self.task)
            check_mixes(self.mix, value)
            if self._chunked:
                self._check_chunkable(value)
            if not isinstance(value, nn.Module):  # a function, by which torch does not replace a module
                self._modules.pop(name, None)
        super().__setattr__(name, value)

    @property
    def task(self) -> Task:
        """The task of the head. Thresholds, names and the missing value may change, the width may not."""
        return self._task

    @task.setter
    def task(self, task: Task) -> None:
        task = as_task(task)
        _check_fits(self.criterion, task)
        if isinstance(self.criterion, Loss | AutoLoss):
            self.criterion.task = task
        if self._chunked:
            check_topk_task(task)
        self._task = task
        self._outputs_changed()

    def _outputs_changed(self) -> None:
        """Update what depends on the task, the head or the counts."""

    def _build_head(self) -> None:
        """Replace the last layer by a `ChunkedLinear` if head=chunked, once a subclass has built its net."""
        requested = self._head_spec["name"] == "chunked"
        present = any(isinstance(part, ChunkedLinear) for part in self.modules())  # or a user's
        if requested or present:
            self._check_chunkable(self.criterion)
        if requested:
            present = use_chunked(self, self.task, self._head_spec.get("chunk"))
        if present != self._chunked:
            self._chunked = present
            self._outputs_changed()
        if self._chunked:
            self._trailing_dims = 0

    def _check_chunkable(self, criterion: Any) -> None:
        """Raise ConfigError if mix, task or a loss do not work with a chunked head."""
        if self.mix is not None:
            raise ConfigError("mix makes soft labels of a batch, which a chunked head does not take.")
        check_topk_task(self.task)
        if not isinstance(criterion, AutoLoss):
            check_chunkable(criterion)

    def forward(self, inputs: Any, /) -> Tensor:
        """Return raw logits (N, num_outputs, ...)."""
        self._check_net()
        logits: Tensor = self.net(inputs)
        return logits

    def _check_net(self) -> None:
        if self.net is None and type(self).forward is Classifier.forward:
            raise ConfigError(f"{type(self).__name__} has no net: pass net=..., or override forward.")

    def unpack_batch(self, batch: Any) -> tuple[Any, ...]:
        """Return (inputs, target) or (inputs, target, sample_weight) of a batch of the data loader."""
        if isinstance(batch, tuple | list) and len(batch) == 2:
            return batch[0], batch[1]
        size = f" of {len(batch)}" if hasattr(batch, "__len__") else ""
        raise DataError(
            f"A batch must be a pair (inputs, target), got {type(batch).__name__}{size}. Override "
            "unpack_batch(batch) to return (inputs, target), or (inputs, target, sample_weight)."
        )

    def _compute_outputs(self, batch: Any) -> tuple[Any, Any, Tensor | None]:
        """Return the checked logits of a batch, its canonical target and its sample weights."""
        inputs, target, weight = self._encode_batch(batch)
        logits = self._output_checks.call(self, inputs)
        if not isinstance(logits, ChunkedLogits):
            if self._head_spec["name"] == "chunked":
                raise ConfigError(
                    "head=chunked had no effect: forward returned a tensor of logits. Return what the last "
                    "torch.nn.Linear returns, the one with as many outputs as the task, or use head=dense."
                )
            target = target.to_dense() if isinstance(target, SparseLabels) else target
            target = self._fit_target(target, logits)
        self._output_checks.check(logits, inputs, self)
        return logits, target, weight

    def _compute_loss(
        self, logits: Any, target: Any, weight: Tensor | None, observer: Observer | None = None
    ) -> tuple[Tensor, Tensor, Tensor | int]:
        """Return the loss of a batch, and its numerator and denominator; `observer` is of a chunked head."""
        if isinstance(logits, ChunkedLogits):
            return chunked_loss(self.criterion, logits, target, weight, observer)
        if isinstance(self.criterion, Loss):
            total, count = self.criterion.sum_and_count(logits, target, weight)
            return safe_divide(total, count), total, count
        if weight is not None:
            raise ConfigError(
                "A custom loss does not support sample weights: choose a loss by name, or return "
                "(inputs, target) from unpack_batch."
            )
        loss = self.criterion(logits, target)
        if not isinstance(loss, Tensor) or loss.ndim > 0:
            is_tensor = isinstance(loss, Tensor)
            got = f"a tensor of shape {tuple(loss.shape)}" if is_tensor else type(loss).__name__
            raise ConfigError(f"The loss must return a scalar tensor, got {got}. Average it over the batch.")
        # the denominator of a user's loss is not known: assume its mean is over the known labels
        count = (self.task.to_hard_labels(target) != IGNORE_INDEX).sum()
        wide = loss.to(torch.promote_types(loss.dtype, torch.float32))
        return loss, (wide * count).masked_fill(count == 0, 0), count

    def _fit_target(self, target: Tensor, logits: Any) -> Tensor:
        """Return the target in the shape that the logits require; only shapes are checked, in every step."""
        if not isinstance(logits, Tensor):
            raise ConfigError(f"forward must return the logits as a tensor, got {type(logits).__name__}.")
        self.task.check_logits(logits)
        if len(logits) != len(target):
            raise DataError(
                f"The net returned {len(logits)} rows of logits for {len(target)} rows of the target."
            )
        if self._trailing_dims != logits.ndim - 2:
            self._trailing_dims = logits.ndim - 2
            target = self.task.settle(target, self._trailing_dims)
        return self.task.check_target(target, logits)

    def _encode_to_shape(self, batch: Any) -> EncodedBatch:
        """Encode a batch, with the target in the shape that the logits require, as far as it is known."""
        batch = self._encode_batch(batch)
        if not isinstance(batch.target, Tensor):
            return batch
        return batch._replace(target=self.task.settle(batch.target, self._trailing_dims))

    def check_batch(self, batch: Any) -> Tensor:
        """Return the loss of a batch of a data loader, or raise the error that training on it would."""
        self._build_head()
        if self.mix:
            batch = self.mix(self._encode_to_shape(batch), self.task)
        return self._compute_loss(*self._compute_outputs(batch))[0]

    def set_label_counts(self, counts: LabelCounts) -> None:
        """Compute what loss and head need from `count_labels(task, labels)` of the train split, once.

        Raises:
            ValueError: counts of another number of classes.
        """
        counts.check_task(self.task)
        self.counts = counts
        if self._chunked:
            self._outputs_changed()  # propensities are computed from them
        if isinstance(self.criterion, Loss | AutoLoss):
            device = next((weight.device for weight in self.parameters()), None)
            self.criterion = self.criterion.with_counts(counts).to(device)
        self._initialize_bias(counts)

    def _initialize_bias(self, counts: LabelCounts | None = None) -> None:
        """Set the head's bias as `bias_init` says, once: training changes it from there on."""
        if self.bias_init == "prior" and counts is not None:
            # a user's loss is assumed to be cross-entropy
            loss = self.criterion if isinstance(self.criterion, Loss) else select_loss(self.task)
            logits, source = loss.first_logits(counts), "the shares of the train labels"
        elif self.bias_init == "zero":
            logits, source = torch.zeros(self.task.num_outputs), "0"
        else:
            return
        self.bias_init = None
        self._output_checks.initialized_bias = bias = set_head_bias(self, self.task, logits)
        self._bias_source = source if bias is not None else ""

    @property
    def _needs_counts(self) -> bool:
        """Whether loss or head cannot be completed without the counts of the train labels."""
        incomplete = isinstance(self.criterion, Loss | AutoLoss) and self.criterion.waiting
        return incomplete or self.bias_init == "prior"

    def _encode_batch(self, batch: Any) -> EncodedBatch:
        """Return the inputs, the canonical target and the sample weights of a batch, encoded or not."""
        encoded = batch if isinstance(batch, EncodedBatch) else self._unpack_and_encode(batch)
        if self._chunked and not self.task.exclusive and isinstance(encoded.target, Tensor):
            return encoded._replace(target=SparseLabels.from_dense(encoded.target))
        return encoded

    def _unpack_and_encode(self, batch: Any) -> EncodedBatch:
        unpacked = self.unpack_batch(batch)
        if not isinstance(unpacked, tuple | list) or len(unpacked) not in (2, 3):
            raise ConfigError(
                "unpack_batch must return (inputs, target), or (inputs, target, sample_weight), got "
                f"{type(unpacked).__name__}."
            )
        inputs, target, weight = (*unpacked, None)[:3]
        encoded: Any = target
        if not isinstance(target, SparseLabels):
            dims = self._trailing_dims
            encoded = self.task.encode_first(target) if dims is None else self.task.encode(target, dims)
        if isinstance(target, Tensor) and target.is_pinned():
            encoded = encoded.pin_memory()  # as the loader did, for an asynchronous copy
        if weight is not None:
            weight = torch.as_tensor(weight)
            if weight.device.type == "cpu":
                check_sample_weight(weight)
        return EncodedBatch(inputs, encoded, weight)

    def predict(self, inputs: Any) -> dict[str, Tensor]:
        """Return `probabilities` and `prediction` (see `Task.predict`) for inputs of the net.

        With a chunked head they are those of each row's highest outputs: see `topk_prediction`.
        """
        logits = self._output_checks.call(self, inputs)
        if isinstance(logits, ChunkedLogits):
            from lossselect.chunked.topk_metrics import TopKOutputs, topk_prediction

            return topk_prediction(self.task, TopKOutputs(self.task, logits).scan())
        return {"probabilities": self.task.probabilities(logits), "prediction": self.task.predict(logits)}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Classifier":
        """Return the trained classifier of a checkpoint of `TaskModule`, on the CPU in evaluation mode."""
        checkpoint = read_checkpoint(path)
        parameters = inspect.signature(cls.__init__).parameters
        checkpoint["arguments"] = {k: v for k, v in checkpoint["arguments"].items() if k in parameters}
        checkpoint["not_plain"] = [key for key in checkpoint["not_plain"] if key in parameters]
        return rebuild(cls, checkpoint, path, {}).eval()

    def _on_restored(self, checkpoint: dict[str, Any]) -> None:
        """Prepare to load the weights of a checkpoint that the module was built from."""


def _check_fits(loss: Any, task: Task) -> None:
    """Raise ConfigError for a loss of another task, or one of torch's with other outputs or targets."""
    if isinstance(loss, Loss | AutoLoss):
        expected, got = ((t.activation, t.num_outputs, t.num_probabilities) for t in (loss.task, task))
        if expected != got:
            raise ConfigError(f"The loss was made for {loss.task}, but the task is {task}.")
    check_torch_loss(loss, task)


def _make_criterion(loss: Any, task: Task) -> Callable[[Tensor, Tensor], Tensor]:
    if isinstance(loss, str | Mapping):
        name, options = split_name({"name": loss} if isinstance(loss, str) else loss, "loss")
        loss = loss_by_name(task, name, **options)
    if not callable(loss) or isinstance(loss, type):
        raise OptionTypeError(f"loss must be a name, a dict with a name, or a callable, got {loss!r}.")
    _check_fits(loss, task)
    return loss
