"""Private parts of Lightning, for what it has no public way.

Tested with the versions in `TESTED`; tests/compat/test_lightning.py says of each part what it needs.
"""

from collections.abc import Callable
from functools import partial, reduce
from operator import attrgetter
from typing import Any

import lightning
from lightning.fabric.utilities.data import _set_sampler_epoch as set_sampler_epoch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loops.fetchers import _DataFetcher as DataFetcher
from lightning.pytorch.loops.fetchers import _DataLoaderIterDataFetcher as IteratorFetcher
from lightning.pytorch.loops.loop import _Loop

from lossselect.exceptions import UnsupportedError

__all__ = ["DataFetcher", "IteratorFetcher", "set_sampler_epoch"]

TESTED = ("2.6",)  # minor versions whose loops are known


def is_tested() -> bool:
    """Return whether this Lightning is one that the package was tested with."""
    return ".".join(lightning.__version__.split(".")[:2]) in TESTED


# --- methods that are wrapped


# where a trainer has them
SIGNAL_REGISTRATION = "_signal_connector.register_signal_handlers"  # runs when fit starts
SIGTERM_BROADCAST = "fit_loop.epoch_loop._broadcast_sigterm_tensor"  # a collective at each batch
LOADER_PREPARATION = "_data_connector._prepare_dataloader"  # adds a distributed sampler to a user's loader


def wrap(root: object, path: str, around: Callable[..., Any]) -> None:
    """Let the method at `path`, from `root`, call `around(method, ...)`, with the method of its class."""
    owner, name = _find_owner(root, path)
    if (method := getattr(type(owner), name, None)) is None:
        raise UnsupportedError(
            f"lightning {lightning.__version__} has no {type(owner).__name__}.{name}, which lossselect "
            "needs: take a version that it was tested with (constraints.txt)."
        )
    setattr(owner, name, partial(around, method.__get__(owner)))


def unwrap(root: object, path: str) -> None:
    """Restore the method of the class."""
    owner, name = _find_owner(root, path)
    vars(owner).pop(name, None)


def _find_owner(root: object, path: str) -> tuple[object, str]:
    *parts, name = path.split(".")
    return reduce(getattr, parts, root), name


# --- attributes that are read

data_fetcher = attrgetter("_data_fetcher")  # of a fit or evaluation loop; None before it runs
logger_connector = attrgetter("_logger_connector")  # of a trainer; collects the values that a step logs
logged_results = attrgetter("_results")  # of a trainer's running loop; None outside of one
get_trainer = attrgetter("_trainer")  # of a module; None where `module.trainer` raises
steps_between_checkpoints = attrgetter("_every_n_train_steps")  # of a ModelCheckpoint; 0 without


# --- the loops


def set_data_fetcher(loop: Any, fetcher: Any) -> None:
    """Let a loop take its batches from another fetcher."""
    loop._data_fetcher = fetcher


def train_loaders(trainer: Trainer) -> list[Any]:
    """Return the train loaders; none before fit runs."""
    loader = trainer.fit_loop._combined_loader
    return [] if loader is None else loader.flattened


def accumulates(trainer: Trainer) -> bool:
    """Return whether no optimizer step follows the current batch."""
    return trainer.fit_loop._should_accumulate()


def validates_after_batch(trainer: Trainer) -> bool:
    """Return whether a validation follows the current batch."""
    return trainer.fit_loop.epoch_loop._should_check_val_fx(data_fetcher(trainer.fit_loop))


def is_last_batch(trainer: Trainer) -> bool:
    """Return whether the current batch is the last of the epoch."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()


def stop_restarting(trainer: Trainer) -> None:
    """Let the fit loop, and the loops within, continue as if they had not been restored."""
    _Loop.restarting.fset(trainer.fit_loop, False)  # type: ignore[attr-defined]


def forget_restart(trainer: Trainer) -> None:
    """Let the fit loop alone continue as if it had not been restored."""
    trainer.fit_loop._restarting = False


def count_optimizer_step(trainer: Trainer) -> None:
    """Count a batch that an optimizer step followed, by which loggers number what they log."""
    trainer.fit_loop.epoch_loop._batches_that_stepped += 1


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
    """Tell `self.log` which hook of a module runs."""
    module._current_fx_name = name


def reopen_tensorboard(logger: TensorBoardLogger, **options: Any) -> None:
    """Let a logger open another file, with these options of its writer, when it writes next."""
    logger._experiment = None
    logger._kwargs |= options
