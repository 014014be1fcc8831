"""Recording of the arguments of a module, and rebuilding of the module from them and its weights."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MethodType
from typing import Any, Self, TypeVar

from torch import Tensor

from lossselect.exceptions import CheckpointError
from lossselect.losses.multi_loss import NamedLoss, restore_loss
from lossselect.models.stored_weights import check_net
from lossselect.tasks.label_counts import restore_counts
from lossselect.tasks.registry import AnyTask, as_any_task
from lossselect.training.checkpoints.content import check_same_task, plain_entries
from lossselect.training.checkpoints.validation import LOAD_WEIGHTS, damaged

Module = TypeVar("Module", bound=Any)

# arguments that may be changed at loading without changing the loss
LOSS_INDEPENDENT = (
    *("task", "net", "optimizer", "scheduler", "metrics", "bias_init", "mix", "head", "class_dim"),
    *("batch_keys", "loader_names", "on_nonfinite", "num_features"),
)


class _ConstructorSignature:
    """The signature of a class for `help` and editors, which would otherwise show that of `__new__`."""

    def __get__(self, instance: object, owner: type) -> inspect.Signature | None:
        return None if instance is not None else _signature(owner)


class RecordsArguments:
    """Records constructor arguments: plain values in `_arguments`, the names of others in `_not_plain`.

    `_plain_hparams` also contains the defaults of the constructor.

    `save_hyperparameters` reads the local variables of __init__, which may have changed since the call, and
    copies nets. This class records the call itself, including the call of a subclass.
    """

    __signature__ = _ConstructorSignature()
    _arguments: dict[str, Any]
    _plain_hparams: dict[str, Any]
    _not_plain: list[str]
    _task_arguments: dict[str, AnyTask]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        signature = _signature(cls)
        arguments: dict[str, Any] = {}
        with suppress(TypeError):  # __init__ raises the same error; copy.copy passes no arguments
            arguments = signature.bind(*args, **kwargs).arguments
            variadic = [p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
            arguments |= arguments.pop(variadic[0], {}) if variadic else {}
        self._arguments = plain_entries(arguments)
        defaults = {p.name: p.default for p in signature.parameters.values() if p.default is not p.empty}
        hparams = plain_entries(defaults) | self._arguments
        # loggers write hyperparameters as text, so tensors are left out
        self._plain_hparams = {k: v for k, v in hparams.items() if not isinstance(v, Tensor)}
        self._not_plain = [name for name in arguments if name not in self._arguments]
        self._task_arguments = {name: v for name, v in arguments.items() if isinstance(v, AnyTask)}
        return self


def bind_arguments(cls: type, arguments: Mapping[str, Any]) -> inspect.BoundArguments:
    """Return the call of `cls` with recorded arguments; TypeError if the constructor does not accept them."""
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

    `changed` contains arguments that the checkpoint lacks, and those that replace arguments in it.
    """
    if cls.__module__.startswith("lossselect.") and (name := checkpoint["class"]) != "TaskModule":
        raise CheckpointError(
            f"{path} contains a {name}, whose forward may differ. Load it with {name}.load_from_checkpoint."
        )
    standard = str(cls.__init__.__module__).startswith("lossselect.")  # else a subclass's constructor
    arguments = {**checkpoint["arguments"], **changed}
    task = as_any_task(changed.get("task") or checkpoint["task"])
    takes_task = "task" in arguments or "task" in inspect.signature(cls.__init__).parameters
    if takes_task and isinstance(arguments.get("task", task), AnyTask | Mapping):
        arguments["task"] = task
    missing = [name for name in checkpoint["not_plain"] if name not in changed]
    # prediction needs neither, but training must not continue with different ones
    arguments |= {name: _make_raising(name, path) for name in missing if name in ("optimizer", "scheduler")}
    if required := [name for name in missing if name not in arguments]:
        raise CheckpointError(
            f"{path} was trained with arguments that a checkpoint cannot contain: {', '.join(required)}. "
            f"Pass {', '.join(f'{name}=...' for name in required)} to load_from_checkpoint."
        )
    weights, net = checkpoint["state_dict"], checkpoint["arguments"].get("net")
    if standard and strict and isinstance(net, Mapping) and "net" not in changed:
        check_net(net, task, weights, path, "net.")
    try:
        call = bind_arguments(cls, arguments)
    except TypeError as error:
        raise CheckpointError(
            f"{cls.__name__} cannot be built from {path}: {error}. Its constructor has changed since the "
            f"checkpoint was written. Undo that, or pass the argument. {LOAD_WEIGHTS}"
        ) from None
    try:
        module = cls(*call.args, **call.kwargs)
    except (TypeError, ValueError) as error:
        if not standard or changed:  # the user's code or arguments
            raise
        raise damaged(path, f"its arguments do not build a module: {error}") from None
    check_same_task(checkpoint, module.task)
    module._on_restored(dict(checkpoint))
    # these may have changed after construction, for example by tuned thresholds
    module._base_task = as_any_task(checkpoint["base_task"]) if checkpoint["base_task"] else None
    module._label_counts = restore_counts(checkpoint["counts"], task) if checkpoint["counts"] else None
    if module._label_counts:
        module._label_counts.check_task(task)
    module.task = task
    loss_is_unchanged = changed.keys() <= {*LOSS_INDEPENDENT, *checkpoint["not_plain"]}
    if checkpoint["loss"] and isinstance(module.criterion, NamedLoss) and loss_is_unchanged:
        try:
            module.criterion = restore_loss(task, module.criterion, checkpoint["loss"])
        except (TypeError, ValueError) as error:
            raise damaged(path, f"its loss cannot be built: {error}") from None
    elif module._label_counts and isinstance(module.criterion, NamedLoss):
        module.criterion = module.criterion.with_counts(module._label_counts)
    module._bias_init = None  # the bias is trained already
    try:
        module.load_state_dict(weights, strict=strict)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise CheckpointError(f"The weights in {path} do not fit the net: {' '.join(lines[1:])}") from None
    device = next((value.device for value in weights.values() if isinstance(value, Tensor)), None)
    return module.to(device)


def _make_raising(name: str, path: Any) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise CheckpointError(
            f"{path} does not contain the {name} that it was trained with. Pass {name}=... to "
            "load_from_checkpoint."
        )

    return fail
