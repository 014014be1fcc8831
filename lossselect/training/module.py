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
from lossselect.metrics.collection import expand
from lossselect.tasks.registry import Task, make_task
from lossselect.training.checkpoints.content import add_module_state, check_same_task, read_checkpoint
from lossselect.training.checkpoints.load import rebuild
from lossselect.training.classifier import Classifier
from lossselect.training.diagnostics.nonfinite import FiniteCheck
from lossselect.training.distributed.loss_averaging import StepMean
from lossselect.training.epoch import Epoch, TopKEpoch
from lossselect.training.lifecycle import RunHooks
from lossselect.training.optimizers import OptimizerSpec, SchedulerSpec, make_optimizer, make_scheduler
from lossselect.utils.checks import SPLIT_NAMES
from lossselect.utils.warnings import warn

_COMPILED_CHUNKED = "head=chunked does not support torch.compile. Set head=dense or trainer.compile=false."


class CompiledStep:
    """The net and the loss of a step, compiled at the first call; without compilation if that fails."""

    def __init__(self, step: Callable[..., Any], **options: Any) -> None:
        self.step, self.options = step, options
        self.compiled: Callable[..., Any] | None = torch.compile(step, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(CompiledStep, **self.options), (self.step,)  # compiled code cannot be pickled

    def __call__(self, *args: Any) -> Any:
        if self.compiled is None:
            return self.step(*args)
        try:
            return self.compiled(*args)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise many kinds
            outputs = self.step(*args)  # raises again if the error is not one of torch.compile
            self.compiled = None
            # the first line is "backend='inductor' raised:", the second one the cause
            cause = " ".join((str(error).strip() or type(error).__name__).splitlines()[:2]).rstrip(".")
            warn(
                "not_compiled",
                f"torch.compile failed, and training continues without it: {cause}. torch.compile requires a "
                "C++ compiler on a CPU and Triton on a GPU. Install it if it is missing, or set "
                "trainer.compile=false.",
            )
            return outputs


class TaskModule(PrivateHooks, Classifier, LightningModule):
    """Lightning module that trains, evaluates and predicts for one task.

    Pass `net`, or subclass and override `forward`, which returns raw logits (N, num_outputs, ...). A batch
    is a pair (inputs, target), with the target in any form that `task.encode` accepts. Override
    `unpack_batch` for other batches. The loss and the metrics are computed over the whole epoch and logged
    under `train/`, `val/` and `test/`.

    Args:
        task: The task, such as `Binary()`, `Multiclass(10)` or `Multilabel(14)`.
        net: A module that returns raw logits, a built-in net such as `{"name": "mlp", "num_features": 8}`,
            or None if a subclass sets `self.net` or overrides `forward`.
        loss: A name of `LOSSES`, `{"name": ..., **options}`, "auto" (see `suggest_loss`), or a callable that
            accepts logits and the canonical target and returns a scalar.
        optimizer: The name of a class of torch.optim, such as "SGD", a dict such as
            `{"name": "SGD", "lr": 0.1}`, a callable that accepts the parameters and returns an optimizer, or
            None for AdamW with lr=1e-3.
        scheduler: The name of a class of torch.optim.lr_scheduler, a dict such as
            `{"name": "CosineAnnealingLR", "T_max": 50}`, a callable that accepts the optimizer, or None.
        metrics: The metrics to log, as in `make_metrics`: for example `["accuracy", "f1_weighted"]` or
            `{"iou": MulticlassJaccardIndex(10)}`. None for those of the task. The task's default monitor is
            always computed in validation.
        bias_init: "prior" initialises the last bias from the class frequencies in the training rows, so that
            the first loss is about the entropy of the labels; "zero" sets the bias to 0; None leaves it.
        mix: "mixup", "cutmix" or `{"name": "mixup", "alpha": 0.4}`, applied to each training batch; None
            for no mixing.
        head: "chunked" or `{"name": "chunked", "chunk": 4096}` for very many outputs: the last layer and the
            loss are computed in chunks of the outputs, so that no tensor (N, num_outputs) is ever in memory.
            Targets may then be `SparseLabels`, and the metrics are, or are chosen from,
            `top_metric_names(task)`. "dense" or None for a dense head.
        on_nonfinite: What to do if the loss or a gradient of a step is NaN or infinite. "stop" ends fit with
            `TrainingDiverged`, which names the first non-finite output; "skip" skips the step, and ends fit
            after 10 skipped steps in a row.

    `loss="auto"`, `weight="balanced"`, `pos_weight="auto"` and `bias_init="prior"` need the label counts of
    the training rows. Fit takes them from the data module of this package, or counts the labels in one pass
    through the train loader. Call `set_label_counts` to provide them yourself.

    Raises:
        ConfigError: a setting does not fit the task, such as an unknown loss or an option that the loss does
            not have; at the first batch, the logits do not fit the task.
        OptionTypeError: an argument has the wrong type.
        DataError: in a step, the target does not fit the task or the logits.
        TrainingDiverged: in fit, the loss, a gradient or a weight is not finite.

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
        metrics: Any = None,
        bias_init: str | None = None,
        mix: str | Mapping[str, Any] | None = None,
        head: str | Mapping[str, Any] | None = None,
        on_nonfinite: str = "stop",
    ) -> None:
        self._metrics_spec = expand(metrics)
        super().__init__(task, net, loss, bias_init, mix, head)
        # loggers write `hparams` as text, so tensors are left out
        self.hparams.update({k: v for k, v in self._arguments.items() if not isinstance(v, Tensor)})
        self._optimizer_spec, self._scheduler_spec = optimizer, scheduler
        self._has_run_hooks = False
        self._step_mean = StepMean()
        self._finite_check = FiniteCheck(on_nonfinite)

    def _outputs_changed(self) -> None:
        self._train_epoch, self._val_epoch = self._make_epoch("train"), self._make_epoch("val")
        self._test_epoch = self._make_epoch("test", self.base_task)

    def _make_epoch(self, stage: str, base_task: Task | None = None) -> Epoch | TopKEpoch:
        prefix, metrics = f"{stage}/", self._metrics_spec
        epoch: Epoch | TopKEpoch
        if self._chunked or self._head_spec["name"] == "chunked":  # the net may not exist yet
            epoch = TopKEpoch(self.task, prefix, self.counts, metrics)
        else:
            epoch = Epoch(self.task, prefix, base_task, metrics)
        # loading a checkpoint to evaluate it may replace the task: keep the buffer for its outputs
        previous = getattr(self, f"_{stage}_epoch", None)
        epoch.output_buffer = getattr(previous, "output_buffer", None)
        return epoch

    def _check_chunkable(self, criterion: Any) -> None:
        if self._compiled_step is not None:
            raise ConfigError(_COMPILED_CHUNKED)
        super()._check_chunkable(criterion)

    def set_decision(self, task: Task) -> None:
        """Use the decision of a task that `fit_decision` returned.

        Test metrics are then also computed for the default decision, under `test/default_decision/`.

        Args:
            task: A task with the same outputs as the task of the module.
        """
        self.base_task = self.base_task or self.task
        self.task = task

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the mean loss of the batch.

        Its gradient is scaled so that the optimizer step uses the gradient of one mean over all processes
        and, with `accumulate_grad_batches`, all micro-batches. Terms that an override adds to the loss are
        averaged over processes and micro-batches with equal weights.
        """
        if self.mix is not None:
            batch = self.mix(self._encode_to_shape(batch), self.task)
        self._finite_check.start_batch(self, batch, batch_idx)
        loss, total, count = self._step(batch, self._train_epoch)
        trainer = get_trainer(self)
        return loss if trainer is None else self._step_mean(trainer, batch_idx, loss, total, count)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add the batch to the loss and the metrics of the validation epoch."""
        self._evaluate(batch, self._val_epoch, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add the batch to the loss and the metrics of the test epoch."""
        self._evaluate(batch, self._test_epoch, dataloader_idx)

    def _evaluate(self, batch: Any, epoch: Epoch | TopKEpoch, dataloader_idx: int) -> None:
        if dataloader_idx:
            stage = epoch.prefix.strip("/")
            raise ConfigError(
                f"Several {SPLIT_NAMES[stage]} loaders are not supported: their rows would be mixed in "
                f"{stage}/loss and the metrics. Evaluate one loader after another, or pass one loader of a "
                "torch.utils.data.ConcatDataset."
            )
        for single in self._transfer_block(batch) if isinstance(batch, Block) else (batch,):
            self._step(single, epoch)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return `predict(inputs)` for a batch, with or without a target."""
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
                f"{type(self).__name__}.configure_callbacks must return the callbacks of "
                "super().configure_callbacks() as well: without them no loss or metric is logged. Return "
                "[*super().configure_callbacks(), ...]."
            )
        trains = epoch is self._train_epoch
        if self._compiled_step and self._output_checks.graph_checked:
            encoded = self._encode_to_shape(batch)
            outputs, loss, total, count = self._compiled_step(self, *encoded)
            target = self.task.check_target(encoded.target, outputs)
        else:  # checks need the autograd graph of the first training batch, which a compiled step hides
            outputs, target, weight = self._compute_outputs(batch)
            highest = TopKOutputs(self.task, outputs, target) if self._chunked and not trains else None
            loss, total, count = self._compute_loss(outputs, target, weight, highest)
            outputs = highest if self._chunked else outputs
        if not trains or self._finite_check.add_loss(loss):
            epoch.update(total, count, outputs, target)
        return loss, total, count

    def compile(self, **options: Any) -> None:
        """Compile forward and loss with torch.compile, in place, for all steps except the first.

        If compilation fails, for example without a compiler for the platform, the warning `not_compiled` is
        issued and training continues without it.

        Args:
            options: Arguments of torch.compile, such as mode="reduce-overhead" for CUDA graphs.

        Raises:
            ConfigError: the head is chunked.
        """
        if self._chunked:
            raise ConfigError(_COMPILED_CHUNKED)
        self._compiled_step = CompiledStep(_forward_and_loss, **options)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Encode the target while it is on the CPU, where its values can be checked without a sync."""
        return batch if self.trainer.predicting else self._encode_batch(batch)

    def _transfer_block(self, block: Block) -> list[Any]:
        """Return the batches of a block, encoded and on the device."""
        return list(map(self._to_device, block) if self._chunked else block.moved(self._to_device))

    def configure_callbacks(self) -> list[Any]:
        """Return the callback that logs the epochs and completes the checkpoints.

        An override must return it too. Overrides of other hooks need not call super().
        """
        if get_trainer(self) is not None:  # else Lightning logs that it replaces the callback of the last run
            callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
            callbacks[:] = [callback for callback in callbacks if not isinstance(callback, RunHooks)]
        return [RunHooks()]

    def configure_optimizers(self) -> Any:
        """Return the optimizer, or a dict of the optimizer and the scheduler."""
        self._check_net()
        trainer = get_trainer(self)
        # a fused optimizer unscales the gradients within its step, so Lightning cannot clip them before it
        precision = None if trainer is None else trainer.precision_plugin
        overrides = type(self).configure_gradient_clipping is not TaskModule.configure_gradient_clipping
        clips = trainer is not None and (overrides or bool(trainer.gradient_clip_val))
        scaled = (clips and isinstance(precision, MixedPrecision)) or getattr(precision, "scaler", None)
        # fused optimizers do not support the sparse gradients of an embedding
        sparse = any(getattr(part, "sparse", False) for part in self.modules())
        optimizer = make_optimizer(self._optimizer_spec, self.parameters(), fused=not scaled and not sparse)
        monitor = topk_monitor(self.task) if self._chunked else self.task.monitor
        options: dict[str, Any] = {"directions": getattr(self._val_epoch.metrics, "directions", None)}
        if self._scheduler_spec is not None and trainer is not None and trainer.training:
            options |= {"epochs": trainer.max_epochs, "steps": trainer.estimated_stepping_batches}
        scheduler = make_scheduler(self._scheduler_spec, optimizer, f"val/{monitor}", **options)
        return optimizer if scheduler is None else {"optimizer": optimizer, "lr_scheduler": scheduler}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Take a step of a scheduler.

        Raises:
            ConfigError: the scheduler allows no further step, as OneCycleLR after its last step.
        """
        try:
            super().lr_scheduler_step(scheduler, metric)
        except ValueError as error:
            raise ConfigError(
                f"{type(scheduler).__name__} cannot take a step: {error}. If the schedule is shorter than "
                "the run, make it longer."
            ) from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the task, the arguments and the loss, from which the module is built at loading."""
        # RunHooks adds them too, but Lightning leaves out callbacks with save_weights_only=True
        add_module_state(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is for the same task; to evaluate or predict, use its decision.

        Raises:
            CheckpointError: the checkpoint was trained for another task.
        """
        check_same_task(checkpoint, self.task)
        trainer = get_trainer(self)
        fitting = trainer is not None and trainer.state.fn == TrainerFn.FITTING
        if checkpoint.get("base_task") and self.base_task is None and not fitting:
            if self._val_epoch.output_buffer is not None:  # `tune_decision` will fit another decision
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
        """Return the trained module of a checkpoint, without executing code from the file.

        Args:
            checkpoint_path: Path of the checkpoint.
            map_location: The device, as in `torch.load`.
            strict: Whether the checkpoint must contain exactly the parameters of the module.
            weights_only: Must be True.
            kwargs: Constructor arguments that the checkpoint does not contain because they are not plain
                values, such as `net=`, and arguments to change.

        Raises:
            FileMissingError: the file does not exist.
            CheckpointError: the file is damaged, is not a checkpoint of a `TaskModule`, was trained for
                another task, or lacks an argument that must be passed.
            ConfigError: weights_only is False.
        """
        if not weights_only:
            raise ConfigError(
                "Checkpoints contain only tensors and plain values: weights_only=False is not supported. "
                "Remove weights_only."
            )
        checkpoint = read_checkpoint(checkpoint_path, map_location)
        return rebuild(cls, checkpoint, checkpoint_path, kwargs, strict)


def _forward_and_loss(
    module: TaskModule, inputs: Any, target: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | int]:
    logits = module(inputs)
    return logits, *module._compute_loss(logits, module.task.check_target(target, logits), weight)
