"""A loss's options as numbers, one for each output, and weights of samples: their checks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lossselect.exceptions import ConfigError, DataError, OptionTypeError
from lossselect.tasks.registry import Task
from lossselect.utils.checks import shorten, suggestion

MAX_WEIGHT = 1e30
"""Times a loss of 1e4 it is still finite in float32."""


def _by_name(option: str, values: Mapping[Any, Any], task: Task) -> list[Any]:
    """Return a value for each output from `{"cat": 2}`; 1 for outputs that are not among the keys."""
    # a command line parses a name such as true as a boolean
    spellings = {name.lower(): name for name in task.names}
    named = {
        spellings.get(str(key).lower(), str(key).lower()) if isinstance(key, bool) else str(key): value
        for key, value in values.items()
    }
    for key in [key for key in named if key not in task.output_names]:
        if key in task.names:
            raise ConfigError(
                f"{option} is given for {key!r}, the negative class, which has no output of its own. To "
                f"weigh the positive class against it: pos_weight={{{task.names[1]}: ...}}."
            )
        raise ConfigError(
            f"{option} is given for {key!r}, but {task} has no such "
            f"output.{suggestion(key, task.output_names)} There are: {shorten(task.output_names)}."
        )
    return [named.get(output, 1.0) for output in task.output_names]


def per_output(option: str, values: Any, task: Task) -> Tensor | None:
    """Return an option as float64 of shape (num_outputs,), checked."""
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
            fix = f" To weigh the positive class against the negative one use pos_weight={ratio}."
        raise ConfigError(
            f"{option} must have one value per output, shape ({width},) for {task}, "
            f"got shape {tuple(numbers.shape)}.{fix}"
        )
    _check_each(
        numbers, (numbers >= 0) & (numbers <= MAX_WEIGHT), f"{option} must be finite and at least 0", task
    )
    if not bool(numbers.any()):
        raise ConfigError(f"{option} is 0 for every output: nothing would be learned.")
    if option == "prior":
        inside = (numbers > 0) & (numbers < 1)
        _check_each(numbers, inside, "prior must be shares between 0 and 1, both excluded", task)
        total = float(numbers.sum())
        if task.activation == "softmax" and abs(total - 1) > 1e-3:
            raise ConfigError(f"prior must be the classes' shares, which sum to 1, got a sum of {total:g}.")
    return numbers.clone()


def _check_each(numbers: Tensor, valid: Tensor, needed: str, task: Task) -> None:
    for i in (~valid).nonzero().flatten().tolist():
        raise ConfigError(f"{needed}, got {numbers[i]:g} for {task.output_names[i]!r}.")


def check_sample_weight(sample_weight: Tensor) -> None:
    """Raise DataError for sample weights that are negative or not finite."""
    invalid = ~((sample_weight >= 0) & (sample_weight <= MAX_WEIGHT))
    for row, *position in invalid.nonzero().tolist():
        raise DataError(
            f"Row {row} has the sample weight {sample_weight[row, *position].item():g}: weights are "
            "finite and at least 0.",
            row=row,
        )


def check_weight_shape(sample_weight: Any, logits: Tensor) -> None:
    """Raise ConfigError unless there is a weight per row or position, on the device of the logits."""
    positions = logits.shape[:1] + logits.shape[2:]
    is_tensor = isinstance(sample_weight, Tensor)
    if not is_tensor or sample_weight.shape not in (logits.shape[:1], positions):
        received = tuple(sample_weight.shape) if is_tensor else type(sample_weight).__name__
        shapes = f"({len(logits)},)" if len(positions) == 1 else f"({len(logits)},) or {tuple(positions)}"
        raise ConfigError(
            f"sample_weight must be a tensor with a weight for each row, {shapes}, got {received}."
        )
    if sample_weight.device != logits.device:
        raise ConfigError(
            f"The sample_weight is on {sample_weight.device}, the logits are on {logits.device}. Move one."
        )


def expand_weight(sample_weight: Tensor, logits: Tensor, losses: Tensor) -> Tensor:
    """Return weights of samples or positions in the shape of the losses."""
    sample_weight = sample_weight.to(losses.dtype)
    if sample_weight.ndim == 1:
        return sample_weight.view(-1, *[1] * (losses.ndim - 1)).expand_as(losses)
    return (sample_weight.unsqueeze(1) if losses.ndim == logits.ndim else sample_weight).expand_as(losses)
