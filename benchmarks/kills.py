"""Intact checkpoints after processes are killed while saving.

Compares lossselect's `CheckpointFiles` with Lightning's `TorchCheckpointIO` on the file system of temporary
files and on another one (/dev/shm). Also fills a file system of 2 MB, if this machine allows mounting one.

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
"""Number of floats in a checkpoint: 8 MB."""


def content(number: int, size: int = SIZE) -> dict[str, object]:
    """Return a checkpoint whose weights equal its number."""
    checkpoint = {"state_dict": {}, "weights": torch.full((size,), float(number)), "number": number}
    ls.TaskModule(ls.Binary()).on_save_checkpoint(checkpoint)
    return checkpoint


def is_intact(path: Path) -> bool:
    """Return whether the checkpoint exists, and all its weights equal its number."""
    try:
        saved = read_checkpoint(path)
    except (FileNotFoundError, ValueError):
        return False
    return bool((saved["weights"] == saved["number"]).all())


def save_forever(files: TorchCheckpointIO, path: Path) -> None:
    """Save checkpoints until the process is killed."""
    number = 0
    while True:
        number += 1
        files.save_checkpoint(content(number), path)


def count_losses(files: TorchCheckpointIO, folder: Path, kills: int) -> int:
    """Return the number of kills after which there was no intact checkpoint."""
    path, chance, lost = folder / "last.ckpt", random.Random(0), 0
    for _ in range(kills):
        if not is_intact(path):
            files.save_checkpoint(content(0), path)
        child = os.fork()
        if not child:
            save_forever(files, path)
        time.sleep(0.01 + 0.15 * chance.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        lost += not is_intact(path)
    return lost


def save_on_full_disk(folder: Path) -> str:
    """Save to a file system of 2 MB that contains a checkpoint of 1.2 MB; return a description."""
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return "not tested: this machine does not allow mounting a file system"
    try:
        files, path = CheckpointFiles(), folder / "last.ckpt"
        files.save_checkpoint(content(1, 300_000), path)
        failed = 0
        for number in range(2, 12):
            try:
                files.save_checkpoint(content(number, 300_000), path)
            except (OSError, RuntimeError):
                failed += 1
        left = [file.name for file in folder.iterdir()]
        return f"{failed} of 10 saves failed; intact: {is_intact(path)}; files: {', '.join(left)}"
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def main() -> None:
    """Print the results for each file system."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    kills = parser.parse_args().kills
    torch.set_num_threads(1)  # a forked process has no other threads
    places = [Path(tempfile.gettempdir()), Path("/dev/shm")]
    for place in places:
        if not os.access(place, os.W_OK):
            print(f"{place}: not writable, skipped")
            continue
        for files in (CheckpointFiles(), TorchCheckpointIO()):
            folder = Path(tempfile.mkdtemp(prefix="kills-", dir=place))
            try:
                lost = count_losses(files, folder, kills)
            finally:
                shutil.rmtree(folder)
            print(f"{place}, {type(files).__name__}: {lost} of {kills} kills lost the checkpoint", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print(f"a full disk of 2 MB: {save_on_full_disk(Path(folder))}")


if __name__ == "__main__":
    main()
