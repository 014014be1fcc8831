"""`loss=auto`: which loss and which modifiers the train labels call for, and why."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from .counts import LabelCounts
from .criterion import Loss, select_loss
from .names import check_options
from .tasks import Task, as_task


class Rule(NamedTuple):
    """What is proposed where `applies` holds of the train labels; the first rule of a kind counts."""

    kind: str
    """"loss", "weight" or another modifier: of each kind one is chosen."""
    applies: Callable[[Task, LabelCounts], bool]
    options: dict[str, Any]
    reason: str


RULES: tuple[Rule, ...] = ()


def propose_loss(task: Task, counts: LabelCounts) -> tuple[dict[str, Any], list[str]]:
    """A loss with its options, as `TaskModule(loss=...)` takes it, and a reason for each choice."""
    task = as_task(task)
    options: dict[str, Any] = {"name": "cross_entropy"}
    reasons: list[str] = []
    decided: set[str] = set()
    for rule in RULES:
        if rule.kind not in decided and rule.applies(task, counts):
            decided.add(rule.kind)
            options |= rule.options
            reasons.append(rule.reason)
    return options, reasons


class AutoLoss(nn.Module):
    """The loss that `propose_loss` will choose once the train labels are counted.

    Args:
        task: As `select_loss` takes it.
    """

    waiting = True

    def __init__(self, task: Task, **options: Any) -> None:
        super().__init__()
        check_options(options, [], "Loss 'auto'")
        self.task = as_task(task)

    def with_counts(self, counts: LabelCounts) -> Loss:
        """The loss that the labels call for."""
        options, reasons = propose_loss(self.task, counts)
        loss = select_loss(self.task, counts=counts, **options)
        loss.reasons = reasons
        return loss

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        raise ValueError(
            "loss=auto waits for the counts of the train labels: "
            "module.use_counts(lossselect.count_labels(task, labels)). (fit counts them.)"
        )
