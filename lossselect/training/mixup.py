"""Mixup and CutMix: pairs of samples are combined, with a target for each task.

The losses are linear in the target (zlpr and dice take a mixed target as a soft one), so the loss of a mixed
target is the mix of both labels' losses. A batch's factor and box are drawn on the CPU: no GPU waits.
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
    """Mix each sample with another one of the batch: f x + (1 - f) x', f ~ Beta(alpha, alpha).

    Inputs are one float tensor (N, ...). Targets and sample weights are mixed too. Class indices become rows
    (N, C, ...). If one of two labels is missing, so is the mixed one. The larger `alpha` > 0, the more
    samples lie half-way between two.

    References:
        Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018, arXiv:1710.09412.
    """
    inputs = _check_inputs(batch.inputs, "mixup")
    factor, order = _draw_factor(alpha), torch.randperm(len(inputs), device=inputs.device)
    return _mix_labels(_mix(inputs, order, factor), batch, order, factor, task)


def cutmix(batch: EncodedBatch, task: Task, alpha: float = 1.0) -> EncodedBatch:
    """Paste into each sample a box of another one with a share 1 - f of the area, f ~ Beta(alpha, alpha).

    Inputs are one float tensor (N, channels, ...). A target of the whole sample is mixed by the area; from a
    target of positions the same box is pasted. The larger `alpha` > 0, the more boxes cover half of the area.

    References:
        Yun et al., CutMix, ICCV 2019, arXiv:1905.04899.
    """
    inputs, target, weights = _check_inputs(batch.inputs, "cutmix"), batch.target, batch.weight
    sizes = inputs.shape[2:]
    if not sizes:
        raise ConfigError(
            f"cutmix cuts boxes of images, (N, channels, height, width), and inputs of shape "
            f"{tuple(inputs.shape)} have none: mix=mixup."
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
    if target.ndim < 2 or (target.ndim == 2 and target.is_floating_point()):
        return _mix_labels(inputs, batch, order, 1 - pasted, task)
    if target.shape[-len(sizes) :] != sizes:
        raise ConfigError(
            f"cutmix cuts inputs {tuple(inputs.shape)} and a target of their positions, but the target is "
            f"{tuple(target.shape)}. Use mix=mixup, or a target of the whole sample."
        )
    if weights is not None and weights.ndim == 1:  # of samples, whose boxes take them along
        weights = weights.view(-1, *[1] * len(sizes)).expand(-1, *sizes)
    weights = None if weights is None else _paste(weights, order, box)
    return EncodedBatch(inputs, _paste(target, order, box), weights)


MIXES: dict[str, Callable[..., EncodedBatch]] = {"mixup": mixup, "cutmix": cutmix}


def make_mix(spec: str | Mapping[str, Any] | None) -> partial[EncodedBatch] | None:
    """Return the function of `"mixup"` or `{"name": "mixup", "alpha": 0.4}`; None for None."""
    if spec is None:
        return None
    name, options = split_name({"name": spec} if isinstance(spec, str) else spec, "mix")
    mix = lookup(MIXES, name, "mix")
    check_options(options, [*inspect.signature(mix).parameters][2:], f"Mix {name!r}")
    if "alpha" in options and check_float("alpha", options["alpha"], 0) == 0:
        raise ConfigError("alpha must be above 0; without mixing leave mix out.")
    return partial(mix, **options)


def _draw_factor(alpha: float) -> float:
    return float(torch.distributions.Beta(alpha, alpha).sample())


def _check_inputs(inputs: Any, name: str) -> Tensor:
    if isinstance(inputs, Tensor) and inputs.is_floating_point():
        return inputs
    got = str(inputs.dtype) if isinstance(inputs, Tensor) else type(inputs).__name__
    raise ConfigError(f"{name} mixes inputs that are one tensor of floats, got {got}. Leave mix out.")


def _mix(values: Tensor, order: Tensor, factor: float) -> Tensor:
    """Return the mix of rows; NaN, which marks a missing label, remains NaN."""
    return factor * values + (1 - factor) * values[order]


def _mix_labels(
    inputs: Tensor, batch: EncodedBatch, order: Tensor, factor: float, task: Task
) -> EncodedBatch:
    weight = None if batch.weight is None else _mix(batch.weight, order, factor)
    return EncodedBatch(inputs, _mix(task.to_one_hot(batch.target), order, factor), weight)


def _paste(values: Tensor, order: Tensor, box: list[slice]) -> Tensor:
    place: Any = (..., *box)
    pasted = values.clone()
    pasted[place] = values[order][place]
    return pasted
