"""Conversion of the states and values of metrics for checkpoints."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lossselect.compat.torchmetrics import set_update_count


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


def _find_parts(module: nn.Module) -> list[Metric]:
    """Return the metrics that a wrapper contains, without those within them."""
    parts = [[child] if isinstance(child, Metric) else _find_parts(child) for child in module.children()]
    return list(chain.from_iterable(parts))


def _move(state: Tensor | list[Tensor], device: torch.device | str) -> Tensor | list[Tensor]:
    return [value.to(device) for value in state] if isinstance(state, list) else state.to(device)
