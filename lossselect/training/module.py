"""`TaskModule`: a Lightning module whose loss, targets and metrics follow from its task."""

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any, Self

from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from lossselect.chunked.options import topk_monitor
from lossselect.chunked.topk_metrics import TopKOutputs
from lossselect.compat.lightning import get_cli_class, get_trainer
from lossselect.data.batches import Block
from lossselect.exceptions import ConfigError
from lossselect.labels.targets import Encoded
from lossselect.metrics.collection import expand
from lossselect.models.ensemble import output_rows
from lossselect.tasks.registry import AnyTask, as_any_task
from lossselect.training.batches.forms import BatchKeys, split_batch
from lossselect.training.batches.transfer import TransferHooks
from lossselect.training.checkpoints.content import add_module_state, check_same_task, read_best_checkpoint
from lossselect.training.checkpoints.load import rebuild
from lossselect.training.diagnostics.nonfinite import FiniteCheck
from lossselect.training.distributed.loss_averaging import StepMean
from lossselect.training.epochs.epoch import StageEpochs, TopKEpoch
from lossselect.training.epochs.multi_epoch import make_epoch
from lossselect.training.forward import bind_inputs, describe, find_parameters
from lossselect.training.lifecycle import add_run_hooks
from lossselect.training.optimizers import OptimizerSpec, SchedulerSpec, configure, set_lr
from lossselect.training.step import (
    CompiledStep,
    StepOutput,
    forward_and_loss,
    make_output,
    record,
    record_returned_loss,
)
from lossselect.utils.checks import SPLIT_NAMES

_COMPILED_CHUNKED = "head=chunked does not support torch.compile. Set head=dense or trainer.compile=false."


class TaskModule(TransferHooks):
    """Lightning module that trains, evaluates and predicts for one task.

    Pass `net`, or subclass and override `forward`, which returns raw logits (N, num_outputs, ...), or a tuple
    that starts with them, or an object or a mapping with `logits`. A batch is a pair (inputs, target), or
    contains its labels under a common name (see `unpack_batch`), in any form that `task.encode` accepts.
    Hooks, steps and callbacks receive the batch as the loader returned it. The loss and the metrics are
    computed over the whole epoch and logged under `train/`, `val/` and `test/`.

    Args:
        task: The task, such as `Binary()`, `Multiclass(10)` or `Multilabel(14)`; or a `MultiTask`, for which
            `forward` returns logits by task, loss and metrics may be mappings by task, and so are targets.
        net: A module that returns raw logits, a built-in net such as `{"name": "mlp", "num_features": 8}`,
            or None if a subclass sets `self.net` or overrides `forward`.
        loss: A name of `LOSSES`, `{"name": ..., **options}`, "auto" (see `suggest_loss`), or a callable that
            accepts logits and the canonical target and returns a scalar. For several tasks, one of these for
            all, or a mapping by task; a callable is called for each task.
        optimizer: The name of a class of torch.optim, such as "SGD", a dict such as
            `{"name": "SGD", "lr": 0.1}`, a callable that accepts the trainable parameters and returns an
            optimizer, or None for AdamW with lr=1e-3. A callable whose first argument is called
            `named_parameters` gets pairs (name, parameter), for example to form parameter groups. Unless the
            optimizer is a callable, the attribute `lr` is its learning rate, which `Tuner.lr_find` sets.
        scheduler: The name of a class of torch.optim.lr_scheduler, a dict such as
            `{"name": "CosineAnnealingLR", "T_max": 50}`, a callable that accepts the optimizer, or None.
        metrics: The metrics to log, such as `["f1_weighted", {"iou": MulticlassJaccardIndex(10)}]` (see
            `make_metrics`), and the task's default monitor in validation; None for those of the task.
        bias_init: "prior" initialises the last bias from the class frequencies in the training rows, so that
            the first loss is about the entropy of the labels; "zero" sets the bias to 0; None leaves it.
        mix: "mixup", "cutmix" or `{"name": "mixup", "alpha": 0.4}`, applied to each training batch; None
            for no mixing.
        head: "chunked" or `{"name": "chunked", "chunk": 4096}` for very many outputs: the last layer and the
            loss are computed in chunks of the outputs, so that no tensor (N, num_outputs) is ever in memory.
            Targets may then be `SparseLabels`, and the metrics are those of `top_metric_names(task)`. "dense"
            or None for a dense head.
        class_dim: The dimension of the classes in the logits that `forward` returns: 1 by default, -1 if they
            are last, None if a binary net returns logits without it, such as (N,).
        batch_keys: The keys of a batch, such as `{"inputs": "image", "target": "diagnosis"}` (also "weight"),
            or (inputs, target) or (inputs, target, weight). Several keys of inputs are positional arguments.
            The keys of a tuple are its positions, such as (0, 1). For several tasks, the target may be a list
            of keys, or a mapping of tasks to keys.
        loader_names: Names of several validation or test loaders, whose values are logged under `val/NAME/`;
            by default the keys of a dict of loaders, or 0, 1, ... The first loader is also logged under
            `val/`.
        on_nonfinite: What to do if the loss or a gradient of a step is NaN or infinite. "stop" ends fit with
            `TrainingDiverged`, which names the first non-finite output; "skip" skips the step, and ends fit
            after 10 skipped steps in a row.
        num_features: The number of features that `net` returns, (N, num_features), to add a linear head with
            `task.num_outputs` outputs; None if it returns logits.

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
        task: AnyTask,
        net: nn.Module | Mapping[str, Any] | None = None,
        loss: str | Mapping[str, Any] | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
        optimizer: OptimizerSpec = None,
        scheduler: SchedulerSpec = None,
        metrics: Any = None,
        class_dim: int | None = 1,
        batch_keys: BatchKeys = None,
        bias_init: str | None = None,
        mix: str | Mapping[str, Any] | None = None,
        head: str | Mapping[str, Any] | None = None,
        loader_names: Sequence[str] | None = None,
        on_nonfinite: str = "stop",
        num_features: int | None = None,
    ) -> None:
        self._metrics_spec = expand(metrics)
        super().__init__(task, net, loss, bias_init, mix, head, class_dim, batch_keys, num_features)
        self.hparams.update(self._plain_hparams | get_cli_class())
        self._optimizer_spec, self._scheduler_spec = optimizer, scheduler
        if type(self).configure_optimizers is TaskModule.configure_optimizers:
            set_lr(self)  # an override may use another attribute, which a finder must then set
        self._loader_names = loader_names
        self._step_mean = StepMean()
        self._finite_check = FiniteCheck(on_nonfinite)

    def _outputs_changed(self) -> None:
        previous = getattr(self, "_epochs", {})
        self._epochs = {stage: StageEpochs(stage, self._make_epoch) for stage in SPLIT_NAMES}
        for stage, epochs in previous.items():
            # loading a checkpoint to evaluate it may replace the task: keep the buffer for the outputs
            for name, epoch in self._epochs[stage].first.by_task.items():
                epoch.output_buffer = epochs.first.output_buffers.get(name)

    def _make_epoch(self, prefix: str) -> Any:
        metrics = self._metrics_spec
        if self._chunked or self._head_spec["name"] == "chunked":  # the net may not exist yet
            return TopKEpoch(self.task, prefix, self._label_counts, metrics)
        base_task = self._base_task if prefix.startswith("test/") else None
        return make_epoch(self.task, prefix, base_task, metrics)

    def _check_chunkable(self, criterion: Any) -> None:
        if self._compiled_step is not None:
            raise ConfigError(_COMPILED_CHUNKED)
        super()._check_chunkable(criterion)

    def set_decision(self, task: AnyTask, compare: bool = True) -> None:
        """Use the decision of a task, for example of the result of `fit_decision`.

        Args:
            task: A task with the same outputs as the task of the module.
            compare: Whether test metrics are also computed for the default decision of the module, under
                `test/default_decision/`.
        """
        self._base_task = (self._base_task or self.task) if compare else None
        self.task = task

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Return the loss, the logits and the canonical target of a batch; see `step`."""
        return self._call_step(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Add the batch to the validation epoch; return its loss, logits and canonical target."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Add the batch to the test epoch; return its loss, logits and canonical target."""
        return self._evaluate(batch, "test")

    def _evaluate(self, batch: Any, stage: str) -> dict[str, Any]:
        outputs: Any = {}
        for single in self._transfer_block(batch) if isinstance(batch, Block) else (batch,):
            outputs = self._call_step(single, stage)
        return outputs

    def _call_step(self, batch: Any, stage: str) -> Any:
        outputs = self.step(batch) if self._replaces(TaskModule.step) else self._run_step(batch, stage)
        return outputs.result() if isinstance(outputs, StepOutput) else outputs

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return `predict(inputs)` for a batch, with or without a target.

        Raises:
            ConfigError: an override of `unpack_batch` fails for a batch without labels.
        """
        if not self._unpacks_itself():
            if not isinstance(batch, Encoded):
                batch = split_batch(batch, self._batch_keys, find_parameters(self._called()), labelled=False)
            return self.predict(batch.inputs)
        if isinstance(batch, Tensor) or (isinstance(batch, tuple | list) and len(batch) == 1):
            return self.predict(batch if isinstance(batch, Tensor) else batch[0])
        try:
            inputs = self.unpack_batch(batch)[0]
        except (LookupError, AttributeError, ValueError, TypeError) as error:
            raise ConfigError(
                f"{type(self).__name__}.unpack_batch fails for a batch to predict ({describe(batch)}): "
                f"{type(error).__name__}: {error}. If the batch has no labels, return None as the target."
            ) from error
        return self.predict(inputs)

    def step(self, batch: Any) -> StepOutput:
        """Do the work of a training, validation or test step; call it in an override of one, or override it.

        In training, the gradient of the loss is scaled so that the optimizer step uses the gradient of one
        mean over all processes and, with `accumulate_grad_batches`, all micro-batches. Terms that an
        override adds to the loss are averaged over processes and micro-batches with equal weights.

        Args:
            batch: A batch of the loader, or any part of it that `unpack_batch` accepts.

        Returns:
            A dict whose entries are also attributes. `loss` is the mean over the batch, `logits`
            (N, num_outputs, ...) have their graph in training, `target` is canonical, and `weight` contains
            the sample weights or is None. For several tasks, `logits` and `target` are dicts by task. The
            batch also counts in the loss and metrics of the epoch.

        Example:
            >>> from lossselect import Binary, TaskModule
            >>> class Penalised(TaskModule):
            ...     def training_step(self, batch, batch_idx):
            ...         out = self.step(batch)
            ...         return out.loss + 1e-3 * out.logits.square().mean()
        """
        trainer = get_trainer(self)
        stage = "train"
        if trainer is not None and not trainer.training:
            stage = "test" if trainer.testing else "val"
        return self._run_step(batch, stage)

    def _run_step(self, batch: Any, stage: str) -> StepOutput:
        trainer = get_trainer(self)
        trains = stage == "train"
        epoch = self._epochs[stage].current
        encoded = self._encode_batch(batch)
        batch_idx = 0 if trainer is None else trainer.fit_loop.batch_idx
        if trains:
            if self._mix is not None:
                encoded = self._mix(self._settle(encoded), self.task)
            self._finite_check.start_batch(self, encoded, batch_idx)
            encoded = encoded.repeat_targets(output_rows(self.net))
        if self._compiled_step and self._output_checks.graph_checked:
            inputs, target, weight = self._settle(encoded)
            arguments = bind_inputs(self._called(), inputs)
            logits, batch_loss = self._compiled_step(self, *arguments, target, weight)
            outputs, target = logits, self.task.check_target(target, logits)
        else:  # checks need the autograd graph of the first training batch, which a compiled step hides
            logits, target, weight = self._compute_outputs(encoded)
            highest = TopKOutputs(self.task, logits, target) if self._chunked and not trains else None
            batch_loss = self._compute_loss(logits, target, weight, highest)
            outputs = highest if self._chunked else logits
        loss, total, count, recorded = batch_loss
        if not trains or self._finite_check.add_loss(loss):
            record(self, epoch, recorded, count, outputs, target)
        if trains and trainer is not None:
            loss = self._step_mean(trainer, batch_idx, loss, total, count)
        return make_output(self.task, loss, logits, target, weight)

    def compile(self, **options: Any) -> None:
        """Compile forward and loss with torch.compile, in place, for all steps except the first.

        If compilation fails, for example without a compiler for the platform, the warning `not_compiled` is
        issued and training continues without it. A chunked head raises a ConfigError.

        Args:
            options: Arguments of torch.compile, such as mode="reduce-overhead" for CUDA graphs.
        """
        if self._chunked:
            raise ConfigError(_COMPILED_CHUNKED)
        self._compiled_step = CompiledStep(forward_and_loss, **options)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.configure_callbacks = add_run_hooks(cls.configure_callbacks)  # type: ignore[method-assign]
        if "step" in vars(cls):
            cls.step = record_returned_loss(cls.step)  # type: ignore[method-assign]

    def _overrides(self) -> set[str]:
        """Return the names of the methods that a subclass, or an assignment to this object, replaces."""
        own = takewhile(lambda cls: cls is not TaskModule, type(self).__mro__)
        return {
            name for part in (*own, self) for name in vars(part) if callable(getattr(TaskModule, name, 0))
        }

    @add_run_hooks
    def configure_callbacks(self) -> Any:
        """Return the module's callbacks; `RunHooks` is added to those of an override, without super()."""
        return []

    def configure_optimizers(self) -> Any:
        """Return the optimizer, or a dict of the optimizer and the scheduler."""
        self._check_net()
        monitor = topk_monitor(self.task) if self._chunked else self.task.monitor
        return configure(self, get_trainer(self), f"val/{monitor}")

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
        if checkpoint.get("base_task") and self._base_task is None and not fitting:
            # with a buffer, `tune_decision` will fit another decision
            if any(self._epochs["val"].first.output_buffers.values()):
                self.task = as_any_task(checkpoint["base_task"])
            else:
                self.set_decision(as_any_task(checkpoint["task"]))

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
            checkpoint_path: The checkpoint, or a run folder, of which the best one is loaded.
            map_location: The device, as in `torch.load`.
            strict: Whether the checkpoint must contain exactly the parameters of the module.
            weights_only: Must be True.
            kwargs: Constructor arguments that are not plain values, such as `net=`, and arguments to change.

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
        checkpoint = read_best_checkpoint(checkpoint_path, map_location)
        return rebuild(cls, checkpoint, checkpoint_path, kwargs, strict)
