"""Processes that are killed while they save: is the checkpoint before it still there, and whole?

On the file system of temporary files and on another one (/dev/shm), with our way of saving and with
Lightning's; and on a full one of 2 MB, where this machine lets one be mounted.

python benchmarks/kills.py [--kills 100]
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

import lossselect as ls
from lossselect.training.checkpoints.content import read_checkpoint
from lossselect.training.checkpoints.saving import CheckpointFiles

SIZE = 2_000_000
"""Floats of a checkpoint: 8 MB."""


def content(number: int, size: int = SIZE) -> dict[str, object]:
    """A checkpoint whose weights tell its number."""
    weights = torch.full((size,), float(number))
    return {"task": ls.Binary().to_dict(), "arguments": {}, "weights": weights, "number": number}


def is_whole(path: Path) -> bool:
    """Whether there is a checkpoint, all of it of one number."""
    try:
        found = read_checkpoint(path)
    except (FileNotFoundError, ValueError):
        return False
    return bool((found["weights"] == found["number"]).all())


def save_for_ever(files: TorchCheckpointIO, path: Path) -> None:
    """What the child does until it is killed."""
    number = 0
    while True:
        number += 1
        files.save_checkpoint(content(number), path)


def killed(files: TorchCheckpointIO, folder: Path, kills: int) -> int:
    """Of so many kills, after how many there was no whole checkpoint."""
    path, chance, lost = folder / "last.ckpt", random.Random(0), 0
    for _ in range(kills):
        if not is_whole(path):
            files.save_checkpoint(content(0), path)
        child = os.fork()
        if not child:
            save_for_ever(files, path)
        time.sleep(0.01 + 0.15 * chance.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        lost += not is_whole(path)
    return lost


def on_a_full_disk(folder: Path) -> str:
    """Saving on 2 MB where one checkpoint of 1.2 MB lies."""
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return "not tried: this machine mounts no file system"
    try:
        files, path = CheckpointFiles(), folder / "last.ckpt"
        files.save_checkpoint(content(1, 300_000), path)
        refused = 0
        for number in range(2, 12):
            try:
                files.save_checkpoint(content(number, 300_000), path)
            except (OSError, RuntimeError):
                refused += 1
        left = [file.name for file in folder.iterdir()]
        return f"{refused} of 10 refused; whole: {is_whole(path)}; files: {', '.join(left)}"
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    kills = parser.parse_args().kills
    torch.set_num_threads(1)  # a forked process has no others
    places = [Path(tempfile.gettempdir()), Path("/dev/shm")]
    for place in places:
        if not os.access(place, os.W_OK):
            print(f"{place}: not there")
            continue
        for files in (CheckpointFiles(), TorchCheckpointIO()):
            folder = Path(tempfile.mkdtemp(prefix="kills-", dir=place))
            try:
                lost = killed(files, folder, kills)
            finally:
                shutil.rmtree(folder)
            print(f"{place}, {type(files).__name__}: {lost} of {kills} kills lost the checkpoint", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print(f"a full disk of 2 MB: {on_a_full_disk(Path(folder))}")


if __name__ == "__main__":
    main()
