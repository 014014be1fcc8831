"""Time from a file of 1M rows x 20 columns to the first training step, compared with reading it with Polars.

Both functions run five times in turn in a process with all imports done. For peak memory, training runs once
in a separate process. Measures a CSV and a Parquet file.

python benchmarks/table.py
"""

import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import polars as pl

RUNS = 5
ROWS = 1_000_000


def make_files(folder: Path) -> list[Path]:
    """Write files with 16 numeric, 2 categorical and 1 boolean column, and labels of 10 classes."""
    generator = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            **{f"x{i}": generator.normal(size=ROWS) for i in range(16)},
            "colour": generator.choice(["red", "green", "blue"], ROWS),
            "shop": generator.choice([f"shop {i}" for i in range(50)], ROWS),
            "new": generator.random(ROWS) > 0.5,
            "y": generator.choice([f"class {i}" for i in range(10)], ROWS),
        }
    )
    frame.write_csv(folder / "t.csv")
    frame.write_parquet(folder / "t.parquet")
    return [folder / "t.csv", folder / "t.parquet"]


def read(path: str) -> pl.DataFrame:
    return pl.read_csv(path) if path.endswith("csv") else pl.read_parquet(path)


def first_step(path: str) -> None:
    """Do the same as `train.py data=table`, from reading the file to the first step."""
    from lightning.pytorch import Trainer

    import lossselect as ls
    from lossselect.data.datamodule import TensorData
    from lossselect.data.files.load import load_own_data
    from lossselect.tasks.registry import make_task

    splits = load_own_data(
        "table",
        task={"name": "multiclass"},
        path=path,
        val_path=None,
        test_path=None,
        val_fraction=0.2,
        test_fraction=0.2,
        seed=0,
        target="y",
    )
    task = make_task("multiclass", class_names=splits.class_names)
    data = TensorData(splits, task, batch_size=64)
    net = {"name": "mlp", "num_features": data.num_features, "hidden": [256]}
    trainer = Trainer(
        max_steps=1,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(ls.TaskModule(task, net), datamodule=data)


def resident() -> float:
    """Return the resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def peak_of(function: str, path: str) -> float:
    """Call a function; return the peak of resident memory above the start in MB."""
    peak, done = [resident()], threading.Event()
    start = peak[0]

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    {"read": read, "first_step": first_step}[function](path)
    done.set()
    watcher.join()
    return peak[0] - start


def main() -> None:
    from lossselect.run.trainer import quiet

    quiet()
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.csv"
        small.write_text("x,y\n" + "1,a\n2,b\n3,a\n4,b\n" * 20)
        warnings.simplefilter("ignore")
        first_step(str(small))  # imports, and one-time initialisation of torch and Lightning
        if len(sys.argv) > 1:
            print(peak_of(*sys.argv[1:]))
            return
        print(f"Polars {pl.__version__}, {ROWS:,} rows, medians of {RUNS}\n")
        heads = ("read, s", "step, s", "ratio", "table, MB", "peak, MB", "ratio")
        print(" " * 10, *(f"{head:>9}" for head in heads))
        for path in map(str, make_files(Path(folder))):
            size = read(path).estimated_size() / 1e6
            seconds: dict[str, list[float]] = {"read": [], "first_step": []}
            for _ in range(RUNS):
                for function in (read, first_step):
                    start = time.perf_counter()
                    function(path)
                    seconds[function.__name__].append(time.perf_counter() - start)
            reading, total = (statistics.median(times) for times in seconds.values())
            command = [sys.executable, __file__, "first_step", path]
            peak = float(
                subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
            )
            figures = (f"{reading:.2f}", f"{total:.2f}", f"{total / reading:.2f}")
            figures += (f"{size:.0f}", f"{peak:.0f}", f"{peak / size:.2f}")
            print(f"{Path(path).suffix:10}", *(f"{figure:>9}" for figure in figures))


if __name__ == "__main__":
    main()
