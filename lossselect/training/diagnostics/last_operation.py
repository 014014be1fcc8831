"""The operation that produced a tensor, found without an autograd graph."""

from typing import Any

import torch
from torch import Tensor

from lossselect.compat.torch import (
    TorchDispatchMode,  # documented, though its module's name is private
    tree_leaves,
)

KINDS = {
    "_softmax": "Softmax",
    "_safe_softmax": "Softmax",
    "sigmoid": "Sigmoid",
    "sigmoid_": "Sigmoid",
    "hardsigmoid": "Hardsigmoid",
    "hardsigmoid_": "Hardsigmoid",
    "_log_softmax": "LogSoftmax",
    "log_sigmoid_forward": "LogSigmoid",
    # in inference mode operations arrive as they are called, not as those that they consist of
    "softmax": "Softmax",
    "special_softmax": "Softmax",
    "special_expit": "Sigmoid",
    "log_softmax": "LogSoftmax",
    "special_log_softmax": "LogSoftmax",
    "log_sigmoid": "LogSigmoid",
}
"""Operations of ATen after which a net's outputs are no logits, by the module that does the same."""

SHAPING = {
    *("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "transpose", "t", "permute", "expand"),
    *("alias", "slice", "select", "clone", "_to_copy", "cat", "stack", "index", "as_strided", "detach"),
    *("split", "unbind"),
    # the same in inference mode
    *("chunk", "contiguous", "dropout", "flatten", "movedim", "narrow", "swapaxes", "to", "view_as"),
}
"""Operations that change the shape or the dtype of what they get, but no value."""


class LastOperations(TorchDispatchMode):
    """Within it, the kinds of the operations that make probabilities are recorded for their results.

    The autograd graph tells the same in training; in evaluation there is none.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[int, str] = {}
        """By the address of a tensor's memory; each later operation that writes there replaces it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        kind = KINDS.get(name)
        inputs = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        if name in SHAPING and inputs:
            kind = self.kind_of(inputs[0])
        elif name in ("exp", "exp_") and self.kind_of(inputs[0]) == "LogSoftmax":
            kind = "Softmax"
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (place := _address(leaf)):
                if kind is None:
                    self._kinds.pop(place, None)
                else:
                    self._kinds[place] = kind
        return result

    def kind_of(self, tensor: Tensor) -> str | None:
        """Return the kind of the last operation that made the values of a tensor, if it is one of `KINDS`."""
        return self._kinds.get(_address(tensor))


def _address(tensor: Tensor) -> int:
    if tensor.layout != torch.strided or not tensor.numel():
        return 0
    return tensor.untyped_storage().data_ptr()
