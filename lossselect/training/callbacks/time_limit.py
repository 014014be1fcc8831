"""A callback that ends training after a given time, with a schedule that fits into it."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import CosineAnnealingLR

from lossselect.utils.checks import check_positive
from lossselect.utils.warnings import warn

CHECK_BATCHES = 16
"""Number of batches after which several processes compare their times."""


class TimeLimit(Callback):
    """Ends training after some seconds.

    From the second epoch on, the number of epochs is reduced to those that fit into the time, and with it the
    length of a `CosineAnnealingLR` over all epochs, so that the learning rate still reaches 0. If the time is
    over within an epoch, training stops there. A resumed run gets the time again, and keeps the reduced
    number of epochs unless the time or `max_epochs` has changed.

    Args:
        seconds: The time from the first step, > 0.

    Example:
        >>> from lossselect.training.callbacks.time_limit import TimeLimit
        >>> TimeLimit(60).seconds
        60.0
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = check_positive("time_limit", seconds)
        self.epochs: int | None = None
        self._max_epochs: int | None = None  # before the reduction
        self._resumed: dict[str, Any] = {}
        self._start = self._first_end = 0.0
        self._count = 0  # epochs since the start

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start, self._count = time.monotonic(), 0
        if self._resumed == {"seconds": self.seconds, "max_epochs": trainer.max_epochs}:
            trainer.fit_loop.max_epochs = self.epochs
        else:
            self.epochs = None
        self._resumed = {}

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        batch_idx = args[-1]
        if trainer.world_size > 1 and batch_idx % CHECK_BATCHES:
            return
        if trainer.strategy.broadcast(self._elapsed() > self.seconds):
            trainer.should_stop = True
            if trainer.current_epoch == 0 and not trainer.is_last_batch:
                warn(
                    "short_time_limit",
                    f"time_limit={self.seconds:g} ended training within the first epoch, after "
                    f"{trainer.global_step} steps. Increase it.",
                )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._count += 1
        elapsed, previous = self._elapsed(), trainer.max_epochs
        if self._count == 1:
            self._first_end = elapsed
        # the first epoch contains a warm-up, so it counts only if there is no time for a second one
        duration = elapsed if self._count == 1 else (elapsed - self._first_end) / (self._count - 1)
        # the same on all processes, whose clocks differ
        remaining = trainer.strategy.broadcast(int((self.seconds - elapsed) / max(duration, 1e-9)))
        if self._count == 1 and remaining > 1:
            return
        epochs = trainer.current_epoch + 1 + max(0, remaining)
        if previous is None or previous == -1 or epochs >= previous:
            return
        self._max_epochs = previous if self.epochs is None else self._max_epochs
        self.epochs = trainer.fit_loop.max_epochs = epochs
        for config in trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if isinstance(scheduler, CosineAnnealingLR) and scheduler.T_max == previous:
                scheduler.T_max = epochs

    def _elapsed(self) -> float:
        return time.monotonic() - self._start

    def state_dict(self) -> dict[str, Any]:
        """Return the reduced number of epochs, and the settings for which it holds."""
        return {"epochs": self.epochs, "seconds": self.seconds, "max_epochs": self._max_epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the reduced number of epochs."""
        self.epochs, self._max_epochs = state_dict["epochs"], state_dict["max_epochs"]
        if self.epochs is not None:
            self._resumed = {key: state_dict[key] for key in ("seconds", "max_epochs")}
