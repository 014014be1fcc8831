"""What a chunked head can decide, and the metrics it has. Imports neither torch nor the head itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lossselect.exceptions import ConfigError

if TYPE_CHECKING:
    from lossselect.tasks.registry import Task

TOP_K = 5
"""How many of the highest outputs of a row are evaluated and predicted."""


def top_metric_names(task: Task, width: int | None = None, counted: bool = True) -> tuple[str, ...]:
    """Return the names of a chunked head's metrics, `f1_micro` first.

    Args:
        task: A multilabel or multiclass task.
        width: Number of outputs; None for very many.
        counted: Whether the train labels have been counted, from which propensities are computed.
    """
    ks = [k for k in (1, 3, TOP_K) if width is None or k <= width]
    kinds = ["precision" if task.several_labels else "accuracy", "ndcg", *(["psp"] if counted else [])]
    return ("f1_micro", *(f"{kind}_at_{k}" for kind in kinds for k in ks))


def chunked_primary_metric(task: Task) -> str:
    """Return the metric that is shown while a run with a chunked head goes on."""
    return "precision_at_1" if task.several_labels else "accuracy_at_1"


def topk_monitor(task: Task) -> str:
    """Return the metric that selects the best epoch with a chunked head."""
    return "precision_at_1" if task.several_labels else "loss"


def check_topk_task(task: Task) -> None:
    """Raise ConfigError for a task that a chunked head cannot decide."""
    for option, value in (("min_labels", task.min_labels), ("top_k", task.top_k)):
        if value:
            raise ConfigError(
                f"{option} needs all outputs of a row at once, which a chunked head never has: head=dense. "
                "With head=chunked predictions have the 5 highest of each row."
            )
    calibrated = task.temperature != 1 or task.prior_correction
    for applies, reason in (
        (task.ordinal, "Ordered classes need all logits of a row at once"),
        (
            task.exclusive and calibrated,
            "A chunked head takes no temperature and no prior_correction of classes",
        ),
        (task.shift != 0, "A chunked head takes no shift of the logits"),
        (task.num_outputs < 2, "A chunked head is for many outputs, and there is one"),
    ):
        if applies:
            raise ConfigError(f"{reason}: head=dense.")
