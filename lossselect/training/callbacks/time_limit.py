"""A callback that ends training after a given time, with a schedule that fits into it."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import CosineAnnealingLR

from lossselect.utils.checks import check_float


class TimeLimit(Callback):
    """Ends training after some seconds.

    After the first epoch, the number of epochs is reduced to those that fit into the time, and with it the
    length of a `CosineAnnealingLR` over all epochs, so that the learning rate still reaches 0. If epochs take
    longer than the first one, training stops within an epoch. A resumed run gets the time again, but keeps
    the reduced number of epochs.

    Args:
        seconds: The time from the first step, > 0.

    Example:
        >>> from lossselect.training.callbacks.time_limit import TimeLimit
        >>> TimeLimit(60).seconds
        60.0
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = check_float("time_limit", seconds, 0)
        self.epochs: int | None = None
        self._start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.monotonic()
        if self.epochs is not None:
            trainer.fit_loop.max_epochs = self.epochs

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.strategy.broadcast(self._elapsed() > self.seconds):
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        previous = trainer.max_epochs
        if self.epochs is not None or previous is None:
            return
        fitting = int(self.seconds / max(self._elapsed(), 1e-9))
        self.epochs = max(1, min(previous, trainer.strategy.broadcast(fitting)))
        trainer.fit_loop.max_epochs = self.epochs
        for config in trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if isinstance(scheduler, CosineAnnealingLR) and scheduler.T_max == previous:
                scheduler.T_max = self.epochs

    def _elapsed(self) -> float:
        return time.monotonic() - self._start

    def state_dict(self) -> dict[str, Any]:
        """Return the reduced number of epochs."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the reduced number of epochs."""
        self.epochs = state_dict["epochs"]
