"""Optimizers and schedulers: torch's own by name, or any callable."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from torch import optim
from torch.optim import Optimizer, lr_scheduler

from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.metrics.direction import best_mode, direction
from lossselect.utils.checks import check_int, check_options, lookup, split_name
from lossselect.utils.warnings import warn

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
        raise ConfigError("No parameter of the module requires a gradient: there is nothing to train.")
    if isinstance(spec, Optimizer):
        raise OptionTypeError(
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


class RunLength(NamedTuple):
    """How long a run is to be."""

    epochs: int | None
    """None or -1 if it is not known."""
    steps: float
    """Of the optimizer; -1 or infinity if it is not known."""


def make_scheduler(
    spec: SchedulerSpec, optimizer: Optimizer, monitor: str, length: RunLength | None = None
) -> dict[str, Any] | None:
    """Return Lightning's dict for a scheduler by name, such as `{"name": "CosineAnnealingLR", "T_max": 50}`.

    A spec by name may have Lightning's own keys as well: `interval` ("epoch" or "step"), `frequency`,
    `monitor` and `strict`. A callable takes the optimizer and returns a scheduler, or Lightning's dict. A
    scheduler takes a step at the end of each epoch unless `interval` says otherwise; OneCycleLR and CyclicLR
    take one at each optimizer step. The `mode` of ReduceLROnPlateau follows from what it monitors unless it
    is given.

    Args:
        spec: Which scheduler.
        optimizer: Whose learning rate it sets.
        monitor: What ReduceLROnPlateau monitors if the spec does not say so.
        length: Of the run, to warn of a schedule that counts steps and gets epochs.

    Raises:
        ValueError: an unknown name or option, a value that the scheduler refuses, ReduceLROnPlateau without
            a mode for a metric whose direction is not known.
        TypeError: a callable that returns something else.
    """
    if spec is None:
        return None
    if isinstance(spec, str):
        spec = {"name": spec}
    if callable(spec):
        entry = _entry_of(spec(optimizer))
        entry.setdefault("monitor", monitor)
        _check_direction(entry["scheduler"], entry["monitor"])
    else:
        entry = {"monitor": monitor, **{key: value for key, value in spec.items() if key in LIGHTNING_KEYS}}
        options = {key: value for key, value in spec.items() if key not in entry}
        if options.get("name") == "ReduceLROnPlateau" and "mode" not in options:
            options["mode"] = best_mode(entry["monitor"])
        entry["scheduler"] = _build(SCHEDULERS, options, "scheduler", optimizer)
    by_step = isinstance(entry["scheduler"], lr_scheduler.OneCycleLR | lr_scheduler.CyclicLR)
    if "interval" not in entry and not by_step and length is not None:
        _check_unit(entry["scheduler"], length)
    entry.setdefault("interval", "step" if by_step else "epoch")
    if entry["interval"] not in ("epoch", "step"):
        raise ConfigError(f"scheduler: interval must be 'epoch' or 'step', got {entry['interval']!r}.")
    check_int("scheduler: frequency", entry.get("frequency", 1), 1)
    return entry


LIGHTNING_KEYS = ("interval", "frequency", "monitor", "strict")
"""What a spec by name may say of how Lightning uses the scheduler."""


def _entry_of(returned: Any) -> dict[str, Any]:
    """Return Lightning's dict for what a callable has returned."""
    if isinstance(returned, Mapping):
        known = ("scheduler", "name", "reduce_on_plateau", *LIGHTNING_KEYS)
        check_options(returned, known, "The dict that scheduler returns")
        entry = dict(returned)
    else:
        entry = {"scheduler": returned}
    if not callable(getattr(entry.get("scheduler"), "step", None)):
        raise OptionTypeError(
            "scheduler must return a learning rate scheduler, or Lightning's "
            '{"scheduler": ..., "interval": "step"}, got '
            f"{type(returned).__name__}{'' if 'scheduler' in entry else ' without the key scheduler'}."
        )
    return entry


def _check_direction(scheduler: Any, monitor: str) -> None:
    """Warn where ReduceLROnPlateau may have the mode that torch assumes, against what it monitors."""
    mode, wanted = getattr(scheduler, "mode", None), direction(monitor)
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) and wanted and mode != wanted:
        warn(
            "plateau_mode",
            f"ReduceLROnPlateau monitors {monitor} with mode={mode!r}, but its {wanted}imum is best: the "
            f"learning rate falls while training goes well. Pass mode={wanted!r}, or monitor another metric.",
        )


def _check_unit(scheduler: Any, length: RunLength) -> None:
    """Warn of a schedule that takes a step each epoch, but whose numbers can only mean optimizer steps."""
    epochs, steps = length
    if not epochs or not 1 <= epochs < steps < math.inf:
        return
    # far more epochs than there are, and near to the number of steps
    most = math.sqrt(epochs * steps)
    lengths = _lengths(scheduler.state_dict()) if hasattr(scheduler, "state_dict") else ()
    if any(most < length <= 2 * steps for length in lengths) or any(
        _counts_steps(function, epochs, int(steps)) for function in getattr(scheduler, "lr_lambdas", ())
    ):
        warn(
            "schedule_in_steps",
            f"{type(scheduler).__name__} takes a step at the end of each epoch, {epochs} in this run, but it "
            f"seems to count optimizer steps, of which there are {steps:.0f}. If so, set interval='step': "
            'a function returns {"scheduler": scheduler, "interval": "step"}. If not, "interval": "epoch".',
        )


LENGTHS = ("T_max", "T_0", "total_iters", "total_steps", "step_size")
"""Attributes of torch's schedulers that are numbers of steps of the scheduler."""


def _lengths(state: Mapping[str, Any]) -> Iterator[float]:
    """Yield the lengths in a scheduler's state, also of those that it is made of."""
    for key, value in state.items():
        if key in LENGTHS and isinstance(value, int | float):
            yield value
        elif key == "milestones" and value:  # of MultiStepLR: after the first one there is something to see
            yield min(value)
        elif key == "_schedulers":  # of SequentialLR and ChainedScheduler
            for part in value:
                yield from _lengths(part)


def _counts_steps(function: Any, epochs: int, steps: int) -> bool:
    """Whether a factor of LambdaLR goes to 0, or up to its highest value, within steps but not epochs."""
    length = getattr(function, "keywords", {}).get("num_training_steps")  # of the schedules of Transformers
    if isinstance(length, int | float):
        return length > math.sqrt(epochs * steps)
    try:
        of_epochs, of_steps = (
            [float(function(last * i // 100)) for i in range(101)] for last in (epochs, steps)
        )
    except Exception:  # a table of factors for the epochs, say
        return False
    peak = max(of_steps)
    # a factor such as 0.9 ** epoch also vanishes within that many steps, but long before half of them
    ends = of_steps[-1] <= 1e-3 * peak and of_steps[50] >= 0.1 * peak and of_epochs[-1] > 0.1 * peak
    # a factor that grows without end, such as 1.05 ** epoch, is no warm-up
    return ends or (max(of_epochs) < 0.5 * peak and of_steps[50] >= 0.5 * peak)


def _build(table: Mapping[str, Any], spec: Mapping[str, Any], kind: str, first: Any, **more: Any) -> Any:
    name, options = split_name(spec, kind)
    cls = lookup(table, name, kind)
    parameters = inspect.signature(cls).parameters
    check_options(options, list(parameters)[1:], f"{kind.capitalize()} {name!r}")
    for key, value in options.items():
        # torch says of a string that '<=' is not supported
        default = parameters[key].default
        if isinstance(default, float) and (value is None or isinstance(value, str)):
            raise ConfigError(f"{kind.capitalize()} {name!r}: {key} must be a number, got {value!r}.")
    try:
        return cls(first, **options, **more)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{kind.capitalize()} {name!r} cannot be built with {options}: {error}") from None
