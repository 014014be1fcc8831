"""The progress bar of a run."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import _RefreshThread


class ProgressBar(RichProgressBar):
    """Lightning's bar of Rich, drawn by a thread alone, and no oftener than anybody can read.

    Lightning's own thread draws up to 100 times a second, which takes a tenth of the time of a small net's
    epoch, and at fewer it takes as long to stop as from one drawing to the next.

    Args:
        refresh_rate: Most drawings a second; 0 for no bar.
        options: Of `RichProgressBar`.
    """

    def __init__(self, refresh_rate: int = 5, **options: Any) -> None:
        super().__init__(refresh_rate, **options)

    def _init_progress(self, trainer: Trainer) -> None:
        before = self.progress
        super()._init_progress(trainer)
        if self.progress is None or self.progress is before:
            return
        live = self.progress.live
        if live._refresh_thread is not None:
            live._refresh_thread.stop()
            live._refresh_thread = _Drawing(live, self.refresh_rate)
            live._refresh_thread.start()
            # nor is drawn whenever a bar is added or begins anew
            self.progress.refresh = self.progress.soft_refresh  # type: ignore[method-assign]

    def _stop_progress(self) -> None:
        if self.progress is not None and self.progress.live.is_started and self.progress.console.is_jupyter:
            self.progress.live.refresh()  # in a notebook Rich does not draw the end
        super()._stop_progress()


class _Drawing(_RefreshThread):
    """Draws what has changed, so that nothing is drawn over a debugger's prompt; stops at once."""

    def run(self) -> None:
        while not self.done.wait(1 / self.refresh_per_second):
            if self.refresh_cond:
                self.refresh_cond = False
                with self.live._lock:
                    if not self.done.is_set():
                        self.live.refresh()
