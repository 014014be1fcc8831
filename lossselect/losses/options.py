"""Checks of a loss's options with one number per output, and of sample weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lossselect.exceptions import ConfigError, DataError, OptionTypeError
from lossselect.tasks.registry import Task
from lossselect.utils.checks import shorten, suggestion

MAX_WEIGHT = 1e30
"""Maximum of a weight: multiplied by a loss of 1e4 it is still finite in float32."""


def _by_name(option: str, values: Mapping[Any, Any], task: Task) -> list[Any]:
    """Return a value for each output from a mapping such as `{"cat": 2}`; 1 for outputs without a key."""
    # a command line parses a name such as true as a boolean
    spellings = {name.lower(): name for name in task.names}
    named = {
        spellings.get(str(key).lower(), str(key).lower()) if isinstance(key, bool) else str(key): value
        for key, value in values.items()
    }
    for key in [key for key in named if key not in task.output_names]:
        if key in task.names:
            raise ConfigError(
                f"{option} cannot be set for {key!r}: the negative class has no output. Set "
                f"pos_weight={{{task.names[1]}: ...}} to weight the positive class against it."
            )
        raise ConfigError(
            f"Unknown name {key!r} in {option}.{suggestion(key, task.output_names)} Choose one of: "
            f"{shorten(task.output_names)}."
        )
    return [named.get(output, 1.0) for output in task.output_names]


def per_output(option: str, values: Any, task: Task) -> Tensor | None:
    """Return a checked option as a float64 tensor of shape (num_outputs,)."""
    if values is None:
        return None
    if isinstance(values, Mapping):
        values = _by_name(option, values, task)
    try:
        numbers = torch.as_tensor(values, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        raise OptionTypeError(
            f"{option} must be a list of numbers, one per output, got {values!r}."
        ) from None
    width = len(task.output_names)
    if option == "pos_weight" and numbers.ndim == 0:
        numbers = numbers.expand(width)
    if numbers.shape != (width,):
        fix = ""
        if width == 1 and numbers.shape == (2,) and option == "weight":
            ratio = f"{numbers[1] / numbers[0]:g}" if numbers[0] else "..."
            fix = f" Set pos_weight={ratio} to weight the positive class against the negative one."
        raise ConfigError(
            f"{option} must have one value per output, shape ({width},) for {task}, "
            f"got shape {tuple(numbers.shape)}.{fix}"
        )
    _check_each(numbers, (numbers >= 0) & (numbers <= MAX_WEIGHT), f"{option} must be finite and >= 0", task)
    if not bool(numbers.any()):
        raise ConfigError(f"{option} is 0 for all outputs, so nothing would be learned. Set one > 0.")
    if option == "prior":
        inside = (numbers > 0) & (numbers < 1)
        _check_each(numbers, inside, "prior must be > 0 and < 1", task)
        total = float(numbers.sum())
        if task.activation == "softmax" and abs(total - 1) > 1e-3:
            raise ConfigError(f"prior must contain class frequencies that sum to 1, got a sum of {total:g}.")
    return numbers.clone()


def _check_each(numbers: Tensor, valid: Tensor, condition: str, task: Task) -> None:
    for i in (~valid).nonzero().flatten().tolist():
        raise ConfigError(f"{condition}, got {numbers[i]:g} for {task.output_names[i]!r}.")


def check_sample_weight(sample_weight: Tensor) -> None:
    """Raise DataError for sample weights that are negative or not finite."""
    invalid = ~((sample_weight >= 0) & (sample_weight <= MAX_WEIGHT))
    for row, *position in invalid.nonzero().tolist():
        raise DataError(
            f"Row {row} has the sample weight {sample_weight[row, *position].item():g}, but sample weights "
            "must be finite and >= 0.",
            row=row,
        )


def check_weight_shape(sample_weight: Any, logits: Tensor) -> None:
    """Raise ConfigError unless each row or position has a weight, on the device of the logits."""
    positions = logits.shape[:1] + logits.shape[2:]
    is_tensor = isinstance(sample_weight, Tensor)
    if not is_tensor or sample_weight.shape not in (logits.shape[:1], positions):
        received = tuple(sample_weight.shape) if is_tensor else type(sample_weight).__name__
        shapes = f"({len(logits)},)" if len(positions) == 1 else f"({len(logits)},) or {tuple(positions)}"
        raise ConfigError(
            f"sample_weight must be a tensor with one weight per row, of shape {shapes}, got {received}."
        )
    if sample_weight.device != logits.device:
        raise ConfigError(
            f"sample_weight is on {sample_weight.device}, but the logits are on {logits.device}. Pass "
            f"sample_weight.to({str(logits.device)!r})."
        )


def expand_weight(sample_weight: Tensor, logits: Tensor, losses: Tensor) -> Tensor:
    """Return the weights of rows or positions, expanded to the shape of the losses."""
    sample_weight = sample_weight.to(losses.dtype)
    if sample_weight.ndim == 1:
        return sample_weight.view(-1, *[1] * (losses.ndim - 1)).expand_as(losses)
    return (sample_weight.unsqueeze(1) if losses.ndim == logits.ndim else sample_weight).expand_as(losses)
