"""Cost of plan and report: the yeast run with and without report, and explain without its imports.

Prints medians in seconds, and the size of the report in MB.

python benchmarks/report.py [ROUNDS]     5 by default; the commands alternate in each round
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAIN = str(Path(__file__).resolve().parent.parent / "train.py")
EXPLAIN = """
import sys
sys.argv = ["lossselect", "explain", "task=multilabel"]
from lossselect import cli
try:
    cli.main()
except SystemExit:
    pass
open("{path}", "w").write("\\n".join(name for name in sys.modules if name != "__main__"))
"""
IMPORTS = """
import contextlib, importlib
for name in open("{path}").read().split("\\n"):
    with contextlib.suppress(Exception):
        importlib.import_module(name)
"""


def seconds(*arguments: str, folder: str) -> float:
    """Return the wall time of a process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


def main(rounds: int) -> None:
    """Measure all commands in turn, and print medians."""
    with tempfile.TemporaryDirectory() as folder:
        run = [TRAIN, "task=multilabel", "trainer.max_epochs=5"]
        path = str(Path(folder) / "modules")
        commands = {
            "with report": [*run, "hydra.run.dir=with"],
            "without": [*run, "hydra.run.dir=without", "report=false"],
            "explain": ["-c", EXPLAIN.format(path=path)],
            "its imports": ["-c", IMPORTS.format(path=path)],
        }
        took: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                took[name].append(seconds(*command, folder=folder))
        size = (Path(folder) / "with" / "report.html").stat().st_size
    median = {name: statistics.median(values) for name, values in took.items()}
    report, explain = median["with report"] - median["without"], median["explain"] - median["its imports"]
    for name, value in median.items():
        print(f"{name:12} {value:5.2f} s")
    print(f"report {report:.2f} s, {size / 1e6:.2f} MB; explain without imports {explain:.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
