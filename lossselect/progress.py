"""The progress bar of a run."""

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar


class ProgressBar(RichProgressBar):
    """Lightning's bar of Rich, drawn by its own thread alone.

    Rich draws when a bar is added or begins anew as well, two or three times in each epoch, which of the
    epochs of a small net takes a good share of the time.
    """

    def _init_progress(self, trainer: Trainer) -> None:
        super()._init_progress(trainer)
        if self.progress is not None and hasattr(self.progress, "soft_refresh"):
            self.progress.refresh = self.progress.soft_refresh  # type: ignore[method-assign]
