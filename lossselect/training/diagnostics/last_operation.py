"""The last operation of a net, from the autograd graph of its outputs or, without one, from dispatch."""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lossselect.compat.torch import TorchDispatchMode, tree_leaves

LAYERS = {
    **dict.fromkeys(("softmax", "safesoftmax", "specialsoftmax"), "Softmax"),
    **dict.fromkeys(("sigmoid", "specialexpit"), "Sigmoid"),
    **dict.fromkeys(("logsoftmax", "speciallogsoftmax"), "LogSoftmax"),
    **dict.fromkeys(("logsigmoid", "logsigmoidforward"), "LogSigmoid"),
    **{name.lower(): name for name in ("Hardsigmoid", "ReLU", "Tanh", "Hardtanh", "clamp")},
    # of a linear layer or a convolution
    **dict.fromkeys(("addmm", "mm", "bmm", "baddbmm", "add", "linear"), "Linear"),
    **dict.fromkeys(("convolution", "mkldnnconvolution"), "Linear"),
}
"""The layer equivalent to an operation; names of operations are as `operation_name` returns them."""

# operations that change the shape or the dtype of a tensor, but not its values
SHAPING = {
    *("view", "unsafeview", "reshape", "reshapealias", "unsqueeze", "squeeze", "transpose", "t", "permute"),
    *("alias", "slice", "select", "clone", "tocopy", "expand", "cat", "stack", "index", "asstrided"),
    *("detach", "split", "unbind"),
    # inference mode dispatches composite operations instead of the operations they consist of
    *("chunk", "contiguous", "dropout", "flatten", "movedim", "narrow", "swapaxes", "to", "viewas"),
}

WIDE = 10  # a logit of +-10 is a probability within 5e-5 of 1 or 0


def operation_name(name: str | Any) -> str:
    """Return the name of an autograd node, or of an ATen operation: "logsoftmax" for "_log_softmax"."""
    name = name if isinstance(name, str) else re.sub(r"Backward\d*$", "", type(name).__name__)
    return name.replace("_", "").lower()


def find_layer(node: Any) -> str | None:
    """Return the layer of `LAYERS` that is equivalent to an autograd node, if there is one."""
    name = operation_name(node)
    if name == "exp" and operation_name(node.next_functions[0][0]) == "logsoftmax":
        return "exp(LogSoftmax)"
    if name == "clamp":
        bounds = [getattr(node, bound, None) for bound in ("_saved_min", "_saved_max")]
        if all(isinstance(b, int | float) and abs(b) >= WIDE for b in bounds if b is not None):
            return None  # it prevents overflow, but hardly restricts probabilities
    return LAYERS.get(name)


def find_last_nodes(node: Any) -> Iterator[Any]:
    """Yield the autograd nodes of the operations that computed the values of the output of `node`."""
    visited, pending = set(), [node]
    while pending:
        node = pending.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if operation_name(node) in SHAPING:
            pending += [inner for inner, _ in node.next_functions]
        else:
            yield node


class LastOperations(TorchDispatchMode):
    """Context that records which layer of `LAYERS` computed each tensor."""

    supports_higher_order_operators = True  # such as flex_attention and torch.cond

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True  # these operators compile functions internally

    def __init__(self) -> None:
        super().__init__()
        self._layers: dict[int, str | None] = {}  # by the address of a tensor's memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = operation_name(getattr(func, "overloadpacket", func).__name__)
        layer = LAYERS.get(name)
        inputs = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        if name in SHAPING and inputs:
            layers = [self.get_layer(tensor) for tensor in inputs]  # several of `cat`
            layer = next((found for found in layers if found not in (None, "Linear")), layers[0])
        elif name == "exp" and self.get_layer(inputs[0]) == "LogSoftmax":
            layer = "exp(LogSoftmax)"
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (address := _address(leaf)):
                self._layers[address] = layer
        return result

    def get_layer(self, tensor: Tensor) -> str | None:
        """Return the layer of `LAYERS` that computed the values of a tensor, if there is one."""
        return self._layers.get(_address(tensor))


def _address(tensor: Tensor) -> int:
    if tensor.layout != torch.strided or not tensor.numel():
        return 0
    return tensor.untyped_storage().data_ptr()
