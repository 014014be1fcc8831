"""Memory and time of a mapped .npy file, compared with the same arrays loaded from a .npz file.

For each file of N rows x 64 float32 and 10 classes, a separate process prepares the data (splits,
statistics, checks) and iterates over all batches of an epoch, without training. Memory is counted above that
after imports: `anonymous` is the process's own memory; `resident` includes pages of the mapped file, which
the system can reclaim. Then the time of batches of random rows is compared with a float32 tensor in memory:
medians of 9, interleaved.

python benchmarks/mapped.py [--rows 10000000]
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from lossselect.data.datamodule import TensorData
from lossselect.data.files.load import load_own_data
from lossselect.data.splits import Splits
from lossselect.tasks.registry import make_task

RUNS = 9
WIDTH = 64
SPLITS = {"val_path": None, "test_path": None, "val_fraction": 0.15, "test_fraction": 0.2, "seed": 0}


def make_files(folder: Path, rows: int) -> int:
    """Write x.npy and y.npy, and both arrays to d.npz; return the size of the features in bytes."""
    generator = np.random.default_rng(0)
    inputs = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (rows, WIDTH))
    for start in range(0, rows, 100_000):
        part = inputs[start : start + 100_000]
        part[:] = generator.standard_normal(part.shape, dtype=np.float32)
    inputs.flush()
    labels = generator.integers(0, 10, rows)
    np.save(folder / "y.npy", labels)
    np.savez(folder / "d.npz", X=inputs, y=labels)
    return inputs.nbytes


def load(folder: Path, name: str) -> Splits:
    target = str(folder / "y.npy") if name == "x.npy" else None
    return load_own_data(
        "arrays", task={"name": "multiclass"}, path=str(folder / name), target=target, **SPLITS
    )


def used_memory(name: str = "RssAnon") -> float:
    """Return MB of anonymous memory, or another entry of /proc/self/status; NaN if not available."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), float("nan"))


def measure(folder: Path, name: str) -> None:
    """Print the peaks of anonymous and resident MB, and the seconds of the preparation and of an epoch."""
    anonymous, done = [used_memory()], threading.Event()
    start, resident = used_memory(), used_memory("VmRSS")

    def watch() -> None:
        while not done.wait(0.002):
            anonymous[0] = max(anonymous[0], used_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.perf_counter()
    splits = load(folder, name)
    data = TensorData(splits, make_task("multiclass", class_names=splits.class_names), batch_size=64)
    prepared = time.perf_counter()
    for _ in data.train_dataloader():
        pass
    ended = time.perf_counter()
    done.set()
    watcher.join()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(anonymous[0] - start, peak - resident, prepared - begun, ended - prepared)


def compare_batches(folder: Path) -> None:
    """Print the speed of reading random rows from the mapped file and from a tensor."""
    mapped = load(folder, "x.npy").features
    tensor = torch.cat([mapped[rows] for rows in torch.arange(len(mapped)).split(100_000)])
    print(f"\n{'batch size':>14} {'mapped, M/s':>14} {'tensor, M/s':>14} {'difference, us':>16}")
    for size in (64, 256, 1024):
        seconds: dict[str, list[float]] = {"mapped": [], "tensor": []}
        for _ in range(RUNS):
            batches = torch.randint(0, len(tensor), (200_000 // size, size))
            for key, rows in {"mapped": mapped, "tensor": tensor}.items():
                start = time.perf_counter()
                for batch in batches:
                    rows[batch]
                seconds[key].append((time.perf_counter() - start) / len(batches))
        one, other = (statistics.median(times) for times in seconds.values())
        print(f"{size:14} {size / one / 1e6:14.2f} {size / other / 1e6:14.2f} {(one - other) * 1e6:16.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="A mapped .npy file, compared with a .npz file.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if arguments.measure:
        with tempfile.TemporaryDirectory() as small:
            make_files(Path(small), 100)
            load(Path(small), "x.npy")  # imports
        measure(Path(arguments.measure[0]), arguments.measure[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        size = make_files(Path(folder), arguments.rows)
        print(f"{arguments.rows:,} rows x {WIDTH} float32, {size / 2**20:,.0f} MB\n")
        print(f"{'':14} {'anonymous, MB':>14} {'resident, MB':>14} {'prepared, s':>14} {'epoch, s':>14}")
        for name, title in {"x.npy": ".npy, mapped", "d.npz": ".npz, loaded"}.items():
            command = [sys.executable, __file__, "--measure", folder, name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            figures = map(float, done.stdout.split())
            print(f"{title:14}", *(f"{figure:14,.1f}" for figure in figures))
        compare_batches(Path(folder))


if __name__ == "__main__":
    main()
