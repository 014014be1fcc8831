"""Computes gradients and evaluation results in a group of processes; one group, because starting one takes seconds.

python distributed.py PROCESSES FOLDER in each process. The first one writes PROCESSES.pt, and a text file for each
case of GRADIENTS.
"""

import functools
import sys
import warnings
from pathlib import Path

import torch

GRADIENTS = {
    1: [("float64", 4, False)],
    2: [("float64", 1, True), ("float32", 4, True)],
    3: [("float64", 4, True)],
}
"""(dtype, micro-batches, some) for `gradients.compare`, by the number of processes."""
ROWS = 60
"""The number of rows of a batch over all processes."""

if __name__ == "__main__":
    # not at the top: pytest imports this file without its folder in sys.path
    import evaluation
    import gradients
    from lightning.fabric.utilities import registry

    warnings.simplefilter("ignore")
    # as in conftest.py: each Trainer reads the metadata of all installed packages, which takes 20 ms here
    registry.entry_points = functools.cache(registry.entry_points)
    torch.set_num_threads(1)
    ranks, folder = int(sys.argv[1]), Path(sys.argv[2])
    for dtype, group, some in GRADIENTS[ranks]:
        lines = gradients.compare(ranks, group, getattr(torch, dtype), some)
        if lines:
            (folder / f"{ranks}.{dtype}.txt").write_text("\n".join(lines))
    evaluation.evaluate(ranks, ROWS // ranks, folder / f"{ranks}.pt")
    if ranks > 1:
        torch.distributed.destroy_process_group()
