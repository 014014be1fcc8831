"""What must happen in every run, also where a subclass overrides a hook and forgets super()."""

import functools
import math
import operator
import warnings
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn

from lossselect.chunked.options import chunked_primary_metric
from lossselect.data.datamodule import TensorData
from lossselect.exceptions import ConfigError, TrainingDiverged
from lossselect.losses.loss import Loss
from lossselect.tasks.label_counts import LabelCounts
from lossselect.training.checkpoints.content import add_module_state, check_same_task
from lossselect.training.checkpoints.lightning_io import CheckpointFiles
from lossselect.training.checkpoints.resume_validation import check_resumable, check_states
from lossselect.training.checkpoints.run_state import RunState
from lossselect.training.diagnostics.nonfinite import WHAT_TO_DO
from lossselect.training.diagnostics.outputs import check_end
from lossselect.training.distributed.eval_sampler import each_row_once, evaluate_apart, take_each_row_once
from lossselect.training.epoch_length import check_epoch_length
from lossselect.training.label_counting import count_loader
from lossselect.utils.distributed import all_gather
from lossselect.utils.warnings import warn_no_positives

if TYPE_CHECKING:
    from lossselect.training.epoch import Epoch


class RunHooks(Callback):
    """Starts and logs the epochs of a `TaskModule`, and puts into a checkpoint what loads it again."""

    def __init__(self) -> None:
        self.run_state = RunState()

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        pl_module._has_run_hooks = True
        _come_first(EpochEndHooks(), trainer)
        pl_module._build_head()
        if pl_module._head_spec["name"] == "chunked" and not pl_module._chunked:
            raise ConfigError(
                f"head=chunked finds no torch.nn.Linear with {pl_module.task.num_outputs} outputs to take "
                "the place of: build one, or use head=dense."
            )
        _check_strategy(trainer, pl_module)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = CheckpointFiles()
        take_each_row_once(trainer)
        pl_module._output_watch.finite_at = -1
        check_end(pl_module.net, pl_module.task)
        # Lightning warns that the hook is used where a data module is; it is meant to be
        warnings.filterwarnings(
            "ignore", message="You have overridden `on_before_batch_transfer` in `LightningModule`"
        )

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.run_state.check(trainer)
        self.run_state.watch(trainer)
        if pl_module.bias_init == "zero" and trainer.ckpt_path is None:
            pl_module._start_head(torch.zeros(pl_module.task.num_outputs), "0")
        if trainer.ckpt_path is not None:
            pl_module.bias_init = None  # a run that goes on has its bias
        if pl_module._needs_counts and (counts := _counts_of(trainer, pl_module)):
            pl_module.set_label_counts(counts)
        self.run_state.compare_loss(pl_module.criterion)
        pl_module._step_mean.equal_counts = _counts_alike(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.run_state.start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module._train_epoch.reset()
        self.run_state.begin_epoch(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        evaluate_apart(trainer, True)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        evaluate_apart(trainer, False)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module._val_epoch.reset()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module._test_epoch.reset()

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: torch.Tensor) -> None:
        if pl_module.automatic_optimization:
            pl_module._step_mean.before_backward(trainer, pl_module, loss)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        if pl_module.automatic_optimization:
            pl_module._step_mean.finish(pl_module, trainer.accumulate_grad_batches)
        pl_module._finite_watch.look(pl_module, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # with optimization of one's own the gradients may be gone by now
        if not pl_module._output_watch.gradient_seen and pl_module.automatic_optimization:
            ours = isinstance(pl_module.criterion, Loss)
            pl_module._output_watch.look_at_gradient(
                pl_module, outputs, may_raise=ours or trainer.is_last_batch
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        add_module_state(pl_module, checkpoint)
        if trainer.state.fn == TrainerFn.FITTING:
            pl_module._finite_watch.answered(pl_module)
            _check_weights(trainer, pl_module)
            self.run_state.save(trainer, pl_module, checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        check_same_task(checkpoint, pl_module.task)
        fits = trainer.state.fn == TrainerFn.FITTING
        if fits:
            check_resumable(checkpoint, trainer.ckpt_path, exact=False)
            check_states(checkpoint, trainer.ckpt_path, callbacks=trainer.callbacks)  # type: ignore[attr-defined]
        self.run_state.load(checkpoint if fits else {})


class EpochEndHooks(Callback):
    """Computes and logs the values of an epoch before any other hook at its end.

    With `self.log` in the steps, `trainer.callback_metrics` has this epoch's values in the hooks of the
    module and of all callbacks. They have to be computed first for that, whereas `RunHooks` comes last.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        check_epoch_length(trainer, "train")
        _check_weights(trainer, pl_module)
        _log(trainer, pl_module, pl_module._train_epoch)
        if first := pl_module._train_epoch.first_checks:
            pl_module._train_epoch.first_checks = None
            if not pl_module._output_watch.affine:
                first.warn_of_outputs()
            counts = pl_module._train_epoch.counts
            if counts and not isinstance(trainer.datamodule, TensorData):  # type: ignore[attr-defined]
                first.warn_of_labels(pl_module.task, *counts)  # else that was said before the first step

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        check_epoch_length(trainer, "val")
        if trainer.state.fn == TrainerFn.FITTING:
            _check_weights(trainer, pl_module)  # before a checkpoint takes them for the best
        _log(trainer, pl_module, pl_module._val_epoch)
        if trainer.state.fn != TrainerFn.FITTING:
            _say_what_is_left_out(pl_module._val_epoch, "validation")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        check_epoch_length(trainer, "test")
        _log(trainer, pl_module, pl_module._test_epoch)
        _say_what_is_left_out(pl_module._test_epoch, "test")

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        check_epoch_length(trainer, "predict")


def _come_first(own: EpochEndHooks, trainer: Trainer) -> None:
    """Put a callback before all others but the tuner's, which Lightning puts first."""
    # a new list, as Lightning is iterating over the old one
    others = [callback for callback in trainer.callbacks if not isinstance(callback, EpochEndHooks)]  # type: ignore[attr-defined]
    tuners = [callback for callback in others if isinstance(callback, BatchSizeFinder | LearningRateFinder)]
    trainer.callbacks = [*tuners, own, *(c for c in others if c not in tuners)]  # type: ignore[attr-defined]


def _check_strategy(trainer: Trainer, module: Any) -> None:
    """ValueError for what a strategy that deals out the weights cannot do."""
    strategy = type(trainer.strategy).__name__
    if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
        if module._chunked:
            raise ConfigError(
                f"head=chunked takes the last layer's weights some at a time, and {strategy} has dealt them "
                "out to the processes by then: strategy=ddp, or head=dense."
            )
        if module.bias_init is not None and trainer.state.fn == TrainerFn.FITTING and not trainer.ckpt_path:
            counts = "call module.set_label_counts(lossselect.count_labels(task, labels)) before fit, or "
            raise ConfigError(
                f"bias_init={module.bias_init} would be set when {strategy} has dealt out the weights: "
                f"{counts if module.bias_init == 'prior' else ''}leave bias_init out."
            )


def _counts_of(trainer: Trainer, module: Any) -> LabelCounts | None:
    """The train split's counts, by one pass through the loader where no data module of ours has them."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if isinstance(data, TensorData):
        return data.counts["train"]
    trainer.fit_loop.setup_data()
    loader = trainer.train_dataloader
    if not math.isfinite(trainer.num_training_batches):
        raise ConfigError(
            "Loss or bias_init wait for the counts of the train labels, and a loader without an end cannot "
            "be counted: module.set_label_counts(lossselect.count_labels(task, labels)) before fit."
        )
    with each_row_once(loader):
        counts = [part for part in all_gather(count_loader(module, loader or ())) if part]
    return functools.reduce(operator.add, counts) if counts else None


def _counts_alike(trainer: Trainer, module: Any) -> bool:
    """Whether each row counts once in the loss, so that equal batches have equal denominators."""
    data, loss = trainer.datamodule, module.criterion  # type: ignore[attr-defined]
    if not isinstance(data, TensorData) or data.counts["train"].missing or data.splits.weights is not None:
        return False
    return not module.task.exclusive or getattr(loss, "weight", None) is None


def _log(trainer: Trainer, module: Any, epoch: "Epoch") -> None:
    values = epoch.compute()
    epoch.reset()  # and let go of the outputs
    shown = _shown(trainer, module, epoch.prefix)
    if trainer.state.fn != TrainerFn.FITTING:
        for name, value in values.items():  # validate and test return what they find there
            if trainer.world_size > 1:  # all processes have the same value already
                warnings.filterwarnings("ignore", message=rf"It is recommended to use `self.log\('{name}'")
            module.log(name, value, prog_bar=name in shown)
    elif values:
        # what module.log comes to, which takes a third of a millisecond for each
        scalars = torch.stack([value.double() for value in values.values()]).tolist()
        numbers = dict(zip(values, scalars, strict=True))
        trainer.callback_metrics.update(values)
        trainer.logged_metrics.update(values)
        trainer.progress_bar_metrics.update({name: numbers[name] for name in shown if name in numbers})
        if trainer.sanity_checking:
            return  # after which Lightning forgets the values
        for logger in trainer.loggers:
            logger.log_metrics({**numbers, "epoch": module.current_epoch}, step=trainer.global_step - 1)
            logger.save()


def _shown(trainer: Trainer, module: Any, prefix: str) -> list[str]:
    """The metrics that matter while a run goes: loss, the task's own, and what chooses the best epoch."""
    watched = [saves.monitor for saves in trainer.checkpoint_callbacks if isinstance(saves, ModelCheckpoint)]
    own = chunked_primary_metric(module.task) if module._chunked else module.task.primary_metric
    names = [f"{prefix}loss", *([f"{prefix}{own}"] if prefix == "val/" else []), *watched]
    return [name for name in names if name]


def _say_what_is_left_out(epoch: "Epoch", split: str) -> None:
    if epoch.counts is not None:
        warn_no_positives(epoch.counts[0], epoch.task, split)


def _check_weights(trainer: Trainer, module: Any) -> None:
    """ValueError where training has diverged. Looked at once an epoch: it makes the device wait."""
    if module._output_watch.finite_at == trainer.global_step:
        return
    module._output_watch.finite_at = trainer.global_step
    finite = [weight.isfinite().all() for weight in module.parameters() if weight.is_floating_point()]
    if not all(all_gather(not finite or bool(torch.stack(finite).all()))):
        raise TrainingDiverged(
            f"Training has diverged: in epoch {module.current_epoch} the weights are no longer finite, and "
            f"no further step would mend them. {WHAT_TO_DO}"
        )
