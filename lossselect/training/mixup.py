"""Mixup and CutMix: pairs of samples made one, with the target that each task has for that.

Losses here are linear in the target (but for zlpr and dice, which take the mixed target as a soft one), so
that the loss of a mixed target is the mix of both labels' losses. One factor and one box a batch, drawn on
the CPU: a GPU step is not held up.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lossselect.exceptions import ConfigError
from lossselect.labels.targets import EncodedBatch
from lossselect.tasks.registry import Task
from lossselect.utils.checks import check_float, check_options, lookup, split_name


def mixup(batch: EncodedBatch, task: Task, alpha: float = 0.2) -> EncodedBatch:
    """Each sample and another one of the batch, f x + (1 - f) x', f ~ Beta(alpha, alpha); targets alike.

    Class indices become rows (N, C, ...). Where one of two labels is missing, the mixed one is; weights of
    samples are mixed as well.

    Args:
        batch: With inputs that are one tensor of floats, (N, ...), and a canonical target.
        task: Whose target it is.
        alpha: > 0; the larger, the more samples lie half-way between two.

    Raises:
        ValueError: inputs of another kind.

    References:
        Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018, arXiv:1710.09412.
    """
    inputs = _checked_inputs(batch.inputs, "mixup")
    factor, order = _factor(alpha), torch.randperm(len(inputs), device=inputs.device)
    mixed = factor * inputs + (1 - factor) * inputs[order]
    return EncodedBatch(
        mixed, _mixed(batch.target, order, factor, task), _weights(batch.weight, order, factor)
    )


def cutmix(batch: EncodedBatch, task: Task, alpha: float = 1.0) -> EncodedBatch:
    """Each sample with a box of another one's, whose share of the area is 1 - f, f ~ Beta(alpha, alpha).

    A target of the whole sample is mixed by the area; one of each position is cut out with its box.

    Args:
        batch: With inputs that are one tensor of floats with trailing dimensions, (N, channels, ...), and a
            canonical target.
        task: Whose target it is.
        alpha: > 0; the larger, the more boxes take half of the area.

    Raises:
        ValueError: inputs of another kind, or without trailing dimensions.

    References:
        Yun et al., CutMix, ICCV 2019, arXiv:1905.04899.
    """
    inputs = _checked_inputs(batch.inputs, "cutmix")
    sizes = inputs.shape[2:]
    if not sizes:
        raise ConfigError(
            f"cutmix cuts boxes of images, (N, channels, height, width), and inputs of shape "
            f"{tuple(inputs.shape)} have none: mix=mixup."
        )
    order = torch.randperm(len(inputs), device=inputs.device)
    side = (1 - _factor(alpha)) ** (1 / len(sizes))
    box: list[slice] = []
    pasted = 1.0
    for size in sizes:
        centre, length = int(torch.randint(size, ())), side * size
        start, end = max(round(centre - length / 2), 0), min(round(centre + length / 2), size)
        box.append(slice(start, end))
        pasted *= (end - start) / size
    inputs = _pasted(inputs, order, box)
    target, weights = batch.target, batch.weight
    if target.ndim > 2 or (target.ndim == 2 and not target.is_floating_point()):
        if weights is not None and weights.ndim == 1:  # a sample's, which its box takes along
            weights = weights.view(-1, *[1] * len(sizes)).expand(-1, *sizes)
        weights = None if weights is None else _pasted(weights, order, box)
        return EncodedBatch(inputs, _pasted_target(target, order, box, inputs), weights)
    factor = 1 - pasted
    return EncodedBatch(inputs, _mixed(target, order, factor, task), _weights(weights, order, factor))


MIXES: dict[str, Callable[..., EncodedBatch]] = {"mixup": mixup, "cutmix": cutmix}
"""Ways to mix a batch, by name."""


def make_mix(spec: str | Mapping[str, Any] | None) -> partial[EncodedBatch] | None:
    """What `"mixup"` or `{"name": "mixup", "alpha": 0.4}` does to a batch; None for None.

    Raises:
        ValueError: an unknown name or option, alpha <= 0.
    """
    if spec is None:
        return None
    name, options = split_name({"name": spec} if isinstance(spec, str) else spec, "mix")
    mix = lookup(MIXES, name, "mix")
    check_options(options, [*inspect.signature(mix).parameters][2:], f"Mix {name!r}")
    if "alpha" in options and check_float("alpha", options["alpha"], 0) == 0:
        raise ConfigError("alpha must be above 0; without mixing leave mix out.")
    return partial(mix, **options)


def _factor(alpha: float) -> float:
    return float(torch.distributions.Beta(alpha, alpha).sample())


def _checked_inputs(inputs: Any, name: str) -> Tensor:
    if isinstance(inputs, Tensor) and inputs.is_floating_point():
        return inputs
    came = str(inputs.dtype) if isinstance(inputs, Tensor) else type(inputs).__name__
    raise ConfigError(f"{name} mixes inputs that are one tensor of floats, got {came}. Leave mix out.")


def _mixed(target: Tensor, order: Tensor, factor: float, task: Task) -> Tensor:
    """NaN, which is missing, stays so in any sum."""
    target = task.to_one_hot(target)
    return factor * target + (1 - factor) * target[order]


def _pasted(values: Tensor, order: Tensor, box: list[slice]) -> Tensor:
    place: Any = (..., *box)
    pasted = values.clone()
    pasted[place] = values[order][place]
    return pasted


def _pasted_target(target: Tensor, order: Tensor, box: list[slice], inputs: Tensor) -> Tensor:
    if target.shape[-len(box) :] != inputs.shape[2:]:
        raise ConfigError(
            f"cutmix cuts inputs {tuple(inputs.shape)} and a target of their positions, but the target is "
            f"{tuple(target.shape)}. Use mix=mixup, or a target of the whole sample."
        )
    return _pasted(target, order, box)


def _weights(weights: Tensor | None, order: Tensor, factor: float) -> Tensor | None:
    return None if weights is None else factor * weights + (1 - factor) * weights[order]
