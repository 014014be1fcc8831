"""A checksum of an exported file, stored in the metadata of that file.

It detects accidents: a flipped bit, a truncated or patched file, a model that another tool has changed. It
does not stop a forger, who computes the checksum again.
"""

import hashlib
import re
from pathlib import Path

from lossselect.exceptions import CheckpointError, UnsupportedError

NAME = "lossselect.sha256"
BLANK = "0" * 64  # the placeholder of the checksum while it is computed
# as it is stored in a protobuf (field 2, 64 bytes), in JSON, and in the comment of a zip file
CHECKSUM = re.compile(re.escape(NAME.encode()) + rb'(?:\x12@|":"|=)([0-9a-f]{64})')


def seal(path: Path) -> None:
    """Replace `BLANK`, which the metadata of a file hold under `NAME`, by the checksum of the file."""
    content = path.read_bytes()
    position = _find_checksum(content)
    if position is None:
        raise UnsupportedError(f"{path} has no place for a checksum.")
    with path.open("r+b") as file:
        file.seek(position.start)
        file.write(_compute_checksum(content, position))


def check_sealed(path: Path) -> None:
    """Raise CheckpointError unless a file holds the checksum of its content."""
    content = path.read_bytes()
    position = _find_checksum(content)
    if position is None:
        problem = f"it holds no checksum ({NAME}). It is cut short, or lossselect export has not written it"
    elif content[position] != _compute_checksum(content, position):
        problem = "its content does not match its checksum, so it has changed since it was exported"
    else:
        return
    raise CheckpointError(
        f"{path} ({len(content)} bytes) cannot be read as a model: {problem}. Export it again, or take "
        "another copy."
    )


def _find_checksum(content: bytes) -> slice | None:
    start = content.find(NAME.encode())  # faster than the expression
    match = CHECKSUM.search(content, start) if start >= 0 else None
    return slice(*match.span(1)) if match else None


def _compute_checksum(content: bytes, position: slice) -> bytes:
    """Return the checksum of all bytes, with `BLANK` in its place."""
    view = memoryview(content)
    digest = hashlib.sha256(view[: position.start])
    digest.update(BLANK.encode())
    digest.update(view[position.stop :])
    return digest.hexdigest().encode()
