"""run.json: when a run started, how long it took, how it ended, and the metric by which runs are compared."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from lossselect.exceptions import CheckpointError
from lossselect.utils.atomic_write import atomic_write
from lossselect.utils.redaction import redact
from lossselect.utils.structure import OptionalOf, check_structure

NAME = "run.json"
NUMBER = (int, float)
STRUCTURE = {
    **dict.fromkeys(("started", "task", "metric", "mode", "error"), str),
    "seconds": NUMBER,
    **dict.fromkeys(("fit_seconds", "value"), OptionalOf(NUMBER)),
}
"""The structure of run.json."""


@dataclass
class RunRecord:
    """The start, the duration and the result of a run.

    Args:
        started: The date and time, in UTC and ISO 8601.
        seconds: The duration of the run, without the imports before it.
        fit_seconds: The duration of training; None if it did not end.
        task: The name of the task.
        metric: The validation metric by which the run is compared with others; "" if there is none.
        mode: "min" or "max", which value of `metric` is the best one.
        value: The value of `metric` at the best checkpoint.
        error: The message of the error or the signal that ended the run; "" if it finished.
    """

    started: str
    seconds: float = 0.0
    fit_seconds: float | None = None
    task: str = ""
    metric: str = ""
    mode: str = "min"
    value: float | None = None
    error: str = ""


@contextmanager
def record_run(folder: Path | None, describe: Callable[[BaseException], str]) -> Iterator[RunRecord]:
    """Yield a record to complete, and write it into a run folder at the end, also after an error.

    `describe` returns the message of an error. Nothing is written without a folder, or if the run ends before
    `task` is set, and the folder has files of an earlier run.
    """
    start = time.monotonic()
    record = RunRecord(datetime.now(UTC).isoformat(timespec="seconds"))
    try:
        yield record
    except BaseException as error:
        record.error = redact(describe(error))
        raise
    finally:
        record.seconds = round(time.monotonic() - start, 3)
        if folder is not None and (record.task or not _has_files(folder)):
            with suppress(OSError), atomic_write(folder / NAME) as path:  # a full disk may be the error
                path.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")


def _has_files(folder: Path) -> bool:
    return any(not path.name.startswith(".") for path in folder.iterdir())


def read_record(folder: Path) -> RunRecord | None:
    """Return the record of a run; None if the run was killed, is still running, or the file is damaged."""
    with suppress(OSError, ValueError, CheckpointError):
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        check_structure(content, STRUCTURE, NAME)
        return RunRecord(**{key: content[key] for key in STRUCTURE})
    return None
