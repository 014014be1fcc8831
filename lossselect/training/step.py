"""The output of a step, and its compiled part."""

from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor

from lossselect.losses.batch_loss import BatchLoss
from lossselect.utils.warnings import warn


class StepOutput(dict[str, Any]):
    """The loss, logits, canonical target and sample weights of a step, as entries and as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def result(self) -> dict[str, Any]:
        """Return what a step returns: a plain dict, whose tensors DistributedDataParallel finds."""
        return {name: self[name] for name in ("loss", "logits", "target") if name in self}


def make_output(task: Any, loss: Tensor, logits: Any, target: Any, weight: Tensor | None) -> StepOutput:
    """Return the output of a step; for several tasks with logits and targets by task."""
    logits, target = task.join_values(task.split_logits(logits)), task.join_values(task.split_target(target))
    return StepOutput(loss=loss, logits=logits, target=target, weight=weight)


def record(module: Any, epoch: Any, *values: Any) -> None:
    """Add a step to its epoch, at the end of an override of `step` if one is running."""
    if module._held_updates is None:
        epoch.update(*values)
    else:
        module._held_updates.append((epoch, *values))


def record_returned_loss(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return an override of `TaskModule.step` after which the epoch contains the loss that it returns.

    If the override computes several steps or none, the epoch contains the losses of these steps.
    """

    @wraps(step)
    def recorded(module: Any, *args: Any, **kwargs: Any) -> Any:
        if module._held_updates is not None:  # called by an override in a subclass
            return step(module, *args, **kwargs)
        held: list[Any] = []
        module._held_updates = held
        try:
            outputs = step(module, *args, **kwargs)
        finally:
            module._held_updates = None
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        for epoch, total, count, *rest in held:
            if len(held) == 1 and isinstance(loss, Tensor):
                total = epoch.with_loss(loss.detach(), total, count)
            epoch.update(total, count, *rest)
        return outputs

    return recorded


class CompiledStep:
    """The net and the loss of a step, compiled at the first call; without compilation if that fails."""

    def __init__(self, step: Callable[..., Any], **options: Any) -> None:
        self.step, self.options = step, options
        self.compiled: Callable[..., Any] | None = torch.compile(step, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(CompiledStep, **self.options), (self.step,)  # compiled code cannot be pickled

    def __call__(self, *args: Any) -> Any:
        if self.compiled is None:
            return self.step(*args)
        try:
            return self.compiled(*args)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise many kinds
            outputs = self.step(*args)  # raises again if the error is not one of torch.compile
            self.compiled = None
            # the first line is "backend='inductor' raised:", the second one the cause
            cause = " ".join((str(error).strip() or type(error).__name__).splitlines()[:2]).rstrip(".")
            warn(
                "not_compiled",
                f"torch.compile failed, and training continues without it: {cause}. torch.compile requires a "
                "C++ compiler on a CPU and Triton on a GPU. Install it if it is missing, or set "
                "trainer.compile=false.",
            )
            return outputs


def forward_and_loss(
    module: Any, positional: tuple[Any, ...], named: dict[str, Any], target: Tensor, weight: Tensor | None
) -> tuple[Tensor, BatchLoss]:
    """Return the logits and the loss: the part that is compiled."""
    logits = module._find_logits(module(*positional, **named))
    return logits, module._compute_loss(logits, module.task.check_target(target, logits), weight)
