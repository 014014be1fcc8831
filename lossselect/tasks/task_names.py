"""The names and the weights of several tasks: their checks, and the name of a task in an error."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lossselect.exceptions import ConfigError, LossSelectError, OptionTypeError
from lossselect.tasks.base import Task
from lossselect.utils.checks import check_float, lookup
from lossselect.utils.warnings import CURRENT_TASK

RESERVED = ("name", "loss", "default_decision", "row", "fold")
"""Names that mean something else in a loss, the name of a metric or a table of predictions."""
METRIC = re.compile(
    r"(accuracy|balanced_accuracy|precision|recall|specificity|f1|f_beta|f[\d.]+|jaccard|mcc|auroc"
    r"|average_precision|brier_score|calibration_error|exact_match|hamming_distance|ranking_loss|coverage_error"
    r"|mean_absolute_error|quadratic_kappa|(precision|accuracy|ndcg|psp)_at_\d+)(_macro|_micro|_weighted|_none)?"
)
"""Names of metrics, which the names of tasks must differ from: val/f1 would be ambiguous."""


@contextmanager
def naming_task(name: str) -> Iterator[None]:
    """Add the name of a task, unless it is "", to the message of an error and to warnings."""
    token = CURRENT_TASK.set(name)
    try:
        yield
    except LossSelectError as error:
        raise (error.add(f"(Task {name!r}.)") if name else error) from None
    finally:
        CURRENT_TASK.reset(token)


def spread(task: Any, setting: Any, what: str, default: Any = None) -> dict[str, Any]:
    """Return a setting by task: that of each of several tasks if it is a mapping, otherwise one for all.

    Raises:
        ConfigError: an unknown task; `what` names the setting in the message.
    """
    if "" in task.tasks or not isinstance(setting, Mapping):
        return dict.fromkeys(task.tasks, setting)
    for name in setting:
        lookup(task.tasks, name, "task", f" in {what}")
    return {name: setting.get(name, default) for name in task.tasks}


def check_tasks(tasks: Any) -> dict[str, Task]:
    """Return the tasks by name; raise an error for an invalid name or type."""
    if not isinstance(tasks, Mapping) or not all(isinstance(task, Task) for task in tasks.values()):
        kinds = (
            [type(t).__name__ for t in tasks.values()] if isinstance(tasks, Mapping) else type(tasks).__name__
        )
        raise OptionTypeError(
            'MultiTask requires a mapping of tasks, such as {"species": Multiclass(10), "sick": Binary()}, '
            f"got {kinds}."
        )
    if len(tasks) < 2:
        raise ConfigError(
            f"MultiTask requires at least two tasks, got {len(tasks)}. For one, use it by itself."
        )
    taken = {*RESERVED, *(metric for task in tasks.values() for metric in task.metric_names)}
    for name in tasks:
        if (
            not isinstance(name, str)
            or not name
            or any(sign in name for sign in "/\\")
            or not name.isprintable()
        ):
            raise ConfigError(
                f"The name of a task becomes part of names such as val/NAME/loss, got {name!r}. Use a text "
                "without slashes and control characters."
            )
        if name != name.strip():
            raise ConfigError(f"The name of a task must not start or end with a blank, got {name!r}.")
        if name in taken or METRIC.fullmatch(name):
            raise ConfigError(
                f"A task must not be called {name!r}, which is the name of a metric or of a setting. Choose "
                f"another name, such as {name}_task."
            )
        if start := next((other for other in tasks if name.startswith(f"{other}.")), ""):
            raise ConfigError(
                f"The name {name!r} of a task starts with that of the task {start!r} and a dot, so it could "
                f"be one of its columns, such as {start}.target. Choose another name, such as "
                f"{name.replace('.', '_')}."
            )
    return dict(tasks)


def check_weights(weights: Any, tasks: Mapping[str, Task]) -> dict[str, float] | str | None:
    """Return the weight of each task, "uncertainty" or None; raise an error for an invalid one."""
    if weights is None or weights == "uncertainty":
        return weights
    if isinstance(weights, str):
        raise ConfigError(
            f"The weights of tasks must be numbers by task, or 'uncertainty' to learn them, got {weights!r}."
        )
    if not isinstance(weights, Mapping):
        raise OptionTypeError(
            f'The weights of tasks must be a mapping such as {{"{next(iter(tasks))}": 2}}, or "uncertainty", '
            f"got {weights!r}."
        )
    for name in weights:
        lookup(tasks, name, "task", " in weights")
    checked = {name: check_float(f"weights[{name!r}]", weights.get(name, 1.0), 0) for name in tasks}
    if not any(checked.values()):
        raise ConfigError(
            "All weights of tasks are 0, so nothing would be trained. Set at least one above 0."
        )
    return checked
