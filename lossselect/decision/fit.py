"""`fit_decision`: thresholds, calibration and class factors, fitted to validation rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossselect.decision.temperature import fit_shift_and_temperature, label_temperatures, weight_shift
from lossselect.decision.thresholds import (
    CLASS_GOALS,
    EXPECTED,
    GOALS,
    SHRINKAGE,
    Label,
    counted_thresholds,
    expected_thresholds,
    fit_class_factors,
    sigmoid,
)
from lossselect.exceptions import ConfigError, DataError, OptionTypeError
from lossselect.labels.targets import flatten_positions
from lossselect.losses.class_weights import class_prior
from lossselect.losses.loss import Loss
from lossselect.tasks.label_counts import LabelCounts, to_canonical
from lossselect.tasks.registry import AnyTask, Task, as_task
from lossselect.tasks.task_names import naming_task, spread
from lossselect.utils.checks import check_choice, check_float, check_options, shorten
from lossselect.utils.warnings import warn

RECALL = 0.9

MIN_TUNED_POSITIVES = 10
"""Minimum number of positives for which a tuned threshold is not mostly noise."""

MIN_CALIBRATED_ROWS = 20
"""Minimum number of labelled rows for a temperature. With ten, it was worse than none for half of the samples
of some data sets (docs/choosing.md)."""


@dataclass(frozen=True, kw_only=True)
class DecisionOptions:
    """Options of `fit_decision`, with the checks that do not depend on a task.

    Args:
        metric: A key of `GOALS` (binary and multilabel) or of `CLASS_GOALS` (multiclass), or None to keep
            thresholds and factors. "auto" tunes multilabel for expected_f1 (f1_macro if the loss has
            `pos_weight` or `prior`), and does not tune others: binary uses the threshold 0.5 and multiclass
            the most probable class, or what the weights of the loss imply.
        per_label: Whether each label of a multilabel task has its own threshold.
        recall: The minimum recall of precision_at_recall on the validation rows before shrinkage, in [0, 1].
        calibration: "temperature", "per_label" (a temperature for each label) or "none".
        shrinkage: k >= 0. With k positives, a label's threshold is halfway (in logits) to the common one.

    Raises:
        ConfigError, OptionTypeError: an invalid option, or one without effect.
    """

    metric: str | None = "auto"
    per_label: bool = True
    recall: float = RECALL
    calibration: str = "temperature"
    shrinkage: float = SHRINKAGE

    def __post_init__(self) -> None:
        check_choice("calibration", self.calibration, ("temperature", "per_label", "none"))
        if not isinstance(self.per_label, bool):
            raise OptionTypeError(f"per_label must be true or false, got {self.per_label!r}.")
        check_float("recall", self.recall, 0, 1)
        check_float("shrinkage", self.shrinkage, 0)
        if self.recall != RECALL and self.metric != "precision_at_recall":
            raise ConfigError(
                f"recall={self.recall} has no effect without decision.metric=precision_at_recall. Set that, "
                "or remove recall."
            )

    def goal(self, task: Task, loss: Any = None) -> str | None:
        """Return the metric that predictions of the task are tuned for, or None if they are not tuned."""
        if self.calibration == "per_label" and not task.several_labels:
            raise ConfigError(
                f"calibration=per_label is only for multilabel tasks, not for task={task.name}. Set "
                "calibration=temperature."
            )
        metric = self.metric
        if metric not in ("auto", None) and task.top_k is not None:
            raise ConfigError(
                f"decision.metric={metric} cannot be combined with top_k, which does not use thresholds. "
                "Remove one of them."
            )
        if metric == "auto":
            moved = isinstance(loss, Loss) and (loss.pos_weight is not None or loss.prior is not None)
            metric = None if not task.several_labels else "f1_macro" if moved else EXPECTED
        if task.exclusive and metric == "accuracy":
            metric = None
        counts_per_label = metric not in (None, EXPECTED) and not task.exclusive and self.per_label
        if self.shrinkage != SHRINKAGE and not counts_per_label:
            raise ConfigError(
                f"shrinkage={self.shrinkage:g} has no effect: it requires a threshold for each label, tuned "
                f"for a metric other than {EXPECTED}, but task={task.name}, decision.metric={self.metric} "
                f"and per_label={self.per_label}. Remove shrinkage."
            )
        if metric is not None:
            goals = CLASS_GOALS if task.exclusive else GOALS
            check_choice("decision.metric", metric, goals, f" for task={task.name}")
        return metric


def fit_decision(
    task: Task,
    logits: Tensor,
    target: Any,
    *,
    loss: Any = None,
    counts: LabelCounts | None = None,
    **options: Any,
) -> Task:
    """Return the task with the temperature, and thresholds or class factors, that best fit validation rows.

    Calibration: the temperature T minimises the cross-entropy of logits / T. The shift that weights of the
    loss (`pos_weight`, or `weight` under softmax) add to the logits is subtracted first. With fewer than 20
    labelled rows, T is 1, and with many it may still be worse than 1 on other rows. Predictions that are
    not tuned remain those of the weighted loss (logit >= 0, or the largest logit).

    Thresholds then maximise the metric. The threshold t_l of a label with n_l positives is shrunk, as a
    logit, towards the common threshold t of all labels: (n_l t_l + k t) / (n_l + k), k = `shrinkage`.

    "expected_f1" is computed from probabilities p instead of labels, because rare labels have few positives.
    The largest expected F1 is F = max_n 2 (sum of the n largest p) / (n + sum p), reached by the threshold
    F / 2. The common threshold uses all outputs, and t_l is half way (`OWN_SHARE`, as logits) from it
    to the label's own. For a logit x, p is sigmoid(a x + b) with the a and b of minimal cross-entropy,
    because a loss may shift all logits.

    Multiclass: class factors r_c^-s with the class frequencies r_c, and the best s of a grid from -1.5 to
    1.5. Ties are resolved towards 1 for balanced accuracy (Menon et al., 2021), towards 1/2 for macro-F1, and
    towards 0 if the loss has already corrected for the frequencies.

    Args:
        task: The task whose threshold, temperature and factors are replaced.
        logits: The raw logits of the validation rows, (N, num_outputs, ...).
        target: The labels of the validation rows, in any form that `task.encode` accepts or returns.
        loss: The loss that the net was trained with; ignored unless it is a loss of lossselect or torch.
        counts: Counts of the training labels, for the class frequencies; by default the validation rows are
            counted.
        options: `metric`, `per_label`, `recall`, `calibration` and `shrinkage`: see `DecisionOptions`.

    Returns:
        A task of the same kind; its thresholds apply to probabilities after shift and temperature.

    Raises:
        ConfigError: an invalid option, or one that the task does not support; logits of wrong shape or dtype.
        OptionTypeError: an option of the wrong type, or a `task` that is not a task.
        DataError: logits that are NaN or +inf, an invalid target, or no known label.

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv:1706.04599 (temperature);
        Lipton et al., Optimal Thresholding of Classifiers to Maximize F1 Measure, ECML 2014,
        arXiv:1402.1892 (F / 2).

    Example:
        >>> from lossselect import Binary
        >>> logits = torch.linspace(-3, 3, 40).unsqueeze(1)
        >>> fitted = fit_decision(Binary(), logits, [0] * 15 + [1] * 25, metric="f1", calibration="none")
        >>> round(fitted.threshold, 3)
        0.317
    """
    task = as_task(task)
    decision = decision_options(**options)
    goal = decision.goal(task, loss)
    logits = torch.as_tensor(logits).detach().cpu()
    task.check_logits(logits)
    encoded = task.check_target(to_canonical(task, target, logits.ndim - 2).cpu(), logits)
    for row, *position in (logits.isnan() | (logits == torch.inf)).nonzero().tolist():
        raise DataError(
            f"Row {row} of the logits contains {logits[row, *position].item():g}, so no decision can be "
            "fitted. Check the inputs and the weights of the net.",
            row=row,
        )
    fitted: Any = replace(task, temperature=1.0, shift=0.0)
    # a logit of -inf excludes a class; it is clipped because 0 times infinity would be NaN
    scores = flatten_positions(fitted.calibrated_logits(logits.double())).numpy().clip(-1e30, 1e30)
    truth = flatten_positions(task.to_one_hot(encoded)).double().numpy()
    known = ~np.isnan(truth)
    if not known.any():
        raise DataError(
            "All validation labels are missing, so no decision can be fitted. Add labels, or set "
            "decision=none."
        )
    if task.exclusive:
        rows = known.all(1)
        scores, truth, known = scores[rows], truth[rows], known[rows]
    positive = (truth >= 0.5) & known
    if not task.exclusive and not positive.any():
        _warn_untuned(task.output_names, len(task.output_names))
        return task
    weights = weight_shift(task, loss)
    if decision.calibration != "none":
        shift, temperature = np.zeros(1) if weights is None else weights, 1.0
        has_rows = known.any(1).sum() >= MIN_CALIBRATED_ROWS
        if has_rows:
            shift, temperature = fit_shift_and_temperature(
                scores, truth, known, weights, loss, task.exclusive
            )
        if has_rows and decision.calibration == "per_label":
            temperature = _number_or_tuple(label_temperatures(scores - shift, truth, known))
        fitted = replace(task, temperature=temperature, shift=_number_or_tuple(shift) if shift.any() else 0.0)
    # untuned predictions of a weighted loss: the threshold sigmoid(-offset), or the class factors exp(offset)
    offset = np.array(fitted.shift) / np.array(fitted.temperature)
    scores = scores / np.array(fitted.temperature) - offset
    if task.exclusive:
        if goal is not None:
            frequencies = None if counts is None else class_prior(task, counts)
            correction = loss if isinstance(loss, Loss) and not offset.any() else None
            factors = fit_class_factors(task, scores, truth, goal, frequencies, correction)
            return replace(fitted, prior_correction=factors)
        if decision.metric is None:
            return fitted
        # for accuracy the most probable class is the best
        weighted = offset.any() and decision.metric != "accuracy"
        return replace(fitted, prior_correction=tuple(np.exp(offset).tolist()) if weighted else None)
    if task.top_k is not None:
        return fitted
    if goal is None:
        if decision.metric is None or fitted.threshold != 0.5 or weights is None:
            return fitted
        return replace(fitted, threshold=_number_or_tuple(sigmoid(-offset)))
    _warn_few_positives(task, positive.sum(0), goal, decision)
    if goal == EXPECTED:
        return replace(fitted, threshold=expected_thresholds(scores, truth, known, decision.per_label))
    columns = zip(scores.T, positive.T, known.T, strict=True)
    labels = [Label(column[mask], is_positive[mask]) for column, is_positive, mask in columns]
    names = zip(task.output_names, labels, strict=True)
    if untuned := [name for name, label in names if not label.positives]:
        _warn_untuned(untuned, len(labels))
    thresholds = counted_thresholds(labels, goal, decision.per_label, decision.recall, decision.shrinkage)
    return replace(fitted, threshold=thresholds)


def decision_options(**options: Any) -> DecisionOptions:
    """Return the options as a checked `DecisionOptions`."""
    check_options(options, [field.name for field in fields(DecisionOptions)], "decision")
    return DecisionOptions(**options)


def options_by_task(options: Mapping[str, Any], task: AnyTask) -> dict[str, DecisionOptions]:
    """Return the options of each of several tasks: an option is one value for all, or values by task.

    Tasks that the values by task leave out have the default.

    Raises:
        ConfigError: an unknown task or option.
    """
    defaults = vars(DecisionOptions())
    found: dict[str, dict[str, Any]] = {name: {} for name in task.tasks}
    for key, value in options.items():
        for name, of_task in spread(task, value, f"decision.{key}", defaults.get(key)).items():
            found[name][key] = of_task
    checked = {}
    for name, of_task in found.items():
        with naming_task(name):
            try:
                checked[name] = decision_options(**of_task)
            except ConfigError as error:
                example = "An option can be set by task, such as decision.metric={%s: f1}."
                raise (error.add(example % name) if name else error) from None
    return checked


def _warn_untuned(names: Sequence[str], count: int) -> None:
    warn(
        "untuned_threshold",
        f"{len(names)} of {count} labels have no positive in the validation split, so their thresholds "
        f"cannot be tuned: {shorten(names)}. Hold out more rows.",
    )


def _warn_few_positives(task: Task, positives: np.ndarray, goal: str, decision: DecisionOptions) -> None:
    """Warn if thresholds are tuned to few positives and shrinkage does not compensate for that."""
    total = int(positives.sum())
    if total < MIN_TUNED_POSITIVES:
        of_all = "" if task.positive_name else " over all labels"
        warn(
            "few_positives",
            f"The validation split has only {total} positives{of_all}. A threshold tuned to fewer than "
            f"{MIN_TUNED_POSITIVES} is mostly noise, so decision.metric={goal} may be worse than 0.5. Set "
            "decision.metric=null to keep the thresholds, or hold out more rows.",
        )
        return
    per_label = decision.per_label and goal != EXPECTED and len(positives) > 1
    few = (positives > 0) & (positives < MIN_TUNED_POSITIVES)
    if per_label and decision.shrinkage < MIN_TUNED_POSITIVES / 2 and few.any():
        names = [name for name, is_few in zip(task.output_names, few, strict=True) if is_few]
        warn(
            "few_positives",
            f"{len(names)} of {len(positives)} labels have fewer than {MIN_TUNED_POSITIVES} validation "
            f"positives, and with shrinkage={decision.shrinkage:g} their thresholds are mostly noise: "
            f"{shorten(names)}. Set decision.shrinkage={SHRINKAGE:g}.",
        )


def _number_or_tuple(values: np.ndarray) -> Any:
    flat = np.ravel(values).tolist()
    return flat[0] if len(flat) == 1 else tuple(flat)
