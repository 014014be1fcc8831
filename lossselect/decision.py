"""From probabilities to decisions: thresholds, calibration and class factors, fitted on validation rows.

Nothing here looks at the train split (which the net knows by heart) or at the test split.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .calibration import sigmoid_temperature, softmax_temperature
from .class_factors import CLASS_GOALS, fit_factors
from .counts import LabelCounts, as_canonical
from .criterion import Loss
from .guards import warn
from .names import check_options, lookup, number, some
from .targets import positions_as_rows
from .tasks import Multiclass, Task, as_task
from .thresholds import EXPECTED, GOALS, SHRINKAGE, Label, counted_thresholds, expected_thresholds
from .weights import prior_of

RECALL = 0.9
"""What `precision_at_recall` keeps to where nothing else is said."""

CALIBRATIONS = ("temperature", "per_label", "none")
"""One temperature for all outputs, one for each label, or none."""


@dataclass(frozen=True, kw_only=True)
class DecisionOptions:
    """What `fit_decision` is to do; checked when made, as far as that needs no task.

    Args:
        metric: A key of `GOALS` (binary and multilabel) or of `CLASS_GOALS` (multiclass); "auto" is
            expected_f1 (f1 or f1_macro, where the loss has moved the labels' logits apart by `pos_weight` or
            `prior`) and, for multiclass, accuracy, which changes nothing. None leaves the thresholds.
        per_label: Whether each label of a multilabel task has a threshold of its own.
        recall: For precision_at_recall: the least recall on the validation rows, before shrinkage.
        calibration: "temperature", "per_label" (one for each label) or "none".
        shrinkage: k >= 0.

    Raises:
        ValueError, TypeError: what cannot be, or would have no effect.
    """

    metric: str | None = "auto"
    per_label: bool = True
    recall: float = RECALL
    calibration: str = "temperature"
    shrinkage: float = SHRINKAGE

    def __post_init__(self) -> None:
        lookup(dict.fromkeys(CALIBRATIONS), self.calibration, "calibration")
        if not isinstance(self.per_label, bool):
            raise TypeError(f"per_label must be true or false, got {self.per_label!r}.")
        number("recall", self.recall, 0, 1)
        number("shrinkage", self.shrinkage, 0)
        if self.recall != RECALL and self.metric != "precision_at_recall":
            raise ValueError(
                f"recall={self.recall} has no effect without decision.metric=precision_at_recall."
            )

    def goal(self, task: Task, loss: Loss | None = None) -> str | None:
        """The metric that decisions of the task are tuned for; None where nothing is.

        Raises:
            ValueError: an option that the task does not have, or that would have no effect on it.
        """
        if self.calibration == "per_label" and task.width_field != "num_labels":
            raise ValueError(
                f"calibration=per_label is for multilabel; task={task.name}: calibration=temperature."
            )
        metric, several = self.metric, task.activation == "softmax"
        if metric not in ("auto", None) and getattr(task, "top_k", None) is not None:
            raise ValueError(
                f"decision.metric={metric} has no effect beside top_k, which needs no thresholds."
            )
        if metric == "auto":
            moved = loss is not None and (loss.pos_weight is not None or loss.prior is not None)
            counted = "f1" if task.width_field is None else "f1_macro"
            metric = "accuracy" if several else counted if moved else EXPECTED
        if metric is None or (several and metric == "accuracy"):
            return None
        if self.shrinkage != SHRINKAGE and (several or metric == EXPECTED or not self.per_label):
            raise ValueError(f"shrinkage={self.shrinkage:g} has no effect on decision.metric={metric} here.")
        goals = CLASS_GOALS if several else GOALS
        lookup(dict.fromkeys(goals), metric, f"decision.metric for task={task.name}")
        return metric


def fit_decision(
    task: Task,
    logits: Tensor,
    target: Any,
    *,
    loss: Loss | None = None,
    counts: LabelCounts | None = None,
    **options: Any,
) -> Task:
    """The task with temperature, and thresholds or class factors, that suit the validation rows best.

    A temperature T minimises the cross-entropy of logits / T (see `calibration`): probabilities mean what
    they say, and their order stays. Thresholds then maximise the metric; a label's own one t_l is shrunk
    towards the one for all labels, t, between logits, by the number n_l of its positives:
    (n_l t_l + k t) / (n_l + k), k = `shrinkage`. A label without positives takes t.

    For "expected_f1" labels are not counted but expected: with probabilities p, the largest expected F1 is
    F = max_n 2 (sum of the n largest p) / (n + sum p), and F / 2 the threshold that reaches it. F is that of
    all outputs together, and t_l lies a fifth of the way (`OWN_SHARE`, between logits) towards the label's
    own. p is sigmoid(a x + b) with a, b of least cross-entropy, so that a loss that has moved all logits is
    no harm. Rare labels' thresholds are not fitted to a handful of rows: on small data the better one.

    Multiclass: class factors r_c^-s, r_c the classes' shares and s the best of a grid from -1.5 to 1.5; of
    equals the nearest to where theory has it: 1 for balanced accuracy (Menon et al., 2021), half of that for
    macro-F1, 0 where the loss has done it already.

    Args:
        task: Whose threshold, temperature and factors are replaced.
        logits: Raw, of the validation rows: (N, num_outputs, ...).
        target: Their labels, of any form that `task.encode` takes or returns.
        loss: That the logits were trained with, where it is one of ours.
        counts: Of the train labels, for the classes' shares; by default those of the validation rows.
        options: `metric`, `per_label`, `recall`, `calibration` and `shrinkage`: see `DecisionOptions`.

    Returns:
        A task of the same kind; thresholds are probabilities after the temperature.

    Raises:
        ValueError: a metric or a calibration that there is not for the task, logits that do not fit it, no
            label that is known.

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv:1706.04599 (temperature);
        Lipton et al., Optimal Thresholding of Classifiers to Maximize F1 Measure, ECML 2014,
        arXiv:1402.1892 (F / 2).

    Example:
        >>> from lossselect import Binary
        >>> logits = torch.tensor([[-3.0], [-2.0], [-1.0], [0.5]])
        >>> fitted = fit_decision(Binary(), logits, [0, 1, 1, 1], metric="f1", calibration="none")
        >>> round(fitted.threshold, 3)
        0.076
    """
    task = as_task(task)
    wanted = decision_options(**options)
    goal = wanted.goal(task, loss)
    logits = torch.as_tensor(logits).detach().cpu()
    task.check_logits(logits)
    encoded = task.check_target(as_canonical(task, target, logits.ndim - 2).cpu(), logits)
    _check_finite(logits)
    neutral = replace(task, temperature=1.0)
    # minus infinity rules a class out; as a large number 0 times it is 0
    scores = positions_as_rows(neutral.calibrated(logits.double())).numpy().clip(-LARGE, LARGE)
    truth = positions_as_rows(task.as_rows(encoded)).double().numpy()
    known = ~np.isnan(truth)
    if not known.any():
        raise ValueError("No validation label is known: there is nothing to fit a decision to.")
    if isinstance(task, Multiclass):
        scores, truth = scores[known.all(1)], truth[known.all(1)]
        if wanted.calibration != "none":
            task = replace(task, temperature=softmax_temperature(scores, truth))
        if goal is None:
            return task if wanted.metric is None else replace(task, decision_weight=None)
        shares = None if counts is None else prior_of(task, counts)
        factors = fit_factors(task, scores / task.temperature, truth, goal, shares, loss)
        return replace(task, decision_weight=factors)
    positive = (truth >= 0.5) & known
    if not positive.any():
        _warn_of_untuned(task.output_names, len(task.output_names))
        return task
    temperature = np.ones(1)
    if wanted.calibration != "none":
        temperature = sigmoid_temperature(scores, truth, known, per_label=wanted.calibration == "per_label")
    scores = scores / temperature
    fitted: Any = replace(task, temperature=_number_or_tuple(temperature))
    if goal is None or getattr(task, "top_k", None) is not None:
        return fitted
    if goal == EXPECTED:
        return replace(fitted, threshold=expected_thresholds(scores, truth, known, wanted.per_label))
    labels = [Label(scores[known[:, i], i], truth[known[:, i], i] >= 0.5) for i in range(scores.shape[1])]
    if lacking := [name for name, it in zip(task.output_names, labels, strict=True) if not it.positives]:
        _warn_of_untuned(lacking, len(labels))
    thresholds = counted_thresholds(labels, goal, wanted.per_label, wanted.recall, wanted.shrinkage)
    return replace(fitted, threshold=thresholds)


def decision_options(**options: Any) -> DecisionOptions:
    """The options, checked; ValueError for one that there is not."""
    check_options(options, [field.name for field in fields(DecisionOptions)], "decision")
    return DecisionOptions(**options)


def _warn_of_untuned(names: Sequence[str], count: int) -> None:
    warn(
        "untuned_threshold",
        f"{len(names)} of {count} labels have no positive in the validation split, and their thresholds are "
        f"not tuned to them: {some(names)}.",
    )


LARGE = 1e30
"""In place of infinity."""


def _check_finite(logits: Tensor) -> None:
    bad = logits.isnan() | (logits == torch.inf)
    if bool(bad.any()):
        index = bad.nonzero()[0].tolist()
        raise ValueError(
            f"Row {index[0]} of the logits holds {logits[tuple(index)].item():g}: no decision can be fitted "
            "to that. Look at the inputs and the weights."
        )


def _number_or_tuple(values: np.ndarray) -> Any:
    flat = values.ravel().tolist()
    return flat[0] if len(flat) == 1 else tuple(flat)
