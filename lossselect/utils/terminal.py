"""Text for a terminal: without control characters or secrets, whatever stdout and stderr are."""

import io
import json
import os
import re
import stat
import sys
import traceback
import unicodedata
from contextlib import suppress
from types import TracebackType
from typing import Any, TextIO

from lossselect.utils.redaction import redact


def escape_controls(text: str) -> str:
    r"""Return the text with control characters as escapes, so that it can neither move the cursor nor hide.

    These are the characters of Unicode's categories Cc (ESC and other controls), Cf (invisible ones, and
    those that change the direction of the text), Cs (bytes of a path that are not UTF-8), Zl and Zp
    (separators of lines and paragraphs); line breaks and tabs stay.

    Example:
        >>> escape_controls("\x1b[31mcat\u202e")
        '\\x1b[31mcat\\u202e'
    """
    return text if text.isprintable() else re.sub(r"[^\n\t -~]", _escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode() if _is_hidden(found[0]) else found[0]


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def escape_controls_in_json(text: str) -> str:
    """Return the same JSON with such characters as escapes of JSON."""
    return re.sub(
        r"[^\n\t -~]", lambda found: json.dumps(found[0])[1:-1] if _is_hidden(found[0]) else found[0], text
    )


def sanitize(text: str) -> str:
    """Return the text as it may be shown: see `escape_controls` and `redact`."""
    return escape_controls(redact(text))


def print_safely(text: str, file: TextIO | None = None, flush: bool = False) -> None:
    """Print a text that may contain names, cells or paths of files."""
    print(sanitize(text), file=file, flush=flush)


class _Pipe(io.FileIO):
    """A pipe that takes what is written when nobody reads any more, as after `| head`."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def prepare_streams() -> None:
    """Let a command go on, and write its files, whatever stdout and stderr are.

    They may be closed (`>&-`), a pipe whose reader ends first, or of an encoding that lacks the characters
    of a class name, which are printed as escapes then. A traceback shows no secrets.
    """
    with suppress(OSError):
        # else the next file that is opened would be what libraries print to
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # until the process ends
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        if isinstance(getattr(getattr(stream, "buffer", None), "raw", None), _Pipe):
            continue
        try:
            if not stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
                continue
        except (OSError, AttributeError):  # a stream without a file, as in a notebook
            continue
        pipe = io.BufferedWriter(_Pipe(os.dup(stream.fileno()), "w"))
        setattr(sys, name, io.TextIOWrapper(pipe, stream.encoding, stream.errors, line_buffering=True))
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _show_exception


def _show_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print_safely("".join(traceback.format_exception(kind, error, trace)), file=sys.stderr)
