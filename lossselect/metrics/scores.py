"""Scores of counts (float64 tensors or NumPy arrays, which broadcast); 0 / 0 is 0, as in scikit-learn."""

from typing import TypeVar

import numpy as np
from torch import Tensor

Counts = TypeVar("Counts", Tensor, np.ndarray)


def _ratio(numerator: Counts, denominator: Counts) -> Counts:
    return numerator / denominator.clip(min=1)


def accuracy(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Return the fraction of predictions that are correct."""
    return _ratio(tp + tn, tp + fp + fn + tn)


def error_rate(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Return the fraction of predictions that are wrong."""
    return _ratio(fp + fn, tp + fp + fn + tn)


def precision(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Return the fraction of positive predictions that are correct."""
    return _ratio(tp, tp + fp)


def recall(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Return the fraction of positives that are predicted."""
    return _ratio(tp, tp + fn)


def balanced_accuracy(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Return the mean of the recalls of positives and negatives."""
    return (recall(tp, fp, fn, tn) + recall(tn, fn, fp, tp)) / 2


def f1(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Return 2 TP / (2 TP + FP + FN)."""
    return _ratio(2 * tp, 2 * tp + fp + fn)
