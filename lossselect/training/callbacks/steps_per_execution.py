"""A callback that takes several steps per iteration of Lightning's loop, which has a high overhead."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, WeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from lossselect.compat import lightning as compat
from lossselect.data.batches import Block, RowBatches, TensorBatches, identity
from lossselect.exceptions import ConfigError
from lossselect.training.diagnostics.epoch_length import check_fetched
from lossselect.training.lifecycle import RunHooks
from lossselect.training.module import TaskModule
from lossselect.training.optimizers import OPTIMIZERS
from lossselect.utils.checks import check_int
from lossselect.utils.warnings import warn

WITHOUT_CLOSURE = {cls for cls in OPTIMIZERS.values() if cls is not torch.optim.LBFGS}

# hooks within a step or a validation batch; if one is overridden, Lightning runs each step or batch itself
STEP_HOOKS = (
    *("backward", "on_before_backward", "on_after_backward"),
    *("on_before_zero_grad", "optimizer_zero_grad", "on_before_optimizer_step", "optimizer_step"),
    *("configure_gradient_clipping", "training_step", "step", "unpack_batch"),
    *("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"),
)
BASES = (TaskModule, LightningDataModule, RunHooks, Callback)  # their own hooks do not count as overrides
VALIDATION_HOOKS = (
    *("validation_step", "step", "unpack_batch"),
    *("on_validation_batch_start", "on_validation_batch_end"),
)


class StepsPerExecution(Callback):
    """Takes several optimizer steps in each iteration of Lightning's loop, to reduce its overhead.

    Weights, metrics, `global_step`, schedulers, clipping, accumulation and validation are bit-identical. A
    block of batches ends when a validation or a checkpoint is due, or when training ends. There are two
    differences:

    - `on_train_batch_start` and `on_train_batch_end` are called once for a block, with the block as batch.
      Code that has to run in each step must override a hook within it, such as `on_before_optimizer_step`.
    - The batches of a block are loaded before its first step. A data set that draws random numbers in the
      training process therefore draws different ones, and a loader must not overwrite earlier batches.

    Args:
        steps: The maximum number of steps in an iteration, >= 1; 1 changes nothing.

    Raises:
        OptionTypeError: `steps` is not an integer.
        ConfigError: `steps` < 1. At the start of fit: the module is not a `TaskModule` or optimizes
            manually, the strategy is neither a single device nor DDP, there are several train loaders, or
            there is a `WeightAveraging` callback, which must run after each step.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lossselect import StepsPerExecution
        >>> trainer = Trainer(callbacks=[StepsPerExecution(16)], logger=False, accelerator="cpu")
    """

    def __init__(self, steps: int) -> None:
        self.steps = check_int("steps_per_execution", steps, 1)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or self.steps == 1:
            return
        if compat.is_tested():
            _check(trainer, pl_module)
            return
        warn(
            "untested_lightning",
            f"steps_per_execution={self.steps} requires Lightning {' or '.join(compat.TESTED)}, "
            f"got {lightning.__version__}. Steps are taken one at a time. Install a tested version, or set "
            "steps_per_execution=1.",
        )
        self.steps = 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.steps > 1:
            loop = trainer.fit_loop.epoch_loop
            compat.wrap(loop.automatic_optimization, "run", partial(_take_steps, trainer))
            self.on_train_epoch_start(trainer, pl_module)
            if bar := trainer.progress_bar_callback:
                # the hook is called with the index of the block's first batch, but the bar needs the last
                compat.wrap(bar, "on_train_batch_end", lambda end, *args: end(*args[:-1], loop.batch_idx))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the trainer, so that it can fit again without this callback."""
        compat.unwrap(trainer.fit_loop.epoch_loop.automatic_optimization, "run")
        if self.steps > 1 and (bar := trainer.progress_bar_callback):
            compat.unwrap(bar, "on_train_batch_end")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        fetcher = compat.data_fetcher(trainer.fit_loop)  # Lightning may have replaced it
        if self.steps == 1 or isinstance(fetcher, _BlockFetcher):
            return
        if isinstance(fetcher, compat.IteratorFetcher):
            raise ConfigError(
                "steps_per_execution requires a training_step that accepts a batch, got one that accepts an "
                "iterator. Set steps_per_execution=1."
            )
        if (count := len(fetcher.combined_loader.flattened)) != 1:
            raise ConfigError(
                f"steps_per_execution requires one training loader, got {count}. Set steps_per_execution=1."
            )
        compat.set_data_fetcher(trainer.fit_loop, _BlockFetcher(fetcher, self.steps, trainer))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop = trainer.fit_loop.epoch_loop.val_loop
        fetcher = compat.data_fetcher(loop)
        is_single = fetcher and len(fetcher.combined_loader.flattened) == 1
        if self.steps > 1 and is_single and not _overrides_any(trainer, VALIDATION_HOOKS, ProgressBar):
            compat.set_data_fetcher(loop, _BlockFetcher(fetcher, self.steps))


def _check(trainer: Trainer, module: LightningModule) -> None:
    problem, callbacks = None, trainer.callbacks  # type: ignore[attr-defined]
    if not isinstance(module, TaskModule):
        problem = f"requires a TaskModule, got {type(module).__name__}"
    elif not module.automatic_optimization:
        problem = f"requires automatic optimization, but {type(module).__name__} optimizes manually"
    elif type(trainer.strategy) not in (DDPStrategy, SingleDeviceStrategy):
        problem = f"requires a single device or DDP, got {type(trainer.strategy).__name__}"
    elif sum(isinstance(callback, StepsPerExecution) for callback in callbacks) > 1:
        problem = "requires one StepsPerExecution callback, got several"
    elif any(isinstance(callback, WeightAveraging) for callback in callbacks):
        problem = "cannot be combined with WeightAveraging, which has to run after each step"
    if problem:
        raise ConfigError(
            f"steps_per_execution {problem}. Set steps_per_execution=1, or remove the callback."
        )


class _BlockFetcher(compat.DataFetcher):
    """Fetches several batches at a time, from Lightning's fetcher or directly from a `TensorData` loader."""

    def __init__(self, fetcher: Any, steps: int, trainer: Trainer | None = None) -> None:
        super().__init__()
        self.inner, self.steps, self.trainer = fetcher, steps, trainer
        self._combined_loader = fetcher.combined_loader
        (loader,) = fetcher.combined_loader.flattened
        # a loader in a dict or a list yields dicts or lists
        is_single = fetcher.combined_loader.iterables is loader
        self.loader = loader if is_single and _takes_rows(loader) else None
        self._start_epoch()

    def _start_epoch(self) -> None:
        self.fetched, self.done, self.length = self.inner.fetched, self.inner.done, self.inner.length
        # row indices of each batch, or the batches themselves
        self._source: Iterator[Any] = iter(self.loader.sampler) if self.loader else self._iterate_inner()

    def _iterate_inner(self) -> Iterator[Any]:
        while not self.inner.done:
            try:
                yield next(self.inner)[0]
            except StopIteration:
                return

    def __iter__(self) -> "_BlockFetcher":
        iter(self.inner)  # draws the same random number as without blocks
        self._start_epoch()
        return self

    def __next__(self) -> tuple[Block, int, int]:
        if self.done:
            raise StopIteration
        size = min([self.steps, *self._batches_until_due()])
        if self.loader and self.length is not None:  # the loaders of TensorData have a length
            block = self.loader.dataset.block([*islice(self._source, min(size, self.length - self.fetched))])
            self.done = self.fetched + len(block) >= self.length
        else:
            block = Block([*islice(self._source, size)])
            self.done = self.inner.done
        self.fetched += len(block)
        if self.inner.done:
            check_fetched(self, "train" if self.trainer else "val")
        if not len(block):
            self.done = True
            raise StopIteration
        return block, self.fetched - 1, 0

    def reset(self) -> None:
        self.inner.reset()
        self._start_epoch()

    def teardown(self) -> None:
        self.inner.teardown()

    def _batches_until_due(self) -> Iterator[int]:
        """Yield the numbers of batches until the next validation, checkpoint and end of training."""
        if (trainer := self.trainer) is None:
            return
        loop, interval = trainer.fit_loop.epoch_loop, trainer.val_check_batch
        if interval is not None and math.isfinite(interval):
            index = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx
            yield int(interval) - (index + 1) % int(interval)
        if isinstance(trainer.limit_train_batches, int):
            yield max(1, trainer.limit_train_batches - self.fetched)
        steps_left = [trainer.max_steps - trainer.global_step] if trainer.max_steps > 0 else []
        savers = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        intervals = map(compat.steps_between_checkpoints, savers)
        steps_left += [steps - trainer.global_step % steps for steps in intervals if steps > 0]
        # an optimizer step may accumulate several batches, of which some may be done already
        group = trainer.accumulate_grad_batches
        yield from (max(1, steps * group - (loop.batch_idx + 1) % group) for steps in steps_left)


def _overrides_any(trainer: Trainer, hooks: Sequence[str], ignored: type | tuple[()] = ()) -> bool:
    """Return whether the module, the data module or a callback, except `ignored` ones, overrides a hook."""
    for part in (trainer.lightning_module, trainer.datamodule, *trainer.callbacks):  # type: ignore[attr-defined]
        base = next((base for base in BASES if isinstance(part, base)), None)
        if base is None or isinstance(part, ignored):
            continue
        if any(
            getattr(type(part), hook, None) is not getattr(base, hook, None) or hook in vars(part)
            for hook in hooks
        ):
            return True
    return False


def _takes_rows(loader: Any) -> bool:
    """Return whether the batches of a loader are exactly the rows that its `RowBatches` sampler yields."""
    return (
        type(loader) is DataLoader
        and type(loader.dataset) is TensorBatches
        and loader.collate_fn is identity
        and type(loader.sampler) is RowBatches
        and loader.batch_size is None
        and loader.num_workers == 0
        and not loader.pin_memory
    )


def _take_steps(
    trainer: Trainer, run: Callable[..., Any], optimizer: Any, batch_idx: int, kwargs: Any
) -> Any:
    """Take the steps of a block, with Lightning's `run` unless `_is_plain`."""
    block: Block = kwargs["batch"]
    progress = trainer.fit_loop.epoch_loop.batch_progress
    is_last, is_plain = progress.is_last_batch, _is_plain(trainer)
    module: TaskModule = trainer.lightning_module  # type: ignore[assignment]
    batches = module._transfer_block(block) if is_plain else list(block)
    outputs: Any = {}
    for i, batch in enumerate(batches):
        if i and trainer.should_stop:
            break  # requested within a step
        if i:
            _advance(trainer)
            compat.logger_connector(trainer).on_batch_start(batch)
        else:
            compat.logged_results(trainer).batch = batch  # Lightning has set the block
        progress.is_last_batch = is_last and i == len(batches) - 1
        if is_plain:
            outputs = _take_plain_step(trainer, batch, batch_idx + i)
        else:
            index = {"batch_idx": batch_idx + i} if "batch_idx" in kwargs else {}
            arguments: Any = {**kwargs, "batch": module._to_device(batch), **index}
            outputs = run(optimizer, batch_idx + i, arguments)
    return outputs


def _advance(trainer: Trainer) -> None:
    """Update progress, schedulers and logs as Lightning's loop does between two batches."""
    loop = trainer.fit_loop.epoch_loop
    has_schedulers = bool(trainer.lr_scheduler_configs)
    logs = compat.logger_connector(trainer) if compat.logged_results(trainer) else None
    loop.batch_progress.increment_processed()
    if has_schedulers:
        loop.update_lr_schedulers("step", update_plateau_schedulers=False)
    loop.batch_progress.increment_completed()
    if logs:
        logs.on_batch_end()
        logs.update_train_step_metrics()
    if has_schedulers:
        loop.update_lr_schedulers("step", update_plateau_schedulers=True)
    if not compat.accumulates(trainer):
        compat.count_optimizer_step(trainer)
    loop.batch_progress.increment_ready()
    loop.batch_progress.increment_started()


def _is_plain(trainer: Trainer) -> bool:
    """Return whether a step consists only of forward, backward and the optimizer, without other hooks."""
    precision = trainer.precision_plugin
    return (
        type(trainer.strategy) is SingleDeviceStrategy
        and (type(precision) is Precision or (type(precision) is MixedPrecision and not precision.scaler))
        and trainer.accumulate_grad_batches == 1
        and type(trainer.optimizers[0]) in WITHOUT_CLOSURE
        and not _overrides_any(trainer, STEP_HOOKS)
    )


def _take_plain_step(trainer: Trainer, batch: Any, batch_idx: int) -> dict[str, Tensor]:
    module, optimizer = trainer.lightning_module, trainer.optimizers[0]
    compat.set_running_hook(module, "training_step")
    with trainer.precision_plugin.train_step_context():
        outputs: Any = module.training_step(batch, batch_idx)
    for group in optimizer.param_groups:  # zero_grad without its profiling
        for parameter in group["params"]:
            parameter.grad = None
    outputs["loss"].backward()
    module._finite_check.check_step(module, optimizer)  # type: ignore[operator,union-attr]
    if trainer.gradient_clip_val:
        module.configure_gradient_clipping(
            optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
        )
    progress = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
    progress.increment_ready()
    optimizer.step()
    progress.increment_completed()
    compat.set_running_hook(module, None)
    return {**outputs, "loss": outputs["loss"].detach()}
