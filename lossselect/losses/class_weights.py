"""What the train split's labels say: priors, weights, and the logits to start from.

Numbers for each class or label, counted on train labels by `count_labels`. A class that no row has, or
that every row has, counts as half a row short of that: log 0 would be a head that can never learn it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from lossselect.exceptions import ConfigError
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import Task
from lossselect.utils.checks import lookup

MAX_POS_WEIGHT = 100.0
"""Beyond, and below its inverse, `pos_weight=auto` is clipped: a single positive would rule a batch."""

BETA = 0.999
"""What `weight=effective_number` takes where `beta` is not given."""


def class_prior(task: Task, counts: LabelCounts) -> np.ndarray:
    """The share of each class (C,), which sum to 1, or of each label's positives (L,), in (0, 1)."""
    if task.activation == "softmax":
        mass = np.maximum(counts.mass, 0.5)
        return mass / mass.sum()
    mass, known = counts.mass[-task.num_outputs :], counts.known[-task.num_outputs :]
    share = np.clip(mass, 0.5, np.maximum(known - 0.5, 0.5)) / np.maximum(known, 1)
    return np.asarray(share)


def balanced_weight(counts: LabelCounts, beta: float) -> np.ndarray:
    """N / (C n_c), as scikit-learn's `class_weight="balanced"`; 1 for a class without rows."""
    there = counts.mass > 0
    weight = counts.mass.sum() / (max(there.sum(), 1) * np.where(there, counts.mass, 1))
    return np.where(there, weight, 1.0)


def effective_number_weight(counts: LabelCounts, beta: float) -> np.ndarray:
    """(1 - beta) / (1 - beta^n_c), scaled to a mean of 1 over the classes that occur; 1 for the others.

    References:
        Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019, arXiv:1901.05555.
    """
    there = counts.mass > 0
    if not beta or not there.any():
        return np.ones(len(there))
    # 1 - beta^n without rounding for beta near 1
    weight = -1 / np.expm1(np.where(there, counts.mass, 1) * np.log(beta))
    return np.where(there, weight / weight[there].mean(), 1.0)


WEIGHTS: dict[str, Callable[[LabelCounts, float], np.ndarray]] = {
    "balanced": balanced_weight,
    "effective_number": effective_number_weight,
}
"""What `weight` may be by name."""


def auto_pos_weight(task: Task, counts: LabelCounts) -> np.ndarray:
    """Negatives over positives of each label, within [.01, 100]; 1 for a label without either."""
    positives = counts.mass[-task.num_outputs :]
    negatives = counts.known[-task.num_outputs :] - positives
    ratio = negatives / np.where(positives > 0, positives, 1)
    ratio = np.clip(ratio, 1 / MAX_POS_WEIGHT, MAX_POS_WEIGHT)
    return np.where((positives > 0) & (negatives > 0), ratio, 1.0)


def check_named(option: str, value: Any, task: Task) -> bool:
    """Whether an option is told by the train labels: "balanced", "effective_number", "auto".

    Raises:
        ValueError: a name that it cannot be, or one without a meaning for the task.
    """
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


def named_weight(option: str, value: str, task: Task, counts: LabelCounts, beta: float | None) -> np.ndarray:
    """The numbers that a named option stands for, one for each output."""
    if option == "pos_weight":
        return auto_pos_weight(task, counts)
    return WEIGHTS[value](counts, BETA if beta is None else beta)


def prior_logits(
    task: Task,
    prior: np.ndarray,
    *,
    weight: np.ndarray | None = None,
    pos_weight: np.ndarray | None = None,
    tau: float = 0.0,
    one_vs_rest: bool = False,
) -> np.ndarray:
    """The constant logits whose cross-entropy on the train labels is least: the prior's entropy.

    Log-odds of each label's share under sigmoid, log of each class's share under softmax, of the share
    among the classes from it on for ordered classes.

    Args:
        task: Whose outputs they are.
        prior: As `class_prior` returns it.
        weight: Of the loss: under softmax shares are those of the weighted classes.
        pos_weight: Of the loss: the odds are multiplied by it.
        tau: What `logit_adjusted` adds in the loss, so that it must not be in the logits as well.
        one_vs_rest: Whether the loss takes each class's sigmoid.

    Returns:
        (num_outputs,).
    """
    if task.activation == "sigmoid":
        odds = prior / (1 - prior) * (1 if pos_weight is None else np.maximum(pos_weight, 1e-6))
        return np.asarray(np.log(odds) - tau * np.log(prior / (1 - prior)))
    share = prior if weight is None else np.maximum(prior * weight, 1e-9 * (prior * weight).max())
    share = share * prior**-tau
    share = share / share.sum()
    if one_vs_rest:
        return np.asarray(np.log(share / (1 - share)))
    if task.ordinal:
        from_on = share[::-1].cumsum()[::-1]
        return np.asarray(np.log(from_on[1:] / share[:-1]))  # log-odds of being above, given at least there
    return np.asarray(np.log(share))
