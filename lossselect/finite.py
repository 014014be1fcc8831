"""A loss or a gradient that is not finite ends a run, or the step is left out."""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from .guards import ON_NONFINITE, warn
from .names import lookup

if TYPE_CHECKING:
    from .module import TaskModule

MOST_SKIPPED = 10
"""So many steps in a row may be left out: with more, something is wrong that no other batch mends."""

MOST_OVERFLOWS = 20
"""So many steps in a row a float16 scaler may leave out, halving its scale: from 65,536 down to 1/16."""

MOST_AHEAD = 8
"""By so many steps at most a GPU's answer is late."""

WHAT_TO_DO = (
    "Lower the learning rate, clip gradients (gradient_clip_val=1), look for NaN or infinity among the "
    "inputs; a loss of your own must leave out missing labels, which are NaN."
)
"""Of numbers that are not finite, for the end of a message."""


class _Place(NamedTuple):
    """Where a step was taken."""

    step: int
    batch: int
    epoch: int

    def __str__(self) -> str:
        return f"step {self.step + 1} (epoch {self.epoch}, batch {self.batch})"


class FiniteWatch:
    """Looks at the loss and the gradients of each step, at the sums that would not be finite if one is not.

    On a CPU before the optimizer takes the step. A GPU is not waited for: its answer is looked at when it is
    there, up to some steps later, when the weights may not be finite themselves; no checkpoint is saved
    before it is known. With "skip" the step is left out (its gradients and what it did to running means; of
    the train metrics a batch whose loss is not finite), for which a GPU must be waited for. Under a float16
    scaler, which leaves out steps itself, these are counted.

    Args:
        choice: "stop" or "skip".
    """

    def __init__(self, choice: str) -> None:
        lookup(dict.fromkeys(ON_NONFINITE), choice, "choice of on_nonfinite")
        self.skips = choice == "skip"
        self.skipped = 0
        """How many steps were left out."""
        self._in_a_row = 0
        self._scale: float | None = None
        self._loss: Tensor | None = None
        self._batch: tuple[Any, int] = (None, 0)
        self._buffers: dict[str, Tensor] = {}
        self._late: deque[tuple[Tensor, Any, _Place, Any]] = deque()

    def begin(self, module: "TaskModule", batch: Any, batch_idx: int) -> None:
        """Before a batch."""
        self._batch = batch, batch_idx
        trainer = module._trainer
        if self.skips and trainer is not None and batch_idx % trainer.accumulate_grad_batches == 0:
            self._buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def take(self, loss: Tensor) -> bool:
        """After a batch's loss; whether it counts in the epoch."""
        self._loss = loss.detach()
        return not self.skips or bool(self._loss.isfinite())

    def look(self, module: "TaskModule", optimizer: Any) -> None:
        """Before the optimizer's step.

        Args:
            module: Whose loss and gradients they are.
            optimizer: That is to take them: it tells the weights sooner than the module.

        Raises:
            ValueError: loss or gradient are not finite, and steps are not to be left out, or too many were.
        """
        trainer: Any = module.trainer
        if (scaler := getattr(trainer.precision_plugin, "scaler", None)) is not None:
            self._count_overflows(scaler, trainer.global_step)
            return
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        finite = self._all_finite([weight.grad for weight in weights if weight.grad is not None])
        if finite is True and not self.skips:
            return
        place = _Place(trainer.global_step, self._batch[1], trainer.current_epoch)
        if isinstance(finite, Tensor) and not self.skips:
            self._ask(finite, place)
            self.answered(module, wait=len(self._late) > MOST_AHEAD)
            return
        finite = bool(finite) or self._is_after_all(module)
        if self.skips and trainer.world_size > 1:  # or some would step, and others not
            finite = trainer.strategy.reduce_boolean_decision(finite, all=True)
        if finite:
            self._in_a_row = 0
        elif self.skips and self._in_a_row < MOST_SKIPPED:
            self._skip(module, place)
        else:
            self._stop(module, place)

    def _all_finite(self, gradients: list[Tensor]) -> bool | Tensor:
        """Of a GPU a scalar that is there."""
        if not gradients:
            return True
        gradients = [g.coalesce().values() if g.is_sparse else g for g in gradients]
        gradients = [g.float() if g.element_size() < 4 else g for g in gradients]  # whose sum may overflow
        if gradients[0].device.type != "cuda":  # each sum by itself takes half the time of all together
            loss = 0.0 if self._loss is None else self._loss.item()
            return math.isfinite(loss + sum(gradient.sum().item() for gradient in gradients))
        norm = torch.stack(torch._foreach_norm(gradients)).sum()
        return (norm if self._loss is None else norm + self._loss).isfinite()

    def _is_after_all(self, module: nn.Module) -> bool:
        """Whether each number is finite, and their sum alone is not."""
        loss = [] if self._loss is None else [self._loss]
        gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
        return all(map(_is_finite, (*loss, *gradients)))

    def _ask(self, finite: Tensor, place: _Place) -> None:
        answer = torch.empty((), dtype=torch.bool, pin_memory=True)
        answer.copy_(finite, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._late.append((answer, event, place, self._batch[0]))

    def answered(self, module: "TaskModule", wait: bool = True) -> None:
        """Look at the answers of a GPU that are there, or wait for the first, or before a checkpoint for all.

        Raises:
            ValueError: one says that a loss or a gradient was not finite.
        """
        while self._late and (wait or self._late[0][1].query()):
            answer, event, place, batch = self._late.popleft()
            event.synchronize()
            if not answer:
                self._late.clear()
                self._batch = batch, place.batch
                self._stop(module, place)

    def _skip(self, module: "TaskModule", place: _Place) -> None:
        for weight in module.parameters():
            weight.grad = None  # which an optimizer leaves as it is, and the weight too
        for name, buffer in module.named_buffers():
            if name in self._buffers:
                buffer.copy_(self._buffers[name])
        if not self.skipped:
            warn(
                "skipped_step",
                f"The gradient is not finite in {place}. That step is left out, as others are.",
            )
        self.skipped += 1
        self._in_a_row += 1

    def _stop(self, module: "TaskModule", place: _Place) -> None:
        many = f", as in {MOST_SKIPPED} steps before it" if self.skips else ""
        where = first_not_finite(module, self._batch[0])
        more = "" if self.skips else " on_nonfinite=skip leaves out single batches."
        raise ValueError(
            f"The loss or its gradient is not finite in {place}{many}: {where} Training ends here; the "
            f"checkpoints before it are as they were. {WHAT_TO_DO}{more}"
        )

    def _count_overflows(self, scaler: Any, step: int) -> None:
        scale = scaler.get_scale()
        self._in_a_row = self._in_a_row + 1 if self._scale is not None and scale < self._scale else 0
        self._scale = scale
        if self._in_a_row >= MOST_OVERFLOWS:
            raise ValueError(
                f"float16 overflows: up to step {step} the last {MOST_OVERFLOWS} steps were left out, and "
                f"the scale of the loss has come down to {scale:.3g}. Take precision=bf16-mixed, or 32-true, "
                "where a loss that is not finite is told by its step and module."
            )


def first_not_finite(module: "TaskModule", batch: Any) -> str:
    """In words, where NaN or infinity comes from; of a batch that goes through the net once more."""
    gone = next((name for name, weight in module.named_parameters() if not _is_finite(weight)), None)
    with suppress(Exception):  # of a batch that is used up, say
        encoded = module._encoded(batch)
        for value in _tensors(encoded.inputs):
            if not _is_finite(value):
                rows = (~value.isfinite()).flatten(1).any(1) if value.ndim > 1 else ~value.isfinite()
                return f"the inputs of row {int(rows.nonzero()[0, 0])} of the batch are not."
        if gone:
            return f"the weights {gone} are not finite by now."
        found = _first_module(module, encoded.inputs)
        if found:
            return f"it begins in what {found} returns."
        gradients = [(name, weight.grad) for name, weight in module.named_parameters()]
        bad = [name for name, gradient in gradients if gradient is not None and not _is_finite(gradient)]
        if bad:
            return f"outputs are finite, and going back the gradient of {bad[-1]} is the first that is not."
        return "outputs are finite, and the loss of them is not."
    return f"the weights {gone} are not finite by now." if gone else ""


def _first_module(module: nn.Module, inputs: Any) -> str:
    """The first that returns something that is not finite, by name and kind."""
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(part: nn.Module, _: Any, outputs: Any) -> None:
            if not found and not all(map(_is_finite, _tensors(outputs))):
                found.append(f"{name} ({type(part).__name__})")

        return hook

    hooks = [part.register_forward_hook(look(name)) for name, part in module.named_modules() if name]
    try:
        with torch.no_grad():
            module(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""


def _is_finite(value: Tensor) -> bool:
    values = value.coalesce().values() if value.is_sparse else value
    return not values.is_floating_point() or bool(values.isfinite().all())


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in a batch or in what a module returns."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _tensors(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _tensors(entry)
