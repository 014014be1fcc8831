"""How Lightning writes and reads the checkpoints of a `TaskModule`."""

import io
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from lossselect.exceptions import StorageError
from lossselect.training.checkpoints.content import read_checkpoint
from lossselect.training.checkpoints.validation import check_content
from lossselect.utils.atomic_write import atomic_write, remove_partial_files


class CheckpointFiles(TorchCheckpointIO):
    """Writes local checkpoints atomically.

    Lightning writes through the folder for temporary files: on another file system the previous checkpoint
    is overwritten while it is copied, and lost if the process ends meanwhile.
    """

    def __init__(self) -> None:
        super().__init__()
        self._cleaned: set[Path] = set()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; raise StorageError if there is no room."""
        if storage_options is not None or not _is_local(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent not in self._cleaned:
            self._cleaned.add(path.parent)
            remove_partial_files(path.parent, path.suffix)
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
                    f"The checkpoint {path} cannot be written: after {written / 1e6:.1f} MB there is no room "
                    f"({free / 1e6:.1f} MB are left). One that was there before is still there. Make room, "
                    "or write elsewhere (at the command line hydra.run.dir=FOLDER)."
                ) from writer.error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors and plain values alone, whatever `weights_only` is; see `read_checkpoint`."""
        if _is_local(path):
            return read_checkpoint(path, map_location)
        content: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only=True)
        if "task" in content:  # else `check_same_task` rejects it
            check_content(content, path)
        return content


class _Writer(io.BufferedWriter):
    """Remembers the system's error of a failed write, which torch replaces by a RuntimeError."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def _is_local(path: str | Path) -> bool:
    return "://" not in str(path)
