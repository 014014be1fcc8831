"""A loss's options as numbers, one for each output, and weights of samples: their checks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lossselect.exceptions import ConfigError, DataError, OptionTypeError
from lossselect.tasks.registry import Task
from lossselect.utils.checks import shorten, suggestion

MAX_WEIGHT = 1e30
"""What counts as finite: times a loss of 1e4 it still is, in float32."""


def _by_name(name: str, values: Mapping[Any, Any], task: Task) -> list[Any]:
    """A value for each output of `{"cat": 2}`; 1 for those that it does not name."""
    # a name such as true is read as a truth value from a command line; a file may have True
    as_written = {name.lower(): name for name in task.names}
    given = {
        as_written.get(str(key).lower(), str(key).lower()) if isinstance(key, bool) else str(key): value
        for key, value in values.items()
    }
    for key in given:
        if key not in task.output_names:
            if key in task.names:
                raise ConfigError(
                    f"{name} is given for {key!r}, the negative class, which has no output of its own. "
                    "To weigh "
                    f"the positive class against it: pos_weight={{{task.names[1]}: ...}}."
                )
            raise ConfigError(
                f"{name} is given for {key!r}, but {task} has no such "
                f"output.{suggestion(key, task.output_names)} There are: {shorten(task.output_names)}."
            )
    return [given.get(output, 1.0) for output in task.output_names]


def per_output(name: str, values: Any, task: Task) -> Tensor | None:
    """An option as float64 of shape (num_outputs,), checked."""
    if values is None:
        return None
    if isinstance(values, Mapping):
        values = _by_name(name, values, task)
    try:
        given = torch.as_tensor(values, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        raise OptionTypeError(f"{name} must be a list of numbers, one per output, got {values!r}.") from None
    width = len(task.output_names)
    if name == "pos_weight" and given.ndim == 0:
        given = given.expand(width)
    if given.shape != (width,):
        fix = ""
        if width == 1 and given.shape == (2,) and name == "weight":
            ratio = f"{given[1] / given[0]:g}" if given[0] else "..."
            fix = f" To weigh the positive class against the negative one use pos_weight={ratio}."
        raise ConfigError(
            f"{name} must have one value per output, shape ({width},) for {task}, "
            f"got shape {tuple(given.shape)}.{fix}"
        )
    bad = ~((given >= 0) & (given <= MAX_WEIGHT))
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        label = f" for {task.output_names[i]!r}"
        raise ConfigError(f"{name} must be finite and at least 0, got {given[i]:g}{label}.")
    if not bool((given > 0).any()):
        raise ConfigError(f"{name} is 0 for every output: nothing would be learned.")
    if name == "prior":
        _check_prior(given, task)
    return given.clone()


def _check_prior(prior: Tensor, task: Task) -> None:
    if not bool(((prior > 0) & (prior < 1)).all()):
        i = int((~((prior > 0) & (prior < 1))).nonzero()[0])
        raise ConfigError(
            f"prior must be shares between 0 and 1, both excluded, got {prior[i]:g} for "
            f"{task.output_names[i]!r}."
        )
    total = float(prior.sum())
    if task.activation == "softmax" and abs(total - 1) > 1e-3:
        raise ConfigError(f"prior must be the classes' shares, which sum to 1, got a sum of {total:g}.")


def check_sample_weight(sample_weight: Tensor) -> None:
    """ValueError for weights of samples that are negative or not finite; looks at their values."""
    bad = ~((sample_weight >= 0) & (sample_weight <= MAX_WEIGHT))
    if bool(bad.any()):
        index = bad.nonzero()[0].tolist()
        raise DataError(
            f"Row {index[0]} has the sample weight {sample_weight[tuple(index)].item():g}: weights are "
            "finite and at least 0.",
            row=index[0],
        )


def check_form_of_weight(sample_weight: Any, logits: Tensor) -> None:
    """ValueError for what is no tensor of a weight for each row, or each position; looks at no value."""
    positions = logits.shape[:1] + logits.shape[2:]
    if not isinstance(sample_weight, Tensor) or sample_weight.shape not in (logits.shape[:1], positions):
        is_tensor = isinstance(sample_weight, Tensor)
        came = tuple(sample_weight.shape) if is_tensor else type(sample_weight).__name__
        either = f"({len(logits)},)" if len(positions) == 1 else f"({len(logits)},) or {tuple(positions)}"
        raise ConfigError(f"sample_weight must be a tensor with a weight for each row, {either}, got {came}.")
    if sample_weight.device != logits.device:
        raise ConfigError(
            f"The sample_weight is on {sample_weight.device}, the logits are on {logits.device}. Move one."
        )


def of_samples(sample_weight: Tensor, logits: Tensor, losses: Tensor) -> Tensor:
    """Weights of samples, or of their positions, of the shape of the losses."""
    sample_weight = sample_weight.to(losses.dtype)
    if sample_weight.ndim == 1:
        return sample_weight.view(-1, *[1] * (losses.ndim - 1)).expand_as(losses)
    return (sample_weight.unsqueeze(1) if losses.ndim == logits.ndim else sample_weight).expand_as(losses)
