"""Temperatures: by which logits are divided so that probabilities mean what they say.

Of least cross-entropy on the validation rows, summed, plus k (1 / T - 1)^2 / 2 with k = 30: a normal prior,
which some hundred rows outweigh. Without, rows that are told apart without a mistake would have T = 0, and on
small validation splits the probabilities would be mended less, or not at all.
"""

from collections.abc import Callable

import numpy as np
import torch

PRIOR = 30.0
"""k: what so much cross-entropy, in nats, would have to be gained by."""

LINE_PRIOR = 1.0
"""The same for `sigmoid_line`, weaker: a loss may have moved its logits far."""

COLDEST, HOTTEST = 0.05, 20.0
"""Between which temperatures lie."""


def sigmoid_temperature(
    scores: np.ndarray, target: np.ndarray, known: np.ndarray, per_label: bool = False
) -> np.ndarray:
    """The temperature of all labels, (1,), or one of each, (L,), whose prior is around that of all.

    Args:
        scores: Logits, (N, L).
        target: In [0, 1], of the same shape.
        known: Which elements have a label.
        per_label: Which of the two.
    """
    y, x = np.where(known, target, 0.0), np.where(known, scores, 0.0)

    def slopes(cold: np.ndarray) -> np.ndarray:
        p = torch.from_numpy(cold * x).sigmoid().numpy()
        return np.asarray(np.where(known, (p - y) * x, 0.0).sum(0))

    common = _where_flat(lambda cold: slopes(cold).sum(keepdims=True), np.ones(1))
    return 1 / (_where_flat(slopes, np.repeat(common, x.shape[1])) if per_label else common)


def softmax_temperature(scores: np.ndarray, target: np.ndarray) -> float:
    """The temperature of all classes.

    Args:
        scores: Logits, (N, C).
        target: Rows that sum to 1, (N, C).
    """

    def slope(cold: np.ndarray) -> np.ndarray:
        p = torch.from_numpy(cold * scores).softmax(1).numpy()
        return ((p - target) * scores).sum(keepdims=True).ravel()

    return float(1 / _where_flat(slope, np.ones(1))[0])


def _where_flat(slope: Callable[[np.ndarray], np.ndarray], around: np.ndarray) -> np.ndarray:
    """1 / T. The slopes of cross-entropy and prior in it only grow, so halving finds where they cancel."""
    low, high = np.full_like(around, 1 / HOTTEST), np.full_like(around, 1 / COLDEST)
    for _ in range(50):
        middle = np.sqrt(low * high)
        rising = slope(middle) + PRIOR * (middle - around) > 0
        low, high = np.where(rising, low, middle), np.where(rising, middle, high)
    return np.asarray(np.sqrt(low * high))


def sigmoid_line(scores: np.ndarray, target: np.ndarray, known: np.ndarray) -> tuple[float, float]:
    """Slope a > 0 and shift b of least binary cross-entropy of a x + b, one pair for all labels.

    A temperature with a shift, for what a loss has moved all logits by (Platt, 1999); with a normal prior of
    both, around 1 and 0. By Newton's steps, halved until they help.
    """
    x, y = torch.from_numpy(scores[known]), torch.from_numpy(target[known])
    design = torch.stack([x, torch.ones_like(x)], 1)
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)

    def loss(line: torch.Tensor) -> float:
        each = torch.nn.functional.binary_cross_entropy_with_logits(design @ line, y, reduction="sum")
        return float(each + LINE_PRIOR * (line - start).square().sum() / 2)

    line, best = start, loss(start)
    for _ in range(100):
        p = (design @ line).sigmoid()
        gradient = design.T @ (p - y) + LINE_PRIOR * (line - start)
        curvature = (design * (p * (1 - p)).unsqueeze(1)).T @ design
        curvature = curvature + LINE_PRIOR * torch.eye(2, dtype=torch.float64)
        step = torch.linalg.solve(curvature, gradient)
        while step.abs().max() > 1e-10 and loss(line - step) > best:
            step = step / 2
        line, before = line - step, best
        best = loss(line)
        if before - best <= 1e-10 * abs(best):
            break
    return max(float(line[0]), 1 / HOTTEST), float(line[1])
