"""A checksum of a whole exported file, kept in the metadata of that file.

It finds accidents: a flipped bit, a cut or patched file, a model that another tool has changed. It does
not stop a forger, who computes the checksum again.
"""

import hashlib
import mmap
import re
from pathlib import Path

from lossselect.exceptions import CheckpointError, UnsupportedError

NAME = "lossselect.sha256"
BLANK = "0" * 64
"""What stands in place of the checksum while it is computed."""

_DIGEST = re.compile(rb'(?:\x12@|":"|=)([0-9a-f]{64})')
"""What follows the name: in a protobuf (field 2, 64 bytes), in JSON, in the comment of a zip file."""


def seal(path: Path) -> None:
    """Put the checksum of a file into it, in place of `BLANK`, which its metadata hold under `NAME`."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        place = _place(content)
        if place is None:
            raise UnsupportedError(f"{path} has no place for a checksum.")
        content[place : place + len(BLANK)] = _digest(content, place)


def is_sealed(path: Path) -> bool:
    """Return whether a file holds a checksum, which is verified.

    Raises:
        ValueError: the checksum is another one than that of the file.
    """
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = _place(content)
        if place is None:
            return False
        if content[place : place + len(BLANK)] == _digest(content, place):
            return True
    raise CheckpointError(
        f"{path} ({path.stat().st_size} bytes) cannot be read as a model: its content does not match its "
        "checksum, so it has changed since it was exported. Export it again, or take another copy."
    )


def _place(content: mmap.mmap) -> int | None:
    """Where the checksum begins, if there is one."""
    place = content.find(NAME.encode())
    while place >= 0:
        if found := _DIGEST.match(content, place + len(NAME)):
            return found.start(1)
        place = content.find(NAME.encode(), place + 1)
    return None


def _digest(content: mmap.mmap, place: int) -> bytes:
    """Of all bytes, but with `BLANK` in place of the checksum."""
    made = hashlib.sha256()
    with memoryview(content) as whole, whole[:place] as before, whole[place + len(BLANK) :] as after:
        made.update(before)
        made.update(BLANK.encode())
        made.update(after)
    return made.hexdigest().encode()
