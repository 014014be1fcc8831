"""The progress of training: a bar on a terminal, lines of text otherwise."""

import os
import sys
import time
from datetime import timedelta
from shutil import get_terminal_size
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import CustomTimeColumn
from rich.progress import Task
from rich.text import Text

from lossselect.utils.terminal import print_safely, sanitize

EPOCH_SECONDS, BATCH_SECONDS = 10, 60  # minimum time between the lines of `ProgressLines`


def is_terminal() -> bool:
    """Return whether stdout can show a bar that redraws itself."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


class Pace:
    """Measures how long a run has trained since it started or resumed, and estimates the time left."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.start, self.done_at_start = time.monotonic(), self._compute_done()

    def _compute_done(self) -> float:
        """Return the fraction of the run that is done, by the limit that is reached first, else 0."""
        trainer = self.trainer
        batches = trainer.fit_loop.epoch_loop.batch_progress
        epoch: Any = trainer.fit_loop.epoch_progress.current
        done_of_epoch = min(1, batches.current.ready / max(1, trainer.num_training_batches))
        epochs = epoch.processed + (done_of_epoch if epoch.started > epoch.processed else 0)
        limits = ((epochs, trainer.max_epochs or 0), (trainer.global_step, trainer.max_steps))
        return max(count / limit if limit > 0 else 0 for count, limit in limits)

    def elapsed(self) -> str:
        """Return the time since the run started or resumed, as 0:01:02."""
        return _format(time.monotonic() - self.start)

    def remaining(self) -> str:
        """Return the time left at the same pace, as 0:01:02, or -:--:-- while it is unknown."""
        done = self._compute_done()
        if done <= self.done_at_start:
            return "-:--:--"
        return _format((time.monotonic() - self.start) * (1 - done) / (done - self.done_at_start))


def _format(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _count(trainer: Trainer, epoch: int) -> str:
    return f"{epoch}/{trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else str(epoch)


class ProgressLines(Callback):
    """Prints the metrics and the time left as lines of text, for a pipe, a file or CI.

    A line is printed after the first and the last epoch, after other epochs if `EPOCH_SECONDS` have passed
    since the last line, and within an epoch after `BATCH_SECONDS`. Only rank 0 prints.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pace, self.last_epoch = Pace(trainer), trainer.current_epoch
        self.last_time, self.is_first = time.monotonic(), True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.monotonic() - self.last_time >= BATCH_SECONDS:
            # not `batch_idx`, which is the index of the first batch of a block
            number = trainer.fit_loop.epoch_loop.batch_idx + 1
            epoch = _count(trainer, trainer.current_epoch + 1)
            self._print(trainer, f"{epoch}, batch {number}/{trainer.num_training_batches}")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # printed here, because at the end of the previous epoch its metrics were not complete
        if self.is_first or time.monotonic() - self.last_time >= EPOCH_SECONDS:
            self._print_epoch(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_epoch(trainer, f"{self.pace.elapsed()} in total")

    def _print_epoch(self, trainer: Trainer, pace: str | None = None) -> None:
        if trainer.current_epoch > self.last_epoch:
            self.is_first, self.last_epoch = False, trainer.current_epoch
            self._print(trainer, _count(trainer, trainer.current_epoch), pace)

    def _print(self, trainer: Trainer, epoch: str, pace: str | None = None) -> None:
        self.last_time = time.monotonic()
        if trainer.is_global_zero:
            metrics = (f"{name} {float(value):.4g}" for name, value in trainer.progress_bar_metrics.items())
            pace = pace or f"{self.pace.remaining()} left"
            print_safely("  ".join((f"epoch {epoch}", *metrics, pace)), flush=True)


class ProgressBar(RichProgressBar):
    """Lightning's RichProgressBar with fewer redraws, epochs counted from 1, and the times of the whole run.

    Args:
        refresh_rate: Redraws per second; 0 for no bar. Lightning's default of 100 would take a tenth of the
            time of a small net's epoch.
        options: Options of `RichProgressBar`.
    """

    def __init__(self, refresh_rate: int = 5, **options: Any) -> None:
        super().__init__(refresh_rate, **options)
        self.pace: Pace | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pace = Pace(trainer)
        super().on_train_start(trainer, pl_module)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)  # a part of the logger's run identifier, which does not help a reader
        return {sanitize(name): value for name, value in metrics.items()}

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        description, bar, batches, *_ = super().configure_columns(trainer)
        bar.bar_width = 20 if _is_wide() else 8  # leaves room for the metrics
        return [description, bar, batches, _TimeColumn(self)]

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {_count(self.trainer, current_epoch + 1)}".ljust(len(self.validation_description))

    def _init_progress(self, trainer: Trainer) -> None:
        super()._init_progress(trainer)
        if self.progress is not None:
            # otherwise Rich also draws whenever a bar is added or restarted
            self.progress.refresh = self.progress.soft_refresh  # type: ignore[method-assign]

    def _stop_progress(self) -> None:
        if self.progress is not None and self.progress.live.is_started and self.progress.console.is_jupyter:
            self.progress.live.refresh()  # in a notebook Rich does not draw the final state
        super()._stop_progress()


def _is_wide() -> bool:
    return get_terminal_size().columns >= 100


class _TimeColumn(CustomTimeColumn):
    """A column with the times of the whole training for the training bar, and the bar's own for others."""

    def __init__(self, bar: ProgressBar) -> None:
        super().__init__(style=bar.theme.time)
        self.bar = bar

    def render(self, task: Task) -> Text:
        pace = self.bar.pace
        if pace is None or task.id != self.bar.train_progress_bar_id:
            return super().render(task)
        return Text(
            f"{pace.elapsed()} • {pace.remaining()}" if _is_wide() else pace.remaining(), style=self.style
        )
