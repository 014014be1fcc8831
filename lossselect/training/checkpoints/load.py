"""The trained module of a checkpoint, built again of what it was called with."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from lossselect.exceptions import CheckpointError
from lossselect.losses.auto import AutoLoss
from lossselect.losses.loss import Loss
from lossselect.models.stored_weights import check_net
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import Task, as_task, make_task
from lossselect.training.checkpoints.content import check_same_task
from lossselect.training.checkpoints.plain_values import bind_arguments

Module = TypeVar("Module", bound=Any)

LOSS_INDEPENDENT = ("task", "net", "optimizer", "scheduler", "bias_init", "mix", "head", "on_nonfinite")
"""Arguments that may be others at loading, the loss staying that of the checkpoint."""


def rebuild(
    cls: type[Module],
    checkpoint: Mapping[str, Any],
    path: Any,
    changed: Mapping[str, Any],
    strict: bool,
    ours: bool,
) -> Module:
    """What `TaskModule.load_from_checkpoint` returns.

    Args:
        cls: Of the module.
        checkpoint: As `read_checkpoint` returns it.
        path: Of it, for messages.
        changed: Arguments that the checkpoint does not hold, or that are to be others.
        strict: Whether the checkpoint must hold exactly the module's parameters.
        ours: Whether `cls` has the constructor of `TaskModule`; that of a subclass may differ.

    Raises:
        ValueError: of another task, or an argument must be passed.
    """
    arguments = {**checkpoint["arguments"], **changed}
    task = as_task(changed.get("task") or checkpoint["task"])
    takes_task = "task" in arguments or "task" in inspect.signature(cls.__init__).parameters
    if takes_task and isinstance(arguments.get("task", task), Task | Mapping):
        arguments["task"] = task
    lost = [name for name in checkpoint["not_plain"] if name not in changed]
    # a model can predict without them, but must not go on training with others than it had
    arguments |= {name: _lost(name, path) for name in lost if name in ("optimizer", "scheduler")}
    if again := [name for name in lost if name not in arguments]:
        raise CheckpointError(
            f"{path} was trained with {' and '.join(again)} of your own, which no checkpoint holds. Pass "
            f"{', '.join(f'{name}=...' for name in again)} to load_from_checkpoint."
        )
    weights = checkpoint["state_dict"]
    if (
        ours
        and strict
        and isinstance(net := checkpoint["arguments"].get("net"), Mapping)
        and "net" not in changed
    ):
        check_net(net, task.num_outputs, weights, path, "net.")
    try:
        call = bind_arguments(cls, arguments)
    except TypeError as error:
        raise CheckpointError(f"{cls.__name__} cannot be built from {path}: {error}.") from None
    try:
        module = cls(*call.args, **call.kwargs)
    except (TypeError, ValueError) as error:
        if not ours or changed:  # the caller's own
            raise
        raise CheckpointError(
            f"{path} is damaged: no module can be built from its arguments: {error}"
        ) from None
    check_same_task(checkpoint, module.task)
    module._on_restored(dict(checkpoint))
    # what was changed after construction: thresholds, say
    module.base_task = make_task(**checkpoint["base_task"]) if checkpoint.get("base_task") else None
    module.counts = LabelCounts.from_dict(checkpoint["counts"]) if checkpoint.get("counts") else None
    if module.counts:
        module.counts.check_task(task)
    module.task = task
    loss = checkpoint["loss"]
    unchanged = changed.keys() <= {*LOSS_INDEPENDENT, *checkpoint["not_plain"]}
    if loss and isinstance(module.criterion, Loss | AutoLoss) and unchanged:
        try:
            module.criterion = Loss(task, **loss)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged: its loss cannot be built: {error}") from None
    module.bias_init = None  # it is trained
    try:
        module.load_state_dict(weights, strict=strict)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise CheckpointError(f"The weights in {path} do not fit the net: {' '.join(lines[1:])}") from None
    device = next((value.device for value in weights.values() if isinstance(value, Tensor)), None)
    return module.to(device)


def _lost(name: str, path: Any) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise CheckpointError(
            f"The {name} that {path} was trained with is not in it: pass {name}= at loading."
        )

    return refuse
