"""Files that are written whole or not at all."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from lossselect.exceptions import ConfigError, FileMissingError

KINDS = {
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""Kinds of paths that are not regular files; reading them could block."""


def check_regular_file(path: str | Path, fix: str = "Save its content to a file first.") -> None:
    """Raise ConfigError for a pipe, socket or device; any other path passes, also one that does not exist."""
    try:
        kind = KINDS.get(stat.S_IFMT(os.stat(path).st_mode))
    except (OSError, ValueError):
        return
    if kind:
        raise ConfigError(f"Expected a regular file, but {path} is {kind}. {fix}")


def check_output(path: Path) -> None:
    """Raise an error for the path of an output that is no regular file, or whose folder does not exist."""
    check_regular_file(path, "Name a file.")
    if not path.parent.is_dir():
        raise FileMissingError(f"There is no folder {path.parent} for output={path}.")
    if path.is_dir():
        raise ConfigError(f"output={path} is a folder.")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path; once it is written and on the disk, it replaces `path`.

    Whenever the process or the machine stops, `path` has its old content or all of the new one.
    """
    temporary = path.with_name(f".{path.name}.part")
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
    """Keep a crash of the machine from bringing back the old file, where the file system can."""
    with suppress(OSError, AttributeError):  # Windows opens no folder, and has no O_DIRECTORY
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@cache
def remove_partial_files(folder: Path, suffix: str) -> None:
    """Remove temporary files, for names that end in `suffix`, of killed processes; once in this process."""
    for temporary in folder.glob(f".*{suffix}.part"):
        temporary.unlink(missing_ok=True)
