"""A checksum of an exported file, stored in the metadata of that file.

It detects accidents: a flipped bit, a truncated or patched file, a model that another tool has changed. It
does not stop a forger, who computes the checksum again.
"""

import hashlib
import mmap
import re
from pathlib import Path

from lossselect.exceptions import CheckpointError, UnsupportedError

NAME = "lossselect.sha256"
BLANK = "0" * 64  # the placeholder of the checksum while it is computed
# as it is stored in a protobuf (field 2, 64 bytes), in JSON, and in the comment of a zip file
CHECKSUM = re.compile(re.escape(NAME.encode()) + rb'(?:\x12@|":"|=)([0-9a-f]{64})')


def seal(path: Path) -> None:
    """Replace `BLANK`, which the metadata of a file hold under `NAME`, by the checksum of the file."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        position = _find_checksum(content)
        if position is None:
            raise UnsupportedError(f"{path} has no place for a checksum.")
        content[position] = _compute_checksum(content, position)


def is_sealed(path: Path) -> bool:
    """Return whether a file holds a checksum; ValueError if the file does not match it."""
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        position = _find_checksum(content)
        if position is None or content[position] == _compute_checksum(content, position):
            return position is not None
    raise CheckpointError(
        f"{path} ({path.stat().st_size} bytes) cannot be read as a model: its content does not match its "
        "checksum, so it has changed since it was exported. Export it again, or take another copy."
    )


def _find_checksum(content: mmap.mmap) -> slice | None:
    start = content.find(NAME.encode())  # faster than the expression
    match = CHECKSUM.search(content, start) if start >= 0 else None
    return slice(*match.span(1)) if match else None


def _compute_checksum(content: mmap.mmap, position: slice) -> bytes:
    """Return the checksum of all bytes, with `BLANK` in its place."""
    with memoryview(content) as view, view[: position.start] as before, view[position.stop :] as after:
        digest = hashlib.sha256(before)
        digest.update(BLANK.encode())
        digest.update(after)
    return digest.hexdigest().encode()
