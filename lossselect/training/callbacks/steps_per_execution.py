"""Several optimizer steps for each turn of Lightning's loop, whose cost is then paid once for all of them.

A turn of the loop (fetching, hooks, logging, progress) takes as long as a step of a small net. Here a turn
is handed a block of batches, and takes a step for each as the loop would have done; all that counts batches
or steps counts on as if there were no blocks.
"""

import math
from collections.abc import Sequence
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

from lossselect.compat.lightning import (
    TESTED,
    AutomaticOptimization,
    DataFetcher,
    IteratorFetcher,
    accumulates,
    count_optimizer_step,
    data_fetcher,
    is_tested,
    logged_results,
    logger_connector,
    set_data_fetcher,
    set_running_hook,
    steps_between_checkpoints,
    unwrap,
    wrap,
)
from lossselect.data.batches import Block, TensorBatches, identity
from lossselect.data.sampler import RowBatches
from lossselect.exceptions import ConfigError
from lossselect.training.epoch_length import check_fetched
from lossselect.training.lifecycle import RunHooks
from lossselect.training.module import TaskModule
from lossselect.training.optimizers import OPTIMIZERS
from lossselect.utils.checks import check_int
from lossselect.utils.warnings import warn

TAKE_NO_CLOSURE = {cls for cls in OPTIMIZERS.values() if cls is not torch.optim.LBFGS}

STEP_HOOKS = (
    *("backward", "on_before_backward", "on_after_backward"),
    *("on_before_zero_grad", "optimizer_zero_grad", "on_before_optimizer_step", "optimizer_step"),
    *("configure_gradient_clipping", "training_step"),
    *("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"),
)
"""What a module, its data or a callback may do within a step: overridden, each step goes Lightning's way."""


VALIDATION_HOOKS = ("validation_step", "on_validation_batch_start", "on_validation_batch_end")
"""The same of validation: overridden, it takes one batch at a time."""


class StepsPerExecution(Callback):
    """Takes several optimizer steps in each turn of Lightning's loop: `callbacks=[StepsPerExecution(16)]`.

    Weights, metrics, `global_step`, schedulers, clipping, accumulation and validation are what they are
    without, to the bit. A block of batches ends where the trainer validates, a checkpoint is due, or training
    ends. What differs: the hooks at the start and the end of a train batch are called once for a block, given
    the block, so that a callback that does something at each step does it at each block (what must see each
    step overrides a hook within it, such as `on_before_optimizer_step`); and the batches of a block are made
    before its first step, so that a data set that draws random numbers in the training process draws others.

    Args:
        steps: How many at most, from 1 (which changes nothing).

    Raises:
        TypeError, ValueError: no whole number from 1; at the start of fit, a module that is no `TaskModule`
            or optimizes by itself, a strategy other than one device or DDP, several train loaders, a
            `WeightAveraging` callback, which must see each step.
    """

    def __init__(self, steps: int) -> None:
        self.steps = check_int("steps_per_execution", steps, 1)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and self.steps > 1 and not is_tested():
            warn(
                "untested_lightning",
                f"steps_per_execution={self.steps} needs the loops of Lightning {' or '.join(TESTED)}, got "
                f"{lightning.__version__}. Steps are taken one at a time.",
            )
            self.steps = 1
        if stage == "fit" and self.steps > 1:
            _check(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.steps > 1:
            loop = trainer.fit_loop.epoch_loop
            blocks = _BlockOptimization(trainer)
            blocks.optim_progress = loop.automatic_optimization.optim_progress
            loop.automatic_optimization = blocks
            self._fetch_blocks(trainer)
            if bar := trainer.progress_bar_callback:
                # a bar shows the batch it is told, which is a block's first
                wrap(bar, "on_train_batch_end", lambda shown, *of: shown(*of[:-1], loop.batch_idx))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore(trainer)

    def _restore(self, trainer: Trainer) -> None:
        """The trainer may fit again, without this callback."""
        if self.steps > 1 and (bar := trainer.progress_bar_callback):
            unwrap(bar, "on_train_batch_end")
        loop, fetcher = trainer.fit_loop.epoch_loop, data_fetcher(trainer.fit_loop)
        if isinstance(loop.automatic_optimization, _BlockOptimization):
            own = AutomaticOptimization(trainer)
            own.optim_progress = loop.automatic_optimization.optim_progress
            loop.automatic_optimization = own
        if isinstance(fetcher, _BlockFetcher):
            set_data_fetcher(trainer.fit_loop, fetcher.inner)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.steps > 1:
            self._fetch_blocks(trainer)

    def _fetch_blocks(self, trainer: Trainer) -> None:
        """Also where the loader has been made anew."""
        fetcher = data_fetcher(trainer.fit_loop)
        if not isinstance(fetcher, _BlockFetcher):
            set_data_fetcher(trainer.fit_loop, _TrainBlockFetcher(trainer, fetcher, self.steps))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        others = [(pl_module, TaskModule), *((callback, Callback) for callback in trainer.callbacks)]  # type: ignore[attr-defined]
        seen = any(_overrides(*pair, VALIDATION_HOOKS) for pair in others if not _is_bar(pair[0]))
        if self.steps > 1 and not seen:
            loop = trainer.fit_loop.epoch_loop.val_loop
            fetcher = data_fetcher(loop)
            if fetcher and len(fetcher.combined_loader.flattened) == 1:
                set_data_fetcher(loop, _BlockFetcher(fetcher, self.steps))


def _is_bar(callback: Any) -> bool:
    return isinstance(callback, ProgressBar)


def _check(trainer: Trainer, module: LightningModule) -> None:
    refused = None
    if not isinstance(module, TaskModule):
        refused = f"a TaskModule, and {type(module).__name__} is none"
    elif not module.automatic_optimization:
        refused = f"Lightning's optimization, and {type(module).__name__} optimizes by itself"
    elif type(trainer.strategy) not in (DDPStrategy, SingleDeviceStrategy):
        refused = f"one device or DDP, and the strategy is {type(trainer.strategy).__name__}"
    elif sum(isinstance(callback, StepsPerExecution) for callback in trainer.callbacks) > 1:  # type: ignore[attr-defined]
        refused = "one StepsPerExecution, and there are several"
    elif any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        refused = "callbacks that need not see each step, as WeightAveraging must"
    if refused:
        raise ConfigError(f"steps_per_execution needs {refused}. Leave it at 1.")


class _BlockFetcher(DataFetcher):
    """Lightning's fetcher, of which several batches are taken at a time.

    Of data of ours all their rows are taken by one operation, past the loader, whose sampler is asked for
    the same rows.
    """

    stage = "val"

    def __init__(self, fetcher: Any, steps: int) -> None:
        super().__init__()
        self.inner, self.steps = fetcher, steps
        self._combined_loader = fetcher.combined_loader
        (loader,) = fetcher.combined_loader.flattened
        self.rows_of = loader if _is_ours(loader) else None
        self._new_epoch()

    def _new_epoch(self) -> None:
        self.fetched, self.done, self.length = self.inner.fetched, self.inner.done, self.inner.length
        self.indices = iter(self.rows_of.sampler) if self.rows_of else None

    def __iter__(self) -> "_BlockFetcher":
        iter(self.inner)  # which draws its random number, as without blocks
        self._new_epoch()
        return self

    def __next__(self) -> tuple[Block, int, int]:
        if self.done:
            raise StopIteration
        size = self._size()
        block = self._taken(size) if self.indices is not None else self._fetched(size)
        self.fetched += len(block)
        if self.indices is None and self.inner.done:
            check_fetched(self, self.stage)
        if not len(block):
            self.done = True
            raise StopIteration
        self.done = self.inner.done if self.indices is None else self.fetched >= (self.length or 0)
        return block, self.fetched - 1, 0

    def _size(self) -> int:
        """How many batches the next block has."""
        return self.steps

    def _fetched(self, size: int) -> Block:
        batches: list[Any] = []
        while len(batches) < size and not self.inner.done:
            try:
                batches.append(next(self.inner)[0])
            except StopIteration:
                break
        return Block(batches)

    def _taken(self, size: int) -> Block:
        assert self.rows_of is not None
        assert self.indices is not None
        left = size if self.length is None else min(size, self.length - self.fetched)
        return self.rows_of.dataset.block([*islice(self.indices, left)])

    def reset(self) -> None:
        self.inner.reset()
        self._new_epoch()

    def teardown(self) -> None:
        self.inner.teardown()


class _TrainBlockFetcher(_BlockFetcher):
    """Ends a block where something is due."""

    stage = "train"

    def __init__(self, trainer: Trainer, fetcher: Any, steps: int) -> None:
        if isinstance(fetcher, IteratorFetcher):
            raise ConfigError(
                "steps_per_execution needs a training_step that takes a batch, not an iterator."
            )
        if (count := len(fetcher.combined_loader.flattened)) != 1:
            raise ConfigError(f"steps_per_execution needs one train loader, and there are {count}.")
        self.trainer = trainer
        super().__init__(fetcher, steps)

    def _size(self) -> int:
        trainer, loop = self.trainer, self.trainer.fit_loop.epoch_loop
        least = [self.steps]
        check = trainer.val_check_batch
        if check is not None and math.isfinite(check):
            past = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx
            least.append(int(check) - (past + 1) % int(check))
        if isinstance(trainer.limit_train_batches, int):
            least.append(max(1, trainer.limit_train_batches - self.fetched))
        left = [trainer.max_steps - trainer.global_step] if trainer.max_steps > 0 else []
        saving = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        saved = [every for callback in saving if (every := steps_between_checkpoints(callback)) > 0]
        left += [every - trainer.global_step % every for every in saved]
        # a step may take several batches; a group that has begun takes fewer
        group = trainer.accumulate_grad_batches
        least += [max(1, steps * group - (loop.batch_idx + 1) % group) for steps in left]
        return min(least)


def _overrides(instance: Any, parent: type, hooks: Sequence[str] = STEP_HOOKS) -> bool:
    """Whether something other than its parent's is done in one of the hooks."""
    return any(
        getattr(type(instance), hook, None) is not getattr(parent, hook, None) or hook in vars(instance)
        for hook in hooks
    )


def _is_ours(loader: Any) -> bool:
    """Whether its batches are the rows that a `RowBatches` tells."""
    return (
        type(loader) is DataLoader
        and type(loader.dataset) is TensorBatches
        and loader.collate_fn is identity
        and type(loader.sampler) is RowBatches
        and loader.batch_size is None
        and loader.num_workers == 0
        and not loader.pin_memory
    )


class _BlockOptimization(AutomaticOptimization):
    """The steps of a block, between which the loop's counters go on as it would have them."""

    def run(self, optimizer: Any, batch_idx: int, kwargs: Any) -> Any:
        block: Block = kwargs["batch"]
        loop = self.trainer.fit_loop.epoch_loop
        progress, is_last = loop.batch_progress, loop.batch_progress.is_last_batch
        plain = self._is_plain()
        outputs: Any = {}
        module: TaskModule = self.trainer.lightning_module  # type: ignore[assignment]
        batches = module._transfer_block(block) if plain else list(block)
        for i, batch in enumerate(batches):
            if i and self.trainer.should_stop:
                break  # within a step somebody has asked for it
            if i:
                self._go_on()
                logger_connector(self.trainer).on_batch_start(batch)
            else:
                logged_results(self.trainer).batch = batch  # not the block
            progress.is_last_batch = is_last and i == len(batches) - 1
            if plain:
                outputs = self._plain_step(batch, batch_idx + i)
            else:
                given = {**kwargs, "batch": module._to_device(batch)}
                if "batch_idx" in kwargs:
                    given["batch_idx"] = batch_idx + i
                outputs = super().run(optimizer, batch_idx + i, given)  # type: ignore[arg-type]
        return outputs

    def _go_on(self) -> None:
        """What the loop does between two batches."""
        loop = self.trainer.fit_loop.epoch_loop
        schedulers = bool(self.trainer.lr_scheduler_configs)
        loop.batch_progress.increment_processed()
        if schedulers:  # without, some calls that find that there are none
            loop.update_lr_schedulers("step", update_plateau_schedulers=False)
        logged, logs = bool(logged_results(self.trainer)), logger_connector(self.trainer)
        if logged:
            logs.on_batch_end()
        loop.batch_progress.increment_completed()
        if logged:
            logs.update_train_step_metrics()
        if schedulers:
            loop.update_lr_schedulers("step", update_plateau_schedulers=True)
        if not accumulates(self.trainer):
            count_optimizer_step(self.trainer)
        loop.batch_progress.increment_ready()
        loop.batch_progress.increment_started()

    def _is_plain(self) -> bool:
        """Whether a step is no more than forward, backward and optimizer: nobody else wants to know of it."""
        trainer, module = self.trainer, self.trainer.lightning_module
        precision = trainer.precision_plugin
        others: list[tuple[Any, type]] = [
            (callback, RunHooks if isinstance(callback, RunHooks) else Callback)
            for callback in trainer.callbacks  # type: ignore[attr-defined]
        ]
        if trainer.datamodule:  # type: ignore[attr-defined]
            others.append((trainer.datamodule, LightningDataModule))  # type: ignore[attr-defined]
        return (
            type(trainer.strategy) is SingleDeviceStrategy
            and (type(precision) is Precision or (type(precision) is MixedPrecision and not precision.scaler))
            and trainer.accumulate_grad_batches == 1
            and type(trainer.optimizers[0]) in TAKE_NO_CLOSURE
            and not any(_overrides(*pair) for pair in [(module, TaskModule), *others])
        )

    def _plain_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        trainer, module, optimizer = self.trainer, self.trainer.lightning_module, self.trainer.optimizers[0]
        set_running_hook(module, "training_step")
        with trainer.precision_plugin.train_step_context():
            loss: Tensor = module.training_step(batch, batch_idx)  # type: ignore[assignment]
        for group in optimizer.param_groups:  # zero_grad, less its profiling
            for parameter in group["params"]:
                parameter.grad = None
        loss.backward()
        module._finite_check.check_step(module, optimizer)  # type: ignore[operator,union-attr]
        if trainer.gradient_clip_val:
            module.configure_gradient_clipping(
                optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
            )
        self.optim_progress.optimizer.step.increment_ready()
        optimizer.step()
        self.optim_progress.optimizer.step.increment_completed()
        set_running_hook(module, None)
        return {"loss": loss.detach()}
