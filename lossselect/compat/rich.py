"""Private parts of Rich. Tested with Rich 15; see tests/compat/test_others.py."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from rich.live import Live

get_lock = attrgetter("_lock")  # that a display is drawn under


def replace_refresh_thread(live: Live, make: Callable[[Live], Any]) -> bool:
    """Let another thread redraw a display; return whether one did so far."""
    if live._refresh_thread is None:
        return False
    live._refresh_thread.stop()
    live._refresh_thread = make(live)
    live._refresh_thread.start()
    return True
