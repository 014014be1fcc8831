"""Built-in nets by name, built from plain values; torch is imported only when a net is built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lossselect.exceptions import ConfigError, LossSelectError, OptionTypeError
from lossselect.utils.checks import (
    check_choice,
    check_float,
    check_int,
    check_options,
    first_line,
    lookup,
    split_name,
)

if TYPE_CHECKING:
    from torch import nn

    from lossselect.tasks.registry import AnyTask


def mlp(
    num_features: int,
    task: AnyTask,
    hidden: Sequence[int] = (1024,),
    dropout: float = 0.6,
    input_dropout: float = 0.2,
    clip: float | None = 3,
    encoding: str = "none",
    columns: Sequence[int] | None = None,
) -> nn.Sequential:
    """Return a multilayer perceptron with ReLU and dropout: (N, num_features) -> (N, num_outputs) logits.

    `hidden` lists the widths of the hidden layers. Dropout rates are in [0, 1). Features are clipped to
    [-clip, clip], which bounds the influence of outliers; None does not clip. `encoding` adds an encoding of
    the features `columns`, or of all of them if None: "ple" or "periodic".
    """
    from torch import nn

    check_dropout("dropout", dropout)
    check_dropout("input_dropout", input_dropout)
    layers: list[nn.Module] = []
    if clip is not None:
        if check_float("clip", clip, 0) == 0:
            raise ConfigError("clip must be > 0, got 0: all features would become 0. Set clip=null.")
        layers.append(nn.Hardtanh(-clip, clip))
    width = num_features
    if encoding != "none":
        from lossselect.models.encodings import InputLayer

        clipped = nn.Sequential(*layers)
        first = InputLayer(num_features, lambda _: clipped, encoding, columns)
        layers, width = [first], first.width
    if input_dropout:
        layers.append(nn.Dropout(input_dropout))
    for size in _check_widths(hidden):
        layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, task.num_outputs))


def linear(
    num_features: int,
    task: AnyTask,
    encoding: str = "none",
    columns: Sequence[int] | None = None,
) -> nn.Module:
    """Return logistic regression: (N, num_features) -> (N, num_outputs) logits.

    Its inputs are multiplied by 10, which multiplies its learning rate by 10: with that of other nets, a
    single layer needs more steps than they do. Weights start at 0. `encoding` and `columns` are those of
    `mlp`; with "ple" the logits are piecewise linear in each feature.
    """
    from torch import nn

    from lossselect.models.encodings import Amplification, InputLayer

    layers: list[nn.Module] = [Amplification(10)]
    width = num_features
    if encoding != "none":
        first = InputLayer(num_features, nn.Identity, encoding, columns)
        layers, width = [first, *layers], first.width
    head = nn.Linear(width + 1, task.num_outputs)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(*layers, head)


def tabm(
    num_features: int,
    task: AnyTask,
    hidden: Sequence[int] = (128, 128, 128),
    dropout: float = 0.1,
    num_members: int = 8,
    scaling: str = "robust",
    encoding: str = "none",
    columns: Sequence[int] | None = None,
    features: Sequence[int] | None = None,
) -> nn.Module:
    """Return TabM, an ensemble of `num_members` MLPs that share most weights: (N, num_features) -> logits.

    In training it returns the logits of all members, (N * num_members, num_outputs), otherwise those of their
    mean probability, (N, num_outputs). `scaling` is "robust" (see `RobustScaling`) or "none". `features` has
    the indices of the features that are used; None uses all of them. `encoding` and `columns` are those of
    `mlp`.
    """
    from torch import nn

    from lossselect.models.encodings import InputLayer, RobustScaling
    from lossselect.models.tabm import TabM

    check_dropout("dropout", dropout)
    check_int("num_members", num_members, 1)
    base = lookup({"robust": RobustScaling, "none": nn.Identity}, scaling, "scaling")
    first = InputLayer(num_features, base, encoding, columns, features)
    return TabM(first, first.width, _check_widths(hidden), task, num_members, dropout)


def ensemble(
    num_features: int,
    task: AnyTask,
    nets: Mapping[str, Mapping[str, Any]],
) -> nn.Module:
    """Return several nets that are trained at once: (N, num_features) -> (N, num_outputs) logits.

    `nets` contains their names and options without sizes, such as `{"wide": {"name": "mlp"}}`. In evaluation
    the logits are those of the weighted mean probability (see `Ensemble`).
    """
    from lossselect.models.ensemble import Ensemble

    return Ensemble(_make_nets(nets, [*SINGLE_NETS], num_features, task), task)


def average(
    num_features: int,
    task: AnyTask,
    nets: Mapping[str, Mapping[str, Any]],
) -> nn.Module:
    """Return the average of nets that were trained one after another: (N, num_features) -> logits.

    `nets` contains their names and options without sizes; see `Average`.
    """
    from lossselect.models.average import Average

    return Average(_make_nets(nets, [*SINGLE_NETS, "ensemble"], num_features, task), task)


def _make_nets(nets: Any, names: Sequence[str], num_features: int, task: AnyTask) -> dict[str, nn.Module]:
    """Return the nets of a mapping of specs, each with one of the `names`."""
    if not isinstance(nets, Mapping) or not nets:
        raise OptionTypeError(f"nets must be a mapping of names to nets, got {nets!r}.")
    built = {}
    for name, spec in nets.items():
        if not str(name).isidentifier():
            raise ConfigError(f"The names of nets must be identifiers such as tabm_2, got {name!r}.")
        if not isinstance(spec, Mapping) or spec.get("name") not in names:
            raise ConfigError(
                f"nets.{name} must be a mapping whose name is one of {', '.join(names)}, got {spec!r}."
            )
        built[name] = make_net({**spec, "num_features": num_features}, task)
    return built


def check_dropout(name: str, rate: float) -> None:
    """Raise a ConfigError unless a dropout rate is in [0, 1)."""
    if check_float(name, rate, 0, 1) == 1:
        raise ConfigError(f"{name}=1 sets all units to 0, and nothing is learned. Set it below 1.")


def _check_widths(hidden: Sequence[int]) -> list[int]:
    if isinstance(hidden, str) or not isinstance(hidden, Sequence):
        raise OptionTypeError(f"hidden must be a list of widths, such as [64], got {hidden!r}.")
    return [check_int(f"hidden[{i}]", size, 1) for i, size in enumerate(hidden)]


def check_head_bias(value: str | None) -> None:
    """Raise a ConfigError unless `value` is None, "prior" (the class frequencies) or "zero"."""
    if value is not None:
        check_choice("bias_init", value, ("prior", "zero"))


def head_options(head: str | Mapping[str, Any] | None, also: Sequence[str] = ()) -> dict[str, Any]:
    """Return checked options such as `{"name": "chunked", "chunk": 4096}`; `also` lists further names."""
    name, options = split_name(head if isinstance(head, Mapping) else {"name": head or "dense"}, "head")
    lookup(dict.fromkeys((*also, "dense", "chunked")), name, "head")
    check_options(options, ["chunk"] if name == "chunked" else [], f"Head {name!r}")
    if options.get("chunk") is not None:
        check_int("head.chunk", options["chunk"], 1)
    return {"name": name, **{key: value for key, value in options.items() if value is not None}}


SINGLE_NETS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "linear": linear, "tabm": tabm}
"""The nets that a user can choose by name."""
NETS = {**SINGLE_NETS, "ensemble": ensemble, "average": average}
"""All nets; an ensemble is the result of `model=auto`, an average that of `folds` and `repeats`."""
MEMBER_NETS = frozenset({"tabm", "ensemble"})
"""The nets that are subclasses of `Members`."""


def net_options(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked options of `{"name": "mlp", ...}`."""
    name, options = split_name(spec, "net")
    parameters = inspect.signature(lookup(NETS, name, "net")).parameters
    check_options(options, [key for key in parameters if key != "task"], f"Net {name!r}")
    return options


def make_net(spec: Mapping[str, Any], task: AnyTask) -> nn.Module:
    """Build a net from its name and options, such as `{"name": "mlp", "num_features": 8}`.

    Example:
        >>> from lossselect import Multiclass
        >>> make_net({"name": "linear", "num_features": 8}, Multiclass(3))[-1]
        Linear(in_features=9, out_features=3, bias=True)
    """
    options = net_options(spec)
    try:
        return NETS[spec["name"]](task=task, **options)
    except LossSelectError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        shown = {key: value for key, value in options.items() if key != "num_features"}
        raise ConfigError(
            f"Net {spec['name']!r} cannot be built with {shown}: {first_line(error)}."
        ) from None
