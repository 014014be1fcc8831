"""Factors of the classes' probabilities that make the best predictions for a metric."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lossselect.losses.loss import Loss
from lossselect.metrics import scores
from lossselect.tasks.registry import Task

CLASS_GOALS = ("accuracy", "balanced_accuracy", "f1_macro")
"""What multiclass predictions can be tuned for; for accuracy the most probable class is the best."""


def fit_class_factors(
    task: Task,
    logits: np.ndarray,
    target: np.ndarray,
    goal: str,
    frequencies: np.ndarray | None,
    loss: Loss | None,
) -> tuple[float, ...]:
    """Return the factors r_c^-s that `fit_decision` describes; by default r are the target's frequencies."""
    labels = target.argmax(1)
    positives = np.bincount(labels, minlength=task.num_probabilities)
    if frequencies is None:
        frequencies = np.maximum(positives, 0.5) / len(labels)
    corrected = 0.0 if loss is None else 1.0 if loss.weight is not None else min(loss.tau, 1.0)
    expected = (1 - corrected) * (1.0 if goal == "balanced_accuracy" else 0.5)
    strengths = np.linspace(-1.5, 1.5, 61)
    probabilities = torch.from_numpy(logits).softmax(1)
    best_value, best = -1.0, 0.0
    for strength in strengths[np.argsort(np.abs(strengths - expected), kind="stable")]:
        options: Any = {"prior_correction": tuple(frequencies**-strength)}  # a field of exclusive tasks
        predictions = replace(task, **options).predict_from_probabilities(probabilities).numpy()
        value = _score(goal, predictions, labels, positives)
        if value > best_value + 1e-12:
            best_value, best = value, float(strength)
    return tuple((frequencies**-best).tolist())


def _score(goal: str, predictions: np.ndarray, labels: np.ndarray, positives: np.ndarray) -> float:
    tp, predicted = (
        np.bincount(values, minlength=len(positives))
        for values in (labels[predictions == labels], predictions)
    )
    counts = tp, predicted - tp, positives - tp, len(labels) - predicted - positives + tp
    if goal == "balanced_accuracy":
        return float(scores.recall(*counts)[positives > 0].mean())
    return float(scores.f1(*counts)[predicted + positives > 0].mean())
