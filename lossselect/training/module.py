"""`TaskModule`: a Lightning module whose loss, targets and metrics follow from its task."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from lossselect.chunked.options import topk_monitor
from lossselect.chunked.topk_metrics import TopKOutputs
from lossselect.compat.lightning import PrivateHooks, get_trainer
from lossselect.data.batches import Block
from lossselect.exceptions import ConfigError
from lossselect.labels.targets import EncodedBatch
from lossselect.tasks.registry import Task, make_task
from lossselect.training.checkpoints.content import add_module_state, check_same_task, read_checkpoint
from lossselect.training.checkpoints.load import rebuild
from lossselect.training.classifier import Classifier
from lossselect.training.diagnostics.nonfinite import FiniteCheck
from lossselect.training.distributed.loss_averaging import StepMean
from lossselect.training.epoch import Epoch, TopKEpoch
from lossselect.training.lifecycle import RunHooks
from lossselect.training.optimizers import OptimizerSpec, SchedulerSpec, make_optimizer, make_scheduler
from lossselect.utils.warnings import warn


class CompiledStep:
    """A step's net and loss, compiled at the first call; if that fails, it warns and runs as it is."""

    def __init__(self, step: Callable[..., Any], **options: Any) -> None:
        self.step, self.options = step, options
        self.compiled: Callable[..., Any] | None = torch.compile(step, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(CompiledStep, **self.options), (self.step,)  # compiled code belongs to this process

    def __call__(self, *args: Any) -> Any:
        if self.compiled is None:
            return self.step(*args)
        try:
            return self.compiled(*args)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise many kinds
            outputs = self.step(*args)  # raises a mistake that is not torch.compile's
            self.compiled = None
            # "backend='inductor' raised:", then the cause
            cause = " ".join((str(error).strip() or type(error).__name__).splitlines()[:2]).rstrip(".")
            warn(
                "not_compiled",
                f"torch.compile failed, so that training goes on without: {cause}. On a CPU it needs a C++ "
                "compiler, on a GPU Triton; trainer.compile=false leaves it out.",
            )
            return outputs


class TaskModule(PrivateHooks, Classifier, LightningModule):
    """Trains, evaluates and predicts for one task; `forward` returns raw logits (N, num_outputs, ...).

    Pass `net`, or subclass and override `forward`. A batch is a pair (inputs, target) with a target of any
    form that `task.encode` accepts; override `unpack_batch` for other batches. Loss and metrics are logged
    under `train/`, `val/` and `test/`, each computed over the whole epoch.

    Args:
        task: `Binary()`, `Multiclass(10)`, `Multilabel(14)`.
        net: A module that returns raw logits, or one of our nets, such as
            `{"name": "mlp", "num_features": 8}`.
        loss: A name of `LOSSES`, `{"name": ..., **options}`, "auto" (see `suggest_loss`), or any callable
            that takes logits and the canonical target and returns a scalar.
        optimizer: "SGD" or `{"name": "SGD", "lr": 0.1}` (a class of torch.optim), a callable that takes
            the parameters, or None for AdamW with lr 1e-3.
        scheduler: The same for torch.optim.lr_scheduler, or a callable that takes the optimizer.
        bias_init: "prior" initialises the last bias from the frequencies of the train labels, so that the
            first loss is about their entropy; "zero" sets it to 0; None leaves it.
        mix: "mixup", "cutmix" or `{"name": "mixup", "alpha": 0.4}`, applied to each batch in training.
        head: "chunked" or `{"name": "chunked", "chunk": 4096}` for very many outputs: the last layer and the
            loss compute some outputs at a time, and no tensor (N, num_outputs) is ever held. Targets may
            then be `SparseLabels`; metrics are `top_metric_names(task)`. None is "dense".
        on_nonfinite: If the loss or gradient of a step is NaN or infinite, "stop" ends fit and says where it
            began; "skip" skips the step, up to 10 in a row.

    The label counts that `loss="auto"`, `weight="balanced"`, `pos_weight="auto"` and `bias_init="prior"` need
    are taken when fit starts, from our data module or by one pass through the train loader.
    `set_label_counts` takes them from elsewhere.

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

    _block_type = Block
    _compiled_step: CompiledStep | None = None

    def __init__(
        self,
        task: Task,
        net: nn.Module | Mapping[str, Any] | None = None,
        loss: str | Mapping[str, Any] | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
        optimizer: OptimizerSpec = None,
        scheduler: SchedulerSpec = None,
        bias_init: str | None = None,
        mix: str | Mapping[str, Any] | None = None,
        head: str | Mapping[str, Any] | None = None,
        on_nonfinite: str = "stop",
    ) -> None:
        super().__init__(task, net, loss, bias_init, mix, head)
        # for loggers, which write them as text
        self.hparams.update({k: v for k, v in self._arguments.items() if not isinstance(v, Tensor)})
        self._optimizer_spec, self._scheduler_spec = optimizer, scheduler
        self._has_run_hooks = False
        self._step_mean = StepMean()
        self._finite_check = FiniteCheck(on_nonfinite)

    def _outputs_changed(self) -> None:
        self._train_epoch, self._val_epoch = self._make_epoch("train"), self._make_epoch("val")
        self._test_epoch = self._make_epoch("test", self.base_task)

    def _make_epoch(self, stage: str, base_task: Task | None = None) -> Epoch | TopKEpoch:
        prefix, chunked = f"{stage}/", self._chunked
        epoch = TopKEpoch(self.task, prefix, self.counts) if chunked else Epoch(self.task, prefix, base_task)
        # a checkpoint that is evaluated may replace the task
        previous = getattr(self, f"_{stage}_epoch", None)
        epoch.output_buffer = getattr(previous, "output_buffer", None)
        return epoch

    def _check_chunkable(self, criterion: Any) -> None:
        if self._compiled_step is not None:
            raise ConfigError("torch.compile does not go through a chunked head: leave one of them out.")
        super()._check_chunkable(criterion)

    def set_decision(self, task: Task) -> None:
        """Predict by a task of `fit_decision`; test metrics are then computed without it as well."""
        self.base_task = self.base_task or self.task
        self.task = task

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the criterion's mean over the batch.

        Its gradient is a share of the mean over the whole step: all processes and, under
        `accumulate_grad_batches`, all micro-batches. Terms that an override adds are plain means.
        """
        if self.mix is not None:
            batch = self.mix(self._encode_to_shape(batch), self.task)
        self._finite_check.start_batch(self, batch, batch_idx)
        loss, total, count = self._step(batch, self._train_epoch)
        trainer = get_trainer(self)
        return loss if trainer is None else self._step_mean(trainer, batch_idx, loss, total, count)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add the batch to the epoch's loss and metrics."""
        self._evaluate(batch, self._val_epoch, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add the batch to the epoch's loss and metrics."""
        self._evaluate(batch, self._test_epoch, dataloader_idx)

    def _evaluate(self, batch: Any, epoch: Epoch | TopKEpoch, dataloader_idx: int) -> None:
        if dataloader_idx:
            stage = epoch.prefix.strip("/")
            raise ConfigError(
                f"There are several {stage} loaders, whose samples would be mixed in {stage}/loss and the "
                "metrics. Evaluate one loader after another, or one of a torch.utils.data.ConcatDataset."
            )
        for single in self._transfer_block(batch) if isinstance(batch, Block) else (batch,):
            self._step(single, epoch)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return what `predict` does for the inputs of a batch, with or without a target."""
        is_sequence = isinstance(batch, tuple | list)
        if isinstance(batch, EncodedBatch) or (is_sequence and len(batch) == 1):
            batch = batch[0]
        elif is_sequence or type(self).unpack_batch is not TaskModule.unpack_batch:
            batch = self.unpack_batch(batch)[0]
        return self.predict(batch)

    def _step(self, batch: Any, epoch: Epoch | TopKEpoch) -> tuple[Tensor, Tensor, Tensor | int]:
        """Add the batch to the epoch; return its loss, and the loss's numerator and denominator."""
        if not self._has_run_hooks and get_trainer(self) is not None:
            raise ConfigError(
                f"{type(self).__name__}.configure_callbacks must return super().configure_callbacks() and "
                "its own: without, no epoch is logged."
            )
        trains = epoch is self._train_epoch
        if self._compiled_step and self._output_checks.graph_checked:
            encoded = self._encode_to_shape(batch)
            outputs, loss, total, count = self._compiled_step(self, *encoded)
            target = self.task.check_target(encoded.target, outputs)
        else:  # the first batch to train on is checked by its graph, which a compiled step has not
            outputs, target, weight = self._compute_outputs(batch)
            highest = TopKOutputs(self.task, outputs, target) if self._chunked and not trains else None
            loss, total, count = self._compute_loss(outputs, target, weight, highest)
            outputs = highest if self._chunked else outputs
        if not trains or self._finite_check.add_loss(loss):
            epoch.update(total, count, outputs, target)
        return loss, total, count

    def compile(self, **options: Any) -> None:
        """Compile forward and loss of each step but the first by torch.compile, in place.

        If that fails (no compiler for the platform, say), a warning is issued and training goes on without.

        Args:
            options: Of torch.compile, such as mode="reduce-overhead" for CUDA graphs.
        """
        if self._chunked:
            raise ConfigError("torch.compile does not go through a chunked head: leave one of them out.")
        self._compiled_step = CompiledStep(_forward_and_loss, **options)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Encode the target while it is on the CPU, where its values can be checked without a sync."""
        return batch if self.trainer.predicting else self._encode_batch(batch)

    def _transfer_block(self, block: Block) -> list[Any]:
        """Return the batches of a block, encoded and on the device."""
        return list(map(self._to_device, block) if self._chunked else block.moved(self._to_device))

    def configure_callbacks(self) -> list[Any]:
        """Return the callback that starts, logs and saves; a subclass's other hooks need no super()."""
        if get_trainer(self) is not None:  # else Lightning reports that it replaces that of the last run
            callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
            callbacks[:] = [callback for callback in callbacks if not isinstance(callback, RunHooks)]
        return [RunHooks()]

    def configure_optimizers(self) -> Any:
        """Return the optimizer, and the scheduler if there is one."""
        self._check_net()
        trainer = get_trainer(self)
        # a fused optimizer undoes a scaling itself, so that Lightning clips nothing before its step
        precision = None if trainer is None else trainer.precision_plugin
        overrides = type(self).configure_gradient_clipping is not TaskModule.configure_gradient_clipping
        clips = trainer is not None and (overrides or bool(trainer.gradient_clip_val))
        scaled = (clips and isinstance(precision, MixedPrecision)) or getattr(precision, "scaler", None)
        # nor does it support the sparse gradients of an embedding
        sparse = any(getattr(part, "sparse", False) for part in self.modules())
        optimizer = make_optimizer(self._optimizer_spec, self.parameters(), fused=not scaled and not sparse)
        monitor = topk_monitor(self.task) if self._chunked else self.task.monitor
        length: dict[str, Any] = {}
        if self._scheduler_spec is not None and trainer is not None and trainer.training:
            length = {"epochs": trainer.max_epochs, "steps": trainer.estimated_stepping_batches}
        scheduler = make_scheduler(self._scheduler_spec, optimizer, f"val/{monitor}", **length)
        return optimizer if scheduler is None else {"optimizer": optimizer, "lr_scheduler": scheduler}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Let a scheduler take a step; ConfigError if it takes no more, as OneCycleLR after its last one."""
        try:
            super().lr_scheduler_step(scheduler, metric)
        except ValueError as error:
            raise ConfigError(f"{type(scheduler).__name__} cannot take a step: {error}") from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what loads the module again; here as well, since a checkpoint of weights has no callbacks."""
        add_module_state(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Reject a checkpoint of another task; to evaluate or predict, take its decision."""
        check_same_task(checkpoint, self.task)
        trainer = get_trainer(self)
        fitting = trainer is not None and trainer.state.fn == TrainerFn.FITTING
        if checkpoint.get("base_task") and self.base_task is None and not fitting:
            if self._val_epoch.output_buffer is not None:  # another decision will be fitted
                self.task = make_task(**checkpoint["base_task"])
            else:
                self.set_decision(make_task(**checkpoint["task"]))

    def _on_restored(self, checkpoint: dict[str, Any]) -> None:
        self.configure_model()
        self.on_load_checkpoint(checkpoint)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | os.PathLike[str],
        map_location: Any = "cpu",
        strict: bool = True,
        weights_only: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Return the trained module of a checkpoint; nothing in it is executed.

        Args:
            checkpoint_path: The file.
            map_location: The device, as in `torch.load`.
            strict: Whether the checkpoint must hold exactly the module's parameters.
            weights_only: Must be True.
            kwargs: Arguments that are not plain values, such as `net=`, and any to change.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a checkpoint of ours, of another task, or an argument must be passed.
        """
        if not weights_only:
            raise ConfigError("Checkpoints hold tensors and plain values: weights_only=False is not needed.")
        checkpoint = read_checkpoint(checkpoint_path, map_location)
        return rebuild(cls, checkpoint, checkpoint_path, kwargs, strict)


def _forward_and_loss(
    module: TaskModule, inputs: Any, target: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | int]:
    logits = module(inputs)
    return logits, *module._compute_loss(logits, module.task.check_target(target, logits), weight)
