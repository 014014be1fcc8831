"""`lossselect compare`: runs side by side, with intervals and tests on common test rows.

lossselect compare runs/a runs/b
"""

import json
import re
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossselect.cli.console import announce, print_errors_in_one_line, print_warnings_in_one_line
from lossselect.exceptions import ConfigError
from lossselect.utils.atomic_write import atomic_write, check_output
from lossselect.utils.checks import shorten
from lossselect.utils.terminal import escape_controls_in_json, print_safely, sanitize

if TYPE_CHECKING:
    from lossselect.comparison.compare import Comparison

DESCRIPTION = """\
Compare runs: their settings, their metrics with 95 % intervals, and tests on the test rows that they have in
common.

  lossselect compare runs/a runs/b
  lossselect compare multirun/2026-01-31/12-00-00     all runs of a sweep
  lossselect compare 'runs/lr*' --json
"""


def main() -> None:
    """Run the command."""
    arguments = sys.argv[1:]
    parser = _make_parser()
    if not arguments or {"-h", "--help"} & {*arguments}:
        parser.print_help()
        return
    # other commands write settings as KEY=VALUE
    arguments = [re.sub("^json=true$", "--json", word) for word in arguments if word != "json=false"]
    arguments = [re.sub("^output=", "--output=", word) for word in arguments]
    with print_errors_in_one_line(arguments), print_warnings_in_one_line(""):
        options, others = parser.parse_known_args(arguments)
        if unknown := [word for word in others if word.startswith("-")]:
            raise ConfigError(f"Unknown option {unknown[0]}. The options are --json and --output FILE.")
        if not options.json:
            announce(shorten(options.runs))
        compare_runs(options.runs, options.json, options.output)


def _make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        "lossselect compare",
        "%(prog)s RUN RUN ... [--json] [--output FILE]",
        DESCRIPTION,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folder, folder of a sweep, or a pattern")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")
    parser.add_argument(
        "--output", default="compare.html", metavar="FILE", help="page to write, by default compare.html"
    )
    return parser


def compare_runs(words: Sequence[str], as_json: bool, output: str) -> None:
    """Print the comparison of runs, or print it as JSON, and write a page."""
    from lossselect.comparison.runs import expand_runs, read_runs

    page = Path(output)
    check_output(page, (".html",))
    runs = read_runs(expand_runs(words))
    if len(runs) < 2:
        raise ConfigError(f"There is only one run, {runs[0].folder}. Give at least two.")
    from lossselect.comparison.compare import compare

    comparisons = compare(runs)
    if as_json:
        text = json.dumps([comparison.to_dict() for comparison in comparisons], ensure_ascii=False, indent=1)
        print_safely(escape_controls_in_json(text))
    else:
        for comparison in comparisons:
            print_comparison(comparison)
    from lossselect.comparison.page import comparison_page

    with atomic_write(page) as path:
        path.write_text(comparison_page(comparisons), encoding="utf-8")
    if not as_json:
        print_safely(f"Saved {page}")


def print_comparison(comparison: "Comparison") -> None:
    """Print the table of runs, the intervals, and the differences from the reference."""
    from lossselect.comparison.sweep import print_runs
    from lossselect.reporting.plan import print_table

    print_runs(comparison.table)
    for error, failed in comparison.table.errors().items():
        print_safely(f"{shorten(failed)}: {error}")
    for task, test_rows in comparison.test_rows.items():
        start = f"{task}: " if task else ""
        if test_rows.intervals:
            names = _shown(test_rows.intervals.values())
            rows = [
                [
                    run,
                    *(f"{v[n].value:.3f} [{v[n].low:.3f}, {v[n].high:.3f}]" if n in v else "" for n in names),
                ]
                for run, v in test_rows.intervals.items()
            ]
            title = f"{start}Test rows of each run: value [95 % interval]"
            print_table(sanitize(title), rows, ["", *names])
        if test_rows.differences:
            names = _shown(values for _, values in test_rows.differences.values())
            rows = [
                [run, str(count), *(f"{v[n].value:+.3f}, p={v[n].p:.3f}" if n in v else "" for n in names)]
                for run, (count, v) in test_rows.differences.items()
            ]
            reference = comparison.reference.name
            title = f"{start}Difference from {reference} on common test rows (p of a randomisation test)"
            print_table(sanitize(title), rows, ["", "rows", *names])
    for note in comparison.notes:
        print_safely(note)


def _shown(metrics: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the metrics that fit on a console; the page also has F1 of a positive class."""
    return [name for name in dict.fromkeys(name for values in metrics for name in values) if name != "f1"]
