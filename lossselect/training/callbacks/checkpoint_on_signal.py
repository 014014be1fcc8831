"""Signals end a run between two batches, in all of its processes, with a checkpoint to go on from."""

import math
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.utilities import rank_zero_info

from lossselect.compat.lightning import (
    unwrap,
    unwrap_signal_handlers,
    unwrap_sigterm_broadcast,
    wrap,
    wrap_signal_handlers,
    wrap_sigterm_broadcast,
)
from lossselect.utils.distributed import all_gather

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
    """A signal has ended the run; as an exit code 128 + the signal's number: 143 of SIGTERM, 130 of SIGINT.

    Args:
        signum: Which signal.
        path: The checkpoint that was saved.
    """

    def __init__(self, signum: int, path: Path) -> None:
        super().__init__(128 + signum)
        self.signum, self.path = signum, path

    def __str__(self) -> str:
        return f"{signal.Signals(self.signum).name}: saved {self.path}"


class CheckpointOnSignal(Callback):
    """Saves a checkpoint and ends fit where the process gets SIGTERM or SIGINT (Ctrl-C).

    The handler only takes note. Before the next batch, of training or of validation, all processes agree that
    one of them was told, save together and raise `Stopped`, so that none waits for another. They ask each
    other by messages of the CPU, whose answer is looked at a batch later: no GPU is waited for. A second
    Ctrl-C raises KeyboardInterrupt at once. Other signals (SIGUSR1 under SLURM) are Lightning's.

    Args:
        path: Where to save.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lossselect import CheckpointOnSignal
        >>> trainer = Trainer(callbacks=[CheckpointOnSignal("last.ckpt")], logger=False, accelerator="cpu")
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.told = 0
        """The number of the signal that came; 0 is none."""
        self._asked: tuple[Any, torch.Tensor] | None = None
        self._group: Any = None
        self._val_batches = 0.0

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        if trainer.world_size > 1 and dist.get_backend() != "gloo" and self._group is None:
            self._group = dist.new_group(backend="gloo")
        if threading.current_thread() is not threading.main_thread():
            return  # Python hands signals to the main thread alone
        wrap_signal_handlers(trainer, self._listen)

    def _listen(self, register: Callable[[], None]) -> None:
        """Until fit ends, when Lightning puts the handlers of before in place."""
        register()
        self.told = 0
        for which in SIGNALS:
            signal.signal(which, self._note)

    def _note(self, signum: int, frame: Any) -> None:
        if self.told and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.told = signum

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._asked = None
        batches = min(all_gather(sum(trainer.num_val_batches[:1])))
        # of loaders without a length nobody knows how many, and averaged weights stand in the net's meanwhile
        unknown = not math.isfinite(batches) or any(
            isinstance(callback, WeightAveraging)
            for callback in trainer.callbacks  # type: ignore[attr-defined]
        )
        self._val_batches = 0 if unknown else batches
        loop = trainer.fit_loop.epoch_loop

        def advance(method: Callable[[Any], None], fetcher: Any) -> None:
            if not loop.restarting:
                self._stop_if_told(trainer)
            method(fetcher)

        wrap(loop, "advance", advance)
        # Lightning's way to ask each other makes a GPU wait at each step, and hears the first process alone
        wrap_sigterm_broadcast(trainer, lambda method: None)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        if fitting and not dataloader_idx and batch_idx < self._val_batches:  # which every process has
            self._stop_if_told(trainer)

    def _stop_if_told(self, trainer: Trainer) -> None:
        if signum := self._agreed(trainer):
            trainer.save_checkpoint(self.path, weights_only=False)
            stopped = Stopped(signum, self.path)
            rank_zero_info(str(stopped))
            raise stopped

    def _agreed(self, trainer: Trainer) -> int:
        """The signal that one of the processes got before the last time that they asked."""
        if trainer.world_size == 1:
            return self.told
        asked = self._asked
        flag = torch.tensor(self.told)
        self._asked = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True), flag
        if asked is None:
            return 0
        work, answer = asked
        work.wait()
        return int(answer)

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self._restore(trainer)
        if stage == "fit" and (signum := max(all_gather(self.told))):
            self.told = 0
            os.kill(os.getpid(), signum)  # it came after the last batch: to whom it would have come without

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._restore(trainer)

    def _restore(self, trainer: Trainer) -> None:
        """Leave the trainer as it was."""
        loop = trainer.fit_loop.epoch_loop
        unwrap_signal_handlers(trainer)
        unwrap(loop, "advance")
        unwrap_sigterm_broadcast(trainer)
