"""Factors of the classes' probabilities that make the best decision for a metric."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from lossselect.losses.loss import Loss
from lossselect.tasks.registry import Task

CLASS_GOALS = ("accuracy", "balanced_accuracy", "f1_macro")
"""What a multiclass decision can be tuned for; for accuracy the most probable class is the best already."""


def fit_factors(
    task: Task,
    scores: np.ndarray,
    target: np.ndarray,
    goal: str,
    shares: np.ndarray | None,
    loss: Loss | None,
) -> tuple[float, ...]:
    """r_c^-s with the best s of a grid from -1.5 to 1.5, of equals the nearest to where theory has it.

    Args:
        task: That decides by them.
        scores: Logits over the temperature, (N, C).
        target: Rows that sum to 1, (N, C).
        goal: A key of `CLASS_GOALS`.
        shares: r, (C,); of these rows where None.
        loss: That the logits were trained with.
    """
    labels = target.argmax(1)
    counts = np.bincount(labels, minlength=task.num_probabilities)
    if shares is None:
        shares = np.maximum(counts, 0.5) / len(labels)
    probabilities = torch.from_numpy(scores).softmax(1)
    chosen_by: Any = partial(replace, task)  # which has the field, as its outputs exclude each other
    theory, strengths = _strength_in_theory(goal, loss), np.linspace(-1.5, 1.5, 61)
    best, chosen = -1.0, 0.0
    for strength in strengths[np.argsort(np.abs(strengths - theory), kind="stable")]:
        decided = (
            chosen_by(prior_correction=tuple(shares**-strength))
            .predict_from_probabilities(probabilities)
            .numpy()
        )
        value = _score(goal, decided, labels, counts)
        if value > best + 1e-12:
            best, chosen = value, float(strength)
    return tuple((shares**-chosen).tolist())


def _strength_in_theory(goal: str, loss: Loss | None) -> float:
    """1 for balanced accuracy (Menon et al., 2021), half for macro-F1; less what the loss has done."""
    done = 0.0 if loss is None else 1.0 if loss.weight is not None else loss.tau
    return (1 - min(done, 1.0)) * (1.0 if goal == "balanced_accuracy" else 0.5)


def _score(goal: str, decided: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> float:
    hits = np.bincount(labels[decided == labels], minlength=len(counts))
    called = np.bincount(decided, minlength=len(counts))
    total, possible = (hits, counts) if goal == "balanced_accuracy" else (2 * hits, called + counts)
    return float((total / np.maximum(possible, 1))[possible > 0].mean())
