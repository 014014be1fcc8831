"""`Classifier`: a task, a net, and the loss and the head that follow from the task. Requires only torch.

`TaskModule` adds Lightning's hooks. The dry run and the commands that load a checkpoint use `Classifier`.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lossselect.chunked.linear import ChunkedLinear, ChunkedLogits, Observer
from lossselect.chunked.options import check_chunkable, check_topk_task, requires_counts
from lossselect.exceptions import ConfigError, DataError, OptionTypeError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.targets import EncodedBatch
from lossselect.losses.auto import AutoLoss
from lossselect.losses.batch_loss import BatchLoss, compute_loss
from lossselect.losses.multi_loss import MultiLoss, NamedLoss, first_logits, losses_by_task
from lossselect.losses.torch_compat import check_mixes
from lossselect.models.ensemble import Members, output_rows
from lossselect.models.head import add_head, set_head_bias, use_chunked
from lossselect.models.nets import check_head_bias, head_options, make_net
from lossselect.tasks.registry import AnyTask, as_any_task
from lossselect.training.batches.encoding import BatchEncoding, TargetTransfer
from lossselect.training.batches.forms import BatchKeys, check_batch_keys
from lossselect.training.batches.mixup import make_mix
from lossselect.training.checkpoints.content import read_best_checkpoint
from lossselect.training.checkpoints.load import RecordsArguments, rebuild
from lossselect.training.criterion import check_fits, make_criterion
from lossselect.training.diagnostics.outputs import OutputChecks
from lossselect.training.forward import (
    bind_inputs,
    check_class_dim,
    describe,
    find_logits,
)
from lossselect.training.module_base import ModuleBase
from lossselect.training.optimizers import OptimizerSpec, SchedulerSpec


class Classifier(BatchEncoding, RecordsArguments, ModuleBase):
    """A net for one task, with the loss and the head that follow from the task; needs no Lightning.

    `Classifier.load` returns the trained classifier of a checkpoint, and `predict` its predictions. Train
    with `TaskModule`, which is a `Classifier`.

    Args:
        task: The task, such as `Binary()`, `Multiclass(10)` or `Multilabel(14)`, or a `MultiTask`.
        net: A module that returns raw logits (N, num_outputs, ...), a built-in net such as
            `{"name": "mlp", "num_features": 8}`, or None if a subclass sets `self.net` or overrides
            `forward`.
        loss: A name of `LOSSES`, `{"name": ..., **options}`, "auto" (see `suggest_loss`), or a callable that
            accepts logits and the canonical target and returns a scalar.
        bias_init: "prior" or "zero", the initial value of the last bias (see `TaskModule`); None leaves it.
        mix: "mixup", "cutmix" or `{"name": "mixup", "alpha": 0.4}`; None for no mixing.
        head: "dense" or None, "chunked", or `{"name": "chunked", "chunk": 4096}` (see `TaskModule`).
        class_dim: The dimension of the classes in the net's logits (see `TaskModule`).
        batch_keys: The keys of inputs, target and weight in a batch (see `TaskModule`).
        num_features: The number of features that `net` returns, if it has no head (see `TaskModule`).

    Raises:
        ConfigError: a setting does not fit the task, such as an unknown loss or option.
        OptionTypeError: an argument has the wrong type.

    Example:
        >>> from lossselect import Multiclass
        >>> from lossselect.training.classifier import Classifier
        >>> classifier = Classifier(Multiclass(3), {"name": "linear", "num_features": 8})
        >>> classifier.predict(torch.zeros(2, 8))["probabilities"].shape
        torch.Size([2, 3])
    """

    _optimizer_spec: OptimizerSpec = None
    _scheduler_spec: SchedulerSpec = None
    _metrics_spec: Any = None

    def __init__(
        self,
        task: AnyTask,
        net: nn.Module | Mapping[str, Any] | None = None,
        loss: str | Mapping[str, Any] | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
        bias_init: str | None = None,
        mix: str | Mapping[str, Any] | None = None,
        head: str | Mapping[str, Any] | None = None,
        class_dim: int | None = 1,
        batch_keys: BatchKeys = None,
        num_features: int | None = None,
    ) -> None:
        super().__init__()
        task = as_any_task(task)
        if not isinstance(net, nn.Module | Mapping | None):
            raise OptionTypeError(
                'net must be a torch.nn.Module, a dict such as {"name": "mlp", "num_features": 8}, or None '
                f"for a subclass that sets self.net, got {net!r}."
            )
        # Any, so that a subclass that sets its own net need not check for None to satisfy a type checker
        self.net: Any = make_net(net, task) if isinstance(net, Mapping) else net
        if num_features is not None:
            self.net = add_head(net, num_features, task)
        self.criterion = make_criterion(loss, task)
        check_head_bias(bias_init)
        self._bias_init = bias_init
        self._net_name = net["name"] if isinstance(net, Mapping) else ""
        self._net_reason = ""  # the reason of the choice of the net, for the plan
        self._bias_source = ""  # the origin of the initial bias, for reports
        self._head_spec = head_options(head)
        if self._head_spec["name"] == "chunked":
            check_topk_task(task)
        self._chunked = False  # whether the head is a `ChunkedLinear`
        self._mix = make_mix(mix)
        self._check_mixes(self.criterion)
        self._class_dim = check_class_dim(class_dim)
        self._batch_keys = check_batch_keys(batch_keys)
        self._transfer = TargetTransfer()
        # number of dimensions of the logits after the classes, unknown before the first batch
        self._trailing_dims: int | None = None
        self._output_checks = OutputChecks()
        self._label_counts: Any = None  # label counts of the training rows, if known
        self._base_task: AnyTask | None = (
            None  # the task with the default decision, once a decision is fitted
        )
        self.task = task
        self._build_head()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "criterion" and "_task" in self.__dict__:
            # a subclass may set self.criterion to a loss that does not fit the task
            value = make_criterion(value, self.task)
            self._check_mixes(value)
            if self._chunked:
                self._check_chunkable(value)
            if not isinstance(value, nn.Module):  # torch does not let a function replace a submodule
                self._modules.pop(name, None)
        super().__setattr__(name, value)

    def _check_mixes(self, criterion: Any) -> None:
        for loss in losses_by_task(criterion).values():
            check_mixes(self._mix, loss)

    @property
    def task(self) -> Any:
        """The task; may be replaced by one with the same outputs, such as one with tuned thresholds."""
        return self._task

    @task.setter
    def task(self, task: AnyTask) -> None:
        task = as_any_task(task)
        check_fits(self.criterion, task)
        if isinstance(self.criterion, NamedLoss):
            self.criterion.task = task
        if self._chunked:
            check_topk_task(task)
        self._task = task
        self._outputs_changed()

    def _outputs_changed(self) -> None:
        """Update the metrics, which depend on the task, the head and the label counts."""

    def _build_head(self) -> None:
        """Replace the last layer by a `ChunkedLinear` if head=chunked and the net already exists."""
        requested = self._head_spec["name"] == "chunked"
        present = any(isinstance(part, ChunkedLinear) for part in self.modules())  # a custom net may have one
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
        """Raise ConfigError if a chunked head does not support the mix, the task or a loss."""
        if self._mix is not None:
            raise ConfigError(
                "head=chunked does not support mix, which creates soft labels. Set head=dense, or remove mix."
            )
        check_topk_task(self.task)
        if not isinstance(criterion, AutoLoss):
            check_chunkable(criterion)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the output of the net: raw logits, or an object that contains them.

        An override may have any parameters; see `unpack_batch` for the arguments.
        """
        self._check_net()
        return self.net(*inputs, **named)

    def _check_net(self) -> None:
        if self.net is None and not self._replaces(Classifier.forward):
            raise ConfigError(f"{type(self).__name__} has no net. Pass net=..., or override forward.")

    def _called(self) -> nn.Module:
        """Return the module whose forward receives the inputs of a batch."""
        self._check_net()
        return self if self._replaces(Classifier.forward) else self.net

    def _replaces(self, method: Callable[..., Any]) -> bool:
        """Return whether a subclass or an attribute of the instance replaces a method of this package."""
        return getattr(getattr(self, method.__name__), "__func__", None) is not method

    def compute_logits(self, inputs: Any) -> Any:
        """Return the logits (N, num_outputs, ...) for the inputs of a batch, as `unpack_batch` returns them.

        Raises:
            ConfigError: `forward` does not accept the inputs, or its output has no logits for the task.
        """
        positional, named = bind_inputs(self._called(), inputs)
        return self._find_logits(self(*positional, **named))

    def _find_logits(self, outputs: Any) -> Any:
        logits = self.task.join_logits(find_logits(outputs, self._class_dim, self.task.tasks))
        if self._head_spec["name"] == "chunked" and not isinstance(logits, ChunkedLogits):
            raise ConfigError(
                "head=chunked had no effect: forward returned a tensor of logits. Return the output of the "
                f"last torch.nn.Linear, with {self.task.num_outputs} outputs, unchanged, or set head=dense."
            )
        try:
            self.task.check_logits(logits)
        except ConfigError as error:
            if logits is outputs:
                raise
            moved = f" (class_dim={self._class_dim})" * (self._class_dim != 1)
            raise ConfigError(f"forward returned {describe(outputs)}{moved}. {error}") from None
        return logits

    def _compute_outputs(self, batch: EncodedBatch) -> tuple[Any, Any, Tensor | None]:
        """Return the checked logits of a batch, its canonical target and its sample weights."""
        inputs, target, weight = batch
        logits = self._output_checks.call(self, inputs)
        if not isinstance(logits, ChunkedLogits):
            target = target.to_dense() if isinstance(target, SparseLabels) else target
            target = self._fit_target(target, logits)
        self._output_checks.check(logits, inputs, self)
        return logits, target, weight

    def _compute_loss(
        self, logits: Any, target: Any, weight: Tensor | None, observer: Observer | None = None
    ) -> BatchLoss:
        """Return the loss of a batch; `observer` is for a chunked head."""
        if isinstance(logits, ChunkedLogits):
            from lossselect.chunked.loss import chunked_loss  # which imports torch's compiler in a second

            loss, total, count = chunked_loss(self.criterion, logits, target, weight, observer)
            return BatchLoss(loss, total, count, total)
        if isinstance(self.criterion, MultiLoss):
            return self.criterion.compute(logits, target, weight)
        return compute_loss(self.criterion, self.task, logits, target, weight)

    def _fit_target(self, target: Tensor, logits: Tensor) -> Tensor:
        """Return the target in the shape that the logits require; checks shapes, not values."""
        if len(logits) != len(target):
            raise DataError(
                f"The net returned {len(logits)} rows of logits for {len(target)} rows of the target. Return "
                "one row of logits for each row of the target, in the same order."
            )
        if self._trailing_dims != logits.ndim - 2:
            self._trailing_dims = logits.ndim - 2
            target = self.task.settle(target, self._trailing_dims)
        return self.task.check_target(target, logits)

    def _settle(self, batch: EncodedBatch) -> EncodedBatch:
        """Return a batch with the target in the shape that the logits require, if that is known."""
        if not isinstance(batch.target, Tensor):
            return batch
        return batch._replace(target=self.task.settle(batch.target, self._trailing_dims))

    def check_batch(self, batch: Any) -> Tensor:
        """Return the loss of a batch of a data loader; raise the same errors as in training on this batch."""
        self._build_head()
        encoded = self._encode_batch(batch)
        if self._mix is not None:
            encoded = self._mix(self._settle(encoded), self.task)
        return self._compute_loss(*self._compute_outputs(encoded.repeat_targets(output_rows(self.net)))).loss

    def set_label_counts(self, counts: Any) -> None:
        """Set the weights, the prior and the initial bias that are computed from label counts.

        Fit calls this method with the counts of the training rows if it has not been called before.

        Args:
            counts: The result of `count_labels(task, labels)` for the training rows.

        Raises:
            DataError: the counts are of another number of classes.
        """
        counts.check_task(self.task)
        self._label_counts = counts
        if self._chunked:
            self._outputs_changed()  # the metrics need propensities, which are computed from the counts
        if isinstance(self.criterion, NamedLoss):
            device = next((weight.device for weight in self.parameters()), None)
            self.criterion = self.criterion.with_counts(counts).to(device)
        self._initialize_bias(counts)

    def __prepare_scriptable__(self) -> nn.Module:
        """Return the module for torch.jit.script, which does not support the signature of `forward` here."""
        return self._called()

    def _initialize_bias(self, counts: Any = None) -> None:
        """Initialise the head's bias according to `bias_init`, once, before training."""
        if self._bias_init == "prior" and counts is not None:
            logits = first_logits(self.criterion, self.task, counts)
            source = "the class frequencies in the training rows"
        elif self._bias_init == "zero":
            logits, source = torch.zeros(self.task.num_outputs), "0"
        else:
            return
        self._bias_init = None
        biases = set_head_bias(self, self.task, logits)
        self._output_checks.initialized_biases = () if isinstance(self.net, Members) else biases
        self._bias_source = source if biases else ""

    @property
    def _needs_counts(self) -> bool:
        """Return whether the loss or the initial bias still needs the label counts of the training rows."""
        incomplete = isinstance(self.criterion, NamedLoss) and self.criterion.waiting
        metrics = self._chunked and self._label_counts is None and requires_counts(self._metrics_spec)
        return incomplete or self._bias_init == "prior" or metrics

    def predict(self, inputs: Any) -> dict[str, Any]:
        """Return the probabilities and the predictions for inputs of the net.

        With a chunked head they are those of the highest outputs of each row: see `topk_prediction`.

        Returns:
            A dict with `probabilities` (see `Task.probabilities`) and `prediction` (see `Task.predict`); for
            a `MultiTask` each is a dict by task.
        """
        logits = self._output_checks.call(self, inputs)
        if isinstance(logits, ChunkedLogits):
            from lossselect.chunked.topk_metrics import TopKOutputs, topk_prediction

            return topk_prediction(self.task, TopKOutputs(self.task, logits).scan())
        return {"probabilities": self.task.probabilities(logits), "prediction": self.task.predict(logits)}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Classifier":
        """Return the trained classifier of a checkpoint of `TaskModule`, on the CPU in evaluation mode.

        Args:
            path: The checkpoint, or a run folder, of which the best one is loaded.

        Raises:
            FileMissingError: the file does not exist.
            CheckpointError: the file is damaged, is not a checkpoint of a `TaskModule`, or lacks a custom
                net, which only `TaskModule.load_from_checkpoint(path, net=...)` accepts.
        """
        checkpoint = read_best_checkpoint(path)
        parameters = inspect.signature(cls.__init__).parameters
        checkpoint["arguments"] = {k: v for k, v in checkpoint["arguments"].items() if k in parameters}
        checkpoint["not_plain"] = [key for key in checkpoint["not_plain"] if key in parameters]
        return rebuild(cls, checkpoint, path, {}).eval()

    def _on_restored(self, checkpoint: dict[str, Any]) -> None:
        """Prepare to load the weights of a checkpoint that the module was built from."""
