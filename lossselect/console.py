"""What a person at the keyboard sees of mistakes and warnings: a line each."""

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from .guards import GuardWarning
from .mistakes import message_of

TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"
"""Hydra's own switch: show tracebacks of the user's mistakes too."""


@contextmanager
def explained(arguments: Iterable[str] = ()) -> Iterator[None]:
    """A user's mistake within it is one message on stderr and exit code 1, without a traceback."""
    try:
        yield
    except KeyboardInterrupt as error:
        print(str(error) or "Interrupted.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = message_of(error, arguments)
        if message is None or TRACEBACKS:
            raise
        print(message, file=sys.stderr)
        sys.exit(1)


@contextmanager
def warnings_in_a_line(switch: str = "allow=[{name}] switches this off.") -> Iterator[None]:
    """Our own warnings are for the person at the keyboard: no file, no line of code."""
    others = warnings.showwarning

    def show(message: Any, category: type[Warning], *place: Any) -> None:
        if not issubclass(category, GuardWarning):
            others(message, category, *place)
            return
        how = f" ({switch.format(name=message.name)})" if switch else ""
        print(f"Warning: {message.said}{how}", file=sys.stderr)

    warnings.showwarning = show  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = others
