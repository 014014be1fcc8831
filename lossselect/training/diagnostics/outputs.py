"""What a net's outputs and a loader's labels look like: mistakes that train without a word.

The last operation is told by the graph of the logits, at no cost; values are looked at once, in the first
batch, and at the end of the first epoch.
"""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lossselect.exceptions import ConfigError, DataError
from lossselect.models.head import bias_values
from lossselect.models.nets import first_sentence
from lossselect.tasks.registry import Task
from lossselect.training.diagnostics.last_operation import LastOperations
from lossselect.utils.warnings import warn, warn_class_without_rows, warn_looks_multiclass

if TYPE_CHECKING:
    from lossselect.chunked.linear import ChunkedLogits

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
    return ENDS[end] == "bounded" or (ENDS[end] == "log_softmax" and task.exclusive)


def _judge(end: str, where: str, task: Task) -> None:
    if ENDS[end] == "bounded":
        warn(
            "bounded_outputs",
            f"The net ends in {end}{where}, so its logits cannot take all values, nor its probabilities. A "
            "net ends in a linear layer or a convolution.",
        )
    elif _may_be_meant(end, task):
        warn(
            "log_softmax",
            f"The net ends in LogSoftmax{where}, which the loss applies itself. The second does no harm, but "
            "is for nothing: remove that layer.",
        )
    else:
        raise ConfigError(
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
        raise ConfigError(
            "The logits carry no gradient, so nothing would be learned: forward must not detach them "
            "(detach(), .data, item(), torch.no_grad(), a way through NumPy)."
        )
    nodes = [*_ends(logits.grad_fn)]
    for node in nodes:
        if _operation(node) == "Clamp" and _is_wide(node):
            continue
        if end := GRAPH.get(type(node).__name__):
            places = [name for name, part in module.named_modules() if type(part).__name__ == end]
            _judge(end, f" ({places[0]})" if len(places) == 1 else "", task)
        elif type(node).__name__ == "ExpBackward0":
            inner = node.next_functions[0][0]
            if type(inner).__name__ == "LogSoftmaxBackward0":
                _judge("Softmax", " (exp of log_softmax)", task)
    return all(_operation(node) in AFFINE for node in nodes)


def _is_wide(node: Any) -> bool:
    """Whether a clamp leaves nearly all probabilities: its bounds are there against overflow."""
    bounds = [getattr(node, name, None) for name in ("_saved_min", "_saved_max")]
    return all(isinstance(bound, int | float) and abs(bound) >= WIDE for bound in bounds if bound is not None)


WIDE = 10
"""A logit whose probability is 5e-5 from 0 or 1."""


def _operation(node: Any) -> str:
    return type(node).__name__.rstrip("0123456789").removesuffix("Backward")


def _ends(node: Any) -> Iterator[Any]:
    """The operations that made the values, behind those that only shape them."""
    seen, ahead = set(), [node]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if _operation(node) in SHAPING:
            ahead += [inner for inner, _ in node.next_functions]
        else:
            yield node


def check_first_outputs(logits: Tensor, inputs: Any, task: Task) -> None:
    """ValueError where the first batch's outputs are not finite, or rows of probabilities."""
    outputs = logits.detach()
    if not bool(outputs.isfinite().all()):
        row = int((~outputs.isfinite()).flatten(1).any(1).nonzero()[0])
        cause = "Look at the net's layers and at the inputs' scale."
        if isinstance(inputs, Tensor) and inputs.is_floating_point() and not bool(inputs.isfinite().all()):
            bad = int((~inputs.isfinite()).flatten(1).any(1).nonzero()[0]) if inputs.ndim > 1 else 0
            cause = f"The inputs of row {bad} hold NaN or infinity: mend them, or leave those rows out."
        raise DataError(f"Row {row} of the first batch's logits is not finite. {cause}", row=row)
    _check_sums(outputs, task, "the first batch's outputs")


def _check_sums(outputs: Tensor, task: Task, what: str) -> None:
    """ValueError where rows of outputs are probabilities, which sum to 1."""
    if task.num_outputs == 1 or not len(outputs):
        return
    total = outputs.float().sum(1)
    near = 1e-2 if outputs.dtype in (torch.float16, torch.bfloat16) else 1e-4
    if bool((outputs >= 0).all() & ((total - 1).abs() <= near).all()):
        raise ConfigError(
            f"Each row of {what} is between 0 and 1 and sums to 1, as after a softmax, "
            f"but the loss takes raw logits and applies {task.activation} itself. Return the logits; use "
            "task.probabilities(logits) to predict."
        )


class OutputChecks:
    """Looks at a module's outputs until it is known what they are; then it costs nothing."""

    def __init__(self) -> None:
        self.values_seen = False
        self.graph_seen = False
        self.evaluation_seen = False
        self.gradient_seen = False
        self.bias_init: Tensor | None = None
        """The bias that was set to start from the labels' shares."""
        self.finite_at = -1
        """After which step the weights were last seen to be finite."""
        self.affine = False
        """Whether the net was seen to end in a linear layer or a convolution."""

    def outputs_of(self, module: nn.Module, inputs: Any, task: Task) -> Any:
        """Return what a module makes of inputs, checked in the first batch in evaluation mode.

        A module may behave differently in evaluation mode, where there is no autograd graph. Of a compiled
        one the values alone are checked.

        Raises:
            ValueError: the outputs are probabilities.
        """
        try:
            return self._outputs_of(module, inputs, task)
        except RuntimeError as error:
            # not one that is out of memory, not implemented, or of a process that has lost another one
            if type(error) is not RuntimeError or (dist.is_available() and dist.is_initialized()):
                raise
            given = f" of shape {tuple(inputs.shape)}, {inputs.dtype}" if isinstance(inputs, Tensor) else ""
            raise ConfigError(
                f"The net fails for inputs{given}: {first_sentence(error)}. (HYDRA_FULL_ERROR=1 shows the "
                "traceback.)"
            ) from error

    def _outputs_of(self, module: nn.Module, inputs: Any, task: Task) -> Any:
        if module.training or self.evaluation_seen:
            return module(inputs)
        self.evaluation_seen = True
        compiled = any(hasattr(part, "_orig_mod") for part in module.modules())
        operations = LastOperations()
        with nullcontext() if compiled else operations:
            outputs = module(inputs)
        if isinstance(outputs, Tensor):
            kind = operations.kind_of(outputs)
            if kind is not None and not _may_be_meant(kind, task):
                _judge(kind, " in evaluation mode", task)
            if outputs.ndim > 1:
                _check_sums(outputs.detach(), task, "the outputs in evaluation mode")
        return outputs

    def look(self, logits: Tensor, inputs: Any, module: nn.Module, task: Task) -> None:
        """Values in the first batch, the graph in the first to train on.

        Raises:
            ValueError: they are no raw logits, or nothing would be learned from them.
        """
        if self.graph_seen or torch.compiler.is_compiling():
            return
        if not self.values_seen:
            check_first_outputs(logits, inputs, task)
            self.values_seen = True
        if module.training and torch.is_grad_enabled():
            self.affine = check_graph(logits, module, task)
            self._check_head(logits)
            self.graph_seen = True

    def look_at_chunked(self, logits: "ChunkedLogits", module: nn.Module) -> None:
        """What a chunked head takes, in the first batch and in the first to train on.

        Raises:
            ValueError: it is not finite, or no gradient would go back from the head.
        """
        if self.graph_seen:
            return
        inputs = logits.inputs.detach()
        if not self.values_seen and not bool(inputs.isfinite().all()):
            row = int((~inputs.isfinite()).any(1).nonzero()[0])
            raise DataError(
                f"Row {row} of what the head takes in the first batch is not finite. Look at the net's "
                "layers, and at the inputs: they may hold NaN or infinity.",
                row=row,
            )
        self.values_seen = True
        if module.training and torch.is_grad_enabled():
            if not logits.with_grad:
                raise ConfigError(
                    "The logits carry no gradient, so nothing but the head would be learned: forward must "
                    "not run under torch.no_grad() or torch.inference_mode()."
                )
            self.graph_seen = True

    def _check_head(self, logits: Tensor) -> None:
        """Whether the layer that was taken for the last one made the logits."""
        bias, nodes = self.bias_init, [*_ends(logits.grad_fn)]
        if bias is not None and self.affine and not any(b is bias for b in bias_values(nodes)):
            warn(
                "no_head_bias",
                "bias_init=prior has set the bias of the last registered layer with as many outputs as the "
                "task, but another one made the logits. Leave bias_init out (bias_init=null), or register "
                "the head last.",
            )
        self.bias_init = None

    def look_at_gradient(self, module: nn.Module, outputs: Any, may_raise: bool = True) -> None:
        """ValueError where a loss that is not 0 has sent no gradient back to any weight.

        Args:
            module: Whose weights they are.
            outputs: What the step returned.
            may_raise: Whether no gradient is a mistake by now: a loss of the user's may be constant at first.
        """
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, Tensor) or not bool(loss != 0):
            return
        there = [weight.grad for weight in module.parameters() if weight.grad is not None]
        # under FSDP2 a process has parts alone, which may be 0, or empty
        parts_alone = any(hasattr(gradient, "to_local") for gradient in there)
        self.gradient_seen = not there or parts_alone or any(bool(g.count_nonzero()) for g in there)
        if not self.gradient_seen and may_raise:
            raise ConfigError(
                f"The loss is {float(loss):.3g}, but its gradient is 0 for all weights: nothing would be "
                "learned. Something in forward, or in a loss of your own, has no gradient, such as round(), "
                "sign() or a product with 0."
            )


class FirstEpochChecks:
    """The range of an epoch's outputs, and whether each row had one label; added up on the device."""

    def __init__(self) -> None:
        self.rows = 0
        self.least: Tensor | None = None
        self.most: Tensor | None = None
        self.single: Tensor | None = None

    def update(self, outputs: Tensor, truth: Tensor) -> None:
        """Take in rows of outputs (N, C), and of the target as `task.to_hard_labels` makes it."""
        if not outputs.numel():
            return
        self.rows += len(outputs)
        least, most = outputs.aminmax()
        single = ((truth == 1).sum(1) == 1).all() if truth.ndim == 2 else torch.zeros_like(least).bool()
        self.least = least if self.least is None else torch.minimum(self.least, least)
        self.most = most if self.most is None else torch.maximum(self.most, most)
        self.single = single if self.single is None else self.single & single

    def warn_of_outputs(self) -> None:
        """Warn of logits that all lie in [0, 1]."""
        if self.least is None or self.most is None or self.rows < FEW_ROWS:
            return
        least, most = float(self.least), float(self.most)
        if 0 <= least < most <= 1:
            warn(
                "outputs_look_like_probabilities",
                f"All outputs of the first epoch lie between {least:.3g} and {most:.3g}, as probabilities "
                "do. If they are, return raw logits: the loss applies the activation itself. If not "
                "(cosines, "
                "say), scale them: logits in that range cannot be sure of anything.",
            )

    def warn_of_labels(self, task: Task, positives: Tensor, negatives: Tensor) -> None:
        """Warn of classes that no row had, and of multilabel rows of one label each."""
        # of a binary task's two classes the first one is the negative
        counts = positives if len(positives) == len(task.names) else torch.cat([negatives, positives])
        if absent := [name for name, count in zip(task.names, counts.tolist(), strict=True) if not count]:
            warn_class_without_rows(absent)
        several = task.several_labels and task.num_outputs > 1
        if several and self.single is not None and bool(self.single):
            warn_looks_multiclass()
