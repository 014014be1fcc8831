"""Mixup and CutMix for all tasks: pairs of samples are combined, together with their targets.

The losses are linear in the target, so the loss of a mixed target is the mix of the losses of both labels
(zlpr and dice treat the mixed target as a soft one). The factor and the box of a batch are drawn on the CPU,
which causes no sync with a GPU.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lossselect.exceptions import ConfigError
from lossselect.labels.targets import EncodedBatch
from lossselect.tasks.registry import AnyTask
from lossselect.utils.checks import check_float, check_options, lookup, split_name


def mixup(batch: EncodedBatch, task: AnyTask, alpha: float = 0.2) -> EncodedBatch:
    """Mix each sample with another one of the batch: f x + (1 - f) x', f ~ Beta(alpha, alpha).

    Targets and sample weights are mixed with the same factor. Class indices become soft labels (N, C, ...).
    A mixed label is missing if one of the two labels is missing.

    Args:
        batch: An encoded batch; its inputs are one float tensor (N, ...).
        task: The task of the target.
        alpha: Parameter of the Beta distribution, > 0; the larger, the closer f is to 1/2.

    Raises:
        ConfigError: the inputs are not a float tensor.

    References:
        Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018, arXiv:1710.09412.
    """
    inputs = _check_inputs(batch.inputs, "mixup")
    factor, order = _draw_factor(alpha), torch.randperm(len(inputs), device=inputs.device)
    return _mix_labels(_mix(inputs, order, factor), batch, order, factor, task)


def cutmix(batch: EncodedBatch, task: AnyTask, alpha: float = 1.0) -> EncodedBatch:
    """Paste into each sample a box of another one that covers 1 - f of the area, f ~ Beta(alpha, alpha).

    A target of the whole sample is mixed in proportion to the area. For a target of positions, such as
    pixels, the same box is pasted as in the inputs.

    Args:
        batch: An encoded batch; its inputs are one float tensor (N, channels, ...).
        task: The task of the target.
        alpha: Parameter of the Beta distribution, > 0; the larger, the closer f is to 1/2.

    Raises:
        ConfigError: the inputs are not a float tensor, have no positions, or have other ones than the target.

    References:
        Yun et al., CutMix, ICCV 2019, arXiv:1905.04899.
    """
    inputs, target, weights = _check_inputs(batch.inputs, "cutmix"), batch.target, batch.weight
    sizes = inputs.shape[2:]
    if not sizes:
        raise ConfigError(
            "cutmix requires images, such as inputs of shape (N, channels, height, width), got inputs of "
            f"shape {tuple(inputs.shape)}. Set mix=mixup."
        )
    order = torch.randperm(len(inputs), device=inputs.device)
    side = (1 - _draw_factor(alpha)) ** (1 / len(sizes))
    box: list[slice] = []
    pasted = 1.0
    for size in sizes:
        centre, length = int(torch.randint(size, ())), side * size
        start, end = max(round(centre - length / 2), 0), min(round(centre + length / 2), size)
        box.append(slice(start, end))
        pasted *= (end - start) / size
    inputs = _paste(inputs, order, box)
    if target.ndim == (2 if task.has_columns(target) else 1):
        return _mix_labels(inputs, batch, order, 1 - pasted, task)
    if target.shape[-len(sizes) :] != sizes:
        raise ConfigError(
            "cutmix pastes the same box into inputs and target, but the inputs have shape "
            f"{tuple(inputs.shape)} and the target {tuple(target.shape)}. Set mix=mixup, or use one target "
            "per row."
        )
    if weights is not None and weights.ndim == 1:  # each box keeps the weight of its sample
        weights = weights.view(-1, *[1] * len(sizes)).expand(-1, *sizes)
    weights = None if weights is None else _paste(weights, order, box)
    return EncodedBatch(inputs, _paste(target, order, box), weights)


MIXES: dict[str, Callable[..., EncodedBatch]] = {"mixup": mixup, "cutmix": cutmix}


def make_mix(spec: str | Mapping[str, Any] | None) -> partial[EncodedBatch] | None:
    """Return the function for a spec such as "mixup" or `{"name": "mixup", "alpha": 0.4}`; None for None."""
    if spec is None:
        return None
    name, options = split_name({"name": spec} if isinstance(spec, str) else spec, "mix")
    mix = lookup(MIXES, name, "mix")
    check_options(options, [*inspect.signature(mix).parameters][2:], f"Mix {name!r}")
    if "alpha" in options and check_float("alpha", options["alpha"], 0) == 0:
        raise ConfigError(
            f"alpha must be a number > 0, got {options['alpha']}. To train without mixing, remove mix."
        )
    return partial(mix, **options)


def _draw_factor(alpha: float) -> float:
    return float(torch.distributions.Beta(alpha, alpha).sample())


def _check_inputs(inputs: Any, name: str) -> Tensor:
    if isinstance(inputs, Tensor) and inputs.is_floating_point():
        return inputs
    got = str(inputs.dtype) if isinstance(inputs, Tensor) else type(inputs).__name__
    raise ConfigError(f"{name} requires inputs in one tensor of floats, got {got}. Remove mix.")


def _mix(values: Tensor, order: Tensor, factor: float) -> Tensor:
    """Return the mix of rows; NaN (a missing label) stays NaN."""
    return factor * values + (1 - factor) * values[order]


def _mix_labels(
    inputs: Tensor, batch: EncodedBatch, order: Tensor, factor: float, task: AnyTask
) -> EncodedBatch:
    weight = None if batch.weight is None else _mix(batch.weight, order, factor)
    return EncodedBatch(inputs, _mix(task.to_one_hot(batch.target), order, factor), weight)


def _paste(values: Tensor, order: Tensor, box: list[slice]) -> Tensor:
    place: Any = (..., *box)
    pasted = values.clone()
    pasted[place] = values[order][place]
    return pasted
