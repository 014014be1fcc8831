"""What a run that a signal or an error has ended reports."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lossselect.cli.console import first_process_ends, is_first_process
from lossselect.cli.errors import get_message
from lossselect.utils.redaction import redact
from lossselect.utils.terminal import print_safely


@contextmanager
def report_interruption(trainer: Any, folder: Path) -> Iterator[None]:
    """Print which files a run has that a signal ended within the context; exit codes are 143 and 130."""
    # while nothing can be saved SIGTERM ends the process as a signal that is handled does
    previous_handler = signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    try:
        yield
    except SystemExit as stopped:
        saved = getattr(stopped, "path", None)  # of a `Stopped`
        if saved is None and stopped.code != 143 and not isinstance(stopped.__context__, KeyboardInterrupt):
            raise  # an exit for another reason
        if not is_first_process():
            first_process_ends()  # else Lightning might kill it before it has printed its message
            raise
        names = sorted(f"checkpoints/{path.name}" for path in folder.glob("checkpoints/*.ckpt"))
        summary = (
            f"after {trainer.global_step} steps. In {folder}: {', '.join(names) or 'no checkpoint yet'}."
        )
        if saved is not None:
            summary += f" To go on: the same settings, hydra.run.dir={folder} resume=auto."
        if stopped.code != 143:
            raise KeyboardInterrupt(f"Interrupted {summary}") from None
        print_safely(f"Terminated {summary}", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


@contextmanager
def report_failure(config: DictConfig, writes: bool, folder: Path) -> Iterator[None]:
    """Write the report of a run that an error ends within the context; one that a signal ends has no time."""
    try:
        yield
    except Exception as error:
        # if the export failed the report is complete
        if config.report and writes and not (folder / "report.html").exists():
            from lossselect.reporting.page import write_report

            with suppress(OSError):  # a full disk may have ended the run
                message = get_message(error) or f"{type(error).__name__}: {error}"
                write_report(folder, ended=redact(message))
        raise
