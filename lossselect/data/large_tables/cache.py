"""Cache of data that are larger than the memory: folders named by a hash of what determines their files."""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lossselect.exceptions import LossSelectError, StorageError

FORMAT = 3
"""Version of the content of the folders, which is part of each hash."""
IN_USE_SECONDS = 7 * 24 * 3600
"""Age of a converted table after which no run uses it any more."""
KEPT = 3
"""Maximum number of folders of a kind for a data file; those used the longest ago are deleted."""


def default_cache() -> Path:
    """Return the folder lossselect in the user's folder of caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lossselect"


def identify_files(files: Sequence[Path]) -> list[list[Any]]:
    """Return the path, size, inode and times of each file; writing changes `st_ctime_ns` in any case."""
    stats = [(file.resolve(), file.stat()) for file in files]
    return [
        [str(path), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns] for path, stat in stats
    ]


def digest(*values: Any) -> str:
    """Return a hash of arrays and of values that JSON can represent."""
    state = hashlib.blake2b(digest_size=12)
    for value in (FORMAT, version("lossselect"), pl.__version__, *values):
        if isinstance(value, np.ndarray):
            state.update(f"{value.dtype} {value.shape}".encode())
            state.update(np.ascontiguousarray(value).data)
        else:
            state.update(json.dumps(value, sort_keys=True, default=str).encode())
    return state.hexdigest()


class Cache:
    """Folders of files that were computed from a data file.

    Args:
        root: The folder of all caches; None for `default_cache`.
        path: The data file, whose folders are limited to `KEPT` of each kind.
    """

    def __init__(self, root: str | None, path: str) -> None:
        file = Path(path).resolve()
        self.folder = (Path(root) if root else default_cache()) / f"{file.name[:40]}-{digest(str(file))}"

    def get(self, kind: str, key: str, build: Callable[[Path], None], size: int = 0) -> Path:
        """Return the folder of `kind` and `key`, after `build` has written its files if there is none.

        Other processes that need the same folder wait. If `build` fails, nothing is left of it.

        Args:
            kind: What the folder contains, in one word.
            key: A hash of everything that determines its content.
            build: Function that writes the files into an empty folder.
            size: Estimated size of the files in bytes.

        Raises:
            StorageError: the disk does not have this much space, or the folder cannot be written.
        """
        from filelock import FileLock

        entry = self.folder / f"{kind}-{key}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock"):
                if entry.is_dir():
                    os.utime(entry)
                    return entry
                if size > (free := shutil.disk_usage(self.folder).free):
                    raise StorageError(
                        f"The data are larger than the memory and need {size / 1e9:.1f} GB in {self.folder}, "
                        f"but only {free / 1e9:.1f} GB are free. Set data.cache to a folder on another disk."
                    )
                temporary = Path(tempfile.mkdtemp(dir=self.folder, prefix=".part-"))
                try:
                    build(temporary)
                    temporary.rename(entry)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
                self._remove_old(kind)
        except OSError as error:
            is_elsewhere = error.filename and not str(error.filename).startswith(str(self.folder))
            if isinstance(error, LossSelectError) or is_elsewhere:
                raise
            problem = error.strerror or error
            raise StorageError(
                f"{self.folder} cannot be written ({problem}). Set data.cache to another folder."
            ) from None
        return entry

    def _remove_old(self, kind: str) -> None:
        """Delete the folders used the longest ago.

        A mapped file that is deleted stays readable; a converted table is opened several times in a run.
        """
        folders = sorted(self.folder.glob(f"{kind}-*"), key=lambda folder: folder.stat().st_mtime)
        for folder in folders[:-KEPT]:
            if kind != "table" or time.time() - folder.stat().st_mtime > IN_USE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in self.folder.glob(".part-*"):  # of killed processes: this one holds the lock
            with suppress(OSError):
                shutil.rmtree(folder)
