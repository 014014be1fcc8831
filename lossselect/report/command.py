"""`lossselect report`: the page of a run that ended before it had made one."""

import sys
from pathlib import Path

from ..console import explained, outlive_readers, warnings_in_a_line
from ..names import check_options

USAGE = """\
Write report.html for a run that ended before its time, of what it left: plan and curves.

  lossselect report run=FOLDER

A run that comes to its end writes its report itself, with figures of its test rows.
"""


def main() -> None:
    """The command. A user's mistake is one message on stderr and exit code 1, without a traceback."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    outlive_readers()
    with explained(arguments), warnings_in_a_line(""):
        given = dict(argument.partition("=")[::2] for argument in arguments)
        check_options(given, ["run"], "lossselect report")
        print(f"Written: {report_of(Path(given['run']))}")


def report_of(folder: Path) -> Path:
    """Write the report of a run's folder, and return its path.

    Raises:
        FileNotFoundError: there is no such folder, or nothing of a run in it.
        ValueError: there is a report of a complete run.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    if not (folder / "plan.json").is_file() and not (folder / "logs" / "metrics.csv").is_file():
        raise FileNotFoundError(
            f"{folder} is no run's folder: it has neither plan.json nor logs/metrics.csv."
        )
    if (folder / "metrics.json").is_file() and (folder / "report.html").is_file():
        raise ValueError(
            f"{folder / 'report.html'} is there, of a complete run, and shows test rows, which only the run "
            "itself has."
        )
    from .page import write_report

    return write_report(folder)
