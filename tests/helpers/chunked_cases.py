"""Helpers for test_chunked_loss.py, test_chunked_training.py and test_topk_metrics.py."""

import numpy as np
import torch

import lossselect as ls

ROWS, WIDTH, C = 37, 8, 23


TASKS = {"multilabel": ls.Multilabel(C), "multiclass": ls.Multiclass(C)}


NAN = float("nan")


EACH = np.random.default_rng(0).uniform(0.2, 5, C).tolist()


def target_of(task, missing):
    if task.name == "multiclass":
        target = torch.randint(0, C, (ROWS,))
        return target.masked_fill(torch.arange(ROWS) % 5 == 0, -100) if missing else target
    target = (torch.rand(ROWS, C) < 0.2).double()
    if missing:
        target[3] = NAN
        target[torch.rand(ROWS, C) < 0.1] = NAN
    return target
