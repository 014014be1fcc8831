"""What metrics have added up, as plain values and tensors for a checkpoint."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lossselect.compat.torchmetrics import set_update_count, update_count


def as_numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars as plain numbers: a checkpoint takes a file within its own for each tensor."""
    numbers = torch.stack([value.double() for value in values.values()]).tolist() if values else []
    return dict(zip(values, numbers, strict=True))


def as_scalars(numbers: Mapping[str, float]) -> dict[str, Tensor]:
    """What `as_numbers` was made of, in float64."""
    return {name: torch.tensor(number, dtype=torch.double) for name, number in numbers.items()}


def metric_state(metric: Metric) -> dict[str, Any]:
    """What a metric has added up, and how often, on the CPU."""
    states = {
        name: [v.cpu() for v in value] if isinstance(value, list) else value.cpu()
        for name, value in metric.metric_state.items()
    }
    return {**states, "updates": update_count(metric)}


def set_metric_state(metric: Metric, state: Mapping[str, Any]) -> None:
    """Let it go on from what `metric_state` returned."""
    for name in metric.metric_state:
        value = state[name]
        moved = [v.to(metric.device) for v in value] if isinstance(value, list) else value.to(metric.device)
        setattr(metric, name, moved)
    set_update_count(metric, state["updates"])
