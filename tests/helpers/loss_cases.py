"""Helpers for test_losses.py, test_loss_options.py and test_loss_identities.py."""

import math

import numpy as np
import torch
from torch.nn import functional as F

import lossselect as ls


def log_softmax(x):
    return x - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)) - x.max(1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(log_softmax(x))


PRIOR = [0.2, 0.3, 0.5]


ROWS = [(name, activation) for name, forms in ls.LOSSES.items() for activation in forms]


TASKS = {"sigmoid": ls.Multilabel(3), "softmax": ls.Multiclass(3)}


def trailing(name):
    """Return the trailing dimensions of the logits, which dice requires."""
    return (5,) if name == "dice" else ()


def random_logits(name, rows=8, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(rows, 3, *trailing(name), dtype=dtype)


def hard_target(activation, rows=8, more=()):
    if activation == "sigmoid":
        return torch.randint(0, 2, (rows, 3, *more)).float()
    return torch.arange(rows * math.prod(more)).reshape(rows, *more) % 3


def soft_target(activation, rows=8, dtype=torch.float64, more=()):
    random = torch.rand(rows, 3, *more, dtype=dtype)
    return random if activation == "sigmoid" else random / random.sum(1, keepdim=True)


def both_targets(name, activation, rows=8, dtype=torch.float64):
    more = trailing(name)
    return hard_target(activation, rows, more), soft_target(activation, rows, dtype, more)


def needed(name):
    """Return the required options of a loss."""
    return {"prior": PRIOR} if name == "logit_adjusted" else {}


def as_probabilities(target):
    """Return a target as probabilities (N, C, ...): soft labels, or one-hot rows for class indices."""
    return target if target.is_floating_point() else F.one_hot(target, 3).movedim(-1, 1)
