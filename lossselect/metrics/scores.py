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


def specificity(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Return the fraction of negatives that are predicted."""
    return _ratio(tn, tn + fp)


def balanced_accuracy(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Return the mean of the recalls of positives and negatives."""
    return (recall(tp, fp, fn, tn) + recall(tn, fn, fp, tp)) / 2


def f_beta(tp: Counts, fp: Counts, fn: Counts, tn: Counts, beta: float = 1) -> Counts:
    """Return (1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP)."""
    hits = (1 + beta**2) * tp
    return _ratio(hits, hits + beta**2 * fn + fp)


f1 = f_beta
"""2 TP / (2 TP + FP + FN)."""


def jaccard(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Return the intersection over union, TP / (TP + FP + FN)."""
    return _ratio(tp, tp + fp + fn)


def mcc(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Return Matthews' correlation coefficient of each class."""
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / product.clip(min=1) ** 0.5


def mcc_of_classes(tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
    """Return the correlation of predicted and true classes (Gorodkin, Comput. Biol. Chem. 28(5), 2004)."""
    predicted, positives = tp + fp, tp + fn
    rows = positives.sum()
    covariance = rows * tp.sum() - (predicted * positives).sum()
    variances = (rows**2 - predicted.square().sum()) * (rows**2 - positives.square().sum())
    return covariance / variances.clip(min=1).sqrt()
