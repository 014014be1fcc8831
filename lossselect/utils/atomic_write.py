"""Atomic writes, after which a file has either its old content or all of the new content."""

import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
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
    """Raise a ConfigError for a pipe, socket or device; other paths pass, even if they do not exist."""
    try:
        kind = KINDS.get(stat.S_IFMT(os.stat(path).st_mode))
    except (OSError, ValueError):
        return
    if kind:
        raise ConfigError(f"Expected a regular file, but {path} is {kind}. {fix}")


def check_output(
    path: Path, suffixes: Sequence[str] = (), inputs: Mapping[str, str] | None = None, setting: str = "output"
) -> None:
    """Raise an error unless a file of the program can be written to `path`, the value of a `setting`.

    If there are `suffixes`, it must have one of them. `inputs` are paths that it must not be, by description.
    """
    check_regular_file(path, "Choose another path.")
    if not path.parent.is_dir():
        raise FileMissingError(f"The folder {path.parent} of {setting}={path} does not exist. Create it.")
    if path.is_dir():
        raise ConfigError(f"{setting}={path} is a folder. Set {setting} to the path of a file.")
    if suffixes and path.suffix.lower() not in suffixes:
        raise ConfigError(f"{setting}={path} must end in {' or '.join(suffixes)}.")
    for name, other in (inputs or {}).items():
        if path.resolve() == Path(other).resolve():
            raise ConfigError(f"{setting}={path} is {name}. Choose another {setting}.")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which replaces `path` after it has been written and synced to disk.

    If the process or the machine stops, `path` has either its old content or all of the new content.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if str(error.filename).startswith(str(temporary)):  # name the path that the user knows
            raise type(error)(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder, which becomes the folder `path` after it has been written.

    Raises:
        ConfigError: `path` exists.
        FileMissingError: its parent does not exist.
    """
    if path.exists() or path.is_symlink():
        raise ConfigError(f"output={path} already exists. Choose another output, or remove it.")
    if not path.parent.is_dir():
        raise FileMissingError(f"The folder {path.parent} of output={path} does not exist. Create it.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Sync a folder, if supported, so that a crash of the machine cannot bring back the old file."""
    with suppress(OSError, AttributeError):  # Windows cannot open folders and has no O_DIRECTORY
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@cache
def remove_partial_files(folder: Path, suffix: str) -> None:
    """Remove temporary files of killed processes for names that end in `suffix`; once per process."""
    for temporary in folder.glob(f".*{suffix}.part"):
        temporary.unlink(missing_ok=True)
