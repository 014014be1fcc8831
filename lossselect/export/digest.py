"""A checksum of an exported file, stored in the metadata of that file.

It detects accidental changes: flipped bits, truncation, or changes by other tools. It does not protect
against malicious changes, since anyone can compute the checksum.
"""

import hashlib
import re
from pathlib import Path

from lossselect.exceptions import CheckpointError, UnsupportedError

NAME = "lossselect.sha256"
BLANK = "0" * 64  # the placeholder of the checksum while it is computed
# as stored in a protobuf (field 2, 64 bytes), in JSON, and in the comment of a zip file
CHECKSUM = re.compile(re.escape(NAME.encode()) + rb'(?:\x12@|":"|=)([0-9a-f]{64})')


def seal(path: Path) -> None:
    """Replace `BLANK`, stored under `NAME` in the metadata of a file, with the checksum of the file."""
    content = path.read_bytes()
    position = _find_checksum(content)
    if position is None:
        raise UnsupportedError(f"The metadata of {path} contain no {NAME} to store the checksum in.")
    with path.open("r+b") as file:
        file.seek(position.start)
        file.write(_compute_checksum(content, position))


def check_sealed(path: Path) -> None:
    """Raise CheckpointError unless a file contains the checksum of its content."""
    content = path.read_bytes()
    position = _find_checksum(content)
    if position is None:
        problem = (
            f"it contains no checksum ({NAME}), so it is truncated or was not written by lossselect export"
        )
    elif content[position] != _compute_checksum(content, position):
        problem = "its content does not match its checksum, so it has changed since it was exported"
    else:
        return
    raise CheckpointError(
        f"{path} ({len(content)} bytes) cannot be read as a model: {problem}. Export it again, or use "
        "another copy."
    )


def _find_checksum(content: bytes) -> slice | None:
    start = content.find(NAME.encode())  # faster than the regular expression
    match = CHECKSUM.search(content, start) if start >= 0 else None
    return slice(*match.span(1)) if match else None


def _compute_checksum(content: bytes, position: slice) -> bytes:
    """Return the checksum of all bytes, with `BLANK` in place of the stored checksum."""
    view = memoryview(content)
    digest = hashlib.sha256(view[: position.start])
    digest.update(BLANK.encode())
    digest.update(view[position.stop :])
    return digest.hexdigest().encode()
