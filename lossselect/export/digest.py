"""A checksum of a whole exported file, kept in the metadata of that file.

It detects accidents: a flipped bit, a truncated or patched file, a model that another tool has changed. It
does not stop a forger, who computes the checksum again.
"""

import hashlib
import mmap
import re
from pathlib import Path

from lossselect.exceptions import CheckpointError, UnsupportedError

NAME = "lossselect.sha256"
BLANK = "0" * 64
"""The placeholder of the checksum while it is computed."""

_CHECKSUM = re.compile(re.escape(NAME.encode()) + rb'(?:\x12@|":"|=)([0-9a-f]{64})')
"""As it is stored in a protobuf (field 2, 64 bytes), in JSON, and in the comment of a zip file."""


def seal(path: Path) -> None:
    """Replace `BLANK`, which the metadata of a file hold under `NAME`, by the checksum of the file."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        place = _find_checksum(content)
        if place is None:
            raise UnsupportedError(f"{path} has no place for a checksum.")
        content[place] = _compute_checksum(content, place)


def is_sealed(path: Path) -> bool:
    """Return whether a file holds a checksum; ValueError if the file does not match it."""
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = _find_checksum(content)
        if place is None or content[place] == _compute_checksum(content, place):
            return place is not None
    raise CheckpointError(
        f"{path} ({path.stat().st_size} bytes) cannot be read as a model: its content does not match its "
        "checksum, so it has changed since it was exported. Export it again, or take another copy."
    )


def _find_checksum(content: mmap.mmap) -> slice | None:
    start = content.find(NAME.encode())  # faster than the expression
    found = _CHECKSUM.search(content, start) if start >= 0 else None
    return slice(*found.span(1)) if found else None


def _compute_checksum(content: mmap.mmap, place: slice) -> bytes:
    """Return the checksum of all bytes, with `BLANK` at its place."""
    digest = hashlib.sha256()
    with memoryview(content) as view, view[: place.start] as before, view[place.stop :] as after:
        for part in (before, BLANK.encode(), after):
            digest.update(part)
    return digest.hexdigest().encode()
