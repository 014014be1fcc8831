"""A lock on a run's folder, so that two runs never write into the same one.

The operating system holds the lock for the process, not the file: it ends with the process, however that
ends, and a file that a killed process left behind locks nothing.
"""

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from lossselect.exceptions import ConfigError

LOCK = ".lock"
"""The file in a run's folder; it contains the process id and the host of the run."""

NOT_SUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems without locks: there a run goes on without one."""

_held: list[Any] = []


def lock_folder(folder: Path) -> None:
    """Create the folder and lock it; raise ConfigError if a process that is alive has locked it."""
    from filelock import FileLock, Timeout

    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        owner = "its process is not known"
        with suppress(OSError, ValueError):  # Windows lets nobody read a locked byte
            owner = path.read_text(encoding="utf-8").strip() or owner
        raise ConfigError(
            f"Another run is using the folder {folder} ({owner}). Wait until it ends, stop it, or choose "
            "another folder: hydra.run.dir=FOLDER."
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NOT_SUPPORTED:
            raise
        return
    _held.append(lock)
    with suppress(OSError):  # it is only for the message; Windows lets nobody write to a locked byte
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")


def unlock_folders() -> None:
    """Unlock the folders that this process has locked."""
    while _held:
        lock = _held.pop()
        # before the lock is released, so that the file of the next run is never removed
        with suppress(OSError):  # Windows, where an open file cannot be removed
            Path(lock.lock_file).unlink()
        lock.release()


def check_unlocked(folder: Path) -> None:
    """Raise ConfigError if another process has locked the folder; it is not created if it does not exist."""
    if (folder / LOCK).exists():
        lock_folder(folder)
        unlock_folders()
