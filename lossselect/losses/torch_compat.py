"""torch's own losses in place of ours: which of them fit a task."""

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
"""Those of torch's own losses that take raw logits and our targets; any other trains, but on nonsense."""

INDEX_ONLY = ("MultiMarginLoss", "multi_margin_loss", "NLLLoss", "nll_loss")
"""Losses of torch's that take no soft labels."""


def check_mixes(mix: Any, loss: Any) -> None:
    """ValueError where mixed batches have soft labels, which a loss of torch's does not take."""
    loss = loss.func if isinstance(loss, partial) else getattr(loss, "_orig_mod", loss)
    name = getattr(loss, "__name__", type(loss).__name__)
    if mix is not None and name in INDEX_ONLY:
        raise ConfigError(
            f"mix makes soft labels of class indices, which torch's {name} does not take. Leave one of them "
            f"out, or choose a loss by name: {', '.join(LOSSES)}."
        )


def check_torch_loss(loss: Any, task: Task) -> None:
    """Reject one of torch's losses, or a subclass of one, that is not for the task's logits and targets.

    A loss that only derives from torch's base classes, as those of other packages do, is accepted.

    Raises:
        ValueError: another loss of torch's, a reduction other than "mean", or an `ignore_index` that no
            target has.
    """
    loss = getattr(loss, "_orig_mod", loss)  # of torch.compile
    options = loss.keywords if isinstance(loss, partial) else vars(loss)
    loss = loss.func if isinstance(loss, partial) else loss
    kinds = [loss] if hasattr(loss, "__name__") else type(loss).__mro__
    names = {k.__name__ for k in kinds if k.__module__ in ("torch.nn.modules.loss", "torch.nn.functional")}
    names -= {"_Loss", "_WeightedLoss"}
    if names and not names & TORCH_LOSSES[task.activation]:
        raise ConfigError(
            f"torch's {min(names)} takes no raw logits with the targets of "
            f"{task}. Leave loss out, or choose it by name: {', '.join(LOSSES)}."
        )
    if options.get("reduction", "mean") != "mean":
        raise ConfigError(
            "TaskModule averages the loss over what has a label; "
            f"reduction={options['reduction']!r} is for loops of your own."
        )
    ignored = options.get("ignore_index", IGNORE_INDEX) if task.activation == "softmax" else IGNORE_INDEX
    in_target = (IGNORE_INDEX, *range(task.num_probabilities))
    if isinstance(ignored, int) and ignored not in in_target:
        declare = "" if task.missing == ignored else f", and declare missing={ignored} in the task"
        raise ConfigError(
            f"ignore_index={ignored} has no effect: in the canonical target that task.encode returns, "
            f"missing labels are {IGNORE_INDEX}, whatever marked them. Leave ignore_index out "
            f"({IGNORE_INDEX} is its default){declare}."
        )


def torch_weight(loss: Any, task: Task) -> Tensor | None:
    """Return the weights of a loss of torch's that move the logits; None for any other loss.

    Args:
        loss: Any loss; `torch.nn.BCEWithLogitsLoss` and `CrossEntropyLoss`, and partial functions of the
            same, may have such weights. What an attribute of another loss means is not known.
        task: Tells which weights: `pos_weight` under sigmoid, `weight` under softmax.
    """
    loss = getattr(loss, "_orig_mod", loss)  # of torch.compile
    sigmoid = task.activation == "sigmoid"
    name = "pos_weight" if sigmoid else "weight"
    if isinstance(loss, partial):
        function = binary_cross_entropy_with_logits if sigmoid else cross_entropy
        return loss.keywords.get(name) if loss.func is function else None
    kind = nn.BCEWithLogitsLoss if sigmoid else nn.CrossEntropyLoss
    return getattr(loss, name) if isinstance(loss, kind) else None
