"""Checks of a run before its first step."""

import shutil
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lossselect.exceptions import DataError, StorageError
from lossselect.utils.atomic_write import atomic_write

MAX_TRIED = 1 << 20
"""Bytes that are written to see whether a folder takes some."""


class Preflight(Callback):
    """Ends a run before its first step if its best checkpoint could never be chosen, or none be written."""

    def __init__(self, monitor: str, folder: Path) -> None:
        self.monitor, self.folder = monitor, folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor.startswith("val/") and not sum(trainer.num_val_batches):
            raise DataError(
                f"There is no validation batch, but {self.monitor} chooses the best checkpoint: give the "
                "data a val_dataloader (and no trainer.limit_val_batches=0), or choose by train/loss with "
                "monitor=train/loss."
            )
        for callback in trainer.checkpoint_callbacks:
            best = callback.best_model_path if isinstance(callback, ModelCheckpoint) else ""
            if best and Path(best).parent != Path(callback.dirpath or ""):  # type: ignore[attr-defined]
                # it is another run's, whose file must not be deleted: the search for the best starts again
                callback.best_model_path, callback.best_model_score = "", None  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            # an optimizer may keep two numbers for each weight
            _check_room(self.folder, 3 * sum(weight.nbytes for weight in pl_module.parameters()))


def _check_room(folder: Path, size: int) -> None:
    """Raise an OSError if a file of `size` bytes cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < size:
        raise StorageError(
            f"A checkpoint takes about {size / 1e6:.1f} MB, and {free / 1e6:.1f} MB are left in {folder}. "
            "Make room, or write elsewhere (at the command line hydra.run.dir=FOLDER)."
        )
    with atomic_write(folder / "room") as part:  # a folder may be read-only, or have a quota
        part.write_bytes(bytes(min(size, MAX_TRIED)))
    (folder / "room").unlink()
