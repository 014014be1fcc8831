"""Private parts of Lightning, used where there is no public interface.

Tested with the versions in `TESTED`; tests/compat/test_lightning.py tests each part.
"""

from collections.abc import Callable
from functools import partial, reduce
from operator import attrgetter
from typing import Any, ClassVar

import lightning
from lightning.fabric.utilities.data import _set_sampler_epoch as set_sampler_epoch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loops.fetchers import _DataFetcher as DataFetcher
from lightning.pytorch.loops.fetchers import _DataLoaderIterDataFetcher as IteratorFetcher
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.utilities.model_helpers import is_overridden

from lossselect.exceptions import UnsupportedError

__all__ = ["DataFetcher", "IteratorFetcher", "set_sampler_epoch"]

TESTED = ("2.6",)  # minor versions


def is_tested() -> bool:
    """Return whether the package was tested with the installed version of Lightning."""
    return ".".join(lightning.__version__.split(".")[:2]) in TESTED


# --- methods to wrap, by their paths from the trainer

SIGNAL_REGISTRATION = "_signal_connector.register_signal_handlers"  # called when fit starts
SIGTERM_BROADCAST = "fit_loop.epoch_loop._broadcast_sigterm_tensor"  # a collective operation in each batch
LOADERS_MADE = "fit_loop._load_combined_loader_states"  # called before the loaders of an epoch start
LOADER_PREPARATION = "_data_connector._prepare_dataloader"  # adds a distributed sampler to a user's loader


def wrap(root: object, path: str, around: Callable[..., Any]) -> None:
    """Replace the method at `path` from `root` by `around(method, ...)`, with `method` from the class."""
    owner, name = _find_owner(root, path)
    if (method := getattr(type(owner), name, None)) is None:
        raise UnsupportedError(
            f"lightning {lightning.__version__} has no {type(owner).__name__}.{name}, which lossselect "
            "requires. Install a tested version (constraints.txt)."
        )
    setattr(owner, name, partial(around, method.__get__(owner)))


def unwrap(root: object, path: str) -> None:
    """Restore the method of the class."""
    owner, name = _find_owner(root, path)
    vars(owner).pop(name, None)


def _find_owner(root: object, path: str) -> tuple[object, str]:
    *parts, name = path.split(".")
    return reduce(getattr, parts, root), name


# --- attributes to read

data_fetcher = attrgetter("_data_fetcher")  # of a fit or evaluation loop; None before it runs
logger_connector = attrgetter("_logger_connector")  # of a trainer; collects the values logged by a step
logged_results = attrgetter("_results")  # of a trainer; those of the running loop, or None
get_trainer = attrgetter("_trainer")  # of a module; None if `module.trainer` would raise an error
combined_loader = attrgetter("_combined_loader")  # of an evaluation loop; None without loaders
is_sequential = attrgetter("_is_sequential")  # of an evaluation loop; False for a batch per loader at once
steps_between_checkpoints = attrgetter("_every_n_train_steps")  # of a ModelCheckpoint; 0 if not set


# --- the loops


def set_data_fetcher(loop: Any, fetcher: Any) -> None:
    """Make a loop fetch its batches with another fetcher."""
    loop._data_fetcher = fetcher


def train_loaders(trainer: Trainer) -> list[Any]:
    """Return the training loaders; an empty list before fit."""
    loader = trainer.fit_loop._combined_loader
    return [] if loader is None else loader.flattened


def accumulates(trainer: Trainer) -> bool:
    """Return whether the current batch only accumulates gradients, without an optimizer step."""
    return trainer.fit_loop._should_accumulate()


def validates_after_batch(trainer: Trainer) -> bool:
    """Return whether a validation follows the current batch."""
    return trainer.fit_loop.epoch_loop._should_check_val_fx(data_fetcher(trainer.fit_loop))


def is_last_batch(trainer: Trainer) -> bool:
    """Return whether the current batch is the last of the epoch."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()


def stop_restarting(trainer: Trainer) -> None:
    """Make the fit loop and its inner loops continue as if they had not been restored."""
    _Loop.restarting.fset(trainer.fit_loop, False)  # type: ignore[attr-defined]


def forget_restart(trainer: Trainer) -> None:
    """Make only the fit loop, without its inner loops, continue as if it had not been restored."""
    trainer.fit_loop._restarting = False


def count_optimizer_step(trainer: Trainer) -> None:
    """Increment the number of batches with an optimizer step, which loggers use as the step."""
    trainer.fit_loop.epoch_loop._batches_that_stepped += 1


class PrivateHooks:
    """Mixin for LightningModule: adds hooks around the transfer of a batch, and speeds up hooks.

    The hooks see every batch, even if a user overrides the public ones. Batches of `_block_type` stay on
    their device.
    """

    _block_type: type = type(None)
    # torch.jit.script would compile the other properties
    __jit_unused_properties__: ClassVar = [
        *LightningModule.__jit_unused_properties__,
        "task",
        "_needs_counts",
    ]

    def _on_batch_of_loader(self, batch: Any) -> None:
        """Run before a loop transfers a batch to the device."""

    def _on_batch_transferred(self, batch: Any, device: Any) -> None:
        """Run after the transfer of a batch or of example inputs, before `on_after_batch_transfer`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":
            # Lightning sets it about fifty times per step, and nn.Module.__setattr__ is slow
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int | None = None) -> Any:
        if isinstance(batch, self._block_type):
            return batch
        batch = super()._on_before_batch_transfer(batch, dataloader_idx or 0)  # type: ignore[misc]
        if dataloader_idx is not None:  # Lightning does not pass it for example inputs
            self._on_batch_of_loader(batch)
        return batch

    def _apply_batch_transfer_handler(self, batch: Any, device: Any = None, dataloader_idx: int = 0) -> Any:
        if isinstance(batch, self._block_type):
            return batch
        device = device or self.device  # type: ignore[attr-defined]
        call: Callable[..., Any] = self._call_batch_hook  # type: ignore[attr-defined]
        batch = call("transfer_batch_to_device", batch, device, dataloader_idx)
        self._on_batch_transferred(batch, device)
        return call("on_after_batch_transfer", batch, dataloader_idx)

    def _to_device(self, batch: Any) -> Any:
        """Return a batch of a block, converted and transferred as Lightning would do before a step."""
        trainer: Trainer = self.trainer  # type: ignore[attr-defined]
        batch = self._on_before_batch_transfer(trainer.precision_plugin.convert_input(batch), 0)
        return self._apply_batch_transfer_handler(batch, trainer.strategy.root_device)


def overrides_hook(module: LightningModule, *hooks: str) -> bool:
    """Return whether the module or its data module overrides one of these data hooks."""
    data = module.trainer.datamodule  # type: ignore[attr-defined]
    owners = [module] if data is None else [module, data]
    return any(is_overridden(hook, owner) for hook in hooks for owner in owners)


def set_running_hook(module: LightningModule, name: str | None) -> None:
    """Set the name of the running hook, which `self.log` of a module needs."""
    module._current_fx_name = name


def convert_logged_hparams(owner: Any, convert: Callable[[Any], Any]) -> None:
    """Convert the values of the hyperparameters that loggers receive from a module or a data module."""
    if hasattr(owner, "_hparams_initial"):
        owner._hparams_initial = {key: convert(value) for key, value in owner._hparams_initial.items()}


def get_cli_class() -> dict[str, str]:
    """Return the hyperparameter with the class that LightningCLI is building in subclass mode, else none."""
    given = _given_hyperparameters.get() or {}
    return {"_class_path": given["_class_path"]} if "_class_path" in given else {}


def compile_forward_only(module: LightningModule) -> None:
    """Leave only `forward` compiled in a module that `torch.compile(module)` returned.

    Lightning has replaced the steps, too. They contain much that torch.compile cannot trace.
    """
    if module._compiler_ctx is not None:
        for stage in ("training", "validation", "test", "predict"):
            vars(module).pop(f"{stage}_step", None)


def reopen_tensorboard(logger: TensorBoardLogger, **options: Any) -> None:
    """Make a logger open a new file, with these options of its writer, when it next writes."""
    logger._experiment = None
    logger._kwargs |= options
