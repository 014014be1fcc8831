"""Files that are written whole or not at all."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lossselect.exceptions import ConfigError

KINDS = {
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""Kinds of paths that are not regular files; reading them could block."""


def check_regular_file(path: str | Path, wanted: str = "Save its content to a file first.") -> None:
    """ValueError for the path of a pipe, socket or device: a file is read several times, or replaced whole.

    Args:
        path: Anything else passes, also a path that does not exist.
        wanted: The fix, for the message.
    """
    try:
        kind = KINDS.get(stat.S_IFMT(os.stat(path).st_mode))
    except (OSError, ValueError):
        return
    if kind:
        raise ConfigError(f"Expected a regular file, but {path} is {kind}. {wanted}")


PARTIAL_SUFFIX = ".part"
"""What the name of a file ends in that is not complete."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A name to write to, beside the file's own, which it takes once it is complete, and on the disk.

    Whenever the process or the machine stops, there is what was there before or the whole new file.
    """
    temporary = path.with_name(f".{path.name}{PARTIAL_SUFFIX}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if str(error.filename).startswith(str(temporary)):  # a name that the user has never seen
            raise type(error)(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Without, a crash of the machine might bring back the old file."""
    if not hasattr(os, "O_DIRECTORY"):
        return  # Windows, which opens no folder
    with suppress(OSError):  # some network file systems cannot
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_partial_files(folder: Path, suffix: str) -> None:
    """Remove what processes left that were killed while they wrote files whose names end in `suffix`."""
    for temporary in folder.glob(f".*{suffix}{PARTIAL_SUFFIX}"):
        temporary.unlink(missing_ok=True)
