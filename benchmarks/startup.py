"""CPU seconds of startup, compared with `import torch` in the same run: medians of 7, interleaved.

python benchmarks/startup.py
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

TRAIN = str(Path(__file__).resolve().parent.parent / "train.py")
RUNS = 7
STEPPED = 77
"""The exit code of a run that has reached its first step."""
FIRST_STEP = """
import os, sys
sys.argv = ["train.py", "task=multiclass"]
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
COMMANDS = {
    "import torch": ["-c", "import torch"],
    "import lossselect": ["-c", "import lossselect"],
    "lossselect.Binary": ["-c", "import lossselect; lossselect.Binary"],
    "train.py --help": [TRAIN, "--help"],
    "train.py task=multilable": [TRAIN, "task=multilable"],
    "train.py ... loss.gama=1": [TRAIN, "task=binary", "loss=focal", "loss.gama=1"],
    "train.py ... loss.pos_weight=3": [TRAIN, "task=multiclass", "loss.pos_weight=3"],
    "train.py ... +trainer.foo=1": [TRAIN, "task=multiclass", "+trainer.foo=1"],
    "train.py ... monitor=val/f1": [TRAIN, "task=multiclass", "monitor=val/f1"],
    "train.py ... explain=true": [TRAIN, "task=multiclass", "explain=true"],
    "train.py ... check_only=true": [TRAIN, "task=multiclass", "check_only=true"],
    "import torch, lightning, torchmetrics": ["-c", "import torch, lightning.pytorch, torchmetrics"],
    "train.py ..., to the first step": ["-c", FIRST_STEP],
}


def cpu_seconds(arguments: list[str], folder: str) -> float:
    """Return user and system time of one run in a separate process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, cwd=folder, check=False, text=True
    )
    if "Traceback" in done.stderr or (FIRST_STEP in arguments) != (done.returncode == STEPPED):
        sys.exit(f"{arguments} failed: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure all commands in turn, and print a table."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(RUNS + 1):
            for name, arguments in COMMANDS.items():
                seconds[name].append(cpu_seconds(arguments, folder))
    # the first round fills the disk cache and writes byte code
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, medians of {RUNS}\n")
    print(f"{'':40} CPU s   x import torch")
    for name, value in medians.items():
        print(f"{name:40} {value:5.2f}   {value / medians['import torch']:5.2f}")
    first, bare = medians["train.py ..., to the first step"], medians["import torch, lightning, torchmetrics"]
    print(f"\nTo the first step {first / bare:.2f} x the bare imports of torch, lightning and torchmetrics")


if __name__ == "__main__":
    main()
