"""What a run that a signal or an error has ended reports."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lossselect.cli.console import first_process_ends, is_first_process
from lossselect.cli.errors import get_message
from lossselect.utils.redaction import redact
from lossselect.utils.terminal import print_safely


@contextmanager
def report_early_end(trainer: Any, folder: Path, writes_report: bool) -> Iterator[None]:
    """Report a run that ends within the context.

    After an error this is its report.html; after a signal, which leaves no time for that, the names of its
    checkpoints, and the exit code is 143 or 130.
    """
    # while nothing can be saved SIGTERM ends the process as a signal that is handled does
    previous_handler = signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    try:
        yield
    except Exception as error:
        # if the export failed the report is complete
        if writes_report and not (folder / "report.html").exists():
            from lossselect.reporting.page import write_report

            with suppress(OSError):  # a full disk may have ended the run
                message = get_message(error) or f"{type(error).__name__}: {error}"
                write_report(folder, ended=redact(message))
        raise
    except SystemExit as stopped:
        saved = getattr(stopped, "path", None)  # of a `Stopped`
        if saved is None and stopped.code != 143 and not isinstance(stopped.__context__, KeyboardInterrupt):
            raise  # an exit for another reason
        if not is_first_process():
            first_process_ends()  # else Lightning might kill it before it has printed its message
            raise
        names = ", ".join(sorted(f"checkpoints/{path.name}" for path in folder.glob("checkpoints/*.ckpt")))
        summary = f"after {trainer.global_step} steps. In {folder}: {names or 'no checkpoint yet'}."
        if saved is not None:
            summary += f" To go on: the same settings, hydra.run.dir={folder} resume=auto."
        if stopped.code != 143:
            raise KeyboardInterrupt(f"Interrupted {summary}") from None
        print_safely(f"Terminated {summary}", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
