"""CPU seconds of startup, compared with those of `import torch` in the same run: medians of 7, interleaved.

python benchmarks/startup.py [WORD]     only commands whose name contains WORD, and the imports

A row has a target if it must not take longer than so many times `import torch`, or for the first step, the
imports of torch, lightning and torchmetrics. The exit code is 1 if a target is missed.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from lossselect.cli import COMMANDS

TRAIN = str(Path(__file__).resolve().parent.parent / "train.py")
RUNS = 7
STEPPED = 77
"""The exit code of a run that has reached its first step."""
FIRST_STEP = """
import os, sys
sys.argv = ["train.py", "task=TASK"]
from lossselect.cli import train
from lossselect.run import build
original = build.prepare

def prepare(config):
    prepared = original(config)
    object.__setattr__(prepared[0], "training_step", lambda *_: os._exit(77))
    return prepared

build.prepare = prepare
train.main()
"""
TASKS = ("binary", "multiclass", "multilabel")
TORCH, BARE = "import torch", "import torch, lightning, torchmetrics"
IMPORTS = {
    TORCH: ["-c", "import torch"],
    # ends like FIRST_STEP, without the time that Python needs to remove the modules
    BARE: ["-c", f"import torch, lightning.pytorch, torchmetrics, os; os._exit({STEPPED})"],
}
MEASURED = {
    "lossselect --help": ["-m", "lossselect", "--help"],
    **{f"lossselect {name} --help": ["-m", "lossselect", name, "--help"] for name in COMMANDS},
    "train.py --help": [TRAIN, "--help"],
    "import lossselect": ["-c", "import lossselect"],
    "lossselect.Binary": ["-c", "import lossselect; lossselect.Binary"],
    "train.py task=multilable": [TRAIN, "task=multilable"],
    "train.py ... loss.gama=1": [TRAIN, "task=binary", "loss=focal", "loss.gama=1"],
    "train.py ... loss.pos_weight=3": [TRAIN, "task=multiclass", "loss.pos_weight=3"],
    "train.py ... +trainer.foo=1": [TRAIN, "task=multiclass", "+trainer.foo=1"],
    "train.py ... monitor=val/f1": [TRAIN, "task=multiclass", "monitor=val/f1"],
    **{f"lossselect explain task={task}": ["-m", "lossselect", "explain", f"task={task}"] for task in TASKS},
    "train.py ... check_only=true": [TRAIN, "task=multiclass", "check_only=true"],
    **{
        f"train.py task={task}, to the first step": ["-c", FIRST_STEP.replace("TASK", task)] for task in TASKS
    },
}


def find_target(name: str) -> tuple[str, float] | None:
    """Return the imports with which a command is compared, and its target, if it has one."""
    if name.endswith("--help"):
        return TORCH, 0.2
    if name.startswith("lossselect explain"):
        return TORCH, 1.2
    return (BARE, 1.3) if name.endswith("first step") else None


def cpu_seconds(arguments: list[str], folder: str) -> float:
    """Return user and system time of one run in a separate process."""
    # the first run writes byte code, as an installation does
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, cwd=folder, check=False, text=True, env=variables
    )
    if "Traceback" in done.stderr or (f"_exit({STEPPED})" in arguments[-1]) != (done.returncode == STEPPED):
        sys.exit(f"{arguments} failed: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure all commands in turn, and print a table."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    commands = {**IMPORTS, **{name: command for name, command in MEASURED.items() if word in name}}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(RUNS + 1):
            for name, arguments in commands.items():
                seconds[name].append(cpu_seconds(arguments, folder))
    # the first round fills the disk cache and writes byte code
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, medians of {RUNS}\n")
    print(f"{'':42} CPU s   x imports   target")
    missed = False
    for name, value in medians.items():
        imports, target = find_target(name) or (TORCH, None)
        ratio = value / medians[imports]
        missed |= target is not None and ratio > target
        print(f"{name:42} {value:5.2f}   {ratio:9.2f}   {target or ''}")
    sys.exit(missed)


if __name__ == "__main__":
    main()
