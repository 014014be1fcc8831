"""A lock on the run folder, so that two runs never write to the same one.

The operating system holds the lock for the process and releases it when the process ends, even if it is
killed. A leftover lock file does not lock the folder.
"""

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from lossselect.exceptions import ConfigError

LOCK = ".lock"
"""The lock file in a run folder; it contains the process id and the host of the run."""

NOT_SUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems without locks; runs on them are not locked."""

_held: list[Any] = []


def lock_folder(folder: Path) -> None:
    """Create the folder and lock it; raise ConfigError if another running process has locked it."""
    from filelock import FileLock, Timeout

    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        owner = "its process is unknown"
        with suppress(OSError, ValueError):  # on Windows a locked byte cannot be read
            owner = path.read_text(encoding="utf-8").strip() or owner
        raise ConfigError(
            f"Another run is using the folder {folder} ({owner}). Wait until it ends, stop it, or set "
            "hydra.run.dir to another folder."
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NOT_SUPPORTED:
            raise
        return
    _held.append(lock)
    with suppress(OSError):  # only for the message; on Windows a locked byte cannot be written
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")


def unlock_folders() -> None:
    """Unlock the folders that this process has locked."""
    while _held:
        lock = _held.pop()
        # before the lock is released, so that the lock file of the next run is never removed
        with suppress(OSError):  # on Windows an open file cannot be removed
            Path(lock.lock_file).unlink()
        lock.release()


def check_unlocked(folder: Path) -> None:
    """Raise ConfigError if another process has locked the folder; a missing folder is not created."""
    if (folder / LOCK).exists():
        lock_folder(folder)
        unlock_folders()
