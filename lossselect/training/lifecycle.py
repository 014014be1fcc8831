"""Callbacks of every run, for the parts of a `TaskModule` that must work even if a hook is overridden."""

import functools
import operator
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng

from lossselect.chunked.options import chunked_primary_metric
from lossselect.compat.lightning import (
    PrivateHooks,
    combined_loader,
    compile_forward_only,
    convert_logged_hparams,
    data_fetcher,
    get_trainer,
    is_sequential,
    train_loaders,
)
from lossselect.data.checks import check_all_counts
from lossselect.data.datamodule import TensorData
from lossselect.exceptions import ConfigError
from lossselect.losses.multi_loss import all_named, learned_weights, losses_by_task
from lossselect.models.encodings import MAX_FITTED_ROWS, MAX_FITTED_VALUES, fit_layers
from lossselect.models.ensemble import Ensemble
from lossselect.tasks.label_counts import count_batches, warn_no_positives
from lossselect.tasks.registry import AnyTask
from lossselect.tasks.task_names import naming_task
from lossselect.training.checkpoints.content import add_module_state, check_same_task
from lossselect.training.checkpoints.net_selection import NetSelection
from lossselect.training.checkpoints.run_state import RunState, find_generators
from lossselect.training.checkpoints.saving import CheckpointFiles
from lossselect.training.checkpoints.validation import check_resumable, check_states
from lossselect.training.diagnostics.epoch_length import check_epoch_length, evaluation_loop
from lossselect.training.diagnostics.outputs import check_end
from lossselect.training.diagnostics.start_checks import check_epoch, check_labels_in_memory, check_monitors
from lossselect.training.distributed.eval_sampler import each_row_once, evaluate_apart, take_each_row_once
from lossselect.utils.checks import SPLIT_NAMES, first_duplicate, shorten
from lossselect.utils.distributed import all_gather
from lossselect.utils.warnings import warn

if TYPE_CHECKING:
    from lossselect.training.epochs.epoch import Epoch


class RunHooks(Callback):
    """Starts the epochs of a `TaskModule`, checks each step, and adds its state to checkpoints."""

    def __init__(self) -> None:
        self.run_state = RunState()

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        # new lists, because Lightning is iterating over the old one
        runs_task = isinstance(pl_module, PrivateHooks)
        if not runs_task:  # the trainer has run a TaskModule before
            hooks = RunHooks | FirstHooks
            trainer.callbacks = [part for part in trainer.callbacks if not isinstance(part, hooks)]  # type: ignore[attr-defined]
            return
        others = [callback for callback in trainer.callbacks if not isinstance(callback, FirstHooks)]  # type: ignore[attr-defined]
        trainer.callbacks = [FirstHooks(self.run_state), *others]  # type: ignore[attr-defined]
        if stage == "fit":
            self.run_state.watch(trainer)
        pl_module._build_head()
        _check_trainer(trainer, pl_module)
        compile_forward_only(pl_module)
        for owner in (pl_module, trainer.datamodule):  # type: ignore[attr-defined]
            convert_logged_hparams(
                owner, lambda value: value.to_dict() if isinstance(value, AnyTask) else value
            )
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = CheckpointFiles()
        take_each_row_once(trainer)
        pl_module._finite_check.checked_step = -1
        check_end(pl_module.net, pl_module.task)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module._step_mean.start()
        self.run_state.start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module._epochs["train"].first.reset()
        self.run_state.begin_epoch()

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        evaluate_apart(trainer, True)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        evaluate_apart(trainer, False)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module._epochs["val"].start(_find_loader_names(trainer, pl_module, "val"))

    def on_test_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module._epochs["test"].start(_find_loader_names(trainer, pl_module, "test"))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        pl_module._epochs["val"].loader = dataloader_idx

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        pl_module._epochs["test"].loader = dataloader_idx

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: torch.Tensor) -> None:
        if pl_module.automatic_optimization:
            pl_module._step_mean.before_backward(trainer, pl_module, loss)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        if pl_module.automatic_optimization:
            pl_module._step_mean.finish(pl_module, trainer.accumulate_grad_batches)
        pl_module._finite_check.check_step(pl_module, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        checks = pl_module._output_checks
        # manual optimization may have cleared the gradients, and a custom loss may be constant at first
        if not checks.gradient_checked and pl_module.automatic_optimization:
            may_raise = all_named(pl_module.criterion) or trainer.is_last_batch
            checks.check_gradient(pl_module, outputs, may_raise)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        add_module_state(pl_module, checkpoint)
        if trainer.state.fn == TrainerFn.FITTING:
            pl_module._finite_check.check_pending()
            pl_module._finite_check.check_weights(pl_module)
            self.run_state.save(trainer, pl_module, checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        check_same_task(checkpoint, pl_module.task)
        fitting = trainer.state.fn == TrainerFn.FITTING
        if fitting:
            check_resumable(checkpoint, trainer.ckpt_path, exact=False)
            check_states(checkpoint, trainer.ckpt_path, callbacks=trainer.callbacks)  # type: ignore[attr-defined]
        self.run_state.checkpoint = checkpoint if fitting else {}


def add_run_hooks(configure_callbacks: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate `configure_callbacks` of a `TaskModule`, so that it also returns `RunHooks`."""
    if getattr(configure_callbacks, "_adds_run_hooks", False):
        return configure_callbacks

    @functools.wraps(configure_callbacks)
    def configure(self: Any) -> list[Callback]:
        callbacks = configure_callbacks(self) or []
        callbacks = [*callbacks] if isinstance(callbacks, Sequence) else [callbacks]
        if (trainer := get_trainer(self)) is not None:
            # else Lightning logs that it replaces the callback of the last run
            others = (part for part in trainer.callbacks if not isinstance(part, RunHooks | NetSelection))
            trainer.callbacks[:] = others
        if any(isinstance(callback, RunHooks) for callback in callbacks):
            return callbacks
        return [*callbacks, RunHooks(), *([NetSelection()] if isinstance(self.net, Ensemble) else [])]

    configure._adds_run_hooks = True  # type: ignore[attr-defined]
    return configure


class FirstHooks(Callback):
    """Hooks that must run before those of all other callbacks.

    Fit starts with label counts and an initial bias, which a learning rate finder needs, and an epoch ends
    with logged values, which other callbacks monitor.
    """

    def __init__(self, run_state: RunState) -> None:
        self.run_state = run_state
        self.checked: set[str] = set()  # splits whose labels have been checked

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.run_state.check(trainer)
        if trainer.ckpt_path is not None:
            pl_module._bias_init = None  # a resumed run takes its bias from the checkpoint
        else:
            _fit_input_layers(trainer, pl_module)
        pl_module._initialize_bias()
        if pl_module._needs_counts:
            started = data_fetcher(trainer.fit_loop) is not None  # for the length of a schedule
            if counts := _count_labels(trainer, pl_module):
                check_all_counts(pl_module.task, "train", counts)
                pl_module.set_label_counts(counts)
                self.run_state.rewind(trainer, started)
                self.checked.add("train")
        self.run_state.compare_loss(pl_module.criterion)
        pl_module._step_mean.equal_counts = _has_equal_counts(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        check_monitors(trainer, pl_module, _find_loader_names(trainer, pl_module, "val"))
        is_checked = isinstance(trainer.datamodule, TensorData)  # type: ignore[attr-defined]
        self.checked.update(("train", "val") if is_checked else check_labels_in_memory(trainer, pl_module))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        check_epoch_length(trainer, "train")
        pl_module._finite_check.check_weights(pl_module)
        _log(trainer, pl_module, pl_module._epochs["train"].first)
        for epoch in pl_module._epochs["train"].first.by_task.values():
            if first := epoch.first_checks:
                epoch.first_checks = None
                if not pl_module._output_checks.ends_affine:
                    first.warn_of_outputs()
                if not isinstance(trainer.datamodule, TensorData):  # type: ignore[attr-defined]
                    first.warn_of_labels(epoch.task)
        self._check_labels(trainer, pl_module._epochs["train"].first, "train")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        check_epoch_length(trainer, "val")
        if trainer.state.fn == TrainerFn.FITTING:
            pl_module._finite_check.check_weights(pl_module)  # before they are saved as the best checkpoint
        for epoch in pl_module._epochs["val"]:
            _log(trainer, pl_module, epoch)
            if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
                self._check_labels(trainer, epoch, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        check_epoch_length(trainer, "test")
        for epoch in pl_module._epochs["test"]:
            _log(trainer, pl_module, epoch)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        check_epoch_length(trainer, "predict")

    def _check_labels(self, trainer: Trainer, epoch: Any, split: str) -> None:
        if split not in self.checked and check_epoch(trainer, epoch, split):
            self.checked.add(split)


def _check_trainer(trainer: Trainer, module: Any) -> None:
    """Raise ConfigError for a negative gradient_clip_val and for options that a strategy does not support."""
    if (trainer.gradient_clip_val or 0) < 0:
        raise ConfigError(
            f"gradient_clip_val must be >= 0, got {trainer.gradient_clip_val}. Lightning does not clip "
            "gradients by a negative value. Set a value > 0, or null to leave gradients unclipped."
        )
    fits = trainer.state.fn == TrainerFn.FITTING
    if (
        fits
        and not module.automatic_optimization
        and {"training_step", "step"}.isdisjoint(module._overrides())
    ):
        raise ConfigError(
            "automatic_optimization=False requires a training_step that calls manual_backward and the "
            "optimizers. Override training_step (out = self.step(batch); self.manual_backward(out.loss); "
            "...), or remove automatic_optimization=False."
        )
    if not isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
        return
    strategy = type(trainer.strategy).__name__
    if module._chunked:
        raise ConfigError(
            f"head=chunked cannot be combined with {strategy}, which shards the weights of the last layer. "
            "Set strategy=ddp or head=dense."
        )
    if module._bias_init is not None and fits and not trainer.ckpt_path:
        raise ConfigError(
            f"bias_init={module._bias_init} has to be applied before {strategy} shards the weights. Call "
            "module.set_label_counts(lossselect.count_labels(task, labels)) before fit, or set "
            "bias_init=null."
        )


def _fit_input_layers(trainer: Trainer, module: Any) -> None:
    """Fit scaling and encodings of a built-in net to training rows of `TensorData`."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if all(getattr(layer, "is_fitted", True) for layer in module.modules()):
        return
    if not isinstance(data, TensorData):
        warn(
            "unfitted_layers",
            "The scaling and the encoding of the net are fitted only to data=table, data=arrays and built-in "
            "data. They now assume features of mean 0 and standard deviation 1. Standardise the features, "
            "and call lossselect.models.encodings.fit_layers(module, rows) before fit.",
        )
        return
    rows = data.batches["train"].rows
    limit = max(1, min(MAX_FITTED_ROWS, MAX_FITTED_VALUES // data.num_features))
    fit_layers(module, data.splits.features[rows[:: -(-len(rows) // limit)]])


def _count_labels(trainer: Trainer, module: Any) -> Any:
    """Return the counts of the training rows, from `TensorData` or by one pass through the loader."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if isinstance(data, TensorData):
        return data.counts["train"]
    trainer.fit_loop.setup_data()
    loader, several = trainer.train_dataloader, len(train_loaders(trainer)) > 1
    if several or sized_len(loader) is None:
        reason = "there are several training loaders" if several else "the training loader has no length"
        raise ConfigError(
            f"The loss or bias_init requires the label counts of the training rows, but {reason}. Call "
            "module.set_label_counts(lossselect.count_labels(task, labels)) before fit."
        )
    with each_row_once(loader):
        counts = [part for part in all_gather(count_loader(module, loader or ())) if part]
    return functools.reduce(operator.add, counts) if counts else None


def count_loader(module: Any, loader: Iterable[Any]) -> Any:
    """Return the label counts of a loader, None without a batch; restores all random generators."""
    generators = find_generators([loader])
    states = [generator.get_state() for generator in generators]
    with isolate_rng():
        counts = count_batches(module.task, (module._encode_batch(batch).target for batch in loader))
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
    return counts


def _has_equal_counts(trainer: Trainer, module: Any) -> bool:
    """Return whether batches of equal size have the same denominator of the loss: each row counts once."""
    data, loss = trainer.datamodule, module.criterion  # type: ignore[attr-defined]
    if not isinstance(data, TensorData) or data.counts["train"].missing or data.splits.weights is not None:
        return False
    losses = losses_by_task(loss)
    return all(
        not task.exclusive or getattr(losses[name], "weight", None) is None
        for name, task in module.task.tasks.items()
    )


def _log(trainer: Trainer, module: Any, epoch: "Epoch") -> None:
    values = epoch.compute()
    epoch.reset()  # releases the outputs
    values |= learned_weights(module.criterion) if values and epoch.prefix == "train/" else {}
    if epoch.alias is not None:
        values |= {epoch.alias + name.removeprefix(epoch.prefix): value for name, value in values.items()}
    shown = _shown_metrics(trainer, module, epoch.prefix)
    if trainer.state.fn != TrainerFn.FITTING:
        # Lightning recommends sync_dist, but all processes have the same values
        warnings.filterwarnings("ignore", message=rf"It is recommended to use `self.log\('{epoch.prefix}")
        for name, value in values.items():  # trainer.validate and trainer.test return logged values
            module.log(name, value, prog_bar=name in shown)
        for task_name, part in epoch.by_task.items():
            if part.counts is not None and torch.stack(part.counts).any():
                with naming_task(task_name):
                    warn_no_positives(part.counts[0], part.task, part.stage)
    elif values:
        # same effect as module.log, which takes a third of a millisecond for each value
        scalars = torch.stack([value.double() for value in values.values()]).tolist()
        numbers = dict(zip(values, scalars, strict=True))
        trainer.callback_metrics.update(values)
        trainer.logged_metrics.update(values)
        trainer.progress_bar_metrics.update({name: numbers[name] for name in shown if name in numbers})
        if trainer.sanity_checking:
            return  # Lightning discards the values
        for logger in trainer.loggers:
            logger.log_metrics({**numbers, "epoch": module.current_epoch}, step=trainer.global_step - 1)
            logger.save()


def _find_loader_names(trainer: Trainer, module: Any, stage: str) -> list[str]:
    """Return the names of several validation or test loaders; an empty list for a single one."""
    loop = evaluation_loop(trainer, stage)
    loaders = combined_loader(loop)
    count = 0 if loaders is None else len(loaders.flattened)
    if count < 2 or not is_sequential(loop):
        return []
    names = module._loader_names
    if names is None:
        is_mapping = isinstance(loaders.iterables, Mapping) and len(loaders.iterables) == count
        names = loaders.iterables if is_mapping else range(count)
    names = [names] if isinstance(names, str) else [*map(str, names)]
    kind = SPLIT_NAMES[stage]
    if len(names) != count:
        raise ConfigError(
            f"Expected {count} names in loader_names, one for each {kind} loader, got {len(names)}: "
            f"{shorten(names)}. Pass one name for each loader, or a dict of loaders."
        )
    if (name := first_duplicate(names)) is not None:
        raise ConfigError(f"Two {kind} loaders have the name {name!r}. Give each its own name.")
    if shared := [name for name in names if name and name in module.task.tasks]:
        raise ConfigError(
            f"The name of a {kind} loader, {shared[0]!r}, is also the name of a task. Rename the loader."
        )
    if invalid := [name for name in names if not re.fullmatch(r"[^/\\\s]+", name)]:
        raise ConfigError(
            f"The name {invalid[0]!r} of a {kind} loader becomes part of names such as {stage}/NAME/loss. "
            "Use a name without slashes and blanks."
        )
    return names


def _shown_metrics(trainer: Trainer, module: Any, prefix: str) -> list[str]:
    """Return the names for the progress bar: the loss, the primary validation metric, monitored metrics."""
    names = [c.monitor for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor]
    if prefix == "val/":
        primary = chunked_primary_metric(module.task) if module._chunked else module.task.primary_metric
        names.insert(0, f"{prefix}{primary}")
    return [f"{prefix}loss", *names]
