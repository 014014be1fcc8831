"""Priors and weights of classes or labels, computed from the counts of the training labels.

Priors are clipped by half a row: with a prior of 0 or 1, an infinite logit would keep the head from learning.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from lossselect.exceptions import ConfigError
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import Task
from lossselect.utils.checks import check_choice

MAX_POS_WEIGHT = 100.0
"""Maximum of `pos_weight=auto` (the minimum is 1 / 100), so that no positive dominates a batch."""

BETA = 0.999
"""Default of `beta` for `weight=effective_number`."""


def class_prior(task: Task, counts: LabelCounts) -> np.ndarray:
    """Return the frequency of each class (C,), summing to 1, or of the positives of each label (L,)."""
    if task.activation == "softmax":
        mass = np.maximum(counts.mass, 0.5)
        return mass / mass.sum()
    mass, known = counts.mass[-task.num_outputs :], counts.known[-task.num_outputs :]
    return np.asarray(np.clip(mass, 0.5, np.maximum(known - 0.5, 0.5)) / np.maximum(known, 1))


def balanced_weight(mass: np.ndarray, beta: float) -> np.ndarray:
    """Return N / (C n_c), like scikit-learn's `class_weight="balanced"`."""
    return np.asarray(mass.sum() / (len(mass) * mass))


def effective_number_weight(mass: np.ndarray, beta: float) -> np.ndarray:
    """Return (1 - beta) / (1 - beta^n_c), scaled to a mean of 1 (Cui et al., CVPR 2019, arXiv:1901.05555)."""
    if not beta:
        return np.ones(len(mass))
    weight = -1 / np.expm1(mass * np.log(beta))  # 1 - beta^n without rounding for beta near 1
    return np.asarray(weight / weight.mean())


WEIGHTS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "balanced": balanced_weight,
    "effective_number": effective_number_weight,
}
"""Functions that compute `weight` from the counts n_c of the classes that occur; others have weight 1."""


def is_counted(option: str, value: Any, task: Task) -> bool:
    """Return whether an option is a name such as "balanced" or "auto"; raise ConfigError if it is unknown."""
    if not isinstance(value, str):
        return False
    if option == "prior":
        raise ConfigError(
            f"prior must be a list of class frequencies, got {value!r}. Remove prior to compute it from the "
            "training labels."
        )
    check_choice(option, value, ["auto"] if option == "pos_weight" else WEIGHTS)
    if option == "weight" and len(task.output_names) == 1:
        raise ConfigError(
            f"weight={value} weights several classes, but task={task.name} has only one output. Set "
            "pos_weight=auto to weight its positives against its negatives."
        )
    return True


def count_option(
    option: str, name: str | None, task: Task, counts: LabelCounts, beta: float | None
) -> np.ndarray:
    """Compute an option from the counts of the training labels, one value per output.

    `pos_weight` is negatives / positives of each label, clipped to [0.01, 100]; 1 if a label lacks either.
    """
    if option == "prior" or name is None:
        return class_prior(task, counts)
    weight = np.ones(len(task.output_names))
    if option == "pos_weight":
        positives = counts.mass[-task.num_outputs :]
        negatives = counts.known[-task.num_outputs :] - positives
        both = (positives > 0) & (negatives > 0)
        weight[both] = np.clip(negatives[both] / positives[both], 1 / MAX_POS_WEIGHT, MAX_POS_WEIGHT)
    elif (present := counts.mass > 0).any():
        weight[present] = WEIGHTS[name](counts.mass[present], BETA if beta is None else beta)
    return weight
