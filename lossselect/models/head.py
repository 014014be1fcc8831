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


def _list_layers(module: nn.Module, with_bias: bool = False) -> Iterator[tuple[str, nn.Module, int]]:
    """Yield path, layer and number of outputs of the linear layers and convolutions of a module."""
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Linear | Convolution) and not (with_bias and layer.bias is None):
            yield path, layer, layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _find_head(module: nn.Module, task: AnyTask, with_bias: bool = False) -> tuple[str, nn.Module] | None:
    """Return path and layer of the last linear layer or convolution with `task.num_outputs` outputs."""
    layers = [
        (path, layer) for path, layer, width in _list_layers(module, with_bias) if width == task.num_outputs
    ]
    return layers[-1] if layers else None


def _find_heads(module: nn.Module, task: AnyTask) -> dict[str, tuple[str, nn.Module]]:
    """Return path and layer of the head of each of several tasks; of none if that of one is not found.

    The head of a task is the last layer with its number of outputs and its name in the path, such as
    heads.tags.1. If a path contains several names, the last one counts.
    """
    heads = {}
    for path, layer, width in _list_layers(module, with_bias=True):
        names = path.removeprefix("net.").split(".")
        owner = next((name for name in reversed(names) if name in task.tasks), None)
        if owner is not None and width == task.tasks[owner].num_outputs:
            heads[owner] = (path, layer)
    return heads if heads.keys() == task.tasks.keys() else {}


def set_head_bias(module: nn.Module, task: AnyTask, logits: Tensor) -> list[nn.Parameter]:
    """Set the bias of the head to `logits` (num_outputs,), or those of the heads of several tasks.

    Returns:
        The biases; an empty list, with a warning, if there is no such layer.
    """
    if isinstance(net := getattr(module, "net", None), Members):
        with torch.no_grad():
            for member_bias in net.head_biases():
                member_bias.copy_(logits)
        return [*net.head_biases()]
    parts = task.split_logits(logits[None])
    heads = _find_heads(module, task)
    if not heads and (head := _find_head(module, task, with_bias=True)):
        heads, parts = {"": head}, {"": logits[None]}
    if not heads:
        fix = "Give the last layer a bias"
        if len(parts) > 1:
            fix += f", or the layer of each task, with its name in the path, such as heads.{[*parts][-1]}"
        warn(
            "no_head_bias",
            f"No linear layer or convolution with {task.num_outputs} outputs has a bias to initialise from "
            f"the class frequencies. {fix}, or set bias_init=null.",
        )
    biases = []
    for name, (path, layer) in heads.items():
        bias: nn.Parameter = layer.bias  # type: ignore[assignment]
        if is_lazy(bias):
            raise ConfigError(
                f"The head {path} is a lazy layer whose bias does not exist yet. Run one batch through the "
                "net first, or set bias_init=null."
            )
        with torch.no_grad():
            bias.copy_(parts[name][0])
        biases.append(bias)
    return biases


def bias_values(nodes: list[object]) -> Iterator[Tensor]:
    """Yield the parameters that are direct inputs of the last operations of a graph, ignoring casts."""
    for node in nodes:
        for inner, _ in getattr(node, "next_functions", ()):
            while inner is not None and type(inner).__name__ == "ToCopyBackward0":
                inner = inner.next_functions[0][0]
            variable = getattr(inner, "variable", None)
            if variable is not None:
                yield variable
