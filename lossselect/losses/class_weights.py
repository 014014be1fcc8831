"""Priors and weights of classes or labels, from the counts of the train labels.

Priors are clipped by half a row: with log 0 a head could never learn a class that no row, or each row, has.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from lossselect.exceptions import ConfigError
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import Task
from lossselect.utils.checks import lookup

MAX_POS_WEIGHT = 100.0
"""The maximum of `pos_weight=auto`, whose minimum is 1 / 100: a positive should not dominate a batch."""

BETA = 0.999
"""The default `beta` of `weight=effective_number`."""


def class_prior(task: Task, counts: LabelCounts) -> np.ndarray:
    """Return the share of each class (C,), summing to 1, or of the positives of each label (L,)."""
    if task.activation == "softmax":
        mass = np.maximum(counts.mass, 0.5)
        return mass / mass.sum()
    mass, known = counts.mass[-task.num_outputs :], counts.known[-task.num_outputs :]
    return np.asarray(np.clip(mass, 0.5, np.maximum(known - 0.5, 0.5)) / np.maximum(known, 1))


def balanced_weight(mass: np.ndarray, beta: float) -> np.ndarray:
    """Return N / (C n_c), as scikit-learn's `class_weight="balanced"`."""
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
"""The names of `weight`, with functions of the counts n_c of the classes that occur; other classes have 1."""


def is_counted(option: str, value: Any, task: Task) -> bool:
    """Whether an option is a name, such as "balanced" or "auto"; ValueError for an unknown one."""
    if not isinstance(value, str):
        return False
    if option == "prior":
        raise ConfigError(
            f"prior must be the shares of the classes, or left out to be counted, got {value!r}."
        )
    lookup({"auto": None} if option == "pos_weight" else WEIGHTS, value, option)
    if option == "weight" and len(task.output_names) == 1:
        raise ConfigError(
            f"weight={value} weighs classes against each other, and task={task.name} has one output. To "
            "weigh its positives against its negatives: pos_weight=auto."
        )
    return True


def count_option(
    option: str, name: str | None, task: Task, counts: LabelCounts, beta: float | None
) -> np.ndarray:
    """Return the numbers, one per output, that the train labels determine.

    `pos_weight` is negatives / positives of each label, clipped to [0.01, 100]; 1 for a label without either.
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
