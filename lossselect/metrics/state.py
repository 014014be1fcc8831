"""States and values of metrics: conversion for checkpoints, and lists of tensors in several processes."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lossselect.compat.torchmetrics import set_update_count
from lossselect.utils.distributed import all_gather


def as_numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Return scalars as plain numbers, because a checkpoint stores each tensor as a separate file."""
    numbers = torch.stack([value.double() for value in values.values()]).tolist() if values else []
    return dict(zip(values, numbers, strict=True))


def as_scalars(numbers: Mapping[str, float]) -> dict[str, Tensor]:
    """Return numbers as float64 scalars."""
    return {name: torch.tensor(number, dtype=torch.double) for name, number in numbers.items()}


def metric_state(metric: Metric) -> dict[str, Any]:
    """Return the states of a metric on the CPU, its number of updates, and the same of its parts, if any."""
    states = {name: _move(state, "cpu") for name, state in metric.metric_state.items()}
    parts = {"parts": list(map(metric_state, found))} if (found := _find_parts(metric)) else {}
    return {**states, "updates": metric.update_count, **parts}


def set_metric_state(metric: Metric, state: Mapping[str, Any]) -> None:
    """Restore a state that `metric_state` returned."""
    for name in metric.metric_state:
        setattr(metric, name, _move(state[name], metric.device))
    set_update_count(metric, state["updates"])
    for part, values in zip(_find_parts(metric), state.get("parts", ()), strict=True):
        set_metric_state(part, values)


def fill_empty_lists(metric: Metric) -> None:
    """Prepare a metric to be computed in several processes, of which some have had no rows.

    An empty list state gets a tensor without rows, in the form that the other processes have. torchmetrics
    would gather an empty float32 vector, which corrupts labels and probabilities of several classes.
    """
    states = {name: state for name, state in metric.metric_state.items() if isinstance(state, list)}
    firsts = {name: dim_zero_cat(state[:1]) for name, state in states.items() if state}
    forms = all_gather({name: (first.shape[1:], first.dtype) for name, first in firsts.items()})
    known = {name: form for found in forms for name, form in found.items()}
    for name in [name for name in known if any(name not in found for found in forms)]:
        shape, dtype = known[name]
        empty = torch.empty(0, *shape, dtype=dtype, device=metric.device)
        setattr(metric, name, [dim_zero_cat(states[name] or [empty])])
    if not metric.update_called:
        set_update_count(metric, 1)
    for part in _find_parts(metric):
        fill_empty_lists(part)


def _find_parts(module: nn.Module) -> list[Metric]:
    """Return the metrics that a wrapper contains, without those within them."""
    parts = [[child] if isinstance(child, Metric) else _find_parts(child) for child in module.children()]
    return list(chain.from_iterable(parts))


def _move(state: Tensor | list[Tensor], device: torch.device | str) -> Tensor | list[Tensor]:
    return [value.to(device) for value in state] if isinstance(state, list) else state.to(device)
