"""Private parts of Lightning, for what it has no public way.

Tested with the versions in `TESTED`; tests/compat/test_lightning.py says of each function what it needs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning
from lightning.fabric.utilities.data import _set_sampler_epoch as set_sampler_epoch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks.progress.rich_progress import _RefreshThread as RefreshThread
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loops.fetchers import _DataFetcher as DataFetcher
from lightning.pytorch.loops.fetchers import _DataLoaderIterDataFetcher as IteratorFetcher
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization as AutomaticOptimization

from lossselect.exceptions import UnsupportedError

__all__ = [
    "AutomaticOptimization",
    "DataFetcher",
    "IteratorFetcher",
    "RefreshThread",
    "set_sampler_epoch",
]

TESTED = ("2.6",)
"""Minor versions whose loops are known."""


def is_tested() -> bool:
    """Return whether this Lightning is one that the package was tested with."""
    return ".".join(lightning.__version__.split(".")[:2]) in TESTED


# --- methods that are wrapped


def wrap(owner: object, name: str, around: Callable[..., Any]) -> None:
    """From now on `owner.name(...)` is `around(method, ...)`, with the method of the owner's class.

    Wrapping it anew takes the place of the wrapping before.

    Raises:
        UnsupportedError: this Lightning has no such method.
    """
    if (method := getattr(type(owner), name, None)) is None:
        raise UnsupportedError(
            f"lightning {lightning.__version__} has no {type(owner).__name__}.{name}, which lossselect "
            "needs: take a version that it was tested with (constraints.txt)."
        )
    setattr(owner, name, partial(around, method.__get__(owner)))


def unwrap(owner: object, name: str) -> None:
    """Leave the method as Lightning has it."""
    vars(owner).pop(name, None)


def wrap_signal_handlers(trainer: Trainer, around: Callable[..., Any]) -> None:
    """Wrap what registers signal handlers when fit starts."""
    wrap(trainer._signal_connector, "register_signal_handlers", around)


def unwrap_signal_handlers(trainer: Trainer) -> None:
    """Undo `wrap_signal_handlers`."""
    unwrap(trainer._signal_connector, "register_signal_handlers")


def wrap_sigterm_broadcast(trainer: Trainer, around: Callable[..., Any]) -> None:
    """Wrap the collective by which processes tell each other of SIGTERM at each batch."""
    wrap(trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor", around)


def unwrap_sigterm_broadcast(trainer: Trainer) -> None:
    """Undo `wrap_sigterm_broadcast`."""
    unwrap(trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor")


def wrap_loader_preparation(trainer: Trainer, around: Callable[..., Any]) -> None:
    """Wrap what puts a distributed sampler into a user's data loader."""
    wrap(trainer._data_connector, "_prepare_dataloader", around)


# --- the loops


def data_fetcher(loop: Any) -> Any:
    """Return the data fetcher of a fit loop or an evaluation loop; None before it runs."""
    return loop._data_fetcher


def set_data_fetcher(loop: Any, fetcher: Any) -> None:
    """Let a loop take its batches from another fetcher."""
    loop._data_fetcher = fetcher


def train_loaders(trainer: Trainer) -> list[Any]:
    """Return the train loaders; none before fit runs."""
    loader = trainer.fit_loop._combined_loader
    return [] if loader is None else loader.flattened


def accumulates(trainer: Trainer) -> bool:
    """Return whether the batch that is being taken is followed by no optimizer step."""
    return trainer.fit_loop._should_accumulate()


def validates_after_batch(trainer: Trainer) -> bool:
    """Return whether a validation follows the batch that is being taken."""
    loop = trainer.fit_loop
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # type: ignore[arg-type]


def is_last_batch(trainer: Trainer) -> bool:
    """Return whether the batch that is being taken is the last of the epoch."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()


def stop_restarting(trainer: Trainer) -> None:
    """Let the fit loop, and the loops within, go on as if they had not been restored."""
    _Loop.restarting.fset(trainer.fit_loop, False)  # type: ignore[attr-defined]


def forget_restart(trainer: Trainer) -> None:
    """The same of the fit loop alone."""
    trainer.fit_loop._restarting = False


def count_optimizer_step(trainer: Trainer) -> None:
    """Count a batch that was followed by an optimizer step, by which loggers number what they log."""
    trainer.fit_loop.epoch_loop._batches_that_stepped += 1


def logger_connector(trainer: Trainer) -> Any:
    """Return what collects the values that a step logs."""
    return trainer._logger_connector


def logged_results(trainer: Trainer) -> Any:
    """Return the values that the running loop has logged; None outside of one."""
    return trainer._results


# --- modules and callbacks


def get_trainer(module: LightningModule) -> Trainer | None:
    """Return the trainer that a module is attached to; None, where `module.trainer` raises."""
    return module._trainer


class PrivateHooks:
    """Mixin before LightningModule: batches of `_block_type` stay as they are, and hooks start faster."""

    _block_type: type = type(None)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":
            # Lightning sets it twice for each hook, some fifty times a step; nn.Module.__setattr__ is slow
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        if isinstance(batch, self._block_type):
            return batch
        return super()._on_before_batch_transfer(batch, dataloader_idx)  # type: ignore[misc]

    def _apply_batch_transfer_handler(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(batch, self._block_type):
            return batch
        return super()._apply_batch_transfer_handler(batch, *args, **kwargs)  # type: ignore[misc]

    def _to_device(self, batch: Any) -> Any:
        """Return a batch of a block as Lightning would pass it to a step."""
        trainer: Trainer = self.trainer  # type: ignore[attr-defined]
        batch = self._on_before_batch_transfer(trainer.precision_plugin.convert_input(batch))
        return self._apply_batch_transfer_handler(batch, trainer.strategy.root_device)


def set_running_hook(module: LightningModule, name: str | None) -> None:
    """Say which hook of a module runs, which `self.log` asks for."""
    module._current_fx_name = name


def steps_between_checkpoints(callback: ModelCheckpoint) -> int:
    """Return after how many optimizer steps a checkpoint is saved; 0 if steps do not count."""
    return callback._every_n_train_steps


def reopen_tensorboard(logger: TensorBoardLogger, **options: Any) -> None:
    """Let a logger open another file, with these options of its writer, when it writes next."""
    logger._experiment = None
    logger._kwargs |= options
