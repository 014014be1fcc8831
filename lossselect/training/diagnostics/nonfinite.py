"""Detection of steps whose loss or gradient is not finite, which end the run or are skipped."""

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
from lossselect.utils.checks import check_choice
from lossselect.utils.distributed import all_gather, is_sharded
from lossselect.utils.warnings import ON_NONFINITE, warn

MAX_SKIPPED = 10  # consecutive steps
MAX_OVERFLOWS = 20  # consecutive steps that a float16 scaler skips, from a scale of 65,536 down to 1/16
MAX_PENDING = 8  # steps that a GPU may lag behind

ADVICE = (
    "Lower the learning rate, clip gradients (gradient_clip_val=1), or check the inputs for NaN and "
    "infinity. A custom loss must leave out missing labels, which are NaN."
)


class FiniteCheck:
    """Checks the loss and the gradients of each optimizer step before it is taken.

    The host does not wait for a GPU: it reads each result up to `MAX_PENDING` steps later, and always before
    a checkpoint is saved. If `choice` is "skip" instead of "stop", gradients, running means and training loss
    of the step are discarded, and training continues. This requires waiting for a GPU.
    """

    def __init__(self, choice: str) -> None:
        check_choice("on_nonfinite", choice, ON_NONFINITE)
        self.skips = choice == "skip"
        self.skipped = 0
        self._consecutive = 0
        self._scale = 0.0  # the scale of a float16 scaler, which halves it when it skips a step
        self._loss: Tensor | None = None
        self._batch: tuple[Any, int] = (None, 0)
        self._buffers: dict[str, Tensor] = {}
        self._pending: deque[tuple[Tensor, torch.cuda.Event, Callable[[float], None]]] = deque()
        self.checked_step = -1  # the step after which the weights were last checked

    def start_batch(self, module: Any, batch: Any, batch_idx: int) -> None:
        """Store a batch, and the values of the buffers before it."""
        self._batch = batch, batch_idx
        trainer = get_trainer(module)
        if self.skips and trainer is not None and batch_idx % trainer.accumulate_grad_batches == 0:
            self._buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def add_loss(self, loss: Tensor) -> bool:
        """Store the loss of a batch; return whether it counts in the epoch."""
        self._loss = loss.detach()
        return not self.skips or bool(self._loss.isfinite())

    def check_step(self, module: Any, optimizer: Any) -> None:
        """Check a step before the optimizer takes it; raise TrainingDiverged if training must stop."""
        trainer: Any = module.trainer
        if (scaler := getattr(trainer.precision_plugin, "scaler", None)) is not None:
            # scaler.get_scale() would wait for the device; scaling a 1 avoids that
            scale = scaler.scale(torch.ones((), device=(module if self._loss is None else self._loss).device))
            self._read(scale, partial(self._check_scale, step=trainer.global_step))
            return
        # faster than module.parameters()
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
        if trainer.world_size > 1:  # all processes skip the step, or none does
            finite = trainer.strategy.reduce_boolean_decision(finite, all=True)
        if finite:
            self._consecutive = 0
        elif self._consecutive < MAX_SKIPPED:
            self._skip(module, step)
        else:
            self._stop(module, step, batch)

    def check_pending(self, max_pending: int = 0) -> None:
        """Handle the results of a GPU that have arrived; wait while more than `max_pending` are missing."""
        while self._pending and (len(self._pending) > max_pending or self._pending[0][1].query()):
            copy, event, handle = self._pending.popleft()
            event.synchronize()
            handle(copy.item())

    def check_weights(self, module: Any) -> None:
        """Raise TrainingDiverged if weights are not finite; called once an epoch, as it waits for a GPU."""
        if self.checked_step == module.trainer.global_step:
            return
        self.checked_step = module.trainer.global_step
        finite = [weight.isfinite().all() for weight in module.parameters() if weight.is_floating_point()]
        if not all(all_gather(not finite or bool(torch.stack(finite).all()))):
            raise TrainingDiverged(
                f"Training has diverged: the weights are no longer finite in epoch {module.current_epoch}. "
                f"{ADVICE}"
            )

    def _read(self, scalar: Tensor | bool, handle: Callable[[float], None]) -> None:
        """Call `handle` with a scalar; a scalar on a GPU is copied, and handled some steps later."""
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
        """Return whether loss and gradients are finite; on a GPU as a scalar tensor."""
        if not gradients:
            return True
        sharded = any(map(is_sharded, gradients))  # each process has only a part, as with FSDP2
        gradients = [*map(_local_values, gradients)]
        loss = gradients[0].new_zeros(()) if self._loss is None else self._loss
        if not loss.is_cuda and not sharded:
            # sums per tensor are twice as fast as one over all; finite values may overflow in them
            total = loss.item() + sum(gradient.sum().item() for gradient in gradients)
            return math.isfinite(total) or all(map(_is_finite, (loss, *gradients)))
        # the maximum propagates NaN, and does not overflow as sums or squares do
        largest = largest_of_each([g for g in gradients if g.numel()])
        finite = torch.stack([*largest, loss]).isfinite().all()
        return _all_processes(finite) if sharded else finite

    def _skip(self, module: Any, step: str) -> None:
        for weight in module.parameters():
            weight.grad = None  # an optimizer does not change weights without a gradient
        for name, buffer in module.named_buffers():
            if name in self._buffers:
                buffer.copy_(self._buffers[name])
        if not self.skipped:
            warn(
                "skipped_step",
                f"The loss or its gradient is not finite in {step}. The step is skipped, like later ones.",
            )
        self.skipped += 1
        self._consecutive += 1

    def _stop(self, module: Any, step: str, batch: Any) -> None:
        self._pending.clear()
        many = f", as in the {MAX_SKIPPED} steps before it" if self.skips else ""
        more = "" if self.skips else " Set on_nonfinite=skip to skip single steps."
        raise TrainingDiverged(
            f"The loss or its gradient is not finite in {step}{many}.{_describe_origin(module, batch)} "
            f"Training stopped; earlier checkpoints are intact. {ADVICE}{more}"
        )

    def _check_scale(self, scale: float, step: int) -> None:
        self._consecutive = self._consecutive + 1 if scale < self._scale else 0
        self._scale = scale
        if self._consecutive >= MAX_OVERFLOWS:
            raise TrainingDiverged(
                f"float16 overflows: {MAX_OVERFLOWS} successive steps up to step {step} were skipped, and "
                f"the loss scale has dropped to {scale:.3g}. Set precision=bf16-mixed, or "
                "precision=32-true to see the step and the module of the first value that is not finite."
            )


def _describe_origin(module: Any, batch: Any) -> str:
    """Repeat the forward pass of the batch, and describe where NaN or infinity occurs first."""
    weights = [name for name, weight in module.named_parameters() if not _is_finite(weight)]
    with suppress(Exception):  # for example, a batch that can be read only once
        inputs = batch.inputs
        for value in _tensors(inputs):
            if not _is_finite(value):
                return f" The inputs of row {find_nonfinite_row(value)} of the batch are not finite."
        # a process with sharded weights cannot run forward without the others
        sharded = any(map(is_sharded, module.parameters()))
        if not weights and not sharded and (part := _find_first_module(module, inputs)):
            return f" First non-finite output: {part}."
        gradients = [(name, w.grad) for name, w in module.named_parameters() if w.grad is not None]
        names = [name for name, gradient in gradients if not _is_finite(gradient)]
        if names and not weights:
            return f" The outputs are finite. First non-finite gradient in backward: {names[-1]}."
        if not weights:
            return " The outputs are finite, but their loss is NaN or infinite."
    return f" The weights {weights[0]} already contain NaN or infinity." if weights else ""


def _find_first_module(module: Any, inputs: Any) -> str | None:
    """Return name and type of the first submodule whose output is not finite."""
    names = {part: name for name, part in module.named_modules() if name}
    nonfinite: list[str] = []

    def check(part: nn.Module, _: Any, outputs: Any) -> None:
        if part in names and not all(map(_is_finite, _tensors(outputs))):
            nonfinite.append(f"{names[part]} ({type(part).__name__})")

    with register_module_forward_hook(check), torch.no_grad():
        module.compute_logits(inputs)
    return next(iter(nonfinite), None)


def _is_finite(value: Tensor) -> bool:
    return bool(_local_values(value).isfinite().all())


def _local_values(value: Tensor) -> Tensor:
    """Return the values in this process as a plain tensor."""
    value = value.coalesce().values() if value.is_sparse else value
    return value.to_local() if is_sharded(value) else value  # type: ignore[attr-defined]


def _all_processes(finite: Tensor) -> Tensor:
    """Return whether `finite` is true in all processes, without a sync; each process must call this."""
    everywhere = finite.to(torch.uint8)
    dist.all_reduce(everywhere, dist.ReduceOp.MIN)
    return everywhere.bool()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(entry)
