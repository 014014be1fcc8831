"""What a run shows of itself while it trains: a bar on a terminal, lines anywhere else."""

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

from lossselect.compat.lightning import RefreshThread
from lossselect.compat.rich import get_lock, replace_refresh_thread
from lossselect.utils.terminal import print_safely, sanitize


def is_terminal() -> bool:
    """Whether stdout can show a bar that redraws itself."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


class Pace:
    """How long a run has trained, and how long it will go on, from where it begins."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.began, self.share = time.monotonic(), self._share()

    def _share(self) -> float:
        """What part of the run is done, by the limit that comes first; 0 where there is none."""
        trainer = self.trainer
        batches = trainer.fit_loop.epoch_loop.batch_progress
        epoch: Any = trainer.fit_loop.epoch_progress.current
        within = batches.current.ready / max(1, trainer.num_training_batches)
        epochs = epoch.processed + (min(1, within) if epoch.started > epoch.processed else 0)
        limits = ((epochs, trainer.max_epochs or 0), (trainer.global_step, trainer.max_steps))
        return max(done / limit if limit > 0 else 0 for done, limit in limits)

    def passed(self) -> str:
        """The time since the run began, as 0:01:02."""
        return _said(time.monotonic() - self.began)

    def left(self) -> str:
        """The time to its end, at the same pace, as 0:01:02; -:--:-- while that is not known."""
        done = self._share()
        if done <= self.share:
            return "-:--:--"
        return _said((time.monotonic() - self.began) * (1 - done) / (done - self.share))


def _said(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


class ProgressLines(Callback):
    """For a pipe, a file or CI: a line at the end of an epoch, of what a bar would show, on stdout.

    After the first epoch's and before the last one's there is none for some seconds after another, and in an
    epoch that takes minutes there is one each minute. The first of several processes speaks.

    Args:
        seconds: Least time from a line to that of a later epoch.
        within: Least time from a line to one within an epoch.
    """

    def __init__(self, seconds: float = 10, within: float = 60) -> None:
        self.seconds, self.within = seconds, within

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pace, self.last = Pace(trainer), trainer.current_epoch
        self.spoken, self.any = time.monotonic(), False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.monotonic() - self.spoken >= self.within:
            epoch = trainer.current_epoch + 1
            at = trainer.fit_loop.epoch_loop.batch_idx + 1  # of a block of steps `batch_idx` is the first
            self._say(trainer, epoch, f", batch {at}/{trainer.num_training_batches}")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # at an epoch's end its metrics are not yet there
        due = not self.any or time.monotonic() - self.spoken >= self.seconds
        if due and trainer.current_epoch > self.last:
            self._say(trainer, trainer.current_epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch > self.last:
            self._say(trainer, trainer.current_epoch, ended=True)

    def _say(self, trainer: Trainer, epoch: int, batch: str = "", ended: bool = False) -> None:
        self.spoken = time.monotonic()
        if not batch:
            self.any, self.last = True, epoch
        if not trainer.is_global_zero:
            return
        of = f"/{trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
        shown = [f"{name} {float(value):.4g}" for name, value in trainer.progress_bar_metrics.items()]
        pace = f"{self.pace.passed()} in all" if ended else f"{self.pace.left()} left"
        print_safely("  ".join((f"epoch {epoch}{of}{batch}", *shown, pace)), flush=True)


class ProgressBar(RichProgressBar):
    """Lightning's bar of Rich, drawn by a thread alone, and no oftener than anybody can read.

    Lightning's own thread draws up to 100 times a second, which takes a tenth of the time of a small net's
    epoch, and at fewer it takes as long to stop as from one drawing to the next. The times beside the bar are
    of the whole training, epochs count from 1, and there are the metrics that matter and nothing else.

    Args:
        refresh_rate: Most drawings a second; 0 for no bar.
        options: Of `RichProgressBar`.
    """

    def __init__(self, refresh_rate: int = 5, **options: Any) -> None:
        super().__init__(refresh_rate, **options)
        self.pace: Pace | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pace = Pace(trainer)
        super().on_train_start(trainer, pl_module)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)  # the end of an identifier that a logger has given the run
        return {sanitize(name): value for name, value in items.items()}

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        described, bar, batches, *_ = super().configure_columns(trainer)
        bar.bar_width = 20 if _is_wide() else 8  # the metrics need the room
        return [described, bar, batches, _TimeColumn(self)]

    def _get_train_description(self, current_epoch: int) -> str:
        of = f"/{self.trainer.max_epochs}" if (self.trainer.max_epochs or 0) > 0 else ""
        return f"Epoch {current_epoch + 1}{of}".ljust(len(self.validation_description))

    def _init_progress(self, trainer: Trainer) -> None:
        before = self.progress
        super()._init_progress(trainer)
        if self.progress is None or self.progress is before:
            return
        live = self.progress.live
        if replace_refresh_thread(live, lambda live: _Drawing(live, self.refresh_rate)):
            # nor is drawn whenever a bar is added or begins anew
            self.progress.refresh = self.progress.soft_refresh  # type: ignore[method-assign]

    def _stop_progress(self) -> None:
        if self.progress is not None and self.progress.live.is_started and self.progress.console.is_jupyter:
            self.progress.live.refresh()  # in a notebook Rich does not draw the end
        super()._stop_progress()


def _is_wide() -> bool:
    return get_terminal_size().columns >= 100


class _TimeColumn(CustomTimeColumn):
    """Beside the bar of an epoch the times of the whole training, beside others their own."""

    def __init__(self, bar: ProgressBar) -> None:
        super().__init__(style=bar.theme.time)
        self.bar = bar

    def render(self, task: Task) -> Text:
        if self.bar.pace is None or task.id != self.bar.train_progress_bar_id:
            return super().render(task)
        passed = f"{self.bar.pace.passed()} • " if _is_wide() else ""
        return Text(f"{passed}{self.bar.pace.left()}", style=self.style)


class _Drawing(RefreshThread):
    """Draws what has changed, so that nothing is drawn over a debugger's prompt; stops at once."""

    def run(self) -> None:
        while not self.done.wait(1 / self.refresh_per_second):
            if self.refresh_cond:
                self.refresh_cond = False
                with get_lock(self.live):
                    if not self.done.is_set():
                        self.live.refresh()
