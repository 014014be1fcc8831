"""The last layer of a net: where its logits get their bias from."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lossselect.chunked.linear import ChunkedLinear
from lossselect.compat.torch import has_forward_hooks
from lossselect.exceptions import ConfigError
from lossselect.tasks.registry import Task
from lossselect.utils.warnings import warn

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
"""Layers that may be the last one of a net for images or sequences; lazy ones are subclasses."""


def find_head(module: nn.Module, task: Task) -> tuple[str, nn.Module] | None:
    """Name and layer of the last linear layer or convolution with as many outputs as the task and a bias."""
    found = None
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            width = layer.out_features
        elif isinstance(layer, Convolution):
            width = layer.out_channels
        else:
            continue
        if width == task.num_outputs and layer.bias is not None:
            found = name, layer
    return found


def use_chunked(module: nn.Module, task: Task, chunk: int | None = None) -> bool:
    """Put a `ChunkedLinear` with the same weights in the place of the module's head, wherever it stands.

    Returns:
        Whether there is one; not before a subclass has built its net.

    Raises:
        ValueError: the last layer with as many outputs as the task is no plain `torch.nn.Linear`.
    """
    there = [part for part in module.modules() if isinstance(part, ChunkedLinear)]
    for part in there:
        part.chunk = chunk or part.chunk
    if there:
        return True
    layers = {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | Convolution) and _width(layer) == task.num_outputs
    }
    if not layers:
        return False
    name, layer = [*layers.items()][-1]
    hooked = has_forward_hooks(layer) or "weight" not in dict(layer.named_parameters(recurse=False))
    if type(layer) is not nn.Linear or hooked or not name:
        kind = f"a {type(layer).__name__}{' with hooks or a weight of another kind' if hooked else ''}"
        raise ConfigError(
            "head=chunked needs a plain torch.nn.Linear at the end, as a part of the module, and "
            f"{name or 'the module'} is {kind}: head=dense."
        )
    made = ChunkedLinear.of(layer, chunk)
    for parent in module.modules():
        for key, child in [*parent.named_children()]:
            if child is layer:
                setattr(parent, key, made)
    return True


def _width(layer: nn.Module) -> Any:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def set_head_bias(module: nn.Module, task: Task, logits: Tensor) -> nn.Parameter | None:
    """Let the head's bias be `logits` (num_outputs,); None, with a warning, where there is none."""
    found = find_head(module, task)
    if found is None:
        warn(
            "no_head_bias",
            f"No linear layer or convolution with {task.num_outputs} outputs has a bias to start from the "
            "shares of the classes (bias_init). Give the last layer one, or leave bias_init out "
            "(bias_init=null).",
        )
        return None
    bias: nn.Parameter = found[1].bias  # type: ignore[assignment]
    if is_lazy(bias):
        raise ConfigError(
            f"The head {found[0]} is a lazy layer without a bias as yet: run a batch through the net first, "
            "or leave bias_init out (bias_init=null)."
        )
    with torch.no_grad():
        bias.copy_(logits)
    return bias


def bias_values(nodes: list[object]) -> Iterator[Tensor]:
    """The parameters that the last operations of a graph took, casts left aside."""
    for node in nodes:
        for inner, _ in getattr(node, "next_functions", ()):
            while inner is not None and type(inner).__name__ == "ToCopyBackward0":
                inner = inner.next_functions[0][0]
            variable = getattr(inner, "variable", None)
            if variable is not None:
                yield variable
