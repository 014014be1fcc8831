"""Optimizers and schedulers: torch's own by name, or any callable."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from torch import optim
from torch.optim import Optimizer, lr_scheduler

from .names import check_options, lookup, split_name

OptimizerSpec = str | Mapping[str, Any] | Callable[[Iterable[Any]], Optimizer] | None
SchedulerSpec = str | Mapping[str, Any] | Callable[[Optimizer], Any] | None


def _classes(module: Any, base: type) -> dict[str, Any]:
    return {
        name: cls
        for name, cls in vars(module).items()
        if isinstance(cls, type) and issubclass(cls, base) and cls is not base and name[0] != "_"
    }


OPTIMIZERS = _classes(optim, Optimizer)
SCHEDULERS = _classes(lr_scheduler, lr_scheduler.LRScheduler)


def make_optimizer(spec: OptimizerSpec, parameters: Iterable[Any], fused: bool = True) -> Optimizer:
    """The optimizer of "SGD", `{"name": "SGD", "lr": 0.1}` or a callable, and AdamW(lr=1e-3) for None.

    Where torch has one for these parameters, the fused form is taken, which steps through all of them at
    once: a step of Adam on a small net takes a third of the time, with the same numbers to rounding. `fused`,
    `foreach` or `differentiable` in the spec decide otherwise.

    Args:
        spec: Which optimizer.
        parameters: Of which those that require a gradient are trained.
        fused: False where the gradients are to be clipped between a gradient scaler and the step.

    Raises:
        ValueError: an unknown name or option, a value that the optimizer refuses, no parameter that
            requires a gradient.
    """
    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        raise ValueError("No parameter of the module requires a gradient: there is nothing to train.")
    if isinstance(spec, Optimizer):
        raise TypeError(
            f"The module makes an optimizer of its own parameters: pass {type(spec).__name__!r}, "
            f'{{"name": {type(spec).__name__!r}, ...}} or a function of the parameters, not one that is made.'
        )
    if callable(spec):
        return spec(trained)
    if isinstance(spec, str):
        spec = {"name": spec}
    spec = spec or {"name": "AdamW", "lr": 1e-3}
    if fused and not {"fused", "foreach", "differentiable"} & spec.keys():
        cls = OPTIMIZERS.get(str(spec.get("name")))
        if cls and "fused" in inspect.signature(cls).parameters:
            with suppress(RuntimeError):  # parameters of a dtype, or on a device, that it is not made for
                return _build(OPTIMIZERS, spec, "optimizer", trained, fused=True)
    return _build(OPTIMIZERS, spec, "optimizer", trained)


def make_scheduler(spec: SchedulerSpec, optimizer: Optimizer, monitor: str) -> dict[str, Any] | None:
    """Lightning's entry for the scheduler of `{"name": "CosineAnnealingLR", "T_max": 50}` or a callable.

    In the spec, `interval` ("epoch" or "step") and `monitor`, what ReduceLROnPlateau watches, are
    Lightning's; that scheduler's `mode` follows from what it watches unless it is given.
    """
    if spec is None:
        return None
    if callable(spec):
        return _watching(spec(optimizer), monitor, {})
    if isinstance(spec, str):
        spec = {"name": spec}
    monitor = spec.get("monitor", monitor)
    options = {key: value for key, value in spec.items() if key not in ("interval", "monitor")}
    if options.get("name") == "ReduceLROnPlateau":
        options.setdefault("mode", best_mode(monitor))
    scheduler = _build(SCHEDULERS, options, "scheduler", optimizer)
    return _watching(scheduler, monitor, spec)


def _watching(scheduler: Any, monitor: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    mode = getattr(scheduler, "mode", None)
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) and mode != best_mode(monitor):
        raise ValueError(
            f"ReduceLROnPlateau watches {monitor}, of which the {best_mode(monitor)} is best, but its mode "
            f"is {mode!r}: it would lower the learning rate while training goes well. Give it "
            f"mode={best_mode(monitor)!r}, or name another monitor."
        )
    by_step = isinstance(scheduler, lr_scheduler.OneCycleLR | lr_scheduler.CyclicLR)
    interval = spec.get("interval", "step" if by_step else "epoch")
    return {"scheduler": scheduler, "interval": interval, "monitor": monitor}


def best_mode(monitor: str) -> str:
    """ "min" for a loss or an error, "max" for any other metric."""
    return "min" if monitor.endswith(("loss", "error", "brier", "hamming")) else "max"


def _build(table: Mapping[str, Any], spec: Mapping[str, Any], kind: str, first: Any, **more: Any) -> Any:
    name, options = split_name(spec, kind)
    cls = lookup(table, name, kind)
    parameters = inspect.signature(cls).parameters
    check_options(options, list(parameters)[1:], f"{kind.capitalize()} {name!r}")
    for key, value in options.items():
        # torch says of a string that '<=' is not supported
        default = parameters[key].default
        if isinstance(default, float) and (value is None or isinstance(value, str)):
            raise ValueError(f"{kind.capitalize()} {name!r}: {key} must be a number, got {value!r}.")
    try:
        return cls(first, **options, **more)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{kind.capitalize()} {name!r} cannot be built with {options}: {error}") from None
