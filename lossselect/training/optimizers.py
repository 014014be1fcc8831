"""Optimizers and schedulers, from the name of a torch class or from any callable."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import optim
from torch.optim import Optimizer, lr_scheduler

from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.metrics.direction import best_mode, direction
from lossselect.utils.checks import check_int, check_options, lookup, split_name
from lossselect.utils.warnings import warn

OptimizerSpec = str | Mapping[str, Any] | Callable[[Any], Optimizer] | None
SchedulerSpec = str | Mapping[str, Any] | Callable[[Optimizer], Any] | None

DEFAULT = {"name": "AdamW", "lr": 1e-3}
LIGHTNING_KEYS = ("interval", "frequency", "monitor", "strict")
LENGTHS = ("T_max", "T_0", "total_iters", "total_steps", "step_size")
"""Attributes of torch's schedulers that are lengths in scheduler steps."""


def _find_classes(module: Any, base: type) -> dict[str, Any]:
    return {
        name: cls
        for name, cls in vars(module).items()
        if isinstance(cls, type) and issubclass(cls, base) and cls is not base and name[0] != "_"
    }


OPTIMIZERS = _find_classes(optim, Optimizer)
SCHEDULERS = _find_classes(lr_scheduler, lr_scheduler.LRScheduler)


def set_lr(module: Any) -> None:
    """Set the attribute `lr`, which learning rate finders set, to that of the optimizer, if it has one."""
    if hasattr(module, "lr") or callable(module._optimizer_spec):
        return
    spec = _as_mapping(module._optimizer_spec)
    parameters = inspect.signature(OPTIMIZERS.get(str(spec.get("name")), Optimizer)).parameters
    default = parameters["lr"].default if "lr" in parameters else None
    if (lr := spec.get("lr", default)) is not None:
        module.lr = lr


def _as_mapping(spec: Any) -> Mapping[str, Any]:
    return {"name": spec} if isinstance(spec, str) else spec or DEFAULT


def configure(module: Any, trainer: Any, monitor: str) -> Any:
    """Return the optimizer of a `TaskModule`, or a dict of the optimizer and the scheduler.

    Args:
        module: The module, with the specs and the learning rate.
        trainer: Its trainer, or None.
        monitor: The metric for a scheduler that does not name one.
    """
    set_lr(module)
    lr, fused = getattr(module, "lr", None), _supports_fused(module, trainer)
    optimizer = make_optimizer(module._optimizer_spec, module.named_parameters(), lr, fused)
    options: dict[str, Any] = {"directions": module._epochs["val"].first.directions}
    if module._scheduler_spec is not None and trainer is not None and trainer.training:
        options |= {"epochs": trainer.max_epochs, "steps": trainer.estimated_stepping_batches}
    scheduler = make_scheduler(module._scheduler_spec, optimizer, monitor, **options)
    return optimizer if scheduler is None else {"optimizer": optimizer, "lr_scheduler": scheduler}


def _supports_fused(module: Any, trainer: Any) -> bool:
    """Return whether gradients are dense, and not clipped by Lightning after they were scaled."""
    from lightning.pytorch import LightningModule  # the rest of this file does not require Lightning
    from lightning.pytorch.plugins.precision import MixedPrecision

    # a fused optimizer unscales the gradients within its step, so Lightning cannot clip them before it
    precision = None if trainer is None else trainer.precision_plugin
    overrides = type(module).configure_gradient_clipping is not LightningModule.configure_gradient_clipping
    clips = trainer is not None and (overrides or bool(trainer.gradient_clip_val))
    scaled = (clips and isinstance(precision, MixedPrecision)) or getattr(precision, "scaler", None)
    return not scaled and not any(getattr(part, "sparse", False) for part in module.modules())


def make_optimizer(
    spec: OptimizerSpec,
    named_parameters: Iterable[tuple[str, Any]],
    lr: Any = None,
    supports_fused: bool = True,
) -> Optimizer:
    """Return the optimizer for "SGD", `{"name": "SGD", "lr": 0.1}` or a callable; AdamW(lr=1e-3) for None.

    A callable accepts the trainable parameters, or pairs of their names and parameters if its first argument
    is called `named_parameters`. If given, `lr` replaces the learning rate of a name or a dict. With
    `fused="auto"`, torch's fused implementation is used if there is one and `supports_fused`.

    Raises:
        ConfigError: the name or an option is unknown, an option is invalid, or no parameter is trainable.
        OptionTypeError: the spec is an optimizer that has already been built.
    """
    named = [(name, parameter) for name, parameter in named_parameters if parameter.requires_grad]
    trained = [parameter for _, parameter in named]
    if not trained:
        raise ConfigError(
            "No parameter of the module requires a gradient, so there is nothing to train. Set requires_grad "
            "for the parameters to train."
        )
    if isinstance(spec, Optimizer):
        name = type(spec).__name__
        raise OptionTypeError(
            f"optimizer must be a name, a dict or a function of the parameters, got an instance of {name}. "
            f'Pass {name!r} or {{"name": {name!r}, ...}}.'
        )
    if callable(spec):
        return spec(named if _takes_names(spec) else trained)
    spec = dict(_as_mapping(spec)) if lr is None else {**_as_mapping(spec), "lr": lr}
    if spec.get("fused") == "auto":
        del spec["fused"]
        cls = OPTIMIZERS.get(str(spec.get("name")))
        chosen = {"foreach", "differentiable"} & spec.keys()
        if supports_fused and not chosen and cls and "fused" in inspect.signature(cls).parameters:
            with suppress(RuntimeError):  # the dtype or device of the parameters is not supported by fused
                return _build(OPTIMIZERS, spec, "optimizer", trained, fused=True)
    return _build(OPTIMIZERS, spec, "optimizer", trained)


def _takes_names(function: Callable[..., Any]) -> bool:
    with suppress(ValueError, TypeError):  # a function without a signature
        return next(iter(inspect.signature(function).parameters), "") == "named_parameters"
    return False


def make_scheduler(
    spec: SchedulerSpec,
    optimizer: Optimizer,
    monitor: str,
    epochs: int | None = None,
    steps: float = -1,
    directions: Mapping[str, str | None] | None = None,
) -> dict[str, Any] | None:
    """Return Lightning's dict for a scheduler such as `{"name": "CosineAnnealingLR", "T_max": 50}`.

    A spec with a name may also contain `LIGHTNING_KEYS`. A callable accepts the optimizer and returns a
    scheduler or Lightning's dict. The default interval is a step for OneCycleLR and CyclicLR, and an epoch
    for others. If the length of the run is known, as `epochs` and `steps`, a schedule per epoch that seems to
    count steps raises a warning. `directions` has those of the run's metrics, as in `best_mode`.

    Raises:
        ConfigError: the name, an option or a key is unknown or invalid.
        OptionTypeError: the callable returns something that is not a scheduler.
    """
    if spec is None:
        return None
    if callable(spec):
        entry = _make_entry(spec(optimizer))
        scheduler, monitor = entry["scheduler"], entry.setdefault("monitor", monitor)
        best = direction(monitor, directions)
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) and best and scheduler.mode != best:
            warn(
                "plateau_mode",
                f"ReduceLROnPlateau monitors {monitor} with mode={scheduler.mode!r}, but the {best}imum of "
                "this metric is best, so the learning rate is reduced while the metric improves. Set "
                f"mode={best!r}, or monitor another metric.",
            )
    else:
        spec = {"name": spec} if isinstance(spec, str) else spec
        entry = {"monitor": monitor, **{key: value for key, value in spec.items() if key in LIGHTNING_KEYS}}
        options = {key: value for key, value in spec.items() if key not in entry}
        if options.get("name") == "ReduceLROnPlateau" and "mode" not in options:
            options["mode"] = best_mode(entry["monitor"], directions)
        entry["scheduler"] = _build(SCHEDULERS, options, "scheduler", optimizer)
    by_step = isinstance(entry["scheduler"], lr_scheduler.OneCycleLR | lr_scheduler.CyclicLR)
    if "interval" not in entry and not by_step and epochs and 1 <= epochs < steps < math.inf:
        _check_unit(entry["scheduler"], epochs, int(steps))
    entry.setdefault("interval", "step" if by_step else "epoch")
    if entry["interval"] not in ("epoch", "step"):
        raise ConfigError(f"scheduler: interval must be 'epoch' or 'step', got {entry['interval']!r}.")
    check_int("scheduler: frequency", entry.get("frequency", 1), 1)
    return entry


def _make_entry(returned: Any) -> dict[str, Any]:
    """Return Lightning's dict for the return value of a callable."""
    entry = dict(returned) if isinstance(returned, Mapping) else {"scheduler": returned}
    known = ("scheduler", "name", "reduce_on_plateau", *LIGHTNING_KEYS)
    check_options(entry, known, "The dict that scheduler returns")
    if not callable(getattr(entry.get("scheduler"), "step", None)):
        raise OptionTypeError(
            "scheduler must return a learning rate scheduler, or Lightning's "
            '{"scheduler": ..., "interval": "step"}, got '
            f"{type(returned).__name__}{'' if 'scheduler' in entry else ' without the key scheduler'}."
        )
    return entry


def _check_unit(scheduler: Any, epochs: int, steps: int) -> None:
    """Warn about a schedule that advances once per epoch, but whose lengths seem to be optimizer steps."""
    # a length far above the number of epochs, and near the number of steps
    lowest, highest = math.sqrt(epochs * steps), 2 * steps
    lengths = _find_lengths(scheduler.state_dict()) if hasattr(scheduler, "state_dict") else ()
    functions = getattr(scheduler, "lr_lambdas", ())
    if any(lowest < length <= highest for length in lengths) or any(
        _counts_steps(function, epochs, steps) for function in functions
    ):
        warn(
            "schedule_in_steps",
            f"{type(scheduler).__name__} advances once per epoch, {epochs} times in this run, but seems to "
            f"count optimizer steps, of which this run has {steps}. If it does, set interval='step' (a "
            'function returns {"scheduler": scheduler, "interval": "step"}). If not, set interval=\'epoch\'.',
        )


def _find_lengths(state: Mapping[str, Any]) -> Iterator[float]:
    """Yield the lengths in a scheduler's state, including those of nested schedulers."""
    for key, value in state.items():
        if key in LENGTHS and isinstance(value, int | float):
            yield value
        elif key == "milestones" and value:  # MultiStepLR: the first milestone changes the rate
            yield min(value)
        elif key == "_schedulers":  # SequentialLR and ChainedScheduler
            for part in value:
                yield from _find_lengths(part)


def _counts_steps(function: Any, epochs: int, steps: int) -> bool:
    """Return whether a factor of LambdaLR reaches 0, or its maximum, within `steps` but not `epochs`."""
    length = getattr(function, "keywords", {}).get("num_training_steps")  # schedules of Transformers
    if isinstance(length, int | float):
        return length > math.sqrt(epochs * steps)
    try:
        by_epoch, by_step = (
            [float(function(last * i // 100)) for i in range(101)] for last in (epochs, steps)
        )
    except Exception:  # for example a table of one factor per epoch
        return False
    peak = max(by_step)
    # a factor such as 0.9 ** epoch also vanishes over so many steps, but long before half of them
    ends = by_step[-1] <= 1e-3 * peak and by_step[50] >= 0.1 * peak and by_epoch[-1] > 0.1 * peak
    # a factor that grows without bound, such as 1.05 ** epoch, is not a warm-up
    return ends or (max(by_epoch) < 0.5 * peak and by_step[50] >= 0.5 * peak)


def _build(table: Mapping[str, Any], spec: Mapping[str, Any], kind: str, first: Any, **more: Any) -> Any:
    name, options = split_name(spec, kind)
    cls = lookup(table, name, kind)
    parameters = inspect.signature(cls).parameters
    owner = f"{kind.capitalize()} {name!r}"
    check_options(options, list(parameters)[1:], owner)
    for key, value in options.items():
        # torch's message for a string would only be that '<=' is not supported
        if isinstance(parameters[key].default, float) and isinstance(value, str | None):
            raise ConfigError(f"{owner}: {key} must be a number, got {value!r}.")
    try:
        return cls(first, **options, **more)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{owner} cannot be built with {options}: {error}") from None


def check_steps(optimizer_spec: Mapping[str, Any], scheduler_spec: Any) -> None:
    """Take two steps with a weight of zeros, because some invalid options raise only there.

    Raises:
        ConfigError: as of `make_optimizer` and `make_scheduler`, or a step fails.
    """
    weight = torch.zeros(2, 2, requires_grad=True)
    weight.grad = torch.ones(2, 2)
    optimizer = make_optimizer(optimizer_spec, [("weight", weight)])
    steps: list[Any] = [("optimizer", optimizer_spec, lambda: optimizer.step(lambda: 0.0))]
    if scheduler_spec and "_target_" not in scheduler_spec:
        scheduler: Any = make_scheduler(scheduler_spec, optimizer, monitor="val/loss")
        value = [0.0] if scheduler_spec["name"] == "ReduceLROnPlateau" else []
        steps.append(("scheduler", scheduler_spec, lambda: scheduler["scheduler"].step(*value)))
    for kind, spec, step in steps * 2:
        try:
            step()
        except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
            raise ConfigError(f"A step of the {kind} with {dict(spec)} failed: {error}") from None
