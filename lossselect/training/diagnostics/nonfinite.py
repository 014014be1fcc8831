"""Steps whose loss or gradient is not finite: the run ends, or the step is skipped."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from lossselect.compat.lightning import get_trainer
from lossselect.compat.torch import largest_of_each
from lossselect.exceptions import TrainingDiverged
from lossselect.training.diagnostics.outputs import find_nonfinite_row
from lossselect.utils.checks import lookup
from lossselect.utils.distributed import all_gather, is_sharded
from lossselect.utils.warnings import ON_NONFINITE, warn

MAX_SKIPPED = 10  # consecutive steps
MAX_OVERFLOWS = 20  # consecutive steps that a float16 scaler skips, from a scale of 65,536 down to 1/16
MAX_PENDING = 8  # steps that a GPU may be behind

ADVICE = (
    "Lower the learning rate, clip gradients (gradient_clip_val=1), look for NaN or infinity among the "
    "inputs; a loss of your own must leave out missing labels, which are NaN."
)


class FiniteCheck:
    """Checks the loss and the gradients of each step before the optimizer takes it.

    A GPU is not waited for: its result is read when it has arrived, up to `MAX_PENDING` steps later, and no
    checkpoint is saved before. If `choice` is "skip" instead of "stop", the step is left out (its gradients,
    its effect on running means, and its loss in the train metrics), which requires waiting for a GPU.
    """

    def __init__(self, choice: str) -> None:
        lookup(dict.fromkeys(ON_NONFINITE), choice, "choice of on_nonfinite")
        self.skips = choice == "skip"
        self.skipped = 0
        self._consecutive = 0
        self._scale = 0.0  # of a float16 scaler, which halves it when it skips a step
        self._loss: Tensor | None = None
        self._batch: tuple[Any, int] = (None, 0)
        self._buffers: dict[str, Tensor] = {}
        self._pending: deque[tuple[Tensor, torch.cuda.Event, Callable[[float], None]]] = deque()
        self.checked_step = -1  # the step after which the weights were last checked

    def start_batch(self, module: Any, batch: Any, batch_idx: int) -> None:
        """Remember a batch, and the buffers before it."""
        self._batch = batch, batch_idx
        trainer = get_trainer(module)
        if self.skips and trainer is not None and batch_idx % trainer.accumulate_grad_batches == 0:
            self._buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def add_loss(self, loss: Tensor) -> bool:
        """Remember a batch's loss; return whether it counts in the epoch."""
        self._loss = loss.detach()
        return not self.skips or bool(self._loss.isfinite())

    def check_step(self, module: Any, optimizer: Any) -> None:
        """Check a step before the optimizer takes it; raise TrainingDiverged if training ends here."""
        trainer: Any = module.trainer
        if (scaler := getattr(trainer.precision_plugin, "scaler", None)) is not None:
            # scaler.get_scale() would wait; a scaled 1 is the scale, and stays on the device
            scale = scaler.scale(torch.ones((), device=(module if self._loss is None else self._loss).device))
            self._read(scale, partial(self._check_scale, step=trainer.global_step))
            return
        # the optimizer lists the weights faster than the module
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        finite = self._all_finite([weight.grad for weight in weights if weight.grad is not None])
        if finite is True and not self.skips:
            return
        batch, batch_idx = self._batch
        step = f"step {trainer.global_step + 1} (epoch {trainer.current_epoch}, batch {batch_idx})"
        if not self.skips:
            self._read(finite, lambda finite: None if finite else self._stop(module, step, batch))
            return
        finite = bool(finite)
        if trainer.world_size > 1:  # all processes skip the step, or none
            finite = trainer.strategy.reduce_boolean_decision(finite, all=True)
        if finite:
            self._consecutive = 0
        elif self._consecutive < MAX_SKIPPED:
            self._skip(module, step)
        else:
            self._stop(module, step, batch)

    def check_pending(self, max_pending: int = 0) -> None:
        """Handle results of a GPU that have arrived, and wait for the oldest while more are pending."""
        while self._pending and (len(self._pending) > max_pending or self._pending[0][1].query()):
            copy, event, handle = self._pending.popleft()
            event.synchronize()
            handle(copy.item())

    def check_weights(self, module: Any) -> None:
        """Raise TrainingDiverged if weights are not finite; once an epoch, since the host waits."""
        if self.checked_step == module.trainer.global_step:
            return
        self.checked_step = module.trainer.global_step
        finite = [weight.isfinite().all() for weight in module.parameters() if weight.is_floating_point()]
        if not all(all_gather(not finite or bool(torch.stack(finite).all()))):
            raise TrainingDiverged(
                f"Training has diverged: in epoch {module.current_epoch} the weights are no longer finite, "
                f"and no further step would correct them. {ADVICE}"
            )

    def _read(self, scalar: Tensor | bool, handle: Callable[[float], None]) -> None:
        """Call `handle` with a scalar; that of a GPU is copied, and read some steps later."""
        if isinstance(scalar, bool) or not scalar.is_cuda:
            handle(float(scalar))
            return
        copy = torch.empty((), dtype=scalar.dtype, pin_memory=True)
        copy.copy_(scalar, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending.append((copy, event, handle))
        self.check_pending(MAX_PENDING)

    def _all_finite(self, gradients: list[Tensor]) -> bool | Tensor:
        """Return whether loss and gradients are finite, of a GPU as a scalar on it."""
        if not gradients:
            return True
        sharded = any(map(is_sharded, gradients))  # each process has only a part of them, as under FSDP2
        gradients = [*map(_local_values, gradients)]
        loss = gradients[0].new_zeros(()) if self._loss is None else self._loss
        if not loss.is_cuda and not sharded:
            # single sums take half the time of one over all; they overflow where no number is infinite
            total = loss.item() + sum(gradient.sum().item() for gradient in gradients)
            return math.isfinite(total) or all(map(_is_finite, (loss, *gradients)))
        # the largest of each, which stays NaN, and which no square or sum can make infinite
        largest = largest_of_each([g for g in gradients if g.numel()])
        finite = torch.stack([*largest, loss]).isfinite().all()
        return _all_processes(finite) if sharded else finite

    def _skip(self, module: Any, step: str) -> None:
        for weight in module.parameters():
            weight.grad = None  # which an optimizer leaves as it is, and the weight too
        for name, buffer in module.named_buffers():
            if name in self._buffers:
                buffer.copy_(self._buffers[name])
        if not self.skipped:
            warn(
                "skipped_step",
                f"The gradient is not finite in {step}. That step is left out, as others are.",
            )
        self.skipped += 1
        self._consecutive += 1

    def _stop(self, module: Any, step: str, batch: Any) -> None:
        self._pending.clear()
        many = f", as in {MAX_SKIPPED} steps before it" if self.skips else ""
        more = "" if self.skips else " on_nonfinite=skip leaves out single batches."
        raise TrainingDiverged(
            f"The loss or its gradient is not finite in {step}{many}: {_describe_origin(module, batch)} "
            f"Training ends here; the checkpoints before it are as they were. {ADVICE}{more}"
        )

    def _check_scale(self, scale: float, step: int) -> None:
        self._consecutive = self._consecutive + 1 if scale < self._scale else 0
        self._scale = scale
        if self._consecutive >= MAX_OVERFLOWS:
            raise TrainingDiverged(
                f"float16 overflows: up to step {step} one step after another was left out, and the scale of "
                f"the loss has come down to {scale:.3g}. Take precision=bf16-mixed, or 32-true, where a loss "
                "that is not finite is reported with its step and module."
            )


def _describe_origin(module: Any, batch: Any) -> str:
    """Describe where NaN or infinity comes from, by another forward pass of the batch."""
    weights = [name for name, weight in module.named_parameters() if not _is_finite(weight)]
    with suppress(Exception):  # a batch that is used up, say
        inputs = module._encode_batch(batch).inputs
        for value in _tensors(inputs):
            if not _is_finite(value):
                return f"the inputs of row {find_nonfinite_row(value)} of the batch are not."
        # a process with sharded weights cannot run its forward alone
        sharded = any(map(is_sharded, module.parameters()))
        if not weights and not sharded and (part := _find_first_module(module, inputs)):
            return f"it begins in what {part} returns."
        gradients = [(name, w.grad) for name, w in module.named_parameters() if w.grad is not None]
        names = [name for name, gradient in gradients if not _is_finite(gradient)]
        if names and not weights:
            return f"outputs are finite, and going back the gradient of {names[-1]} is the first that is not."
        if not weights:
            return "outputs are finite, and the loss of them is not."
    return f"the weights {weights[0]} are not finite by now." if weights else ""


def _find_first_module(module: nn.Module, inputs: Any) -> str | None:
    """Return name and type of the first part whose output is not finite."""
    names = {part: name for name, part in module.named_modules() if name}
    nonfinite: list[str] = []

    def check(part: nn.Module, _: Any, outputs: Any) -> None:
        if part in names and not all(map(_is_finite, _tensors(outputs))):
            nonfinite.append(f"{names[part]} ({type(part).__name__})")

    with register_module_forward_hook(check), torch.no_grad():
        module(inputs)
    return next(iter(nonfinite), None)


def _is_finite(value: Tensor) -> bool:
    return bool(_local_values(value).isfinite().all())


def _local_values(value: Tensor) -> Tensor:
    """Return the values that this process has: a DTensor cannot be added to a plain tensor."""
    value = value.coalesce().values() if value.is_sparse else value
    return value.to_local() if is_sharded(value) else value  # type: ignore[attr-defined]


def _all_processes(finite: Tensor) -> Tensor:
    """Return whether `finite` is true in all processes, each of which must call this, without a sync."""
    everywhere = finite.to(torch.uint8)
    dist.all_reduce(everywhere, dist.ReduceOp.MIN)
    return everywhere.bool()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(entry)
