"""Temperatures: divisors of the logits that calibrate the probabilities.

A temperature T minimises the summed cross-entropy of the validation rows plus k (1 / T - 1)^2 / 2. This is a
normal prior with k = 30, which a few hundred rows outweigh. Without it, T would be 0 for perfectly separated
rows, and too noisy for small validation splits.
"""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from lossselect.losses.loss import Loss
from lossselect.losses.torch_compat import torch_weight
from lossselect.tasks.registry import Task

PRIOR = 30.0
"""The precision k of the prior of 1 / T, in nats."""
LINE_PRIOR = 1.0
"""The weaker k for the shift that a loss adds to the logits, which is only roughly known."""
EXACT = ("cross_entropy", "logit_adjusted")
"""Losses whose weights shift the logits by exactly their logarithm, with enough rows."""

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0


def weight_shift(task: Task, loss: Any) -> np.ndarray | None:
    """Return the shift that the weights of a loss add to the logits, (num_probabilities,), or None.

    With weights w, cross-entropy is minimal at w times the odds in the rows: `pos_weight` and,
    under softmax, `weight` add log w; focal's `alpha` adds log(alpha / (1 - alpha)). `logit_adjusted`
    subtracts tau log prior (under sigmoid, tau times the log-odds of the prior). No shift is assumed for the
    `weight` of labels under sigmoid, nor for losses other than `Loss` and torch's (binary) cross-entropy.
    """
    sigmoid, shift = not task.exclusive, np.zeros(task.num_probabilities)
    if isinstance(loss, Loss):
        weight = loss.pos_weight if sigmoid else loss.weight
        if alpha := loss.options.get("alpha") if sigmoid else None:
            shift += np.log(alpha / (1 - alpha)) if alpha < 1 else 0.0
        if loss.prior is not None:
            prior = loss.prior.detach().cpu().double().numpy()
            shift -= loss.tau * (np.log(prior) - (np.log1p(-prior) if sigmoid else 0.0))
    else:
        weight = torch_weight(loss, task)
    if isinstance(weight, torch.Tensor):
        weights = weight.detach().cpu().double().numpy().reshape(-1)
        if len(weights) not in (1, len(shift)):
            return None
        shift += np.log(np.where(weights > 0, weights, 1.0))  # the shift is unknown for a weight of 0
    shift = shift if sigmoid else shift - shift.mean()
    return shift if np.abs(shift).max() > 1e-9 else None


def fit_shift_and_temperature(
    scores: np.ndarray,
    target: np.ndarray,
    known: np.ndarray,
    shift: np.ndarray | None,
    loss: Any,
    softmax: bool,
) -> tuple[np.ndarray, float]:
    """Return a shift to subtract from the logits, (num_outputs,), and the temperature of the difference.

    Both minimise the cross-entropy of a (x - s) - b s + c, with s the expected `shift` of the weights and b
    its deviation. c, one number for all labels, is only fitted for sigmoid losses other than cross-entropy,
    such as the asymmetric one, which shift logits by an unknown amount. Arrays are (N, num_outputs).
    """
    inexact = isinstance(loss, Loss) and loss.name not in EXACT
    s = np.zeros(scores.shape[1]) if shift is None else shift
    columns, precision = [scores - s], [PRIOR]
    if shift is not None:
        columns.append(np.broadcast_to(-s, scores.shape))
        precision.append(LINE_PRIOR if inexact else PRIOR)
    if inexact and not softmax:
        columns.append(np.ones_like(scores))
        precision.append(LINE_PRIOR)
    design = np.stack(columns, -1)
    if not softmax:
        design, target = design[known], target[known]
    factors = _minimize(design, target, precision)
    slope = _clip(factors[0])
    fitted = s * (1 + (factors[1] / slope if shift is not None else 0.0))
    return fitted - (factors[-1] / slope if inexact and not softmax else 0.0), 1 / slope


def label_temperatures(scores: np.ndarray, target: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the temperature of each label (L,), with a prior around the common one; arrays are (N, L)."""
    common = _clip(_minimize(scores[known][:, None], target[known], [PRIOR])[0])
    slopes = [
        _clip(_minimize(x[mask][:, None], y[mask], [PRIOR], common)[0])
        for x, y, mask in zip(scores.T, target.T, known.T, strict=True)
    ]
    return 1 / np.array(slopes)


def fit_sigmoid_line(scores: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Return the a > 0 and b of minimal binary cross-entropy of a x + b (Platt, 1999), with a prior."""
    design = np.stack([scores, np.ones_like(scores)], -1)
    slope, shift = _minimize(design, target, [LINE_PRIOR] * 2)
    return max(float(slope), 1 / MAX_TEMPERATURE), float(shift)


def _clip(slope: float) -> float:
    return float(np.clip(slope, 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE))


def _minimize(
    design: np.ndarray, target: np.ndarray, precision: list[float], slope: float = 1.0
) -> np.ndarray:
    """Return the factors (K,) of the columns of `design`, (N, K) or for softmax (N, C, K).

    They minimise the cross-entropy with a normal prior around (slope, 0, ...). Newton's method with halved
    steps.
    """
    x, y, weights = (torch.from_numpy(np.asarray(values)) for values in (design, target, precision))
    binary = x.ndim == 2
    cross_entropy = F.binary_cross_entropy_with_logits if binary else F.cross_entropy
    start = torch.zeros_like(weights)
    start[0] = slope

    def objective(factors: torch.Tensor) -> float:
        loss = cross_entropy(x @ factors, y, reduction="sum")
        return float(loss + (weights * (factors - start).square()).sum() / 2)

    factors, best = start, objective(start)
    for _ in range(100):
        if binary:
            p = (x @ factors).sigmoid()
            gradient, hessian = x.T @ (p - y), (x * (p * (1 - p)).unsqueeze(1)).T @ x
        else:
            p = (x @ factors).softmax(1)
            mean = torch.einsum("nc,nck->nk", p, x)
            gradient = torch.einsum("nc,nck->k", p - y, x)
            hessian = torch.einsum("nc,nck,ncl->kl", p, x, x) - mean.T @ mean
        step = torch.linalg.solve(hessian + weights.diag(), gradient + weights * (factors - start))
        # tolerate an increase that is due to rounding
        while step.abs().max() > 1e-10 and objective(factors - step) > best * (1 + 1e-12):
            step = step / 2
        factors, previous = factors - step, best
        best = objective(factors)
        if previous - best <= 1e-10 * abs(best):
            break
    return np.asarray(factors.numpy())
