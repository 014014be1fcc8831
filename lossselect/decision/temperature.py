"""Temperatures: by which logits are divided so that probabilities mean what they say.

Of least cross-entropy on the validation rows, summed, plus k (1 / T - 1)^2 / 2 with k = 30: a normal prior,
which some hundred rows outweigh. Without, rows that are told apart without a mistake would have T = 0, and on
small validation splits the probabilities would be mended less, or not at all.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lossselect.losses.loss import Loss
from lossselect.losses.torch_compat import torch_weight

if TYPE_CHECKING:
    from lossselect.tasks.registry import Task

PRIOR = 30.0
"""k: what so much cross-entropy, in nats, would have to be gained by."""

LINE_PRIOR = 1.0
"""The same for what a loss adds to the logits, weaker: it may be far from what is assumed."""

EXACT = ("cross_entropy", "logit_adjusted")
"""Losses under which weights move the logits by exactly their logarithm, given enough rows."""

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


def weight_shift(task: "Task", loss: Any) -> np.ndarray | None:
    """Return what the weights of a loss add to the logits (num_probabilities,), or None without weights.

    With the weights w cross-entropy is least where the odds are w times those of the rows: log w is added to
    the logit by `pos_weight` and, under softmax, by `weight`; log alpha / (1 - alpha) by focal's `alpha`.
    `logit_adjusted` leaves tau log prior (of a label: its log-odds) out of the logits. The weight of a label
    under sigmoid moves nothing.

    Args:
        task: Whose logits they are.
        loss: A `Loss`, or torch's `BCEWithLogitsLoss` or `CrossEntropyLoss` as a module or a partial
            function. For any other loss no shift is assumed.
    """
    sigmoid, shift = not task.exclusive, np.zeros(task.num_probabilities)
    own = isinstance(loss, Loss)
    weight = getattr(loss, "pos_weight" if sigmoid else "weight") if own else torch_weight(loss, task)
    if isinstance(weight, torch.Tensor):
        given = weight.detach().cpu().double().numpy().reshape(-1)
        if len(given) not in (1, len(shift)):
            return None
        shift = shift + np.log(np.where(given > 0, given, 1.0))  # nothing is known of what weighs nothing
    if isinstance(loss, Loss):
        alpha = loss.options.get("alpha") if sigmoid else None
        shift = shift + (np.log(alpha / (1 - alpha)) if alpha and alpha < 1 else 0.0)
        if loss.prior is not None:
            prior = loss.prior.detach().cpu().double().numpy()
            shift = shift - loss.tau * (np.log(prior) - (np.log1p(-prior) if sigmoid else 0.0))
    shift = shift if sigmoid else shift - shift.mean()
    return shift if np.abs(shift).max() > 1e-9 else None


def shift_and_temperature(
    scores: np.ndarray,
    target: np.ndarray,
    known: np.ndarray,
    shift: np.ndarray | None,
    loss: Any,
    softmax: bool,
) -> tuple[np.ndarray, float]:
    """Return what to subtract from the logits (num_outputs,), and the temperature that divides the result.

    They minimise the cross-entropy of a (x - s) - b s + c, with s the shift that the weights are expected to
    cause and b how much of it the data show. c, one number for all labels, is for sigmoid losses other than
    cross-entropy, such as the asymmetric one, which move logits by an unknown amount.

    Args:
        scores: Logits, (N, num_outputs).
        target: In [0, 1], of the same shape.
        known: Which elements have a label; under softmax of whole rows.
        shift: As `weight_shift` returns it.
        loss: The loss that the net was trained with.
        softmax: Whether each row of the target sums to 1.
    """
    other = isinstance(loss, Loss) and loss.name not in EXACT
    s = np.zeros(scores.shape[1]) if shift is None else shift
    columns, precision = [scores - s], [PRIOR]
    if shift is not None:
        columns.append(np.broadcast_to(-s, scores.shape))
        precision.append(LINE_PRIOR if other else PRIOR)
    if other and not softmax:
        columns.append(np.ones_like(scores))
        precision.append(LINE_PRIOR)
    design = np.stack(columns, -1)
    start = np.eye(len(columns))[0]
    if softmax:
        line = _least_softmax(design, target, start, np.array(precision))
    else:
        line = _least_sigmoid(design[known], target[known], start, np.array(precision))
    slope = float(np.clip(line[0], 1 / HOTTEST, 1 / COLDEST))
    moved = s * (1 + (line[1] / slope if shift is not None else 0.0))
    return moved - (line[-1] / slope if other and not softmax else 0.0), 1 / slope


def sigmoid_line(scores: np.ndarray, target: np.ndarray, known: np.ndarray) -> tuple[float, float]:
    """Slope a > 0 and shift b of least binary cross-entropy of a x + b, one pair for all labels.

    A temperature with a shift, for what a loss has moved all logits by (Platt, 1999); with a normal prior of
    both, around 1 and 0.
    """
    x = scores[known]
    design = np.stack([x, np.ones_like(x)], -1)
    line = _least_sigmoid(design, target[known], np.array([1.0, 0.0]), np.full(2, LINE_PRIOR))
    return max(float(line[0]), 1 / HOTTEST), float(line[1])


def _least_sigmoid(
    design: np.ndarray, target: np.ndarray, start: np.ndarray, precision: np.ndarray
) -> np.ndarray:
    """Return the factors of the columns of (M, K) whose sum has the least binary cross-entropy, (K,)."""
    x, y = torch.from_numpy(design), torch.from_numpy(target)

    def loss(line: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(x @ line, y, reduction="sum")

    def slopes(line: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        p = (x @ line).sigmoid()
        return x.T @ (p - y), (x * (p * (1 - p)).unsqueeze(1)).T @ x

    return _least(loss, slopes, start, precision)


def _least_softmax(
    design: np.ndarray, target: np.ndarray, start: np.ndarray, precision: np.ndarray
) -> np.ndarray:
    """The same of (N, C, K) for softmax."""
    x, y = torch.from_numpy(design), torch.from_numpy(target)

    def loss(line: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(x @ line, y, reduction="sum")

    def slopes(line: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        p = (x @ line).softmax(1)
        mean = torch.einsum("nc,nck->nk", p, x)
        curvature = torch.einsum("nc,nck,ncl->kl", p, x, x) - mean.T @ mean
        return torch.einsum("nc,nck->k", p - y, x), curvature

    return _least(loss, slopes, start, precision)


def _least(
    loss: Callable[[torch.Tensor], torch.Tensor],
    slopes: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    start: np.ndarray,
    precision: np.ndarray,
) -> np.ndarray:
    """Return the least of a convex loss with a normal prior, by Newton's steps, halved until they help."""
    first, weights = torch.from_numpy(start), torch.from_numpy(precision)

    def total(line: torch.Tensor) -> float:
        return float(loss(line) + (weights * (line - first).square()).sum() / 2)

    line, best = first, total(first)
    for _ in range(100):
        gradient, curvature = slopes(line)
        step = torch.linalg.solve(curvature + weights.diag(), gradient + weights * (line - first))
        while step.abs().max() > 1e-10 and total(line - step) > best:
            step = step / 2
        line, before = line - step, best
        best = total(line)
        if before - best <= 1e-10 * abs(best):
            break
    return np.asarray(line.numpy())
