"""`lossselect report`: the page of a run that ended before it had made one."""

from pathlib import Path

from lossselect.cli.console import parse_settings, run_command
from lossselect.exceptions import ConfigError, FileMissingError
from lossselect.utils.terminal import print_safely

USAGE = """\
Write report.html for a run that ended before its time, of what it left: plan and curves.

  lossselect report run=FOLDER

A run that comes to its end writes its report itself, with figures of its test rows.
"""


def main() -> None:
    """The command. A user's mistake is one message on stderr and exit code 1, without a traceback."""
    run_command(USAGE, _run)


def _run(arguments: list[str]) -> None:
    given = parse_settings(arguments, ["run"], "lossselect report", {"run": "FOLDER"})
    print_safely(f"Written: {report_of(Path(given['run']))}")


def report_of(folder: Path) -> Path:
    """Write the report of a run's folder, and return its path.

    Raises:
        FileNotFoundError: there is no such folder, or nothing of a run in it.
        ValueError: there is a report of a complete run.
    """
    if not folder.is_dir():
        raise FileMissingError(f"There is no folder {folder}.")
    if not (folder / "plan.json").is_file() and not (folder / "logs" / "metrics.csv").is_file():
        raise FileMissingError(f"{folder} is no run's folder: it has neither plan.json nor logs/metrics.csv.")
    if (folder / "metrics.json").is_file() and (folder / "report.html").is_file():
        raise ConfigError(
            f"{folder / 'report.html'} is there, of a complete run, and shows test rows, which only the run "
            "itself has."
        )
    from lossselect.reporting.page import write_report

    return write_report(folder)
