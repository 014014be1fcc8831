"""Tasks, losses and metrics that a chunked head supports. Imports neither torch nor the head itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lossselect.exceptions import ConfigError
from lossselect.losses.registry import LOSSES, formula_takes
from lossselect.utils.checks import suggestion

if TYPE_CHECKING:
    from lossselect.tasks.registry import Task

TOP_K = 5
"""Number of highest outputs of each row that are evaluated and predicted."""
SOFTMAX = ("cross_entropy", "logit_adjusted")
"""Softmax losses that a chunked head supports."""


def top_metric_names(task: Task, width: int | None = None, counted: bool = True) -> tuple[str, ...]:
    """Return the names of a chunked head's metrics, `f1_micro` first.

    Args:
        task: A multilabel or multiclass task.
        width: Number of outputs, >= 1; None for very many.
        counted: Whether the training labels have been counted, which `psp_at_k` requires.

    Example:
        >>> from lossselect import Multilabel
        >>> top_metric_names(Multilabel(2), width=2)
        ('f1_micro', 'precision_at_1', 'ndcg_at_1', 'psp_at_1')
    """
    ks = [k for k in (1, 3, TOP_K) if width is None or k <= width]
    kinds = ["precision" if task.several_labels else "accuracy", "ndcg", *(["psp"] if counted else [])]
    return ("f1_micro", *(f"{kind}_at_{k}" for kind in kinds for k in ks))


def choose_top_metrics(
    task: Task, names: Any, width: int | None = None, counted: bool = True
) -> tuple[str, ...]:
    """Return the metrics to compute: those of `top_metric_names`, or the chosen ones and the default monitor.

    Raises:
        ConfigError: another metric was chosen.
    """
    if names is None:
        return top_metric_names(task, width, counted)
    known = top_metric_names(task, width)
    chosen = [names] if isinstance(names, str) else [*names]
    for name in chosen:
        if not isinstance(name, str) or name not in known or isinstance(names, Mapping):
            hint = suggestion(str(name), known)
            raise ConfigError(
                f"head=chunked does not support the metric {name!r}.{hint} Pass a list of these names: "
                f"{', '.join(known)}. For other metrics, set head=dense."
            )
    also = {topk_monitor(task)} - {"loss", *chosen}
    return (*dict.fromkeys(chosen), *also)


def requires_counts(names: Any) -> bool:
    """Return whether chosen metrics of a chunked head require the counts of the training labels."""
    return any(
        str(name).startswith("psp_at_") for name in ([names] if isinstance(names, str) else names or ())
    )


def chunked_primary_metric(task: Task) -> str:
    """Return the metric that a run with a chunked head shows during training."""
    return "precision_at_1" if task.several_labels else "accuracy_at_1"


def topk_monitor(task: Task) -> str:
    """Return the metric that selects the best epoch with a chunked head."""
    return "precision_at_1" if task.several_labels else "loss"


def check_topk_task(task: Any) -> None:
    """Raise ConfigError for a task that a chunked head does not support."""
    if len(task.tasks) > 1:
        raise ConfigError("A chunked head does not support several tasks. Set head=dense.")
    for option, value in (("min_labels", task.min_labels), ("top_k", task.top_k)):
        if value:
            raise ConfigError(
                f"{option} requires all outputs of a row at once, which a chunked head never has. Set "
                f"head=dense, or remove {option}: with head=chunked, predictions contain the {TOP_K} highest "
                "outputs of each row."
            )
    calibrated = task.temperature != 1 or task.prior_correction
    for applies, reason in (
        (task.ordinal, "Ordered classes require all logits of a row at once, which a chunked head never has"),
        (
            task.exclusive and calibrated,
            "A chunked head does not support temperature or prior_correction for multiclass",
        ),
        (task.shift != 0, "A chunked head does not support a shift of the logits"),
        (task.num_outputs < 2, "A chunked head requires at least 2 outputs, but the task has 1"),
    ):
        if applies:
            raise ConfigError(f"{reason}. Set head=dense.")


def chunkable(activation: str) -> list[str]:
    """Return the losses that a chunked head supports; sigmoid losses must be a sum over labels."""
    sigmoid = {name: forms["sigmoid"] for name, forms in LOSSES.items() if "sigmoid" in forms}
    sums = [name for name, formula in sigmoid.items() if "known" not in formula_takes(formula)]
    return {"sigmoid": sums, "softmax": [*SOFTMAX]}[activation]


def check_chunkable(loss: Any) -> None:
    """Raise ConfigError if a loss requires all logits at once."""
    from lossselect.losses.loss import Loss

    known = isinstance(loss, Loss)
    if not known or loss.name not in chunkable(loss.task.activation):
        name = loss.name if known else getattr(loss, "__name__", type(loss).__name__)
        raise ConfigError(
            f"Loss {name!r} requires all logits of a row at once, which a chunked head never has. Set "
            "head=dense, or use a loss that a chunked head supports. For multilabel: "
            f"{', '.join(chunkable('sigmoid'))}. For multiclass: {', '.join(SOFTMAX)}."
        )
