"""What is left of a run that a signal or an error has ended."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from lossselect.cli.console import (
    first_ends,
    speaks,
)
from lossselect.cli.errors import message_of
from lossselect.utils.redaction import redact
from lossselect.utils.terminal import print_safely

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


@contextmanager
def interruptions(trainer: "Trainer", folder: Path) -> Iterator[None]:
    """What is left of a run that a signal has ended is said; exit codes are 143 and 130."""
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    except SystemExit as stopped:
        saved = getattr(stopped, "path", None)  # of a `Stopped`
        if saved is None and stopped.code != 143 and not isinstance(stopped.__context__, KeyboardInterrupt):
            raise  # somebody else's
        if not speaks():
            first_ends()  # else Lightning might kill it before it has said what there is to say
            raise
        said = _what_is_left(trainer, folder, saved)
        if stopped.code != 143:
            raise KeyboardInterrupt(f"Interrupted {said}") from None
        print_safely(f"Terminated {said}", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def reported(config: DictConfig, writes: bool, folder: Path) -> Iterator[None]:
    """A run that an error ends leaves a report of what there is; one that a signal ends has no time."""
    try:
        yield
    except Exception as error:
        # of a run whose export failed there is a whole one
        if config.report and writes and not (folder / "report.html").exists():
            from lossselect.reporting.page import write_report

            with suppress(OSError):  # it may be a full disk that has ended the run
                said = message_of(error) or f"{type(error).__name__}: {error}"
                write_report(folder, ended=redact(said))
        raise


def _what_is_left(trainer: "Trainer", folder: Path, saved: Path | None) -> str:
    """Of a run that was ended after so many steps; `saved` is the checkpoint that was made for that."""
    names = sorted(f"checkpoints/{path.name}" for path in folder.glob("checkpoints/*.ckpt"))
    left = f"after {trainer.global_step} steps. In {folder}: {', '.join(names) or 'no checkpoint yet'}."
    if saved is not None:
        left += f" To go on: the same settings, hydra.run.dir={folder} resume=auto."
    return left


def _terminated(signum: int, frame: Any) -> None:
    """While nothing can be saved, SIGTERM ends the process as a signal that is handled does."""
    sys.exit(128 + signum)
