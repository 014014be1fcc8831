"""Heads per second of a net with three tasks, compared with the same net with each task alone.

python benchmarks/several_tasks.py [ROUNDS]

Each fit trains 5 epochs of 4,096 rows in memory in batches of 64 on one thread, with a validation after each
epoch. The speed of several tasks is their number divided by the seconds of their fit; that of single tasks is
their number divided by the sum of the seconds of their fits. Medians, interleaved. The exit code is 1 if the
ratio is below 0.8.
"""

import logging
import statistics
import sys
import time
import warnings

import lightning.pytorch as L
import torch
from torch import nn

import lossselect as ls
from lossselect.data.batches import TensorBatches

ROWS, FEATURES, TARGET = 4096, 64, 0.8
TASKS = {"species": ls.Multiclass(10), "tags": ls.Multilabel(5), "sick": ls.Binary()}


def make_data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(ROWS, FEATURES, generator=generator)
    labels = {
        "species": torch.randint(10, (ROWS,), generator=generator),
        "tags": torch.randint(2, (ROWS, 5), generator=generator).float(),
        "sick": torch.randint(2, (ROWS,), generator=generator).float(),
    }
    return inputs, labels


def fit_seconds(task, labels, inputs, width):
    """Return the seconds of a fit of a net with a hidden layer."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, task.num_outputs))
    batches = TensorBatches(inputs, task.encode_tensor(labels))
    module = ls.TaskModule(task, net)
    extras = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    trainer = L.Trainer(accelerator="cpu", devices=1, max_epochs=5, **dict.fromkeys(extras, False))
    started = time.perf_counter()
    trainer.fit(module, batches.loader(64, shuffle=True), batches.loader(512))
    return time.perf_counter() - started


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    inputs, labels = make_data()
    worst = float("inf")
    for width in (64, 1024):
        times = {name: [] for name in (*TASKS, "several")}
        for _ in range(rounds):
            for name, task in TASKS.items():
                times[name].append(fit_seconds(task, labels[name], inputs, width))
            times["several"].append(fit_seconds(ls.MultiTask(TASKS), labels, inputs, width))
        medians = {name: statistics.median(values) for name, values in times.items()}
        ratio = sum(medians[name] for name in TASKS) / medians["several"]
        shown = ", ".join(f"{name} {value:.2f} s" for name, value in medians.items())
        print(f"hidden layer of {width}: {shown}")
        print(f"  heads per second of several / of single tasks: {ratio:.2f} (target: at least {TARGET})")
        worst = min(worst, ratio)
    return int(worst < TARGET)


if __name__ == "__main__":
    sys.exit(main())
