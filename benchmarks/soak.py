"""Memory growth over many steps of a small run.

python benchmarks/soak.py [STEPS]       200,000 steps by default, about ten minutes on one core

Trains a net of 103-64-14 on the yeast data with batch size 64, validation, checkpoints, a log, and checks for
signals and non-finite numbers. Prints resident memory after a tenth of the steps, its maximum after that, and
its value at the end.
"""

import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

import lossselect as ls
from lossselect.data.datamodule import TensorData
from lossselect.data.toy import load
from lossselect.run.trainer import quiet

PAGE = os.sysconf("SC_PAGE_SIZE")


class Memory(Callback):
    """Records resident memory in MB at the end of each epoch."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.sizes.append((trainer.global_step, pages * PAGE / 1e6))


def main(steps: int) -> None:
    quiet()
    splits = load("yeast", seed=0, val_fraction=0.2, test_fraction=None)
    task = ls.Multilabel(14, class_names=splits.class_names)
    net = {"name": "mlp", "num_features": splits.features.shape[1], "hidden": [64]}
    module = ls.TaskModule(task, net, optimizer={"name": "AdamW", "lr": 1e-3}, bias_init="prior")
    memory = Memory()
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_steps=steps,
            max_epochs=-1,
            accelerator="cpu",
            check_val_every_n_epoch=5,
            callbacks=[
                memory,
                ls.StepsPerExecution(16),
                ls.CheckpointOnSignal(Path(folder) / "last.ckpt"),
                ModelCheckpoint(folder, "best", monitor="val/loss", save_last=True, every_n_epochs=50),
            ],
            logger=CSVLogger(folder),
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        began = time.perf_counter()
        trainer.fit(module, datamodule=TensorData(splits, task, 64))
        seconds = time.perf_counter() - began
    warm = [size for step, size in memory.sizes if step >= steps / 10]
    print(
        f"{trainer.global_step:,} steps in {seconds:.0f} s: {warm[0]:.1f} MB after a tenth, at most "
        f"{max(warm):.1f} ({100 * (max(warm) / warm[0] - 1):+.1f} %), {warm[-1]:.1f} at the end "
        f"({100 * (warm[-1] / warm[0] - 1):+.1f} %)"
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
