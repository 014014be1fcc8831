"""`lossselect report`: the report of a run that ended before it wrote one."""

from functools import partial
from pathlib import Path

from lossselect.cli.console import Command, run_command
from lossselect.exceptions import ConfigError, FileMissingError
from lossselect.utils.terminal import print_safely


def write_run_report(run: str) -> None:
    """Write the report of a run, given by its folder or a file in it."""
    from lossselect.reporting.run_files import find_run_folder

    folder = find_run_folder(Path(run), _is_run)
    if not folder.exists():
        raise FileMissingError(f"The folder {folder} does not exist. Set run to a run folder.")
    if not _is_run(folder):
        raise FileMissingError(
            f"{folder} is not a run folder: it has neither plan.json nor logs/metrics.csv. Set run to a run "
            "folder."
        )
    if (folder / "metrics.json").is_file() and (folder / "report.html").is_file():
        raise ConfigError(
            f"{folder / 'report.html'} already exists, and a new report would lack the results on the test "
            "rows. Remove report.html to replace it."
        )
    from lossselect.reporting.page import write_report  # takes a second

    print_safely(f"Saved {write_report(folder)}")


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("plan.json", "logs/metrics.csv"))


COMMAND = Command(
    write_run_report,
    "report",
    "Write report.html for a run that ended early, with its plan and curves.\n\n"
    "  lossselect report run=FOLDER",
    {"run": ("FOLDER", "run folder, or a file in it")},
    required=("run",),
    epilog="A complete run writes its own report, with the results on the test rows.",
)

main = partial(run_command, COMMAND)
