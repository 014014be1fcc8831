"""Terminal output without control characters and secrets, which also works on closed or broken streams."""

import io
import json
import os
import re
import stat
import sys
import traceback
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, TextIO

from lossselect.utils.redaction import redact


def escape_controls(text: str) -> str:
    r"""Return the text with control characters escaped, so that it can neither move the cursor nor hide text.

    Escaped are the Unicode categories Cc (ESC and other controls), Cf (invisible characters and text
    direction), Cs (bytes of a path that are not UTF-8), Zl and Zp (separators). Line breaks and tabs remain.

    Example:
        >>> escape_controls("\x1b[31mcat\u202e")
        '\\x1b[31mcat\\u202e'
    """
    return _escape_hidden(text, lambda character: character.encode("unicode_escape").decode())


def escape_controls_in_json(text: str) -> str:
    """Return JSON text with these characters as JSON escapes."""
    return _escape_hidden(text, lambda character: json.dumps(character)[1:-1])


def _escape_hidden(text: str, escape: Callable[[str], str]) -> str:
    def replace(match: re.Match[str]) -> str:
        is_hidden = unicodedata.category(match[0]) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        return escape(match[0]) if is_hidden else match[0]

    return text if text.isprintable() else re.sub(r"[^\n\t -~]", replace, text)


def sanitize(text: str) -> str:
    """Return the text redacted and with control characters escaped, safe to show."""
    return escape_controls(redact(text))


def print_safely(text: str, file: TextIO | None = None, flush: bool = False) -> None:
    """Print sanitized text: for names, cells and paths that come from files."""
    print(sanitize(text), file=file, flush=flush)


class _Pipe(io.FileIO):
    """A pipe that drops what is written after its reader has exited, as with `| head`."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def prepare_streams() -> None:
    """Prepare stdout and stderr so that writing to them cannot fail, and redact secrets in tracebacks.

    Streams may be closed (`>&-`), or pipes whose reader exits first. Characters that the encoding of a
    stream does not support are escaped.
    """
    with suppress(OSError):
        # otherwise the next file opened would become stdout or stderr, which libraries print to
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
