"""Built-in nets by name, built from plain values; torch is imported only when a net is built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.utils.checks import check_float, check_int, check_options, first_line, lookup, split_name

if TYPE_CHECKING:
    from torch import nn


def mlp(
    num_features: int,
    num_outputs: int,
    hidden: Sequence[int] = (1024,),
    dropout: float = 0.6,
    input_dropout: float = 0.2,
    clip: float | None = 3,
) -> nn.Sequential:
    """Return a multilayer perceptron with ReLU and dropout: (N, num_features) -> (N, num_outputs) logits.

    `hidden` lists the widths of the hidden layers. Dropout rates are in [0, 1]. Features are clipped to
    [-clip, clip], which bounds the influence of outliers; None does not clip.
    """
    from torch import nn

    if isinstance(hidden, str) or not isinstance(hidden, Sequence):
        raise OptionTypeError(f"hidden must be a list of widths, such as [64], got {hidden!r}.")
    check_float("dropout", dropout, 0, 1)
    check_float("input_dropout", input_dropout, 0, 1)
    layers: list[nn.Module] = []
    if clip is not None:
        if check_float("clip", clip, 0) == 0:
            raise ConfigError("clip must be > 0, got 0: all features would become 0. Set clip=null.")
        layers.append(nn.Hardtanh(-clip, clip))
    if input_dropout:
        layers.append(nn.Dropout(input_dropout))
    width = num_features
    for i, size in enumerate(hidden):
        layers += [nn.Linear(width, check_int(f"hidden[{i}]", size, 1)), nn.ReLU(), nn.Dropout(dropout)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, num_outputs))


def linear(num_features: int, num_outputs: int) -> nn.Linear:
    """Return logistic regression: (N, num_features) -> (N, num_outputs) logits."""
    from torch import nn

    return nn.Linear(num_features, num_outputs)


def check_head_bias(value: str | None) -> None:
    """Raise a ConfigError unless `value` is None, "prior" (the class frequencies) or "zero"."""
    if value is not None:
        lookup(dict.fromkeys(("prior", "zero")), value, "bias_init")


def head_options(head: str | Mapping[str, Any] | None, also: Sequence[str] = ()) -> dict[str, Any]:
    """Return checked options such as `{"name": "chunked", "chunk": 4096}`; `also` lists further names."""
    name, options = split_name(head if isinstance(head, Mapping) else {"name": head or "dense"}, "head")
    lookup(dict.fromkeys((*also, "dense", "chunked")), name, "head")
    check_options(options, ["chunk"] if name == "chunked" else [], f"Head {name!r}")
    if options.get("chunk") is not None:
        check_int("head.chunk", options["chunk"], 1)
    return {"name": name, **{key: value for key, value in options.items() if value is not None}}


NETS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "linear": linear}


def net_options(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked options of `{"name": "mlp", ...}`."""
    name, options = split_name(spec, "net")
    parameters = inspect.signature(lookup(NETS, name, "net")).parameters
    check_options(options, [key for key in parameters if key != "num_outputs"], f"Net {name!r}")
    return options


def make_net(spec: Mapping[str, Any], num_outputs: int) -> nn.Module:
    """Build a net from its name and options, such as `{"name": "mlp", "num_features": 8}`.

    Example:
        >>> make_net({"name": "linear", "num_features": 8}, num_outputs=3)
        Linear(in_features=8, out_features=3, bias=True)
    """
    options = net_options(spec)
    try:
        return NETS[spec["name"]](num_outputs=num_outputs, **options)
    except (RuntimeError, TypeError, ValueError) as error:
        shown = {key: value for key, value in options.items() if key != "num_features"}
        raise ConfigError(
            f"Net {spec['name']!r} cannot be built with {shown}: {first_line(error)}."
        ) from None
