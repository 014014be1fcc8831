"""Saving of a run's checkpoints: best.ckpt, selected by the monitor, and last.ckpt, the latest state."""

import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from lossselect.exceptions import StorageError
from lossselect.training.checkpoints.content import read_checkpoint
from lossselect.training.checkpoints.validation import check_content
from lossselect.utils.atomic_write import atomic_write, remove_partial_files

BEST, LAST = "best.ckpt", "last.ckpt"
MAX_TRIED = 1 << 20  # bytes written at most to check that a folder is writable


class BestCheckpoint(ModelCheckpoint):
    """Saves the best checkpoint of a run as best.ckpt; with the monitor "last", the last epoch's checkpoint.

    It is saved at the end of a training epoch if `at_epoch_end`, otherwise at the end of a validation.
    """

    def __init__(self, folder: Path, monitor: str, mode: str, at_epoch_end: bool) -> None:
        super().__init__(
            folder,
            Path(BEST).stem,
            "epoch" if monitor == "last" else monitor,  # Lightning logs the number of the epoch
            mode=mode,
            save_on_train_epoch_end=at_epoch_end,
            enable_version_counter=False,
        )
        self.at_epoch_end = at_epoch_end

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore `current_score` as well; otherwise the next last.ckpt of a resumed run would differ."""
        super().load_state_dict(state_dict)
        if self.dirpath == state_dict["dirpath"]:
            self.current_score = state_dict["current_score"]


def saves_at_epoch_end(monitor: str, trainer: Mapping[str, Any]) -> bool:
    """Return whether the monitor is computed, or the only validation takes place, at the end of an epoch."""
    interval = trainer.get("val_check_interval")
    # the integer 1 validates after each batch
    once_per_epoch = interval is None or (isinstance(interval, float) and interval == 1)
    each_epoch = once_per_epoch and trainer.get("check_val_every_n_epoch", 1) == 1
    return each_epoch or monitor.startswith(("train/", "last"))


class LastCheckpoint(Checkpoint):
    """Saves the latest state as last.ckpt next to best.ckpt, after each validation or each epoch without one.

    `ModelCheckpoint(save_last=True)` writes it only together with a new best checkpoint. This callback is
    called after all other checkpoint callbacks, so that its file contains their latest state. It has no state
    itself, so last.ckpt and best.ckpt of the same moment are equal, and the file is copied.
    """

    def __init__(self, best: BestCheckpoint) -> None:
        self.best = best
        self._best_score: Any = None
        self._saved_at: int | None = None  # the number of batches trained on when the file was saved

    @property
    def path(self) -> Path:
        """The file, once `best` has been set up."""
        return Path(self.best.dirpath or "") / LAST

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # the run was killed between saving best.ckpt and last.ckpt
        if self._resumes_from(trainer, BEST):
            self._copy(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # if the resumed epoch ends without another batch, last.ckpt is already up to date
        self._saved_at = _count_batches(trainer) if self._resumes_from(trainer, BEST, LAST) else None
        self._best_score = self.best.current_score

    def _resumes_from(self, trainer: Trainer, *names: str) -> bool:
        path = Path(trainer.ckpt_path or "").absolute()
        return path.name in names and path.parent == self.path.absolute().parent

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if not (self.best.at_epoch_end and trainer.is_last_batch):  # otherwise on_train_epoch_end saves it
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.best.at_epoch_end or self._saved_at != _count_batches(trainer):
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        score = self.best.current_score
        best_is_new = score is not self._best_score  # ModelCheckpoint creates a new tensor when it saves
        self._best_score, self._saved_at = score, _count_batches(trainer)
        # the user's checkpoint callbacks are called between the two, and may have changed their state
        is_latest = best_is_new and len(trainer.checkpoint_callbacks) == 2
        if not (is_latest and self._copy(trainer)):
            trainer.save_checkpoint(self.path, weights_only=False)

    def _copy(self, trainer: Trainer) -> bool:
        """Copy best.ckpt; return False if it is a folder, which some strategies save."""
        source = self.path.with_name(BEST)
        if not trainer.strategy.broadcast(source.is_file()):
            return False
        if trainer.is_global_zero:
            with atomic_write(self.path) as temporary:
                shutil.copyfile(source, temporary)
        trainer.strategy.barrier(LAST)
        return True


def _count_batches(trainer: Trainer) -> int:
    """Return the number of batches trained on, over all epochs."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.ready


class Preflight(Callback):
    """Ends a run before its first step if no checkpoint could be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for callback in trainer.checkpoint_callbacks:
            best = callback.best_model_path if isinstance(callback, ModelCheckpoint) else ""
            if best and Path(best).parent != Path(callback.dirpath or ""):  # type: ignore[attr-defined]
                # never delete the file of another run: forget its best checkpoint
                callback.best_model_path, callback.best_model_score = "", None  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            # an optimizer may store two numbers for each weight
            _check_room(self.folder, 3 * sum(weight.nbytes for weight in pl_module.parameters()))


def _check_room(folder: Path, size: int) -> None:
    """Raise StorageError or another OSError if a file of `size` bytes cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < size:
        raise StorageError(
            f"A checkpoint requires about {size / 1e6:.1f} MB, but only {free / 1e6:.1f} MB are free in "
            f"{folder}. Free disk space, or write to another disk (at the command line hydra.run.dir=FOLDER)."
        )
    with atomic_write(folder / "room") as part:  # fails in a read-only folder or above a quota
        part.write_bytes(bytes(min(size, MAX_TRIED)))
    (folder / "room").unlink()


class CheckpointFiles(TorchCheckpointIO):
    """Writes local checkpoints atomically.

    Lightning writes to the system's temporary folder first. If that is on another file system, the previous
    checkpoint is overwritten by copying, and lost if the process ends meanwhile.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; StorageError if the disk is full."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_partial_files(path.parent, path.suffix)  # of a process that was killed
        with atomic_write(path) as temporary:
            with _Writer(io.FileIO(temporary, "wb")) as writer:
                try:
                    torch.save(checkpoint, writer)
                except RuntimeError:
                    if writer.error is None:
                        raise
            if writer.error is not None:
                written, free = temporary.stat().st_size, shutil.disk_usage(path.parent).free
                raise StorageError(
                    f"The checkpoint {path} cannot be written: {writer.error.strerror} after "
                    f"{written / 1e6:.1f} MB ({free / 1e6:.1f} MB are free). An earlier file is intact. "
                    "Free disk space, or write to another disk (at the command line hydra.run.dir=FOLDER)."
                ) from writer.error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read only tensors and plain values, for any `weights_only`; see `read_checkpoint`."""
        if "://" not in str(path):
            return read_checkpoint(path, map_location)
        content: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only=True)
        if "task" in content:  # otherwise `check_same_task` raises an error
            check_content(content, path)
        return content


class _Writer(io.BufferedWriter):
    """Stores the OSError of a failed write, which torch replaces with a RuntimeError."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise
