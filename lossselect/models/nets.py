"""Small nets by name, built from plain values: what a checkpoint needs to build them again.

torch is imported when a net is built, so that the command line can check its name and options at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.utils.checks import check_float, check_int, check_options, lookup, split_name

if TYPE_CHECKING:
    from torch import nn


def mlp(
    num_features: int,
    num_outputs: int,
    hidden: Sequence[int] = (256,),
    dropout: float = 0.0,
    input_dropout: float = 0.0,
    clip: float | None = None,
) -> nn.Sequential:
    """Linear layers with ReLU and dropout between: (N, num_features) -> (N, num_outputs) logits.

    Args:
        num_features: Of a row.
        num_outputs: Of the head.
        hidden: Widths of the layers between.
        dropout: Of the hidden layers.
        input_dropout: Of the features.
        clip: Features are cut off at plus and minus this, so that a far outlier is no more than far.
    """
    from torch import nn

    if isinstance(hidden, str) or not isinstance(hidden, Sequence):
        raise OptionTypeError(f"hidden must be a list of widths, such as [64], got {hidden!r}.")
    check_float("dropout", dropout, 0, 1)
    check_float("input_dropout", input_dropout, 0, 1)
    layers: list[nn.Module] = []
    if clip is not None:
        if check_float("clip", clip, 0) == 0:
            raise ConfigError("clip must be above 0: at 0 all features would be the same.")
        layers.append(nn.Hardtanh(-clip, clip))
    if input_dropout:
        layers.append(nn.Dropout(input_dropout))
    width = num_features
    for size in hidden:
        layers += [nn.Linear(width, check_int("a width of hidden", size, 1)), nn.ReLU(), nn.Dropout(dropout)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, num_outputs))


def linear(num_features: int, num_outputs: int) -> nn.Linear:
    """Logistic regression: (N, num_features) -> (N, num_outputs) logits."""
    from torch import nn

    return nn.Linear(num_features, num_outputs)


HEAD_BIAS = ("prior", "zero")
"""What a head's bias may start from: the shares of the train labels, or 0."""


def check_head_bias(value: str | None) -> None:
    """ValueError for what is neither of `HEAD_BIAS` nor None, which leaves the bias."""
    if value is not None:
        lookup(dict.fromkeys(HEAD_BIAS), value, "bias_init")


HEADS = ("dense", "chunked")
"""How the last layer's outputs are held: all at once, or some at a time; see `ChunkedLinear`."""


def head_options(head: str | Mapping[str, Any] | None, also: Sequence[str] = ()) -> dict[str, Any]:
    """`{"name": "chunked", "chunk": 4096}` of a name or a mapping, checked; dense where there is none.

    Args:
        head: As `TaskModule` takes it.
        also: Other names that are good.

    Raises:
        ValueError: another name, an option that there is not, a chunk below 1.
    """
    name, options = split_name(head if isinstance(head, Mapping) else {"name": head or "dense"}, "head")
    lookup(dict.fromkeys((*also, *HEADS)), name, "head")
    check_options(options, ["chunk"] if name == "chunked" else [], f"Head {name!r}")
    if options.get("chunk") is not None:
        check_int("head.chunk", options["chunk"], 1)
    return {"name": name, **{key: value for key, value in options.items() if value is not None}}


NETS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "linear": linear}


def net_options(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `{"name": "mlp", ...}`; ValueError for a name or an option that there is not."""
    name, options = split_name(spec, "net")
    build = lookup(NETS, name, "net")
    allowed = [key for key in inspect.signature(build).parameters if key != "num_outputs"]
    check_options(options, allowed, f"Net {name!r}")
    return options


def make_net(spec: Mapping[str, Any], num_outputs: int) -> nn.Module:
    """The net that `{"name": "mlp", "num_features": 8, ...}` names, with `num_outputs` outputs.

    Raises:
        ValueError: an unknown name or option, a value that the net refuses.

    Example:
        >>> make_net({"name": "linear", "num_features": 8}, num_outputs=3)
        Linear(in_features=8, out_features=3, bias=True)
    """
    options = net_options(spec)
    try:
        return NETS[spec["name"]](num_outputs=num_outputs, **options)
    except (RuntimeError, TypeError, ValueError) as error:
        said = {key: value for key, value in options.items() if key != "num_features"}
        raise ConfigError(
            f"Net {spec['name']!r} cannot be built with {said}: {first_sentence(error)}"
        ) from None


def first_sentence(error: Exception) -> str:
    """What went wrong, without the stack that torch's C++ code adds."""
    return next(iter(str(error).splitlines()), type(error).__name__)
