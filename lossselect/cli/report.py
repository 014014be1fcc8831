"""`lossselect report`: the page of a run that ended before it had made one."""

from functools import partial
from pathlib import Path

from lossselect.cli.console import Command, run_command
from lossselect.exceptions import ConfigError, FileMissingError
from lossselect.utils.terminal import print_safely


def write_run_report(run: str) -> None:
    """Write the report of a run's folder."""
    folder = Path(run)
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

    print_safely(f"Written: {write_report(folder)}")


COMMAND = Command(
    write_run_report,
    "report",
    "Write report.html for a run that ended before its time, of what it left: plan and curves.\n\n"
    "  lossselect report run=FOLDER",
    {"run": ("FOLDER", "of the run")},
    required=("run",),
    epilog="A run that comes to its end writes its report itself, with figures of its test rows.",
)

main = partial(run_command, COMMAND)
