"""Interrupted and resumed runs, compared with uninterrupted ones.

python benchmarks/stops.py [kills|signals] [ROUNDS]

kills    kill -9 at a random time, then resume=auto: compares all files, and each value of the checkpoints
signals  SIGTERM and SIGINT to one process, and to the first, the second and both of two processes: exit code,
         seconds, loadable checkpoints, and remaining processes
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from lossselect.training.checkpoints.content import read_checkpoint

TRAIN = Path(__file__).resolve().parent.parent / "train.py"
SETTINGS = ["task=multilabel", "trainer.accelerator=cpu", "hydra.run.dir=run", "resume=auto"]
TWO = ["trainer=ddp", "trainer.devices=2", "data.batch_size=32"]


def start(folder: Path, *settings: str) -> "subprocess.Popen[bytes]":
    """Start a run in a folder, as the leader of a new process group."""
    return subprocess.Popen(
        [sys.executable, str(TRAIN), *SETTINGS, *settings],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def list_group(leader: int) -> list[int]:
    """Return the process ids of a run and of the processes it has started, sorted."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == leader and fields[0] != "Z":
                found.append(int(entry.name))
    return sorted(found)


def wait_for_epoch(folder: Path, process: "subprocess.Popen[bytes]") -> bool:
    """Wait for the first epoch in the log; return whether there is one."""
    while process.poll() is None:
        if (folder / "run" / "logs" / "metrics.csv").is_file():
            return True
        time.sleep(0.02)
    return False


def plain(content: object) -> object:
    """Return the content of a checkpoint with its tensors as bytes, which can be compared."""
    if isinstance(content, torch.Tensor):
        return str(content.dtype), tuple(content.shape), content.numpy().tobytes()
    if isinstance(content, dict):
        return {key: plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    return repr(content)  # so that NaN equals NaN


def results(folder: Path) -> dict[str, object]:
    """Return the results of a run, without the lines of its plan about resuming."""
    run = folder / "run"
    left: dict[str, object] = {
        name: (run / name).read_bytes() for name in ("metrics.json", "predictions.csv", "logs/metrics.csv")
    }
    lines = json.loads((run / "plan.json").read_text())["lines"]
    left["plan.json"] = [line for line in lines if line["name"] not in ("outputs", "resumed")]
    for name in ("best.ckpt", "last.ckpt"):
        text = json.dumps(plain(read_checkpoint(run / "checkpoints" / name)), default=repr)
        left[name] = text.replace(str(folder), "FOLDER")
    return left


MONITORS = {
    "val/loss": ["monitor=val/loss"],
    "val/f1_macro": ["monitor=val/f1_macro", "optimizer.lr=0.03"],  # goes up and down
    "epoch": ["monitor=last"],
    "within epochs": [
        *("monitor=val/f1_macro", "optimizer.lr=0.03", "+trainer.val_check_interval=7"),
        "trainer.accumulate_grad_batches=2",
    ],
}


def kills(rounds: int) -> None:
    """Kill each run three times, and compare its files; the rounds are divided among the monitors."""
    for title, more in MONITORS.items():
        settings = ["trainer.max_epochs=12", *more]
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder)
            began = time.perf_counter()
            process = start(whole, *settings)
            assert process.wait() == 0, process.stderr and process.stderr.read()
            seconds, expected = time.perf_counter() - began, results(whole)
        same = killed = 0
        count = -(-rounds // len(MONITORS))
        for _ in range(count):
            with tempfile.TemporaryDirectory() as folder:
                here = Path(folder)
                code, here_killed = -1, 0
                while code:
                    process = start(here, *settings)
                    if here_killed < 3 and wait_for_epoch(here, process):
                        time.sleep(random.uniform(0, 0.25 * seconds))
                        os.killpg(process.pid, signal.SIGKILL)
                        here_killed += 1
                    code = process.wait()
                    assert code in (0, -9), process.stderr and process.stderr.read()
                killed += here_killed
                left = results(here)
                same += left == expected
                if left != expected:
                    print("different:", *(name for name in expected if left[name] != expected[name]))
        print(f"{title}: {count} runs, killed {killed} times: {same} with equal files", flush=True)


def signals(rounds: int) -> None:
    """Send each signal to each choice of processes, and print the outcome."""
    for which, expected in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        for title, settings, to in (
            ("a single process", [], [0]),
            ("the first of two", TWO, [0]),
            ("the second of two", TWO, [1]),
            ("both", TWO, [0, 1]),
        ):
            codes, took, loadable, left = [], [], 0, 0
            for _ in range(rounds):
                with tempfile.TemporaryDirectory() as folder:
                    process = start(Path(folder), "trainer.max_epochs=4000", *settings)
                    assert wait_for_epoch(Path(folder), process), process.stderr and process.stderr.read()
                    time.sleep(random.uniform(0, 1))
                    group = list_group(process.pid)
                    began = time.perf_counter()
                    for i in to:
                        os.kill(group[i], which)
                    try:
                        codes.append(process.wait(timeout=60))
                    except subprocess.TimeoutExpired:
                        codes.append(-1)
                    took.append(time.perf_counter() - began)
                    last = read_checkpoint(Path(folder) / "run" / "checkpoints" / "last.ckpt")
                    loadable += bool(last["global_step"])
                    for _ in range(100):
                        if not (others := list_group(process.pid)):
                            break
                        time.sleep(0.1)
                    left += len(others)
                    if others:
                        os.killpg(process.pid, signal.SIGKILL)
            right = codes.count(expected)
            print(
                f"{signal.Signals(which).name} to {title}: exit code {expected} in {right} of {rounds}, at "
                f"most {max(took):.1f} s, {loadable} loadable checkpoints, {left} remaining processes",
                flush=True,
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    random.seed(0)
    what = sys.argv[1] if len(sys.argv) > 1 else "all"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    if what in ("all", "kills"):
        kills(count or 20)
    if what in ("all", "signals"):
        signals(count or 10)
