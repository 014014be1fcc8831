"""One mean over all processes and micro-batches of an optimizer step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from lossselect.compat.lightning import accumulates
from lossselect.exceptions import ConfigError

Count = Tensor | float


class StepMean:
    """Scales the gradients of a step so that its loss is one mean over all processes and micro-batches.

    Let S_rk and D_rk be the numerator and the denominator of micro-batch k in process r. The criterion
    contributes the gradient of sum_rk S_rk / sum_rk D_rk. A mean of means would weight all micro-batches
    equally, although their denominators differ: labels are missing, classes have weights, the last batch and
    the last group are short. Terms that a subclass adds to the loss are plain means, because DDP averages
    over the W processes and Lightning divides each loss by K, the number of micro-batches in a group.

    The loss of a micro-batch has the value S_rk / D_rk and the gradient of W S_rk / D, with D the first
    non-zero denominator in the group. The sum of the denominators is known before the backward pass of the
    last micro-batch. Then the criterion's part of the gradients is multiplied by K D / sum D, and the last
    micro-batch gets the gradient of K W S_rk / sum D. Each process computes this before DDP averages.

    If a subclass has added a term and K > 1, the criterion's part of the gradients is computed by a second
    backward pass and summed separately.

    For several tasks, numerators and denominators are vectors (T,), and the loss is the sum of the quotients.
    If K > 1 and the batches of a group differ in their factors, because labels are missing, the part of each
    task is computed by a separate backward pass.
    """

    def __init__(self) -> None:
        # whether all processes have the same denominator, except in the last batch of an epoch
        self.equal_counts = False
        self._pending: _Pending | None = None
        self._last: tuple[int, int] | None = None  # epoch and batch of the last micro-batch
        self._reset()

    def start(self) -> None:
        """Start a fit, whose first batch may be the last one of the fit before."""
        self._pending = self._last = None

    def _reset(self) -> None:
        self._sum: Count = 0
        self._first: Count = 0
        # the parts of the gradients to rescale, one for each denominator; None to rescale all gradients
        self._parts: list[dict[str, Tensor]] | None = None
        self._micro_batches = 0  # the number in this group whose backward pass has started

    def __call__(self, trainer: Any, batch_idx: int, loss: Tensor, total: Tensor, count: Count) -> Tensor:
        """Return the mean `loss` = `total` / `count` of a micro-batch, with a scaled gradient.

        With a chunked head, `total` has no gradient, and the gradient of `loss` is used.
        """
        ranks, group = trainer.world_size, trainer.accumulate_grad_batches
        if ranks == group == 1:
            return loss
        place = trainer.current_epoch, batch_idx
        if place == self._last or not torch.is_grad_enabled():
            return loss  # a second call in the same step is a term that a subclass adds
        self._last = place
        if batch_idx % group == 0:
            self._reset()
        overall = self._sum_over_ranks(trainer, count, loss.device)
        first = self._first + overall * (self._first == 0)
        source, share = (total, 1.0) if total.requires_grad else (loss, count)
        scale = _Scale(_ratio(ranks * share, first))
        scaled: Tensor = _ScaleGradient.apply(source, loss.detach(), scale)
        if group > 1:
            self._pending = _Pending(scaled, scale, share, overall, first)
        return scaled

    def _sum_over_ranks(self, trainer: Any, count: Count, device: torch.device) -> Count:
        """Return a denominator's sum over all processes, without communication if it is known."""
        if trainer.world_size == 1:
            return count.double() if isinstance(count, Tensor) and device.type != "mps" else count
        if self.equal_counts and not trainer.is_last_batch:
            return trainer.world_size * count
        # created on the device, because a copy from the host would cause a sync
        count = torch.zeros((), dtype=torch.float64, device=device) + count
        summed: Tensor = trainer.strategy.reduce(count, reduce_op="sum")
        return summed

    def before_backward(self, trainer: Any, module: nn.Module, loss: Tensor) -> None:
        """Add a micro-batch to its group before `loss.backward()`; rescale at the end of the group."""
        pending, self._pending = self._pending, None
        if pending is None or not pending.loss.requires_grad:
            return
        sharded = not isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy)
        last = not accumulates(trainer) and not sharded
        self._separate(module, loss, pending, last, sharded)
        if last:
            ranks, group = trainer.world_size, trainer.accumulate_grad_batches
            self._rescale(module, group)
            pending.scale.factor = _ratio(group * ranks * pending.share, self._sum)
            self._reset()

    def _separate(
        self, module: nn.Module, loss: Tensor, pending: "_Pending", last: bool, sharded: bool
    ) -> None:
        """Add the denominator of a micro-batch, and if needed the criterion's part of the gradients."""
        parameters = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        criterion = pending.loss
        is_alone = _is_multiple(loss, criterion)
        width = 1 if self.equal_counts else _num_tasks(pending.count)
        if (not is_alone or width > 1) and self._parts is None:
            if sharded or getattr(module, "_chunked", False):
                what = "a strategy that shards the gradients" if sharded else "head=chunked"
                cause = "There are several tasks" if width > 1 else "training_step adds a term to the loss"
                raise ConfigError(
                    f"{cause}. With accumulate_grad_batches > 1 this requires a second backward pass, which "
                    f"{what} does not support. Set accumulate_grad_batches=1 or "
                    f"{'strategy=ddp' if sharded else 'head=dense'}."
                )
            # so far only the criterion has contributed to the gradients, or there are several tasks
            started = self._micro_batches > 0
            gradients = {name: weight.grad for name, weight in parameters.items() if started}
            first = {name: grad.clone() for name, grad in gradients.items() if grad is not None}
            self._parts = [first, *({} for _ in range(width - 1))]
        self._micro_batches += 1
        source, start = loss, torch.ones_like(loss)
        if not is_alone:
            (start,) = torch.autograd.grad(loss, criterion, retain_graph=True, allow_unused=True)
            if start is None:
                return  # the loss of this step does not depend on the criterion
            source = criterion
        self._sum = self._sum + pending.count
        self._first = pending.first
        if self._parts is None or last:  # the gradient of the last micro-batch already has the exact scale
            return
        weights, factor = [*parameters.values()], pending.scale.factor
        for index, part in enumerate(self._parts):
            if isinstance(factor, Tensor) and len(self._parts) > 1:
                only = torch.arange(len(self._parts), device=factor.device) == index
                pending.scale.factor = factor * only
            added = torch.autograd.grad(source, weights, start, retain_graph=True, allow_unused=True)
            for name, gradient in zip(parameters, added, strict=True):
                if gradient is not None:
                    part[name] = part[name] + gradient if name in part else gradient
        pending.scale.factor = factor

    def finish(self, module: nn.Module, group: int) -> None:
        """Rescale the gradients before the optimizer step, unless `before_backward` has rescaled them.

        It does not rescale sharded gradients, nor after a last micro-batch whose loss has no gradient.
        """
        self._pending = None
        if self._micro_batches:
            self._rescale(module, group)
        self._reset()

    def _rescale(self, module: nn.Module, group: int) -> None:
        """Multiply the criterion's part of the gradients by K D / sum D."""
        factor = _ratio(group * self._first, self._sum, empty=1.0)
        is_whole = self._parts is None or len(self._parts) == 1
        if is_whole and isinstance(factor, Tensor) and factor.ndim:
            factor = factor[0]  # with equal counts, the factors of all tasks are the same
        on_host = not isinstance(factor, Tensor) or factor.device.type == "cpu"
        if on_host and bool(torch.as_tensor(factor == 1).all()):
            return
        for name, parameter in module.named_parameters():
            if parameter.grad is None:
                continue
            scale = factor.to(parameter.grad.device) if isinstance(factor, Tensor) else factor
            if self._parts is None:
                parameter.grad.mul_(scale)
            else:
                for part, task_scale in zip(self._parts, _as_vector(scale), strict=True):
                    if name in part:
                        parameter.grad.add_(part[name] * (task_scale - 1))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of an unfinished group, for a checkpoint."""
        parts = self._parts and [{name: value.cpu() for name, value in part.items()} for part in self._parts]
        counts = {"sum": self._sum, "first": self._first, "micro_batches": self._micro_batches}
        return {**counts, "parts": parts}

    def load_state_dict(self, state: Mapping[str, Any], module: nn.Module) -> None:
        """Restore an unfinished group."""
        named = dict(module.named_parameters())
        device = next((parameter.device for parameter in named.values()), None)
        counts = (state["sum"], state["first"])
        self._sum, self._first = (c.to(device) if isinstance(c, Tensor) else c for c in counts)
        self._micro_batches = state["micro_batches"]
        parts = state["parts"]
        self._parts = parts and [{name: v.to(named[name]) for name, v in part.items()} for part in parts]


@dataclass
class _Scale:
    """The factor of a gradient; may be changed until the backward pass."""

    factor: Count


@dataclass
class _Pending:
    """A micro-batch between its training_step and its backward pass."""

    loss: Tensor  # the mean of the micro-batch, with the scaled gradient
    scale: _Scale
    share: Count  # numerator / the tensor from which the gradient comes: 1, or the denominator
    count: Count  # the denominator over all processes
    first: Count  # the first non-zero denominator in the group


class _ScaleGradient(torch.autograd.Function):
    """Identity of `value` whose gradient goes to `source` instead, multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor, scale: _Scale) -> Tensor:
        ctx.scale = scale
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        factor = ctx.scale.factor
        return gradient * (factor.to(gradient) if isinstance(factor, Tensor) else factor), None, None


def _is_multiple(loss: Tensor, criterion: Tensor) -> bool:
    """Return whether a loss is the criterion times a constant, such as Lightning's 1 / K."""
    node, end = loss.grad_fn, criterion.grad_fn
    while node is not None and node is not end:
        inputs = [previous for previous, _ in node.next_functions if previous is not None]
        if len(inputs) != 1 or type(node).__name__ not in ("DivBackward0", "MulBackward0", "ToCopyBackward0"):
            return False
        node = inputs[0]
    return node is end and end is not None


def _num_tasks(count: Count) -> int:
    """Return the number of denominators: one, or one for each task."""
    return len(count) if isinstance(count, Tensor) and count.ndim else 1


def _as_vector(values: Count) -> Sequence[Count]:
    """Return the entries of a vector; those of a number are itself."""
    return values.unbind() if isinstance(values, Tensor) and values.ndim else [values]


def _ratio(part: Count, whole: Count, empty: float = 0.0) -> Count:
    """Return part / whole; `empty` if whole is 0."""
    if isinstance(whole, Tensor):
        return torch.where(whole > 0, part / whole, empty)
    return part / whole if whole else empty
