"""The choice of `loss=auto` from the training labels, and the reasons for it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lossselect.exceptions import ConfigError
from lossselect.losses.loss import Loss, select_loss
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import Task, as_task
from lossselect.utils.checks import check_options

MIN_IMBALANCE = 10.0
"""Minimum ratio of the largest to the smallest class at which logit adjustment is chosen."""


class Rule(NamedTuple):
    """The loss that is chosen if `applies` is true; the first such rule decides."""

    name: str
    applies: Callable[[Task, LabelCounts], bool]
    loss: str
    reason: str


RULES = (
    Rule(
        "soft labels",
        lambda task, counts: counts.soft,
        "cross_entropy",
        "Some labels are soft. Cross-entropy is minimal when the probabilities equal the labels.",
    ),
    Rule(
        "long-tailed classes",
        lambda task, counts: task.exclusive and not task.ordinal and counts.imbalance >= MIN_IMBALANCE,
        "logit_adjusted",
        "The largest class has {imbalance:.3g} times the rows of the smallest. Logit adjustment makes the "
        "net decide as if all classes were equally frequent. To maximise the accuracy at the class "
        "frequencies of the training split, set loss=cross_entropy.",
    ),
    Rule(
        "labels",
        lambda task, counts: not task.exclusive,
        "cross_entropy",
        "In benchmarks, no other sigmoid loss was better on all data sets. For rare labels the threshold "
        "matters more than the loss: see the settings of decision.",
    ),
    Rule(
        "classes",
        lambda task, counts: True,
        "cross_entropy",
        "Cross-entropy is the default. Logit adjustment is chosen only for unordered classes, if the "
        f"largest one has at least {MIN_IMBALANCE:g} times the rows of the smallest.",
    ),
)
"""Rules in order of precedence; docs/choosing-results.md has the evidence, from benchmarks/choices.py."""


class SuggestedLoss(NamedTuple):
    """The name and options of a loss, as `TaskModule(loss=...)` accepts them, and the reasons for it."""

    loss: dict[str, Any]
    reasons: list[str]


def suggest_loss(task: Task, counts: LabelCounts) -> SuggestedLoss:
    """Return the loss that `loss="auto"` chooses for these labels, and the reasons.

    Args:
        task: The task.
        counts: `count_labels(task, labels)` of the training labels.

    Raises:
        OptionTypeError: `task` is not a task.
        DataError: `counts` has another number of classes than the task.

    Example:
        >>> from lossselect import Multiclass, count_labels
        >>> suggest_loss(Multiclass(2), count_labels(Multiclass(2), [0] * 50 + [1])).loss
        {'name': 'logit_adjusted'}
    """
    task = as_task(task)
    counts.check_task(task)
    rule = next(rule for rule in RULES if rule.applies(task, counts))
    reasons = [rule.reason.format(imbalance=counts.imbalance)]
    if counts.missing:
        known = counts.known.sum() if task.several_labels else counts.positives.sum()
        fraction = f"{counts.missing / (known + counts.missing):.2g}"
        reasons.append(
            f"Missing labels ({fraction} of all) are ignored by the loss, the class weights and the metrics."
        )
    return SuggestedLoss({"name": rule.loss}, reasons)


class AutoLoss(nn.Module):
    """A placeholder for the loss that `suggest_loss` chooses once the training labels are counted."""

    waiting = True

    def __init__(self, task: Task, **options: Any) -> None:
        super().__init__()
        check_options(options, [], "Loss 'auto'")
        self.task = as_task(task)

    def with_counts(self, counts: LabelCounts) -> Loss:
        """Return the loss for training labels with these counts."""
        options, reasons = suggest_loss(self.task, counts)
        loss = select_loss(self.task, counts=counts, **options)
        loss.reasons = reasons
        return loss

    @torch.jit.unused
    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        raise ConfigError(
            "loss=auto is chosen from the training labels, which have not been counted. Call "
            "module.set_label_counts(lossselect.count_labels(task, labels)) first; fit does this itself."
        )


def loss_by_name(task: Task, name: str, **options: Any) -> Loss | AutoLoss:
    """Return the loss called `name`, or an `AutoLoss` if the name is "auto"."""
    return AutoLoss(task, **options) if name == "auto" else select_loss(task, name, **options)
