"""Replacement of the head of a net, and initialisation of its bias."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lossselect.chunked.linear import ChunkedLinear
from lossselect.compat.torch import has_forward_hooks
from lossselect.exceptions import ConfigError
from lossselect.models.ensemble import Members
from lossselect.tasks.registry import AnyTask, Task
from lossselect.utils.checks import check_int
from lossselect.utils.warnings import warn

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


class WithHead(nn.Module):
    """A net that returns features (N, num_features), followed by a linear head: logits (N, num_outputs)."""

    def __init__(self, net: nn.Module, num_features: int, num_outputs: int) -> None:
        super().__init__()
        self.net, self.head = net, nn.Linear(num_features, num_outputs)

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return the logits for the inputs of the net."""
        features = self.net(*inputs, **named)
        width = self.head.in_features
        if not isinstance(features, Tensor) or features.ndim != 2 or features.shape[1] != width:
            is_tensor = isinstance(features, Tensor)
            got = f"a tensor of shape {tuple(features.shape)}" if is_tensor else type(features).__name__
            raise ConfigError(
                f"With num_features={width} the net must return features of shape (N, {width}), got {got}. "
                "Correct num_features, or let the net return logits and remove num_features."
            )
        logits: Tensor = self.head(features)
        return logits


def add_head(net: Any, num_features: Any, task: AnyTask) -> WithHead:
    """Return a net of the user with a linear head for the task.

    Raises:
        ConfigError: `net` has a head already, or is not given.
        OptionTypeError: `num_features` is not an integer.
    """
    if not isinstance(net, nn.Module):
        problem = "a subclass builds its own net" if net is None else "a built-in net has a head"
        raise ConfigError(f"num_features adds a head to a net, but {problem}. Remove num_features.")
    return WithHead(net, check_int("num_features", num_features, 1), task.num_outputs)


def use_chunked(module: nn.Module, task: Task, chunk: int | None = None) -> bool:
    """Replace the head by a `ChunkedLinear` with the same weights; return False if there is no head yet."""
    if any(isinstance(part, Members) for part in module.modules()):
        raise ConfigError(
            "head=chunked does not support nets with several members, such as model=tabm. Set model=mlp or "
            "head=dense."
        )
    if existing := [part for part in module.modules() if isinstance(part, ChunkedLinear)]:
        for part in existing:
            part.chunk = chunk or part.chunk
        return True
    if (head := _find_head(module, task)) is None:
        return False
    name, layer = head
    hooked = has_forward_hooks(layer) or "weight" not in dict(layer.named_parameters(recurse=False))
    if type(layer) is not nn.Linear or hooked or not name:
        kind = f"a {type(layer).__name__}{' with hooks or a parametrised weight' if hooked else ''}"
        raise ConfigError(
            "head=chunked requires the last layer to be a plain torch.nn.Linear and a submodule of the net, "
            f"but {name or 'the net itself'} is {kind}. Set head=dense."
        )
    chunked = ChunkedLinear.of(layer, chunk)
    for parent in module.modules():
        for key, child in [*parent.named_children()]:
            if child is layer:
                setattr(parent, key, chunked)
    return True


def _find_head(
    module: nn.Module, task: AnyTask, with_bias: bool = False, within: str = ""
) -> tuple[str, nn.Module] | None:
    """Return name and layer of the last linear layer or convolution with `task.num_outputs` outputs.

    `within` must be a part of its path, such as "tags" of heads.tags.
    """
    head = None
    for name, layer in module.named_modules():
        if within and within not in name.split("."):
            continue
        if isinstance(layer, nn.Linear | Convolution) and not (with_bias and layer.bias is None):
            width = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
            head = (name, layer) if width == task.num_outputs else head
    return head


def set_head_bias(module: nn.Module, task: AnyTask, logits: Tensor) -> nn.Parameter | None:
    """Set the head's bias to `logits` (num_outputs,) and return it; warn and return None without a bias."""
    if isinstance(net := getattr(module, "net", None), Members):
        with torch.no_grad():
            for member_bias in net.head_biases():
                member_bias.copy_(logits)
        return net.head_biases()[0]
    head = _find_head(module, task, with_bias=True)
    if head is None and _set_biases(module, task, logits):
        return None
    if head is None:
        warn(
            "no_head_bias",
            f"No linear layer or convolution with {task.num_outputs} outputs has a bias to initialise from "
            "the class frequencies. Give the last layer a bias, or set bias_init=null.",
        )
        return None
    bias: nn.Parameter = head[1].bias  # type: ignore[assignment]
    if is_lazy(bias):
        raise ConfigError(
            f"The head {head[0]} is a lazy layer whose bias does not exist yet. Run one batch through the "
            "net first, or set bias_init=null."
        )
    with torch.no_grad():
        bias.copy_(logits)
    return bias


def _set_biases(module: nn.Module, task: AnyTask, logits: Tensor) -> bool:
    """Set the bias of the head of each task, the last layer with its name in its path; False if one lacks."""
    parts = task.split_logits(logits[None])
    heads = {name: _find_head(module, task.tasks[name], True, within=name) for name in parts}
    if None in heads.values():
        return False
    with torch.no_grad():
        for name, head in heads.items():
            head[1].bias.copy_(parts[name][0])  # type: ignore[index,operator]
    return True


def bias_values(nodes: list[object]) -> Iterator[Tensor]:
    """Yield the parameters that are direct inputs of the last operations of a graph, ignoring casts."""
    for node in nodes:
        for inner, _ in getattr(node, "next_functions", ()):
            while inner is not None and type(inner).__name__ == "ToCopyBackward0":
                inner = inner.next_functions[0][0]
            variable = getattr(inner, "variable", None)
            if variable is not None:
                yield variable
