"""The recorded call of a module's constructor, and the module that is built again from it and its weights."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MethodType
from typing import Any, Self, TypeVar

from torch import Tensor

from lossselect.exceptions import CheckpointError
from lossselect.losses.auto import AutoLoss
from lossselect.losses.loss import Loss
from lossselect.models.stored_weights import check_net
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import Task, as_task, make_task
from lossselect.training.checkpoints.content import check_same_task, plain_entries
from lossselect.training.checkpoints.validation import damaged

Module = TypeVar("Module", bound=Any)

# arguments that may change at loading while the loss stays that of the checkpoint
LOSS_INDEPENDENT = ("task", "net", "optimizer", "scheduler", "bias_init", "mix", "head", "on_nonfinite")


class RecordsArguments:
    """Records the constructor's arguments of a subclass: plain ones in `_arguments`, others in `_not_plain`.

    `save_hyperparameters` reads the variables of __init__ after it has run: changed ones, those that it
    passes on, and deep copies of nets. This is the call itself.
    """

    _arguments: dict[str, Any]
    _not_plain: list[str]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        signature = _signature(cls)
        arguments: dict[str, Any] = {}
        with suppress(TypeError):  # __init__ will raise it; copy.copy passes no arguments
            arguments = signature.bind(*args, **kwargs).arguments
            variadic = [p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
            arguments |= arguments.pop(variadic[0], {}) if variadic else {}
        self._arguments = plain_entries(arguments)
        self._not_plain = [name for name in arguments if name not in self._arguments]
        return self


def bind_arguments(cls: type, arguments: Mapping[str, Any]) -> inspect.BoundArguments:
    """Return the call of `cls` with arguments as `RecordsArguments` records them, or raise TypeError."""
    signature = _signature(cls)
    named = {name: value for name, value in arguments.items() if name in signature.parameters}
    others = {name: value for name, value in arguments.items() if name not in named}
    call = inspect.BoundArguments(signature, named)
    return signature.bind(*call.args, **call.kwargs, **others)


def _signature(cls: type) -> inspect.Signature:
    return inspect.signature(MethodType(cls.__init__, cls))  # type: ignore[misc]


def rebuild(
    cls: type[Module],
    checkpoint: Mapping[str, Any],
    path: Any,
    changed: Mapping[str, Any],
    strict: bool = True,
) -> Module:
    """Return the trained module of a checkpoint; see `TaskModule.load_from_checkpoint`.

    `changed` has arguments that the checkpoint lacks or that replace its own.
    """
    if cls.__module__.startswith("lossselect.") and (name := checkpoint["class"]) != "TaskModule":
        raise CheckpointError(
            f"{path} holds a {name}, whose forward may differ: load it with {name}.load_from_checkpoint."
        )
    standard = str(cls.__init__.__module__).startswith("lossselect.")  # not the constructor of a subclass
    arguments = {**checkpoint["arguments"], **changed}
    task = as_task(changed.get("task") or checkpoint["task"])
    takes_task = "task" in arguments or "task" in inspect.signature(cls.__init__).parameters
    if takes_task and isinstance(arguments.get("task", task), Task | Mapping):
        arguments["task"] = task
    missing = [name for name in checkpoint["not_plain"] if name not in changed]
    # a model can predict without them, but must not be trained further with others than it had
    arguments |= {name: _make_refusing(name, path) for name in missing if name in ("optimizer", "scheduler")}
    if required := [name for name in missing if name not in arguments]:
        raise CheckpointError(
            f"{path} was trained with {' and '.join(required)} of your own, which no checkpoint holds. Pass "
            f"{', '.join(f'{name}=...' for name in required)} to load_from_checkpoint."
        )
    weights, net = checkpoint["state_dict"], checkpoint["arguments"].get("net")
    if standard and strict and isinstance(net, Mapping) and "net" not in changed:
        check_net(net, task.num_outputs, weights, path, "net.")
    try:
        call = bind_arguments(cls, arguments)
    except TypeError as error:
        raise CheckpointError(f"{cls.__name__} cannot be built from {path}: {error}.") from None
    try:
        module = cls(*call.args, **call.kwargs)
    except (TypeError, ValueError) as error:
        if not standard or changed:  # the user's code or arguments
            raise
        raise damaged(path, f"no module can be built from its arguments: {error}") from None
    check_same_task(checkpoint, module.task)
    module._on_restored(dict(checkpoint))
    # what may have changed since construction, such as thresholds
    module.base_task = make_task(**checkpoint["base_task"]) if checkpoint["base_task"] else None
    module.counts = LabelCounts.from_dict(checkpoint["counts"]) if checkpoint["counts"] else None
    if module.counts:
        module.counts.check_task(task)
    module.task = task
    loss_is_unchanged = changed.keys() <= {*LOSS_INDEPENDENT, *checkpoint["not_plain"]}
    if checkpoint["loss"] and isinstance(module.criterion, Loss | AutoLoss) and loss_is_unchanged:
        try:
            module.criterion = Loss(task, **checkpoint["loss"])
        except (TypeError, ValueError) as error:
            raise damaged(path, f"its loss cannot be built: {error}") from None
    module.bias_init = None  # it is trained
    try:
        module.load_state_dict(weights, strict=strict)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise CheckpointError(f"The weights in {path} do not fit the net: {' '.join(lines[1:])}") from None
    device = next((value.device for value in weights.values() if isinstance(value, Tensor)), None)
    return module.to(device)


def _make_refusing(name: str, path: Any) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise CheckpointError(
            f"The {name} that {path} was trained with is not in it: pass {name}= at loading."
        )

    return refuse
