"""Checks of torch's own losses, which can replace those of this package."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from lossselect.exceptions import ConfigError
from lossselect.losses.registry import LOSSES
from lossselect.tasks.registry import IGNORE_INDEX, Task

TORCH_LOSSES = {
    "sigmoid": {
        "BCEWithLogitsLoss",
        "binary_cross_entropy_with_logits",
        "MultiLabelSoftMarginLoss",
        "multilabel_soft_margin_loss",
    },
    "softmax": {"CrossEntropyLoss", "cross_entropy", "MultiMarginLoss", "multi_margin_loss"},
}
"""Losses of torch that accept raw logits and canonical targets; others would train on wrong inputs."""

INDEX_ONLY = ("MultiMarginLoss", "multi_margin_loss")
"""Names in `TORCH_LOSSES` that do not support soft labels."""

SHIFTING = {
    "sigmoid": (nn.BCEWithLogitsLoss, binary_cross_entropy_with_logits, "pos_weight"),
    "softmax": (nn.CrossEntropyLoss, cross_entropy, "weight"),
}
"""Class and function in `TORCH_LOSSES` with an option that shifts the logits, and that option."""


def _unwrap(loss: Any) -> tuple[Any, Mapping[str, Any]]:
    """Return a loss without torch.compile and partial around it, together with its options."""
    loss = getattr(loss, "_orig_mod", loss)
    return (loss.func, loss.keywords) if isinstance(loss, partial) else (loss, getattr(loss, "__dict__", {}))


def check_mixes(mix: Any, loss: Any) -> None:
    """Raise ConfigError if `mix` makes soft labels that a loss does not support."""
    loss, _ = _unwrap(loss)
    name = getattr(loss, "__name__", type(loss).__name__)
    if mix is not None and name in INDEX_ONLY:
        raise ConfigError(
            f"mix creates soft labels, which torch's {name} does not support. Remove mix, or set loss to one "
            f"of: {', '.join(LOSSES)}."
        )


def check_torch_loss(loss: Any, task: Task) -> None:
    """Raise ConfigError for a loss of torch, or a subclass of one, that does not fit the task.

    The loss must accept raw logits and canonical targets, with reduction="mean" and an `ignore_index` that a
    target can contain. Losses of other packages that derive from torch's base classes are accepted.
    """
    loss, options = _unwrap(loss)
    kinds = [loss] if hasattr(loss, "__name__") else type(loss).__mro__
    names = {k.__name__ for k in kinds if k.__module__ in ("torch.nn.modules.loss", "torch.nn.functional")}
    names -= {"_Loss", "_WeightedLoss"}
    if names and not names & TORCH_LOSSES[task.activation]:
        raise ConfigError(
            f"torch's {min(names)} does not accept raw logits and targets of task={task.name}. Remove loss, "
            f"or set it to one of: {', '.join(LOSSES)}."
        )
    if options.get("reduction", "mean") != "mean":
        raise ConfigError(
            f"reduction={options['reduction']!r} is not supported by TaskModule, which averages the loss "
            "over the known labels. Set reduction='mean'."
        )
    ignored = options.get("ignore_index", IGNORE_INDEX) if task.activation == "softmax" else IGNORE_INDEX
    in_target = (IGNORE_INDEX, *range(task.num_probabilities))
    if isinstance(ignored, int) and ignored not in in_target:
        declare = "" if task.missing == ignored else f", and declare missing={ignored} in the task"
        raise ConfigError(
            f"ignore_index={ignored} has no effect: task.encode marks all missing labels with "
            f"{IGNORE_INDEX}. Remove ignore_index ({IGNORE_INDEX} is its default){declare}."
        )


def torch_weight(loss: Any, task: Task) -> Tensor | None:
    """Return the weights of torch's (binary) cross-entropy that shift the logits; None for another loss."""
    loss, options = _unwrap(loss)
    module, function, option = SHIFTING[task.activation]
    if isinstance(loss, module):
        return getattr(loss, option)
    return options.get(option) if loss is function else None
