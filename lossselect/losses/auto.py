"""`loss=auto`: which loss and which modifiers the train labels call for, and why."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from lossselect.exceptions import ConfigError
from lossselect.losses.loss import Loss, select_loss
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import Task, as_task
from lossselect.utils.checks import check_options

MIN_IMBALANCE = 10.0
"""The minimum ratio of the largest class to the smallest one at which logits are adjusted."""


class Rule(NamedTuple):
    """A loss for train labels to which the rule applies; the first such rule counts."""

    name: str
    applies: Callable[[Task, LabelCounts], bool]
    loss: str
    reason: str


RULES = (
    Rule(
        "soft labels",
        lambda task, counts: counts.soft,
        "cross_entropy",
        "Some labels are soft, and cross-entropy is least where the probabilities are the labels themselves.",
    ),
    Rule(
        "long-tailed classes",
        lambda task, counts: task.exclusive and not task.ordinal and counts.imbalance >= MIN_IMBALANCE,
        "logit_adjusted",
        "The largest class has {imbalance:.3g} times the rows of the smallest: logit adjustment lets the net "
        "decide as if all were alike. Where the large ones should win, as in the accuracy of rows like those "
        "of train: loss=cross_entropy.",
    ),
    Rule(
        "labels",
        lambda task, counts: not task.exclusive,
        "cross_entropy",
        "Of the sigmoid losses none was better on all sets; rare labels are a matter of thresholds, which "
        "are tuned on val.",
    ),
    Rule(
        "classes",
        lambda task, counts: True,
        "cross_entropy",
        "The classes have rows enough: the likelihood is the loss to beat.",
    ),
)
"""Evidence for each: docs/choosing.md, with tables from benchmarks/choices.py."""


class SuggestedLoss(NamedTuple):
    """The name and options of a loss, as `TaskModule(loss=...)` accepts them, and the reasons for it."""

    loss: dict[str, Any]
    reasons: list[str]


def suggest_loss(task: Task, counts: LabelCounts) -> SuggestedLoss:
    """Return the loss that `loss="auto"` chooses for these labels, and the reasons.

    Args:
        task: The task.
        counts: `count_labels(task, labels)` of the train labels.

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
        share = f"{counts.missing / (known + counts.missing):.2g}"
        reasons.append(f"Missing labels ({share} of all) count in no loss, no weight and no metric.")
    return SuggestedLoss({"name": rule.loss}, reasons)


class AutoLoss(nn.Module):
    """The loss that `suggest_loss` will choose once the train labels are counted."""

    waiting = True

    def __init__(self, task: Task, **options: Any) -> None:
        super().__init__()
        check_options(options, [], "Loss 'auto'")
        self.task = as_task(task)

    def with_counts(self, counts: LabelCounts) -> Loss:
        """Return the loss for train labels with these counts."""
        options, reasons = suggest_loss(self.task, counts)
        loss = select_loss(self.task, counts=counts, **options)
        loss.reasons = reasons
        return loss

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        raise ConfigError(
            "loss=auto waits for the counts of the train labels: "
            "module.set_label_counts(lossselect.count_labels(task, labels)). (fit counts them.)"
        )


def loss_by_name(task: Task, name: str, **options: Any) -> Loss | AutoLoss:
    """Return a loss of the table, or the one that the train labels will choose."""
    return AutoLoss(task, **options) if name == "auto" else select_loss(task, name, **options)
