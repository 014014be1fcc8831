"""`TaskModule`: a Lightning module whose loss, targets and metrics follow from its task."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Self

from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from lossselect.chunked.linear import ChunkedLogits
from lossselect.chunked.loss import chunked_loss
from lossselect.chunked.options import topk_monitor
from lossselect.chunked.topk_metrics import TopKOutputs
from lossselect.compat.lightning import get_trainer
from lossselect.data.batches import Block
from lossselect.exceptions import CheckpointError, ConfigError
from lossselect.labels.targets import EncodedBatch
from lossselect.tasks.registry import Task, make_task
from lossselect.training.checkpoints.content import add_module_state, check_same_task, read_checkpoint
from lossselect.training.checkpoints.load import rebuild
from lossselect.training.checkpoints.validation import check_loadable
from lossselect.training.classifier import Classifier
from lossselect.training.compile import CompiledStep
from lossselect.training.diagnostics.nonfinite import FiniteCheck
from lossselect.training.distributed.loss_averaging import StepMean
from lossselect.training.epoch import Epoch
from lossselect.training.lifecycle import RunHooks
from lossselect.training.optimizers import (
    OptimizerSpec,
    RunLength,
    SchedulerSpec,
    make_optimizer,
    make_scheduler,
)
from lossselect.training.output_buffer import OutputBuffer
from lossselect.training.topk_epoch import TopKEpoch


class TaskModule(Classifier, LightningModule):
    """Trains, evaluates and predicts for one task; `forward` returns raw logits (N, num_outputs, ...).

    Pass `net`, or subclass and override `forward`. A batch is a pair (inputs, target) with a target
    of any form that `task.encode` takes; override `unpack_batch` for batches that look otherwise. Loss and
    metrics are logged under `train/`, `val/` and `test/`, each computed over the whole epoch.

    Args:
        task: What the head decides: `Binary()`, `Multiclass(10)`, `Multilabel(14)`.
        net: A module that returns raw logits, or a net of ours by name and plain values, such as
            `{"name": "mlp", "num_features": 8}`.
        loss: A name of `LOSSES`, `{"name": ..., **options}`, "auto" (see `suggest_loss`), or any callable
            that takes logits and the canonical target and returns a scalar.
        optimizer: "SGD" or `{"name": "SGD", "lr": 0.1}` (a class of torch.optim), a callable that takes
            the parameters, or None for AdamW with lr 1e-3.
        scheduler: The same for torch.optim.lr_scheduler and a callable that takes the optimizer.
        bias_init: "prior" lets the last layer's bias start from the shares of the train labels, so that the
            first loss is about their entropy; "zero" from 0; None leaves it.
        mix: "mixup", "cutmix" or `{"name": "mixup", "alpha": 0.4}`: what becomes of a batch in training.
        head: "chunked" or `{"name": "chunked", "chunk": 4096}` for very many outputs: the last layer and the
            loss go through some outputs at a time, and nothing of (N, num_outputs) is ever held. Targets may
            then be `SparseLabels`; metrics are `top_metric_names(task)`. None is "dense".
        on_nonfinite: What becomes of a step whose loss or gradient is NaN or infinite: "stop" ends fit and
            says where that began, "skip" leaves the step out, up to 10 in a row.

    What the train labels tell (`loss="auto"`, `weight="balanced"`, `pos_weight="auto"`, `bias_init="prior"`)
    is counted when fit starts: by the data module, where it is one of ours, else by one pass through the
    train loader. `set_label_counts` takes it from elsewhere.

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
        self._finite_watch = FiniteCheck(on_nonfinite)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":
            # Lightning sets it twice for each hook, some fifty times a step; a module's own way looks through
            # its parameters first
            object.__setattr__(self, name, value)
            return
        super().__setattr__(name, value)

    def _make_epochs(self) -> None:
        def made(prefix: str, base_task: Task | None = None) -> Epoch | TopKEpoch:
            return (
                TopKEpoch(self.task, prefix, self.counts)
                if self._chunked
                else Epoch(self.task, prefix, base_task)
            )

        self._train_epoch, self._val_epoch = made("train/"), made("val/")
        self._test_epoch = made("test/", self.base_task)

    def _outputs_changed(self) -> None:
        names = ("_val_epoch", "_test_epoch")
        kept: list[OutputBuffer | None] = [getattr(getattr(self, name, None), "kept", None) for name in names]
        self._make_epochs()
        # a checkpoint that is evaluated may bring its decision along
        self._val_epoch.kept, self._test_epoch.kept = kept

    def _check_chunkable(self) -> None:
        if self._compiled_step is not None:
            raise ConfigError("torch.compile does not go through a chunked head: leave one of them out.")
        super()._check_chunkable()

    def set_decision(self, task: Task) -> None:
        """Decide by a task of `fit_decision`; test metrics are then computed without it as well."""
        self.base_task = self.base_task or self.task
        self.task = task

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the criterion's mean over the batch.

        Its gradient is a share of the mean over the whole step: all processes and, under
        `accumulate_grad_batches`, all micro-batches. Terms that an override adds are plain means.
        """
        if self.mix is not None:
            batch = self.mix(self._settled(self._encoded(batch)), self.task)
        self._finite_watch.begin(self, batch, batch_idx)
        loss, total, count = self._step(batch, self._train_epoch)
        return loss if self._trainer is None else self._step_mean(self.trainer, batch_idx, loss, total, count)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Takes the batch into the epoch's loss and metrics."""
        self._evaluate(batch, self._val_epoch, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Takes the batch into the epoch's loss and metrics."""
        self._evaluate(batch, self._test_epoch, dataloader_idx)

    def _evaluate(self, batch: Any, epoch: Epoch | TopKEpoch, dataloader_idx: int) -> None:
        if dataloader_idx:
            stage = epoch.prefix.strip("/")
            raise ConfigError(
                f"There are several {stage} loaders, whose samples would be mixed in {stage}/loss and the "
                "metrics. Evaluate one loader after another, or one of a torch.utils.data.ConcatDataset."
            )
        for one in self._batches_of(batch) if isinstance(batch, Block) else (batch,):
            self._step(one, epoch)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """`probabilities` and `prediction` (see `Task.predict`) of a batch, with or without a target.

        With a chunked head of the highest outputs of each row: see `top_prediction`.
        """
        if isinstance(batch, EncodedBatch):
            inputs = batch.inputs
        elif isinstance(batch, tuple | list) and len(batch) == 1:
            (inputs,) = batch
        elif isinstance(batch, tuple | list) or type(self).unpack_batch is not TaskModule.unpack_batch:
            inputs = self.unpack_batch(batch)[0]
        else:
            inputs = batch
        return self.predict(inputs)

    def _step(self, batch: Any, epoch: Epoch | TopKEpoch) -> tuple[Tensor, Tensor, Tensor | int]:
        """Takes the batch into the epoch; returns its loss, and the loss's numerator and denominator."""
        if not self._has_run_hooks and get_trainer(self) is not None:
            raise ConfigError(
                f"{type(self).__name__}.configure_callbacks must return super().configure_callbacks() and "
                "its own: without, no epoch is logged."
            )
        if self._compiled_step and self._output_watch.graph_seen:
            encoded = self._settled(self._encoded(batch))
            seen, loss, total, count = self._compiled_step(self, *encoded)
            target = self.task.check_target(encoded.target, seen)
        else:  # what is looked at of the first batch to train on, a compiled step would not show
            seen, target, weight = self._outputs(batch)
            if isinstance(seen, ChunkedLogits):
                logits, train = seen, epoch is self._train_epoch
                seen = None if train else TopKOutputs(self.task, logits, target)
                loss, total, count = chunked_loss(self.criterion, logits, target, weight, seen)
            else:
                loss, total, count = self._loss(seen, target, weight)
        if epoch is not self._train_epoch or self._finite_watch.take(loss):
            epoch.update(total, count, seen, target)
        return loss, total, count

    def compile(self, **options: Any) -> None:
        """Put forward and loss of each step through torch.compile, in place.

        The first batch is looked at without. Where compiling fails (no compiler for the platform, say) there
        is a warning, and training goes on without.

        Args:
            options: Of torch.compile, such as mode="reduce-overhead" for CUDA graphs.
        """
        if self._chunked:
            raise ConfigError("torch.compile does not go through a chunked head: leave one of them out.")
        self._compiled_step = CompiledStep(_forward_and_loss, **options)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Encode while the target is still on the CPU, where its values can be checked at no sync."""
        return batch if self.trainer.predicting else self._encoded(batch)

    def _to_device(self, batch: Any) -> Any:
        """A batch of a block as Lightning would hand it to a step: encoded, and on the device."""
        batch = self.trainer.precision_plugin.convert_input(batch)
        batch = super()._on_before_batch_transfer(batch)
        return super()._apply_batch_transfer_handler(batch, self.trainer.strategy.root_device)

    def _batches_of(self, block: Block) -> list[Any]:
        """The batches of a block, each as `moved` has it; all at once where they are alike."""
        return list(map(self._to_device, block) if self._chunked else block.moved(self._to_device))

    # a block itself is passed on as it is
    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        return batch if isinstance(batch, Block) else super()._on_before_batch_transfer(batch, dataloader_idx)

    def _apply_batch_transfer_handler(self, batch: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(batch, Block):
            return batch
        return super()._apply_batch_transfer_handler(batch, *arguments, **options)

    def configure_callbacks(self) -> list[Any]:
        """What starts, logs and saves: a subclass's other hooks need no super()."""
        if (
            get_trainer(self) is not None
        ):  # Lightning would say that it replaces that of the trainer's last run
            callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
            callbacks[:] = [callback for callback in callbacks if not isinstance(callback, RunHooks)]
        return [RunHooks()]

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
        optimizer = make_optimizer(self._optimizer_spec, self.parameters(), fused=not scaled and not sparse)
        monitor = topk_monitor(self.task) if self._chunked else self.task.monitor
        length = None
        if self._scheduler_spec is not None and self._trainer is not None and self.trainer.training:
            length = RunLength(self.trainer.max_epochs, self.trainer.estimated_stepping_batches)
        scheduler = make_scheduler(self._scheduler_spec, optimizer, f"val/{monitor}", length)
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
        add_module_state(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another task; to evaluate or predict, decide as it does."""
        check_same_task(checkpoint, self.task)
        fitting = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        if checkpoint.get("base_task") and self.base_task is None and not fitting:
            if self._val_epoch.kept is not None:  # another decision is to be fitted
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
        return rebuild(cls, checkpoint, checkpoint_path, kwargs, strict, ours)


def _forward_and_loss(
    module: TaskModule, inputs: Any, target: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | int]:
    """The logits of a batch, its loss, and that one's numerator and denominator."""
    logits = module(inputs)
    return logits, *module._loss(logits, module.task.check_target(target, logits), weight)
