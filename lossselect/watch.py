"""What a net's outputs and a loader's labels look like: mistakes that train without a word.

The last operation is told by the graph of the logits, at no cost; values are looked at once, in the first
batch, and at the end of the first epoch.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .guards import warn, warn_of_absent, warn_of_single_labels
from .label_values import some
from .tasks import IGNORE_INDEX, Task

ENDS = {
    "Softmax": "probabilities",
    "Softmax2d": "probabilities",
    "Sigmoid": "probabilities",
    "Hardsigmoid": "probabilities",
    "LogSoftmax": "log_softmax",
    "LogSigmoid": "log_sigmoid",
    "ReLU": "bounded",
    "ReLU6": "bounded",
    "Tanh": "bounded",
    "Hardtanh": "bounded",
    "clamp": "bounded",
}
"""Modules that no net of raw logits ends in, and what their outputs are."""

GRAPH = {
    "SoftmaxBackward0": "Softmax",
    "SigmoidBackward0": "Sigmoid",
    "HardsigmoidBackward0": "Hardsigmoid",
    "LogSoftmaxBackward0": "LogSoftmax",
    "LogSigmoidBackward0": "LogSigmoid",
    "ReluBackward0": "ReLU",
    "TanhBackward0": "Tanh",
    "HardtanhBackward0": "Hardtanh",
    "ClampBackward0": "clamp",
    "ClampBackward1": "clamp",
}
"""The same as nodes of a graph."""

SHAPING = (
    *("View", "Reshape", "ReshapeAlias", "UnsafeView", "Unsqueeze", "Squeeze", "Transpose", "T", "Permute"),
    *("Slice", "Select", "Clone", "Alias", "ToCopy", "Expand", "Cat", "Stack", "Index", "AsStrided"),
)
"""Operations that change the shape or the dtype of what they get, but no value."""


AFFINE = ("Addmm", "Mm", "Bmm", "Baddbmm", "Add", "Convolution", "Linear", "MkldnnConvolution")
"""Last operations of a linear layer or a convolution: what they return is no probability."""

FEW_ROWS = 64
"""Of so few rows nothing is said: their logits may lie between 0 and 1 by chance."""


def check_end(net: nn.Module | None, task: Task) -> None:
    """ValueError where a chain of modules ends in one that makes probabilities, before a step is taken."""
    name, last = "net", getattr(net, "_orig_mod", net)  # of torch.compile
    while isinstance(last, nn.Sequential) and len(last):
        children = [
            (key, child)
            for key, child in last.named_children()
            if not isinstance(child, nn.Identity | nn.Flatten | nn.Unflatten | nn.Dropout)
        ]
        if not children:
            return
        key, last = children[-1]
        name = f"{name}.{key}"
    end = type(last).__name__
    if end in ENDS and not _may_be_meant(end, task):
        _judge(end, f" ({name})", task)


def _may_be_meant(end: str, task: Task) -> bool:
    return ENDS[end] == "bounded" or (ENDS[end] == "log_softmax" and task.activation == "softmax")


def _judge(end: str, where: str, task: Task) -> None:
    if ENDS[end] == "bounded":
        warn(
            "bounded_outputs",
            f"The net ends in {end}{where}, so its logits cannot take all values, nor its probabilities. A "
            "net ends in a linear layer or a convolution.",
            stacklevel=6,
        )
    elif _may_be_meant(end, task):
        warn(
            "log_softmax",
            f"The net ends in LogSoftmax{where}, which the loss applies itself. The second does no harm, but "
            "is for nothing: remove that layer.",
            stacklevel=6,
        )
    else:
        raise ValueError(
            f"The net ends in {end}{where}, but the loss takes raw logits and applies {task.activation} "
            "itself. Remove that layer; use task.probabilities(logits) to predict."
        )


def check_graph(logits: Tensor, module: nn.Module, task: Task) -> bool:
    """The same by the last operation that made the logits, whoever called it.

    Returns:
        Whether it is one of a linear layer or a convolution.

    Raises:
        ValueError: also where no gradient comes back through the logits.
    """
    if not logits.requires_grad:
        raise ValueError(
            "The logits carry no gradient, so nothing would be learned: forward must not detach them "
            "(detach(), .data, item(), torch.no_grad(), a way through NumPy)."
        )
    nodes = [*_ends(logits.grad_fn)]
    for node in nodes:
        if end := GRAPH.get(type(node).__name__):
            places = [name for name, part in module.named_modules() if type(part).__name__ == end]
            _judge(end, f" ({places[0]})" if len(places) == 1 else "", task)
        elif type(node).__name__ == "ExpBackward0":
            inner = node.next_functions[0][0]
            if type(inner).__name__ == "LogSoftmaxBackward0":
                _judge("Softmax", " (exp of log_softmax)", task)
    return all(_operation(node) in AFFINE for node in nodes)


def _operation(node: Any) -> str:
    return type(node).__name__.rstrip("0123456789").removesuffix("Backward")


def _ends(node: Any, depth: int = 0) -> Iterator[Any]:
    """The operations that made the values, behind those that only shape them."""
    name = _operation(node)
    if name not in SHAPING or depth > len(SHAPING):
        yield node
        return
    for inner, _ in node.next_functions:
        if inner is not None:
            yield from _ends(inner, depth + 1)


def check_first_outputs(logits: Tensor, inputs: Any, task: Task) -> None:
    """ValueError where the first batch's outputs are not finite, or rows of probabilities."""
    outputs = logits.detach()
    if not bool(outputs.isfinite().all()):
        row = int((~outputs.isfinite()).flatten(1).any(1).nonzero()[0])
        cause = "Look at the net's layers and at the inputs' scale."
        if isinstance(inputs, Tensor) and inputs.is_floating_point() and not bool(inputs.isfinite().all()):
            bad = int((~inputs.isfinite()).flatten(1).any(1).nonzero()[0]) if inputs.ndim > 1 else 0
            cause = f"The inputs of row {bad} hold NaN or infinity: mend them, or leave those rows out."
        raise ValueError(f"Row {row} of the first batch's logits is not finite. {cause}")
    if task.num_outputs > 1 and len(outputs):
        total = outputs.float().sum(1)
        near = 1e-2 if outputs.dtype in (torch.float16, torch.bfloat16) else 1e-4
        if bool((outputs >= 0).all() & ((total - 1).abs() <= near).all()):
            raise ValueError(
                "Each row of the first batch's outputs is between 0 and 1 and sums to 1, as after a softmax, "
                f"but the loss takes raw logits and applies {task.activation} itself. Return the logits; use "
                "task.probabilities(logits) to predict."
            )


class FirstEpoch:
    """What an epoch's outputs and labels were, added up on the device."""

    def __init__(self) -> None:
        self.least: Tensor | None = None
        self.most: Tensor | None = None
        self.positives: Tensor | None = None
        self.single: Tensor | None = None
        self.rows = 0

    def update(self, outputs: Tensor, target: Tensor, task: Task) -> None:
        """Take in rows of outputs (N, C) and of the target."""
        truth = task.harden(target)
        if task.activation == "sigmoid":
            ones = truth == 1
            positives, single = ones.sum(0), (ones.sum(1) == 1).all()
            if task.width_field is None:
                positives = torch.cat([(truth == 0).sum(0), positives])
        else:
            # an index for what is missing, as bincount would make the device wait
            place = truth.masked_fill(truth == IGNORE_INDEX, task.num_outputs)
            positives = torch.zeros(task.num_outputs + 1, dtype=torch.long, device=truth.device)
            positives = positives.scatter_add_(0, place, torch.ones_like(place))[:-1]
            single = torch.zeros((), dtype=torch.bool, device=truth.device)
        self.rows += len(outputs)
        least, most = outputs.aminmax()
        if self.least is None or self.most is None or self.positives is None or self.single is None:
            self.least, self.most, self.positives, self.single = least, most, positives, single
            return
        self.least, self.most = torch.minimum(self.least, least), torch.maximum(self.most, most)
        self.positives, self.single = self.positives + positives, self.single & single

    def warn_of_outputs(self) -> None:
        """Warn of logits that all lie in [0, 1]."""
        if self.least is None or self.most is None or self.rows < FEW_ROWS:
            return
        least, most = float(self.least), float(self.most)
        if 0 <= least < most <= 1:
            warn(
                "unit_outputs",
                f"All outputs of the first epoch lie between {least:.3g} and {most:.3g}, as probabilities "
                "do. The net must return raw logits: the loss applies the activation itself.",
                stacklevel=4,
            )

    def warn_of_labels(self, task: Task) -> None:
        """Warn of classes that no row had, and of multilabel rows of one label each."""
        if self.positives is None or self.single is None:
            return
        counts = self.positives.tolist()
        if absent := [name for name, count in zip(task.names, counts, strict=True) if not count]:
            warn_of_absent(absent, stacklevel=4)
        if task.width_field == "num_labels" and task.num_outputs > 1 and bool(self.single):
            warn_of_single_labels()


def warn_of_no_positives(task: Task, positives: Tensor, stage: str) -> None:
    """Say how many labels are in no macro mean, as the split has none of them."""
    absent = [name for name, count in zip(task.output_names, positives.tolist(), strict=True) if not count]
    if task.width_field == "num_labels" and absent:
        warn(
            "no_positives",
            f"{len(absent)} of {task.num_outputs} labels have no positive in the {stage} split and are in no "
            f"macro mean (f1_macro, auroc, map): {some(absent)}.",
            stacklevel=4,
        )
