"""What a chunked head can decide, and the metrics it has. Needs neither torch nor the head itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lossselect.exceptions import ConfigError

if TYPE_CHECKING:
    from lossselect.tasks.registry import Task

TOP_K = 5
"""So many of the highest outputs of a row are looked at, and predicted."""


def top_metric_names(task: Task, width: int | None = None, counted: bool = True) -> tuple[str, ...]:
    """The metrics of a chunked head, `f1_micro` first.

    Args:
        task: Whose they are.
        width: How many outputs there are; None of very many.
        counted: Whether the train labels have been counted, which propensities are made of.
    """
    ks = [k for k in (1, 3, TOP_K) if width is None or k <= width]
    kinds = ["precision" if task.several_labels else "accuracy", "ndcg", *(["psp"] if counted else [])]
    return ("f1_micro", *(f"{kind}_at_{k}" for kind in kinds for k in ks))


def chunked_primary_metric(task: Task) -> str:
    """What is shown of a run with a chunked head while it goes."""
    return "precision_at_1" if task.several_labels else "accuracy_at_1"


def topk_monitor(task: Task) -> str:
    """What chooses the best epoch with a chunked head."""
    return "precision_at_1" if task.several_labels else "loss"


def check_topk_task(task: Task) -> None:
    """ValueError for a task that a chunked head cannot decide."""
    if task.ordinal:
        raise ConfigError("Ordered classes need all logits of a row at once: head=dense.")
    for option, value in (("min_labels", task.min_labels), ("top_k", task.top_k)):
        if value:
            raise ConfigError(
                f"{option} needs all outputs of a row at once, which a chunked head never has: head=dense. "
                "With head=chunked predictions have the 5 highest of each row."
            )
    if task.exclusive and (task.temperature != 1 or task.prior_correction):
        raise ConfigError(
            "A chunked head takes no temperature and no prior_correction of classes: head=dense."
        )
    if task.shift != 0:
        raise ConfigError("A chunked head takes no shift of the logits: head=dense.")
    if task.num_outputs < 2:
        raise ConfigError("A chunked head is for many outputs, and there is one: head=dense.")
