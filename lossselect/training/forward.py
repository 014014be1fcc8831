"""Passing the inputs of a batch to a net, and finding the logits in its output."""

import difflib
import inspect
from collections.abc import Callable, Container, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor, nn

from lossselect.chunked.linear import ChunkedLogits
from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.models.head import WithHead
from lossselect.tasks.registry import AnyTask, MultiTask
from lossselect.utils.checks import shorten
from lossselect.utils.warnings import warn

LOGITS_KEYS = ("logits", "out")
"""Keys of the logits in a mapping that a net returns: Transformers and torchvision use them."""


class Parameters(NamedTuple):
    """The parameters of a forward method, without self."""

    positional: tuple[str, ...]
    named: tuple[str, ...]  # can be passed by name
    required: tuple[str, ...]
    any_number: bool  # has *args
    any_name: bool  # has **kwargs


@lru_cache(maxsize=64)
def _read_parameters(function: Callable[..., Any], skip: int) -> Parameters:
    parameters = [*inspect.signature(function).parameters.values()][skip:]
    single = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return Parameters(
        tuple(p.name for p in single if p.kind is not p.KEYWORD_ONLY),
        tuple(p.name for p in single if p.kind is not p.POSITIONAL_ONLY),
        tuple(p.name for p in single if p.default is p.empty),
        any(p.kind is p.VAR_POSITIONAL for p in parameters),
        any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def find_parameters(net: nn.Module) -> Parameters | None:
    """Return the parameters of `net.forward`; None if they are unknown, as for a scripted module."""
    net = getattr(net, "_orig_mod", net)  # set by torch.compile
    net = net.net if isinstance(net, WithHead) else net
    if callable(base := getattr(net, "get_base_model", None)):  # the wrapper of peft accepts any arguments
        net = base()
    forward = net.forward
    try:
        return _read_parameters(getattr(forward, "__func__", forward), int(hasattr(forward, "__func__")))
    except (TypeError, ValueError):
        return None


def bind_inputs(net: nn.Module, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments of `net` for the inputs of a batch.

    A mapping becomes the keyword arguments that `forward` accepts, and a tuple or a list its positional
    arguments. Other inputs, and inputs for a `forward` with a single parameter of another name, are passed
    as they are.

    Raises:
        ConfigError: the inputs lack an argument that `forward` requires.
    """
    is_sequence = isinstance(inputs, tuple | list) and not hasattr(inputs, "_fields")
    if isinstance(inputs, Tensor) or not (is_sequence or isinstance(inputs, Mapping)):
        return (inputs,), {}
    if (parameters := find_parameters(net)) is None:
        return (inputs,), {}
    takes_one = len(parameters.required) <= 1 and len(parameters.positional) == 1
    if is_sequence:
        # a list may be a single argument, such as a list of images
        many = parameters.required if isinstance(inputs, list) else parameters.positional
        unpacks = len(many) > 1 or (parameters.any_number and not takes_one)
        return (tuple(inputs), {}) if unpacks else ((inputs,), {})
    accepted = inputs if parameters.any_name else [name for name in parameters.named if name in inputs]
    missing = [name for name in parameters.required if name not in inputs]
    if accepted and not missing:
        if len(accepted) < len(inputs) and (name := _find_suspicious(tuple(inputs), parameters)):
            warn(
                "unused_entry",
                f"The entry {name!r} of the batch is not used, because forward has the parameters "
                f"{', '.join(parameters.named)}. If it is an input, give both the same name. If it contains "
                f'sample weights, pass batch_keys={{"weight": "{name}"}}.',
            )
        return (), {name: inputs[name] for name in accepted}
    if takes_one or not accepted:
        return (inputs,), {}
    raise ConfigError(
        f"forward requires {' and '.join(map(repr, missing))}, but the batch provides {shorten([*inputs])}. "
        'Pass batch_keys={"inputs": [...]} with the keys of the arguments in their order, or override '
        "unpack_batch(batch) to return (inputs, target) with inputs={'parameter of forward': value, ...}."
    )


@lru_cache(maxsize=64)
def _find_suspicious(entries: tuple[str, ...], parameters: Parameters) -> str | None:
    """Return an entry without a parameter whose name is like that of sample weights or of a parameter."""
    optional = [name for name in parameters.named if name not in entries]
    for name in entries:
        is_close = name in ("weight", "weights") or difflib.get_close_matches(name, optional, 1, 0.7)
        if name not in parameters.named and is_close:
            return name
    return None


def check_class_dim(class_dim: int | None) -> int | None:
    """Return `class_dim`, an int or None."""
    if class_dim is not None and (not isinstance(class_dim, int) or isinstance(class_dim, bool)):
        raise OptionTypeError(
            "class_dim must be the dimension of the classes in the logits (1 by default, -1 if they are "
            f"last), or None for logits without it, such as (N,), got {class_dim!r}."
        )
    return class_dim


def find_logits(outputs: Any, class_dim: int | None = 1, tasks: Container[str] = ()) -> Any:
    """Return the logits (N, num_outputs, ...) in the output of a net; for several tasks perhaps by task.

    Args:
        outputs: The logits, an object with an attribute `logits`, a mapping with the key "logits" or "out",
            or a tuple whose first entry is the logits.
        class_dim: The dimension of the classes, which becomes dimension 1; None if there is none.
        tasks: Names of tasks, which may be the keys of a mapping of logits.

    Raises:
        ConfigError: there are no logits, or they lack the dimension `class_dim`.
    """
    logits = outputs
    if isinstance(outputs, Mapping) and any(name in tasks for name in outputs):
        return {name: find_logits(part, class_dim) for name, part in outputs.items()}
    if isinstance(outputs, Mapping):
        logits = next((outputs[key] for key in LOGITS_KEYS if key in outputs), None)
    elif not isinstance(outputs, Tensor | ChunkedLogits):
        logits = getattr(outputs, "logits", None)
        if logits is None and isinstance(outputs, tuple | list) and len(outputs):
            logits = outputs[0]
    if isinstance(logits, Mapping) and logits is not outputs:
        return find_logits(logits, class_dim, tasks)
    if isinstance(logits, ChunkedLogits):
        return logits
    if not isinstance(logits, Tensor):
        raise ConfigError(
            f"forward must return the logits as a tensor, got {describe(outputs)}. Return a tensor, an object"
            " with the attribute logits, a mapping with the key 'logits' or 'out', or a tuple that starts "
            "with the logits."
        )
    if class_dim is None:
        return logits.unsqueeze(1)
    if class_dim in (1, 1 - logits.ndim):
        return logits
    if not -logits.ndim <= class_dim < logits.ndim:
        raise ConfigError(
            f"forward returned logits of shape {tuple(logits.shape)}, which have no dimension {class_dim} "
            f"(class_dim). Change class_dim to the dimension of the classes."
        )
    return logits.movedim(class_dim, 1)


def move_classes(target: Any, task: AnyTask, class_dim: int | None) -> Any:
    """Return a target that has a dimension of the classes with that dimension as dimension 1."""
    if class_dim in (None, 1):
        return target
    if isinstance(target, Mapping):
        tasks = task.tasks
        return {key: move_classes(part, tasks.get(key, task), class_dim) for key, part in target.items()}
    if not isinstance(target, Tensor) or target.ndim < 3:
        return target
    num_outputs = task.num_probabilities
    if isinstance(task, MultiTask) or (task.exclusive and not target.is_floating_point()):
        return target
    if not -target.ndim <= class_dim < target.ndim or target.shape[class_dim] != num_outputs:
        return target
    return target.movedim(class_dim, 1)


def describe(value: Any) -> str:
    """Return type and shape of inputs or outputs for a message."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype}"
    kind = type(value).__name__
    if isinstance(value, Mapping):
        return f"a {kind} with the keys {shorten([repr(key) for key in value])}"
    if isinstance(value, tuple | list):
        parts = [f"{tuple(v.shape)}" if isinstance(v, Tensor) else type(v).__name__ for v in value]
        return f"a {kind} of {len(value)}: {shorten(parts)}"
    return f"a {kind}"
