"""`TaskModule`: a Lightning module whose loss, targets and metrics follow from its task."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from lossselect.chunked.linear import ChunkedLinear, ChunkedLogits
from lossselect.chunked.loss import check_chunkable, chunked_loss
from lossselect.chunked.options import check_top, top_monitor
from lossselect.chunked.topk_metrics import TopOutputs, top_prediction
from lossselect.data.batches import Block
from lossselect.exceptions import CheckpointError, ConfigError, DataError, OptionTypeError
from lossselect.labels.positives import Positives
from lossselect.labels.targets import EncodedBatch
from lossselect.losses.auto import AutoLoss, loss_by_name
from lossselect.losses.loss import Loss, divide, select_loss
from lossselect.losses.options import check_sample_weight
from lossselect.losses.torch_compat import check_mixes, check_torch_loss
from lossselect.models.head import set_head_bias, use_chunked
from lossselect.models.nets import check_head_bias, head_options, make_net
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import IGNORE_INDEX, Task, as_task, make_task
from lossselect.training.checkpoints.content import Recorded, check_same_task, keep, read_checkpoint
from lossselect.training.checkpoints.load import rebuilt
from lossselect.training.checkpoints.validation import check_loadable
from lossselect.training.compile import CompiledStep
from lossselect.training.diagnostics.nonfinite import FiniteWatch
from lossselect.training.diagnostics.outputs import OutputWatch
from lossselect.training.distributed.loss_averaging import StepMean
from lossselect.training.epoch import Epoch
from lossselect.training.lifecycle import Bookkeeping
from lossselect.training.mixup import make_mix
from lossselect.training.optimizers import (
    OptimizerSpec,
    RunLength,
    SchedulerSpec,
    make_optimizer,
    make_scheduler,
)
from lossselect.training.output_buffer import KeptOutputs
from lossselect.training.topk_epoch import TopEpoch
from lossselect.utils.checks import split_name


class TaskModule(Recorded, LightningModule):
    """Trains, evaluates and predicts for one task; `forward` returns raw logits (N, num_outputs, ...).

    Pass `net`, or subclass and override `forward`. A batch is a pair (inputs, target) with a target
    of any form that `task.encode` takes; override `unpack` for batches that look otherwise. Loss and
    metrics are logged under `train/`, `val/` and `test/`, each computed over the whole epoch.

    Args:
        task: What the head decides: `Binary()`, `Multiclass(10)`, `Multilabel(14)`.
        net: A module that returns raw logits, or a net of ours by name and plain values, such as
            `{"name": "mlp", "num_features": 8}`.
        loss: A name of `LOSSES`, `{"name": ..., **options}`, "auto" (see `propose_loss`), or any callable
            that takes logits and the canonical target and returns a scalar.
        optimizer: "SGD" or `{"name": "SGD", "lr": 0.1}` (a class of torch.optim), a callable that takes
            the parameters, or None for AdamW with lr 1e-3.
        scheduler: The same for torch.optim.lr_scheduler and a callable that takes the optimizer.
        head_bias: "prior" lets the last layer's bias start from the shares of the train labels, so that the
            first loss is about their entropy; "zero" from 0; None leaves it.
        mix: "mixup", "cutmix" or `{"name": "mixup", "alpha": 0.4}`: what becomes of a batch in training.
        head: "chunked" or `{"name": "chunked", "chunk": 4096}` for very many outputs: the last layer and the
            loss go through some outputs at a time, and nothing of (N, num_outputs) is ever held. Targets may
            then be `Positives`; metrics are `top_metric_names(task)`. None is "dense".
        on_nonfinite: What becomes of a step whose loss or gradient is NaN or infinite: "stop" ends fit and
            says where that began, "skip" leaves the step out, up to 10 in a row.

    What the train labels tell (`loss="auto"`, `weight="balanced"`, `pos_weight="auto"`, `head_bias="prior"`)
    is counted when fit starts: by the data module, where it is one of ours, else by one pass through the
    train loader. `use_counts` takes it from elsewhere.

    Raises:
        ValueError: a loss or an option that does not fit the task; at the first batch, logits or
            targets that do not.

    Example:
        >>> from lossselect import Multilabel, TaskModule
        >>> class MyModel(TaskModule):
        ...     def __init__(self, task, hidden=64, **kwargs):
        ...         super().__init__(task=task, **kwargs)
        ...         head = nn.Linear(hidden, task.num_outputs)
        ...         self.net = nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), head)
        ...     def forward(self, x):
        ...         return self.net(x)
        >>> MyModel(Multilabel(5), loss="focal").criterion
        Loss(name='focal', reduction='mean')
    """

    def __init__(
        self,
        task: Task,
        net: nn.Module | Mapping[str, Any] | None = None,
        loss: str | Mapping[str, Any] | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
        optimizer: OptimizerSpec = None,
        scheduler: SchedulerSpec = None,
        head_bias: str | None = None,
        mix: str | Mapping[str, Any] | None = None,
        head: str | Mapping[str, Any] | None = None,
        on_nonfinite: str = "stop",
    ) -> None:
        super().__init__()
        # for loggers, which write them as text
        self.hparams.update({k: v for k, v in self._arguments.items() if not isinstance(v, Tensor)})
        task = as_task(task)
        if not isinstance(net, nn.Module | Mapping | None):
            raise OptionTypeError(
                'net must be a torch.nn.Module, {"name": "mlp", "num_features": ...} or None, where a '
                f"subclass sets self.net, got {net!r}."
            )
        # Any: a subclass that sets its own calls it without asking whether there is one
        self.net: Any = make_net(net, task.num_outputs) if isinstance(net, Mapping) else net
        self.criterion = _criterion(loss, task)
        self.optimizer_spec, self.scheduler_spec = optimizer, scheduler
        check_head_bias(head_bias)
        self.head_bias = head_bias
        self.started_from = ""
        """What the head's bias was set to, in words."""
        self.head_spec = head_options(head)
        self.chunked = False
        """Whether the head is one that makes its outputs some at a time."""
        self.mix = make_mix(mix)
        check_mixes(mix, self.criterion)
        self.has_bookkeeping = False
        self._trailing_dims: int | None = None
        """How many dimensions the logits have after that of the classes; known from the first batch on."""
        self.compiled_step: CompiledStep | None = None
        self.step_mean = StepMean()
        self.finite = FiniteWatch(on_nonfinite)
        self.watch = OutputWatch()
        self.counts: LabelCounts | None = None
        """Of the train labels, where they have been counted."""
        self.untuned: Task | None = None
        """The task as it was before its decision was fitted."""
        self.task = task
        self.use_head()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":
            # Lightning sets it twice for each hook, some fifty times a step; a module's own way looks through
            # its parameters first
            object.__setattr__(self, name, value)
            return
        if name == "criterion" and "_task" in self.__dict__:
            # ported modules set one of their own, which may not be for the task
            value = self._checked_criterion(value)
            if not isinstance(value, nn.Module):  # a function, by which torch does not replace a module
                self._modules.pop(name, None)
        super().__setattr__(name, value)

    def _checked_criterion(self, loss: Any) -> Callable[[Tensor, Tensor], Tensor]:
        """Return a loss as a callable; ValueError or TypeError if it does not fit the task, mix or head."""
        criterion = _criterion(loss, self.task)
        check_mixes(self.mix, criterion)
        if self.chunked and not isinstance(criterion, AutoLoss):
            check_chunkable(criterion)
        return criterion

    @property
    def task(self) -> Task:
        """What the head decides. Thresholds, names and the missing value may change, the width may not."""
        return self._task

    @task.setter
    def task(self, task: Task) -> None:
        task = as_task(task)
        _check_fits(self.criterion, task)
        if isinstance(self.criterion, Loss | AutoLoss):
            self.criterion.task = task
        if self.chunked:
            check_top(task)
        self._task = task
        names = ("val_epoch", "test_epoch")
        kept: list[KeptOutputs | None] = [getattr(getattr(self, name, None), "kept", None) for name in names]
        self._make_epochs()
        # a checkpoint that is evaluated may bring its decision along
        self.val_epoch.kept, self.test_epoch.kept = kept

    def _make_epochs(self) -> None:
        def made(prefix: str, untuned: Task | None = None) -> Epoch | TopEpoch:
            return (
                TopEpoch(self.task, prefix, self.counts)
                if self.chunked
                else Epoch(self.task, prefix, untuned)
            )

        self.train_epoch, self.val_epoch = made("train/"), made("val/")
        self.test_epoch = made("test/", self.untuned)

    def use_head(self) -> None:
        """Make the head what was asked for, as soon as it is there."""
        wanted = self.head_spec["name"] == "chunked"
        there = any(isinstance(part, ChunkedLinear) for part in self.modules())  # it may be the user's own
        if wanted or there:
            self._check_chunkable()
        if wanted:
            there = use_chunked(self, self.task, self.head_spec.get("chunk"))
        if there != self.chunked:
            self.chunked = there
            self._make_epochs()
        if self.chunked:
            self._trailing_dims = 0

    def _check_chunkable(self) -> None:
        if self.mix is not None:
            raise ConfigError("mix makes soft labels of a batch, which a chunked head does not take.")
        if self.compiled_step is not None:
            raise ConfigError("torch.compile does not go through a chunked head: leave one of them out.")
        check_top(self.task)
        if not isinstance(self.criterion, AutoLoss):
            check_chunkable(self.criterion)

    def decide_by(self, task: Task) -> None:
        """Decide by a task of `fit_decision`; test metrics are then computed without it as well."""
        self.untuned = self.untuned or self.task
        self.task = task

    def forward(self, inputs: Any, /) -> Tensor:
        """Raw logits (N, num_outputs, ...)."""
        self._check_net()
        logits: Tensor = self.net(inputs)
        return logits

    def _check_net(self) -> None:
        if self.net is None and type(self).forward is TaskModule.forward:
            raise ConfigError(f"{type(self).__name__} has no net: pass net=..., or override forward.")

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        """(inputs, target) of a batch as the data loader made it, or (inputs, target, sample_weight)."""
        if isinstance(batch, tuple | list) and len(batch) == 2:
            return batch[0], batch[1]
        size = f" of {len(batch)}" if hasattr(batch, "__len__") else ""
        third = " A weight for each sample is a third: (inputs, target, weight)." if size == " of 3" else ""
        raise DataError(
            f"A batch must be a pair (inputs, target), got {type(batch).__name__}{size}. "
            f"Override unpack(batch) to say what is what.{third}"
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the criterion's mean over the batch.

        Its gradient is a share of the mean over the whole step: all processes and, under
        `accumulate_grad_batches`, all micro-batches. Terms that an override adds are plain means.
        """
        if self.mix is not None:
            batch = self.mix(self._settled(self._encoded(batch)), self.task)
        self.finite.begin(self, batch, batch_idx)
        loss, total, count = self._step(batch, self.train_epoch)
        return loss if self._trainer is None else self.step_mean(self.trainer, batch_idx, loss, total, count)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Takes the batch into the epoch's loss and metrics."""
        self._evaluate(batch, self.val_epoch, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Takes the batch into the epoch's loss and metrics."""
        self._evaluate(batch, self.test_epoch, dataloader_idx)

    def _evaluate(self, batch: Any, epoch: Epoch | TopEpoch, dataloader_idx: int) -> None:
        if dataloader_idx:
            stage = epoch.prefix.strip("/")
            raise ConfigError(
                f"There are several {stage} loaders, whose samples would be mixed in {stage}/loss and the "
                "metrics. Evaluate one loader after another, or one of a torch.utils.data.ConcatDataset."
            )
        for one in self.batches_of(batch) if isinstance(batch, Block) else (batch,):
            self._step(one, epoch)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """`probabilities` and `prediction` (see `Task.predict`) of a batch, with or without a target.

        With a chunked head of the highest outputs of each row: see `top_prediction`.
        """
        if isinstance(batch, EncodedBatch):
            inputs = batch.inputs
        elif isinstance(batch, tuple | list) and len(batch) == 1:
            (inputs,) = batch
        elif isinstance(batch, tuple | list) or type(self).unpack is not TaskModule.unpack:
            inputs = self.unpack(batch)[0]
        else:
            inputs = batch
        logits = self.watch.outputs_of(self, inputs, self.task)
        if isinstance(logits, ChunkedLogits):
            return top_prediction(self.task, TopOutputs(self.task, logits).look())
        return {"probabilities": self.task.probabilities(logits), "prediction": self.task.predict(logits)}

    def _step(self, batch: Any, epoch: Epoch | TopEpoch) -> tuple[Tensor, Tensor, Tensor | int]:
        """Takes the batch into the epoch; returns its loss, and the loss's numerator and denominator."""
        if not self.has_bookkeeping and self._trainer is not None:
            raise ConfigError(
                f"{type(self).__name__}.configure_callbacks must return super().configure_callbacks() and "
                "its own: without, no epoch is logged."
            )
        if self.compiled_step and self.watch.graph_seen:
            encoded = self._settled(self._encoded(batch))
            seen, loss, total, count = self.compiled_step(self, *encoded)
            target = self.task.check_target(encoded.target, seen)
        else:  # what is looked at of the first batch to train on, a compiled step would not show
            seen, target, weight = self._outputs(batch)
            if isinstance(seen, ChunkedLogits):
                logits, train = seen, epoch is self.train_epoch
                seen = None if train else TopOutputs(self.task, logits, target)
                loss, total, count = chunked_loss(self.criterion, logits, target, weight, seen)
            else:
                loss, total, count = self._loss(seen, target, weight)
        if epoch is not self.train_epoch or self.finite.take(loss):
            epoch.update(total, count, seen, target)
        return loss, total, count

    def compile(self, **options: Any) -> None:
        """Put forward and loss of each step through torch.compile, in place.

        The first batch is looked at without. Where compiling fails (no compiler for the platform, say) there
        is a warning, and training goes on without.

        Args:
            options: Of torch.compile, such as mode="reduce-overhead" for CUDA graphs.
        """
        if self.chunked:
            raise ConfigError("torch.compile does not go through a chunked head: leave one of them out.")
        self.compiled_step = CompiledStep(_forward_and_loss, **options)

    def _outputs(self, batch: Any) -> tuple[Any, Any, Tensor | None]:
        """The logits of a batch, which have been looked at, its canonical target, its samples' weights."""
        inputs, target, weight = self._encoded(batch)
        logits = self.watch.outputs_of(self, inputs, self.task)
        if isinstance(logits, ChunkedLogits):
            self.watch.look_at_chunked(logits, self)
            return logits, target, weight
        if self.head_spec["name"] == "chunked":
            raise ConfigError(
                "head=chunked had no effect: forward returned a tensor of logits. Return what the last "
                "torch.nn.Linear returns, the one with as many outputs as the task, or use head=dense."
            )
        if isinstance(target, Positives):
            target = target.matrix(dtype=torch.float32)
        target = self._check_rows(logits, target)
        self.watch.look(logits, inputs, self, self.task)
        return logits, target, weight

    def _loss(self, logits: Any, target: Any, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor | int]:
        """The loss of a batch, and its numerator and denominator."""
        if isinstance(logits, ChunkedLogits):
            return chunked_loss(self.criterion, logits, target, weight)
        if isinstance(self.criterion, Loss):
            total, count = self.criterion.sum_and_count(logits, target, weight)
            return divide(total, count), total, count
        if weight is not None:
            raise ConfigError(
                "A loss of your own takes no weights of samples: choose one of ours by name, or let unpack "
                "return (inputs, target)."
            )
        loss = self.criterion(logits, target)
        if not isinstance(loss, Tensor) or loss.ndim > 0:
            of_shape = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
            raise ConfigError(
                f"The loss must return a scalar tensor, got {of_shape or type(loss).__name__}. Average it "
                "over the batch."
            )
        # over what has a label, as far as one can tell from outside
        count = (self.task.harden(target) != IGNORE_INDEX).sum()
        wide = loss.to(torch.promote_types(loss.dtype, torch.float32))
        return loss, (wide * count).masked_fill(count == 0, 0), count

    def _check_rows(self, logits: Any, target: Tensor) -> Tensor:
        """Return the target in the shape that the logits call for; ValueError where there is none.

        Looking at shapes costs nothing, so it is done in every step, whatever the loss.
        """
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

    def _settled(self, batch: EncodedBatch) -> EncodedBatch:
        """A batch with the target as the logits call for it, as far as they are known."""
        if not isinstance(batch.target, Tensor):
            return batch
        return batch._replace(target=self.task.settle(batch.target, self._trailing_dims))

    def check_batch(self, batch: Any) -> Tensor:
        """The loss of a batch, of which nothing is learned; raises what training on it would.

        Args:
            batch: As a data loader makes it.
        """
        self.use_head()
        batch = self._encoded(batch)
        if self.mix:
            batch = self.mix(self._settled(batch), self.task)
        loss, _, _ = self._loss(*self._outputs(batch))
        return loss

    def use_counts(self, counts: LabelCounts) -> None:
        """Take from the train labels what loss and head wait for; a no-op where they wait for nothing.

        Args:
            counts: What `count_labels(task, labels)` says of the train split. What they told stays, whatever
                is trained on later.

        Raises:
            ValueError: counts of another number of classes.
        """
        counts.check_task(self.task)
        self.counts = counts
        if self.chunked:
            self._make_epochs()  # whose propensities are made of them
        if isinstance(self.criterion, Loss | AutoLoss):
            self.criterion = self.criterion.with_counts(counts).to(self.device)
        if self.head_bias == "prior":
            # a loss of the user's own is taken for cross-entropy
            loss = self.criterion if isinstance(self.criterion, Loss) else select_loss(self.task)
            self._start_head(loss.first_logits(counts), "the shares of the train labels")
        elif self.head_bias == "zero":
            self._start_head(torch.zeros(self.task.num_outputs), "0")

    def _start_head(self, logits: Tensor, said: str) -> None:
        """Once: what is learned from there on must stay."""
        self.head_bias = None
        self.watch.head_bias = set_head_bias(self, self.task, logits)
        self.started_from = said if self.watch.head_bias is not None else ""

    @property
    def needs_counts(self) -> bool:
        """Whether loss or head wait for the train labels."""
        waits = isinstance(self.criterion, Loss | AutoLoss) and self.criterion.waiting
        return waits or self.head_bias == "prior"

    def _encoded(self, batch: Any) -> EncodedBatch:
        encoded = batch if isinstance(batch, EncodedBatch) else self._encode(batch)
        if self.chunked and not self.task.exclusive and isinstance(encoded.target, Tensor):
            return encoded._replace(target=Positives.of_target(encoded.target))
        return encoded

    def _encode(self, batch: Any) -> EncodedBatch:
        unpacked = self.unpack(batch)
        if not isinstance(unpacked, tuple | list) or len(unpacked) not in (2, 3):
            raise ConfigError(
                "unpack must return (inputs, target), or (inputs, target, sample_weight), got "
                f"{type(unpacked).__name__}."
            )
        inputs, target, *more = unpacked
        encoded: Any = target
        if self._trailing_dims is None:
            encoded = target if isinstance(target, Positives) else self.task.encode_first(target)
        elif not isinstance(target, Positives):
            encoded = self.task.encode(target, self._trailing_dims)
        if isinstance(target, Tensor) and target.is_pinned():
            encoded = encoded.pin_memory()  # what the loader did for a copy that need not be waited for
        weight = torch.as_tensor(more[0]) if more and more[0] is not None else None
        if weight is not None and weight.device.type == "cpu":
            check_sample_weight(weight)
        return EncodedBatch(inputs, encoded, weight)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Encode while the target is still on the CPU, where its values can be checked at no sync."""
        return batch if self.trainer.predicting else self._encoded(batch)

    def moved(self, batch: Any) -> Any:
        """A batch of a block as Lightning would hand it to a step: encoded, and on the device."""
        batch = self.trainer.precision_plugin.convert_input(batch)
        batch = super()._on_before_batch_transfer(batch)
        return super()._apply_batch_transfer_handler(batch, self.trainer.strategy.root_device)

    def batches_of(self, block: Block) -> list[Any]:
        """The batches of a block, each as `moved` has it; all at once where they are alike."""
        return list(map(self.moved, block) if self.chunked else block.moved(self.moved))

    # a block itself is passed on as it is
    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        return batch if isinstance(batch, Block) else super()._on_before_batch_transfer(batch, dataloader_idx)

    def _apply_batch_transfer_handler(self, batch: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(batch, Block):
            return batch
        return super()._apply_batch_transfer_handler(batch, *arguments, **options)

    def configure_callbacks(self) -> list[Any]:
        """What starts, logs and saves: a subclass's other hooks need no super()."""
        if self._trainer is not None:  # Lightning would say that it replaces that of the trainer's last run
            callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
            callbacks[:] = [callback for callback in callbacks if not isinstance(callback, Bookkeeping)]
        return [Bookkeeping()]

    def configure_optimizers(self) -> Any:
        """The optimizer, and the scheduler if there is one."""
        self._check_net()
        # a fused optimizer undoes a scaling itself, so that Lightning clips nothing before its step
        precision = None if self._trainer is None else self.trainer.precision_plugin
        own = type(self).configure_gradient_clipping is not TaskModule.configure_gradient_clipping
        clipped = isinstance(precision, MixedPrecision) and (own or bool(self.trainer.gradient_clip_val))
        scaled = clipped or getattr(precision, "scaler", None)
        # nor does it take the sparse gradients of an embedding
        sparse = any(getattr(part, "sparse", False) for part in self.modules())
        optimizer = make_optimizer(self.optimizer_spec, self.parameters(), fused=not scaled and not sparse)
        monitor = top_monitor(self.task) if self.chunked else self.task.monitor
        length = None
        if self.scheduler_spec is not None and self._trainer is not None and self.trainer.training:
            length = RunLength(self.trainer.max_epochs, self.trainer.estimated_stepping_batches)
        scheduler = make_scheduler(self.scheduler_spec, optimizer, f"val/{monitor}", length)
        return optimizer if scheduler is None else {"optimizer": optimizer, "lr_scheduler": scheduler}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """See LightningModule.

        Raises:
            ConfigError: the scheduler takes no more steps, as OneCycleLR after its last one.
        """
        try:
            super().lr_scheduler_step(scheduler, metric)
        except ValueError as error:
            raise ConfigError(f"{type(scheduler).__name__} cannot take a step: {error}") from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what loads the module again; here as well, as a checkpoint of weights has no callbacks."""
        keep(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another task; to evaluate or predict, decide as it does."""
        check_same_task(checkpoint, self.task)
        fitting = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        if checkpoint.get("untuned") and self.untuned is None and not fitting:
            if self.val_epoch.kept is not None:  # another decision is to be fitted
                self.task = make_task(**checkpoint["untuned"])
            else:
                self.decide_by(make_task(**checkpoint["task"]))

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | os.PathLike[str],
        map_location: Any = "cpu",
        strict: bool = True,
        weights_only: bool = True,
        **kwargs: Any,
    ) -> Self:
        """The trained module of a checkpoint, of which nothing is executed.

        Args:
            checkpoint_path: The file.
            map_location: Where the module goes, as in `torch.load`.
            strict: Whether the checkpoint must hold exactly the module's parameters.
            weights_only: True, as everywhere here.
            kwargs: Arguments that are no plain values, such as `net=`, and any to change.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a checkpoint of ours, of another task, or an argument must be passed.
        """
        if not weights_only:
            raise ConfigError("Checkpoints hold tensors and plain values: weights_only=False is not needed.")
        checkpoint = read_checkpoint(checkpoint_path, map_location)
        check_loadable(checkpoint, checkpoint_path)
        if cls is TaskModule and checkpoint["class"] != "TaskModule":
            raise CheckpointError(
                f"{checkpoint_path} holds a {checkpoint['class']}, whose forward may differ: load it with "
                f"{checkpoint['class']}.load_from_checkpoint."
            )
        ours = cls.__init__ is TaskModule.__init__
        return rebuilt(cls, checkpoint, checkpoint_path, kwargs, strict, ours)


def _forward_and_loss(
    module: TaskModule, inputs: Any, target: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | int]:
    """The logits of a batch, its loss, and that one's numerator and denominator."""
    logits = module(inputs)
    return logits, *module._loss(logits, module.task.check_target(target, logits), weight)


def _check_fits(loss: Any, task: Task) -> None:
    """ValueError for a loss of another task, or one of torch's that takes other outputs or targets."""
    if isinstance(loss, Loss | AutoLoss):
        made, given = ((t.activation, t.num_outputs, t.num_probabilities) for t in (loss.task, task))
        if made != given:
            raise ConfigError(
                f"The loss was made for {loss.task.describe()}, but the task is {task.describe()}."
            )
    check_torch_loss(loss, task)


def _criterion(loss: Any, task: Task) -> Callable[[Tensor, Tensor], Tensor]:
    if isinstance(loss, str | Mapping):
        name, options = split_name({"name": loss} if isinstance(loss, str) else loss, "loss")
        loss = loss_by_name(task, name, **options)
    if not callable(loss) or isinstance(loss, type):
        raise OptionTypeError(f"loss must be a name, a dict with a name, or a callable, got {loss!r}.")
    _check_fits(loss, task)
    checked: Callable[[Tensor, Tensor], Tensor] = loss
    return checked
