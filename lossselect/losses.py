"""The losses: a formula for each activation, and the table that names them.

A formula takes raw logits in float32 or wider and a target without holes, and returns the loss of
each element (sigmoid) or of each sample (softmax), in nats. It is linear in the target: the loss of
a soft target is the mean of the hard targets' losses. That is what lets `Loss` apply weights,
smoothing and missing labels to all of them in one place.

To add a loss, write its formula here and give it a row in `LOSSES`. Nothing else needs to change:
options are the formula's keyword arguments, and the command line and the tests read the table.

torch is imported when a formula is called, so that the command line can check a loss's name and
options within a fraction of a second.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .names import lookup, number

if TYPE_CHECKING:
    from torch import Tensor


def sigmoid_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of each element: -[y log p + (1 - y) log(1 - p)], p = sigmoid(logit).

    Args:
        logits: Shape (N, L, ...).
        target: y in [0, 1], of the same shape.

    Returns:
        Shape (N, L, ...).
    """
    from torch.nn.functional import binary_cross_entropy_with_logits

    return binary_cross_entropy_with_logits(logits, target, reduction="none")


def softmax_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each sample: -sum_c t_c log p_c, p = softmax(logits); -log p_y for an index y.

    Args:
        logits: Shape (N, C, ...).
        target: Class indices (N, ...), or t of shape (N, C, ...).

    Returns:
        Shape (N, ...).
    """
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits, target, reduction="none")


def sigmoid_focal(logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """Focal loss of each element: y alpha (1 - p)^gamma (-log p) + (1 - y) (1 - alpha) p^gamma (-log(1 - p)).

    The powers are taken in log space: finite, with finite gradients, for any gamma and logit.

    Args:
        logits: Shape (N, L, ...).
        target: y in [0, 1], of the same shape.
        gamma: Down-weighting of easy elements, >= 0; 0 gives binary cross-entropy.
        alpha: Weight of the positives in [0, 1], the negatives having 1 - alpha; None leaves both at 1.

    Returns:
        Shape (N, L, ...).

    Raises:
        ValueError: gamma < 0, alpha outside [0, 1].

    References:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002.
    """
    from torch.nn.functional import logsigmoid

    number("gamma", gamma, 0)
    log_p, log_not_p = logsigmoid(logits), logsigmoid(-logits)
    positive = -(gamma * log_not_p).exp() * log_p
    negative = -(gamma * log_p).exp() * log_not_p
    if alpha is not None:
        number("alpha", alpha, 0, 1)
        positive, negative = alpha * positive, (1 - alpha) * negative
    return target * positive + (1 - target) * negative


def softmax_focal(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss of each sample: sum_c t_c (1 - p_c)^gamma (-log p_c), p = softmax(logits).

    Powers are taken in log space, with log(1 - p) as the log-sum-exp of the other classes' log p:
    1 - p itself would round to 0, where the gradient is infinite for gamma < 1.

    Args:
        logits: Shape (N, C, ...).
        target: Class indices (N, ...), or t of shape (N, C, ...).
        gamma: Down-weighting of easy samples, >= 0; 0 gives cross-entropy.

    Returns:
        Shape (N, ...).

    Raises:
        ValueError: gamma < 0.

    References:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002.
    """
    import torch

    number("gamma", gamma, 0)
    log_p = logits.log_softmax(1)
    if not target.is_floating_point():
        index = target.unsqueeze(1)
        # not -inf: where the net rules all other classes out by that, a gradient would be NaN
        log_not_p = log_p.scatter(1, index, -1e30).logsumexp(1)
        return -(gamma * log_not_p).exp() * log_p.gather(1, index).squeeze(1)
    # of all classes at once: only the likeliest one's 1 - p is a sum that rounds
    top = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, logits.argmax(1, keepdim=True), True)
    rest = log_p.masked_fill(top, -math.inf)
    log_not_p = torch.where(top, rest.logsumexp(1, keepdim=True), (-rest.exp()).log1p())
    return -(target * (gamma * log_not_p).exp() * log_p).sum(1)


LOSSES: dict[str, dict[str, Callable[..., Tensor]]] = {
    "cross_entropy": {"sigmoid": sigmoid_cross_entropy, "softmax": softmax_cross_entropy},
    "focal": {"sigmoid": sigmoid_focal, "softmax": softmax_focal},
}
"""Every loss by name, with its formula for each activation that it has a form of."""

MODIFIERS = {"weight": None, "pos_weight": None, "label_smoothing": 0.0}
"""Options that every loss takes, where its activation gives them a meaning, with their defaults."""


OTHER_NAMES = {
    **dict.fromkeys(
        ("ce", "bce", "bcewithlogits", "bcewithlogitsloss", "binarycrossentropy"), "cross_entropy"
    ),
    **dict.fromkeys(("bceloss", "crossentropyloss", "logloss", "nll", "nllloss"), "cross_entropy"),
    **dict.fromkeys(("focalloss", "sigmoidfocalloss"), "focal"),
}
"""What people call them elsewhere, in small letters alone."""


def find_loss(name: str) -> dict[str, Callable[..., Tensor]]:
    """A row of the table; ValueError for a name that has none, telling which was meant."""
    meant = OTHER_NAMES.get("".join(filter(str.isalpha, str(name))).lower())
    if meant and name not in LOSSES:
        serves = "; it is BCE under sigmoid, CE under softmax" if meant == "cross_entropy" else ""
        raise ValueError(
            f"There is no loss {name!r}. Here it is {meant!r}, in the form that the task takes{serves}. "
            f"Choose one of: {', '.join(LOSSES)}."
        )
    return lookup(LOSSES, name, "loss")


def formula_options(formula: Callable[..., Tensor]) -> dict[str, Any]:
    """A formula's keyword arguments with their defaults: the options of its row in the table."""
    parameters = inspect.signature(formula).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def row_options(name: str) -> dict[str, Any]:
    """All options of a row of the table with their defaults; None where its forms' defaults differ."""
    defaults: dict[str, Any] = {}
    for formula in find_loss(name).values():
        for option, default in formula_options(formula).items():
            defaults[option] = default if defaults.get(option, default) == default else None
    return {**defaults, **MODIFIERS}
