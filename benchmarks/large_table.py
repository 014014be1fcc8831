"""Memory and time of a table that is converted into mapped files, compared with the same table in memory.

A Parquet file has N rows x 20 columns (17 floats, two integers, a category) and labels of two classes. Each
case runs in a separate process: it prepares the data, iterates over all batches of an epoch without training,
and then trains an epoch of a small net. Memory is the peak of the process's own (anonymous) memory, imports
included; the system can reclaim pages of mapped files. The last case reuses the files of the one before.

python benchmarks/large_table.py [--rows 20000000]
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import torch
from mapped import SPLITS, used_memory

PART = 1_000_000
CASES = {"in memory": 1e6, "mapped, converted": 0, "mapped, reused": 0}
"""The cases, and their data.max_memory in GB."""


def make_file(folder: Path, rows: int) -> None:
    """Write t.parquet in parts, so that its size is not limited by the memory."""
    generator = np.random.default_rng(0)
    weights, cities = generator.normal(size=17), np.array([f"city {i}" for i in range(50)])
    for part in range(-(-rows // PART)):
        size = min(PART, rows - part * PART)
        values, city = generator.normal(size=(size, 17)).round(4), generator.integers(0, 50, size)
        noise = generator.normal(size=size) * 2
        columns = {f"x{i}": values[:, i] for i in range(17)}
        columns |= {"count": generator.integers(0, 1000, size), "code": generator.integers(0, 9, size)}
        columns |= {"city": cities[city], "y": (values @ weights + city / 10 + noise > 0).astype(np.int64)}
        pl.DataFrame(columns).write_parquet(folder / f"part-{part:04}.parquet")
    parts = sorted(folder.glob("part-*.parquet"))
    pl.scan_parquet(parts).sink_parquet(folder / "t.parquet")
    for path in parts:
        path.unlink()


def measure(folder: str, max_memory: float) -> None:
    """Print the peak of anonymous MB, and the seconds of preparation, of all batches, and of training."""
    from lightning.pytorch import Trainer

    import lossselect as ls
    from lossselect.data.datamodule import TensorData
    from lossselect.data.files.load import load_own_data
    from lossselect.tasks.registry import make_task

    peak, done = [used_memory()], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], used_memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    options = {**SPLITS, "target": "y", "max_memory": max_memory, "cache": f"{folder}/cache"}
    times = [time.perf_counter()]
    splits = load_own_data("table", task={"name": "binary"}, path=f"{folder}/t.parquet", **options)
    task = make_task("binary", class_names=splits.class_names)
    data = TensorData(splits, task, batch_size=1024)
    times.append(time.perf_counter())
    for _ in data.train_dataloader():
        pass
    times.append(time.perf_counter())
    layers = torch.nn.Linear(data.num_features, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1)
    module = ls.TaskModule(task, torch.nn.Sequential(*layers))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(module, data)
    times.append(time.perf_counter())
    done.set()
    watcher.join()
    print(peak[0], *np.diff(times))


def main() -> None:
    parser = argparse.ArgumentParser(description="A table in mapped files, compared with one in memory.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.measure:
        torch.set_num_threads(1)
        measure(arguments.measure[0], float(arguments.measure[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_file(Path(folder), arguments.rows)
        size = (Path(folder) / "t.parquet").stat().st_size
        print(f"{arguments.rows:,} rows x 20 columns, {size / 2**20:,.0f} MB of Parquet\n")
        print(
            f"{'':18}", *(f"{title:>14}" for title in ("peak, MB", "prepared, s", "batches, s", "trained, s"))
        )
        for title, limit in CASES.items():
            command = [sys.executable, __file__, "--measure", folder, str(limit)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            print(f"{title:18}", *(f"{figure:14,.1f}" for figure in map(float, done.stdout.split()[-4:])))


if __name__ == "__main__":
    main()
