"""Stratified division of rows with several labels."""

import numpy as np


def divide_rows(labels: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """Return the part of each row (N,), so that each part has about its share of the positives of each label.

    Iterative stratification: the rows of the rarest label are assigned first, each to the part that lacks
    most of them; of several such parts, to the one that lacks most rows. Ties are resolved at random.

    Args:
        labels: 0 or 1, (N, L).
        shares: The share of the rows of each part, (K,); they sum to 1.
        seed: Seed of the order of the rows and of the ties.

    References:
        Sechidis, Tsoumakas and Vlahavas, On the stratification of multi-label data, ECML PKDD 2011.
    """
    random = np.random.RandomState(seed)  # NumPy guarantees its numbers for all versions
    order = np.arange(len(labels))
    random.shuffle(order)
    positive = labels[order].astype(bool)
    lacking, lacking_labels = shares * len(labels), np.outer(shares, positive.sum(0))
    parts = np.full(len(labels), -1)
    while (left := parts < 0).any():
        counts = positive[left].sum(0)
        label = None
        if counts.any():
            label = _choose(np.flatnonzero(counts == counts[counts > 0].min()), random)
            left &= positive[:, label]
        for row in np.flatnonzero(left):
            best = np.arange(len(shares)) if label is None else _largest(lacking_labels[:, label])
            part = _choose(best[_largest(lacking[best])], random)
            parts[row] = part
            lacking[part] -= 1
            lacking_labels[part, positive[row]] -= 1
    return parts[np.argsort(order)]


def _largest(values: np.ndarray) -> np.ndarray:
    return np.flatnonzero(values == values.max())


def _choose(options: np.ndarray, random: np.random.RandomState) -> int:
    return int(options[random.choice(len(options)) if len(options) > 1 else 0])
