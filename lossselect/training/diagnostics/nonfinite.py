"""A loss or a gradient that is not finite ends a run, or the step is left out."""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lossselect.compat.lightning import get_trainer
from lossselect.compat.torch import largest_of_each
from lossselect.exceptions import TrainingDiverged
from lossselect.training.diagnostics.readback import Readback
from lossselect.utils.checks import lookup
from lossselect.utils.warnings import ON_NONFINITE, warn

MAX_SKIPPED = 10
"""So many steps in a row may be left out: with more, something is wrong that no other batch mends."""

MAX_OVERFLOWS = 20
"""So many steps in a row a float16 scaler may leave out, halving its scale: from 65,536 down to 1/16."""

MAX_AHEAD = 8
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


class FiniteCheck:
    """Looks at the loss and the gradients of each step, at the sums that would not be finite if one is not.

    On a CPU before the optimizer takes the step. A GPU is not waited for: its answer is looked at when it is
    there, up to some steps later, when the weights may not be finite themselves; no checkpoint is saved
    before it is known. If the GPU is more than `MAX_AHEAD` steps behind, the oldest answer is waited for,
    and the steps after it stay in the GPU's queue. With "skip" the step is left out (its gradients and what
    it did to running means; of the train metrics a batch whose loss is not finite), for which a GPU must be
    waited for. Under a float16 scaler, which leaves out steps itself, these are counted.

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
        self._sharded = False
        """Whether each process has a part of the gradients alone, as under FSDP2."""
        self._batch: tuple[Any, int] = (None, 0)
        self._buffers: dict[str, Tensor] = {}
        self._answers = Readback()
        """Whether the numbers of a step were finite; under a float16 scaler, the scale."""

    def begin(self, module: Any, batch: Any, batch_idx: int) -> None:
        """Before a batch."""
        self._batch = batch, batch_idx
        trainer = get_trainer(module)
        if self.skips and trainer is not None and batch_idx % trainer.accumulate_grad_batches == 0:
            self._buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def take(self, loss: Tensor) -> bool:
        """After a batch's loss; whether it counts in the epoch."""
        self._loss = loss.detach()
        return not self.skips or bool(self._loss.isfinite())

    def look(self, module: Any, optimizer: Any) -> None:
        """Before the optimizer's step.

        Args:
            module: Whose loss and gradients they are.
            optimizer: That is to take them: it tells the weights sooner than the module.

        Raises:
            ValueError: loss or gradient are not finite, and steps are not to be left out, or too many were.
        """
        trainer: Any = module.trainer
        if (scaler := getattr(trainer.precision_plugin, "scaler", None)) is not None:
            self._ask_scale(module, scaler, trainer.global_step)
            return
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        finite = self._all_finite([weight.grad for weight in weights if weight.grad is not None])
        if finite is True and not self.skips:
            return
        place = _Place(trainer.global_step, self._batch[1], trainer.current_epoch)
        if isinstance(finite, Tensor) and not self.skips:
            self._answers.ask(finite, (place, self._batch[0]))
            self.answered(module, most_pending=MAX_AHEAD)
            return
        finite = bool(finite) or self._is_after_all(module)
        if self.skips and trainer.world_size > 1:  # or some would step, and others not
            finite = trainer.strategy.reduce_boolean_decision(finite, all=True)
        if finite:
            self._in_a_row = 0
        elif self.skips and self._in_a_row < MAX_SKIPPED:
            self._skip(module, place)
        else:
            self._stop(module, place)

    def _all_finite(self, gradients: list[Tensor]) -> bool | Tensor:
        """Of a GPU a scalar that is there."""
        if not gradients:
            return True
        self._sharded = any(map(_is_sharded, gradients))
        gradients = [_own(g.coalesce().values() if g.is_sparse else g) for g in gradients]
        if gradients[0].device.type != "cuda" and not self._sharded:
            # a sum of half precision may overflow
            gradients = [g.float() if g.element_size() < 4 else g for g in gradients]
            loss = 0.0 if self._loss is None else self._loss.item()
            # each sum by itself takes half the time of all together
            return math.isfinite(loss + sum(gradient.sum().item() for gradient in gradients))
        # the largest of each, which stays NaN, and which no square or sum can make infinite
        largest = largest_of_each([g for g in gradients if g.numel()])
        loss_too = [gradients[0].new_zeros(()) if self._loss is None else self._loss]
        finite = torch.stack([*largest, *loss_too]).isfinite().all()
        finite = _agreed(finite) if self._sharded else finite
        return finite if finite.is_cuda else bool(finite)

    def _is_after_all(self, module: Any) -> bool:
        """Whether each number is finite, and their sum alone is not."""
        loss = [] if self._loss is None else [self._loss]
        gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
        finite = all(map(_is_finite, (*loss, *gradients)))
        return bool(_agreed(torch.tensor(finite, device=module.device))) if self._sharded else finite

    def answered(self, module: Any, most_pending: int = 0) -> None:
        """Look at the answers of a GPU that are there, and wait until at most so many are not.

        Raises:
            ValueError: one says that a loss or a gradient was not finite.
        """
        for answer, note in self._answers.arrived(most_pending):
            if isinstance(note, int):  # the number of a step under a scaler
                self._count_overflows(answer, note)
            elif not answer:
                self._answers.clear()
                place, batch = note
                self._batch = batch, place.batch
                self._stop(module, place)

    def _skip(self, module: Any, place: _Place) -> None:
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

    def _stop(self, module: Any, place: _Place) -> None:
        many = f", as in {MAX_SKIPPED} steps before it" if self.skips else ""
        where = find_first_nonfinite(module, self._batch[0])
        more = "" if self.skips else " on_nonfinite=skip leaves out single batches."
        raise TrainingDiverged(
            f"The loss or its gradient is not finite in {place}{many}: {where} Training ends here; the "
            f"checkpoints before it are as they were. {WHAT_TO_DO}{more}"
        )

    def _ask_scale(self, module: Any, scaler: Any, step: int) -> None:
        # scaler.get_scale() would wait; a scaled 1 is the scale, and stays on the device
        device = self._loss.device if self._loss is not None else module.device
        scale = scaler.scale(torch.ones((), device=device))
        if scale.is_cuda:
            self._answers.ask(scale, step)
            self.answered(module, most_pending=MAX_AHEAD)
        else:
            self._count_overflows(scale.item(), step)

    def _count_overflows(self, scale: float, step: int) -> None:
        self._in_a_row = self._in_a_row + 1 if self._scale is not None and scale < self._scale else 0
        self._scale = scale
        if self._in_a_row >= MAX_OVERFLOWS:
            raise TrainingDiverged(
                f"float16 overflows: up to step {step} the last {MAX_OVERFLOWS} steps were left out, and "
                f"the scale of the loss has come down to {scale:.3g}. Take precision=bf16-mixed, or 32-true, "
                "where a loss that is not finite is told by its step and module."
            )


def find_first_nonfinite(module: Any, batch: Any) -> str:
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
        # with weights dealt out, a process cannot run its forward alone
        sharded = any(map(_is_sharded, module.parameters()))
        found = "" if sharded else _first_module(module, encoded.inputs)
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
    values = _own(value.coalesce().values() if value.is_sparse else value)
    return not values.is_floating_point() or bool(values.isfinite().all())


def _is_sharded(value: Tensor) -> bool:
    """Whether it is a `torch.distributed.tensor.DTensor`, which takes long to import."""
    return hasattr(value, "to_local")


def _own(value: Tensor) -> Tensor:
    """The part of it that this process has: a DTensor is not copied into a plain tensor, nor added to one."""
    return value.to_local() if _is_sharded(value) else value  # type: ignore[attr-defined]


def _agreed(finite: Tensor) -> Tensor:
    """Whether it is true in all processes, which all have to ask; a GPU is not waited for."""
    everywhere = finite.to(torch.uint8)
    dist.all_reduce(everywhere, dist.ReduceOp.MIN)
    return everywhere.bool()


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
