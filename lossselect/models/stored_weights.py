"""Checks of weights read from a file, before a net is built for them."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lossselect.exceptions import CheckpointError
from lossselect.models.nets import make_net
from lossselect.tasks.registry import AnyTask

RUNNING_STATISTICS = ("running_mean", "running_var")
"""Buffers of normalisation layers, which affect outputs like parameters."""
COPY = "Use another file, or an intact copy."
"""The fix for a damaged file."""
MAX_UNBACKED_BYTES = 1 << 24
"""Maximum size of a tensor that exceeds the size of its file, such as a view that repeats a value."""


def check_finite(weights: Mapping[str, Any], buffers: Collection[str], source: Any) -> None:
    """Raise a CheckpointError if a parameter or a running statistic is not finite, or another buffer is NaN.

    Other buffers, such as attention masks, may be infinite. `buffers` contains the names of all buffers.
    """
    for name, value in weights.items():
        if not isinstance(value, Tensor) or value.is_meta or value.layout != torch.strided:
            continue
        if not (value.is_floating_point() or value.is_complex()):
            continue
        value = value.detach()
        value = value.float() if value.itemsize == 1 else value  # float8 cannot be summed
        if bool(value.sum().isfinite()):
            continue  # fast; finite entries may still have an infinite sum, so check them below
        unbounded = name in buffers and not name.endswith(RUNNING_STATISTICS)
        invalid = value.isnan() if unbounded else ~value.isfinite()
        if invalid.any():
            raise CheckpointError(
                f"{source}: {int(invalid.sum())} of {invalid.numel()} entries of {name!r} are NaN"
                f"{'' if unbounded else ' or infinite'}, so predictions would be meaningless. Training "
                "probably diverged. Use an earlier checkpoint, or train again with a lower learning rate."
            )


def check_backed(content: Any, path: Path) -> None:
    """Raise CheckpointError for a tensor larger than its file, such as one with strides of 0 or on "meta"."""
    limit = max(path.stat().st_size, MAX_UNBACKED_BYTES)
    for value in _tensors(content):
        # torch.load checks indices and values of other layouts
        if value.layout == torch.strided and value.numel() * value.itemsize > limit:
            raise CheckpointError(
                f"{path} is damaged: it declares a tensor of shape {tuple(value.shape)}, but the file has "
                f"only {path.stat().st_size} bytes. {COPY}"
            )


def _tensors(content: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested containers; a list may contain itself."""
    pending, seen = [content], set()
    while pending:
        value = pending.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            pending.extend(value.values() if isinstance(value, Mapping) else value)


def check_net(
    spec: Mapping[str, Any], task: AnyTask, weights: Mapping[str, Any], source: Any, prefix: str = ""
) -> None:
    """Raise a CheckpointError unless weights with this prefix have the shapes of `make_net(spec, ...)`."""
    nets = _inner_nets(spec)
    specs = [spec, *nets, *(inner for net in nets for inner in _inner_nets(net))]
    widths = (part.get("hidden", ()) for part in specs)
    layers = len(specs) - 1 + sum(len(hidden) for hidden in widths if isinstance(hidden, list | tuple))
    if layers > len(weights):
        raise CheckpointError(
            f"{source} is damaged: it declares nets with {layers} layers, but contains only {len(weights)} "
            f"weights. {COPY}"
        )
    try:
        with torch.device("meta"):
            net = make_net(spec, task)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        problem = str(error).rstrip(".")
        raise CheckpointError(f"{source} is damaged: its net cannot be built: {problem}. {COPY}") from None
    expected = {prefix + name: tuple(value.shape) for name, value in net.state_dict().items()}
    for name in sorted(expected.keys() | {name for name in weights if name.startswith(prefix)}):
        value = weights.get(name)
        shape = tuple(value.shape) if isinstance(value, Tensor) else None
        if name not in expected or shape != expected[name]:
            net_spec = {
                key: value for key, value in spec.items() if key in ("name", "num_features", "hidden")
            }
            raise CheckpointError(
                f"{source} is damaged: its weights do not fit its net {net_spec} with {task.num_outputs} "
                f"outputs. Expected {name!r} of shape {expected.get(name)}, got {shape}. {COPY}"
            )


def _inner_nets(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    nets = spec.get("nets")
    return [net for net in nets.values() if isinstance(net, Mapping)] if isinstance(nets, Mapping) else []
