"""The progress bar of a run."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.live import _RefreshThread


class ProgressBar(RichProgressBar):
    """Lightning's bar of Rich, drawn by Rich's own thread alone, and no oftener than anybody can read.

    Lightning's thread draws up to 100 times a second, which takes a tenth of the time of a small net's
    epoch, and to stop it takes as long as from one drawing to the next.

    Args:
        refresh_rate: Drawings a second; 0 for no bar.
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
            live._refresh_thread = _RefreshThread(live, self.refresh_rate)
            live._refresh_thread.start()
            # nor is drawn whenever a bar is added or begins anew
            self.progress.refresh = self.progress.soft_refresh  # type: ignore[method-assign]
