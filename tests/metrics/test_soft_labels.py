"""Tests that metrics of probabilities score soft labels without rounding; the reference is NumPy."""

import itertools

import numpy as np
import pytest
import torch

import lossselect as ls
from lossselect.training.epochs.epoch import Epoch

NAN = float("nan")
TASKS = [ls.Binary(), ls.Multilabel(3), ls.Multiclass(3), ls.Multiclass(4, ordinal=True)]
ids = str


def soft_batch(task, trailing=()):
    """Return logits and soft labels, some of them missing."""
    logits = torch.randn(80, task.num_outputs, *trailing, dtype=torch.float64)
    if task.activation == "sigmoid":
        target = torch.rand(80, task.num_outputs, *trailing, dtype=torch.float64)
        target[torch.rand_like(target) < 0.2] = NAN
        return logits, target
    target = torch.rand(80, task.num_probabilities, *trailing, dtype=torch.float64).softmax(1)
    target[::6] = NAN
    return logits, target


def rows(values):
    return np.moveaxis(values.numpy(), 1, -1).reshape(-1, values.shape[1])


def expected(task, p, y):
    """Return Brier score and calibration error of probabilities and labels, both (N, C)."""
    known = ~np.isnan(y)
    if task.activation == "sigmoid":
        confidence, label = p[known], y[known]
        brier_score = ((confidence - label) ** 2).mean()
    else:
        p, y = p[known.all(1)], y[known.all(1)]
        brier_score = ((p - y) ** 2).sum(1).mean()
        top = p.argmax(1)
        confidence, label = p[np.arange(len(p)), top], y[np.arange(len(p)), top]
    edges = np.linspace(0, 1, 16)
    error = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        error += abs(confidence[inside].sum() - label[inside].sum())
    return {"brier_score": brier_score, "calibration_error": error / len(confidence)}


@pytest.mark.parametrize("trailing", [(), (5,)], ids=["rows", "positions"])
@pytest.mark.parametrize("task", TASKS, ids=ids)
def test_soft_labels_are_not_rounded(task, trailing):
    logits, target = soft_batch(task, trailing)
    target = task.encode(target)
    assert target.is_floating_point()
    p = task.probabilities(logits)
    want = expected(task, rows(p), rows(target))
    metrics = ls.make_metrics(task, names=[*want])
    for part in (slice(0, 30), slice(30, 80)):
        metrics.update(p[part], target[part])
    assert {name: value.item() for name, value in metrics.compute().items()} == pytest.approx(want)
    epoch = Epoch(task, "val/")
    for part in (slice(0, 30), slice(30, 80)):
        epoch.update(torch.zeros(()), torch.ones(()), logits[part], target[part])
    values = epoch.compute()
    assert {name: values[f"val/{name}"].item() for name in want} == pytest.approx(want)


@pytest.mark.parametrize("task", TASKS[:3], ids=ids)
def test_probabilities_that_equal_the_soft_labels_are_perfect(task):
    """With rounded labels the calibration error was 0.4 instead of 0."""
    logits = torch.randn(200, task.num_outputs)
    p = task.probabilities(logits)
    metrics = ls.make_metrics(task)
    metrics.update(p, task.encode(p))
    got = metrics.compute()
    assert got["brier_score"] == pytest.approx(0, abs=1e-12)
    assert got["calibration_error"] == pytest.approx(0, abs=1e-7)
    assert got["accuracy"] == 1  # predictions are compared with the rounded labels


def test_an_epoch_of_batches_with_and_without_soft_labels():
    """Only some batches are mixed or smoothed: their labels are probabilities, the others class indices."""
    task = ls.Multiclass(3)
    logits, soft = soft_batch(task)
    hard = torch.randint(0, 3, (40,))
    epoch = Epoch(task, "val/")
    for x, y in ((logits[:40], hard), (logits[40:], task.encode(soft[40:]))):
        epoch.update(torch.zeros(()), torch.ones(()), x, y)
    values = epoch.compute()
    y = np.concatenate([np.eye(3)[hard.numpy()], soft[40:].numpy()])
    for name, want in expected(task, logits.softmax(1).numpy(), y).items():
        assert values[f"val/{name}"].item() == pytest.approx(want), name
    known = ~np.isnan(y).any(1)
    right = logits.argmax(1).numpy()[known] == y[known].argmax(1)
    assert values["val/accuracy"].item() == pytest.approx(right.mean())


def test_a_temperature_fitted_to_soft_labels_is_calibrated_by_the_metric():
    """The fitted temperature and the metric agree on calibration."""
    true = torch.randn(4000, 1, dtype=torch.float64)
    task, target = ls.Binary(), true.sigmoid()
    fitted = ls.fit_decision(task, 3 * true, target, metric=None)
    assert fitted.temperature == pytest.approx(3, rel=0.02)
    for one, least, most in ((task, 0.1, 1), (fitted, 0, 0.005)):
        metrics = ls.make_metrics(one, names=["calibration_error"])
        metrics.update(one.probabilities(3 * true), target)
        assert least <= metrics.compute()["calibration_error"] <= most
