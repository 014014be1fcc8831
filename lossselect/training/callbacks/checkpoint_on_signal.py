"""A callback that saves a checkpoint and ends the run, in all of its processes, when it gets a signal."""

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

from lossselect.compat.lightning import SIGNAL_REGISTRATION, SIGTERM_BROADCAST, unwrap, wrap
from lossselect.utils.distributed import all_gather


class Stopped(SystemExit):
    """Raised when a signal ends the run; the exit code is 128 + signal number: SIGTERM 143, SIGINT 130."""

    def __init__(self, signum: int, path: Path) -> None:
        super().__init__(128 + signum)
        self.signum, self.path = signum, path

    def __str__(self) -> str:
        return f"{signal.Signals(self.signum).name}: saved {self.path}"


class CheckpointOnSignal(Callback):
    """Saves a checkpoint and ends fit when the process receives SIGTERM or SIGINT (Ctrl-C).

    The handler only records the signal. All processes check for it before each training or validation batch.
    If one of them has received a signal, all save the checkpoint together and raise `Stopped`. They exchange
    signals on the CPU and read the result one batch later, which causes no sync with a GPU. A second Ctrl-C
    raises KeyboardInterrupt at once. Lightning handles other signals (SIGUSR1 under SLURM).

    Args:
        path: The path of the checkpoint.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lossselect import CheckpointOnSignal
        >>> trainer = Trainer(callbacks=[CheckpointOnSignal("last.ckpt")], logger=False, accelerator="cpu")
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._signum = 0  # the signal that this process has received, or 0
        self._exchange: tuple[Any, torch.Tensor] | None = None
        self._group: Any = None
        self._val_batches = 0.0

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        if trainer.world_size > 1 and dist.get_backend() != "gloo" and self._group is None:
            self._group = dist.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():  # only it may install signal handlers
            wrap(trainer, SIGNAL_REGISTRATION, self._listen)

    def _listen(self, register: Callable[[], None]) -> None:
        """Handle signals until Lightning restores the previous handlers at the end of fit."""
        register()
        self._signum = 0
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._record)

    def _record(self, signum: int, frame: Any) -> None:
        if self._signum and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._signum = signum

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._exchange = None
        batches = min(all_gather(sum(trainer.num_val_batches[:1])))
        # validation cannot stop early if a loader has no length, or while averaged weights replace the net's
        averages = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        self._val_batches = 0 if averages or not math.isfinite(batches) else batches
        loop = trainer.fit_loop.epoch_loop

        def advance(method: Callable[[Any], None], fetcher: Any) -> None:
            if not loop.restarting:
                self._stop_if_signalled(trainer)
            method(fetcher)

        wrap(loop, "advance", advance)
        # Lightning's own exchange waits for the GPU in each step, and only notices signals of rank 0
        wrap(trainer, SIGTERM_BROADCAST, lambda method: None)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        # every process has a batch with this index, so all of them take part in the exchange
        if fitting and not dataloader_idx and batch_idx < self._val_batches:
            self._stop_if_signalled(trainer)

    def _stop_if_signalled(self, trainer: Trainer) -> None:
        if signum := self._agree(trainer):
            trainer.save_checkpoint(self.path, weights_only=False)
            stopped = Stopped(signum, self.path)
            rank_zero_info(str(stopped))
            raise stopped

    def _agree(self, trainer: Trainer) -> int:
        """Start an exchange of signals between the processes; return the result of the previous one."""
        if trainer.world_size == 1:
            return self._signum
        previous, signum = self._exchange, torch.tensor(self._signum)
        self._exchange = dist.all_reduce(signum, dist.ReduceOp.MAX, group=self._group, async_op=True), signum
        if previous is None:
            return 0
        work, result = previous
        work.wait()
        return int(result)

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self._unwrap(trainer)
        if stage == "fit" and (signum := max(all_gather(self._signum))):
            self._signum = 0
            os.kill(os.getpid(), signum)  # it came after the last batch, so the previous handler gets it

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._unwrap(trainer)

    def _unwrap(self, trainer: Trainer) -> None:
        for path in (SIGNAL_REGISTRATION, SIGTERM_BROADCAST, "fit_loop.epoch_loop.advance"):
            unwrap(trainer, path)
