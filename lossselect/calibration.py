"""Temperatures: by which logits are divided so that probabilities mean what they say."""

from collections.abc import Callable

import numpy as np
import torch

COLDEST, HOTTEST = 0.05, 20.0
"""Between which temperatures lie; rows that are told apart without a mistake would have 0."""


def sigmoid_temperature(
    scores: np.ndarray, target: np.ndarray, known: np.ndarray, per_label: bool = False
) -> np.ndarray:
    """The temperature of least binary cross-entropy, (1,), or of each label, (L,).

    Args:
        scores: Logits, (N, L).
        target: In [0, 1], of the same shape.
        known: Which elements have a label.
        per_label: A label that is positive nowhere, or everywhere, takes the one of all labels.
    """
    y, x = np.where(known, target, 0.0), np.where(known, scores, 0.0)

    def slope(cold: np.ndarray) -> np.ndarray:
        p = torch.from_numpy(cold * x).sigmoid().numpy()
        each = np.where(known, (p - y) * x, 0.0).sum(0)
        return each if per_label else each.sum(keepdims=True)

    temperature = _where_flat(slope, scores.shape[1] if per_label else 1)
    if not per_label:
        return temperature
    both = ((y > 0) & known).any(0) & ((y < 1) & known).any(0)
    return np.where(both, temperature, sigmoid_temperature(scores, target, known))


def softmax_temperature(scores: np.ndarray, target: np.ndarray) -> float:
    """The temperature of least cross-entropy.

    Args:
        scores: Logits, (N, C).
        target: Rows that sum to 1, (N, C).
    """

    def slope(cold: np.ndarray) -> np.ndarray:
        p = torch.from_numpy(cold * scores).softmax(1).numpy()
        return ((p - target) * scores).sum(keepdims=True).ravel()

    return float(_where_flat(slope, 1)[0])


def _where_flat(slope: Callable[[np.ndarray], np.ndarray], count: int) -> np.ndarray:
    """The cross-entropy's slope in 1 / T only grows with 1 / T, so that halving finds where it is 0."""
    low, high = np.full(count, 1 / HOTTEST), np.full(count, 1 / COLDEST)
    for _ in range(50):
        middle = np.sqrt(low * high)
        rising = slope(middle) > 0
        low, high = np.where(rising, low, middle), np.where(rising, middle, high)
    return 1 / np.sqrt(low * high)


def sigmoid_line(scores: np.ndarray, target: np.ndarray, known: np.ndarray) -> tuple[float, float]:
    """Slope a > 0 and shift b of least binary cross-entropy of a x + b, one pair for all labels.

    A temperature with a shift: what a loss with weights has moved all logits by (Platt, 1999). By Newton's
    steps, halved until they help; bounded as temperatures are, where rows are told apart without a mistake.
    """
    x, y = torch.from_numpy(scores[known]), torch.from_numpy(target[known])
    design = torch.stack([x, torch.ones_like(x)], 1)
    line = torch.tensor([1.0, 0.0], dtype=torch.float64)

    def loss(line: torch.Tensor) -> float:
        return float(torch.nn.functional.binary_cross_entropy_with_logits(design @ line, y))

    best = loss(line)
    for _ in range(50):
        p = (design @ line).sigmoid()
        gradient = design.T @ (p - y) / len(y)
        curvature = (design * (p * (1 - p)).unsqueeze(1)).T @ design / len(y)
        step = torch.linalg.solve(curvature + 1e-9 * torch.eye(2, dtype=torch.float64), gradient)
        while step.abs().max() > 1e-9 and loss(line - step) > best:
            step = step / 2
        line = line - step
        line[0] = line[0].clamp(1 / HOTTEST, 1 / COLDEST)
        line[1] = line[1].clamp(-HOTTEST, HOTTEST)
        if best - (best := loss(line)) < 1e-12:
            break
    return float(line[0]), float(line[1])
