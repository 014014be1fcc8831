"""Private parts of torchmetrics. Tested with torchmetrics 1.9; see tests/compat/test_others.py."""

from operator import attrgetter
from typing import Any

from torchmetrics import Metric

update_count = attrgetter("_update_count")
"""How many updates a metric has had."""
is_synced = attrgetter("_is_synced")
"""Whether a metric's states are those of all processes."""
computed_value = attrgetter("_computed")
"""The value that a metric has computed since its last update, or None."""


def set_update_count(metric: Metric, count: int) -> None:
    """Set how many updates a metric has had, and forget the value that was computed."""
    metric._update_count, metric._computed = count, None


def forget_forward_value(metric: Metric) -> None:
    """Forget the value of the last call, as `Metric.reset` does."""
    metric._forward_cache = None


def share_states(metric: Metric, other: Metric, **attributes: Any) -> None:
    """Give a metric the states and the number of updates of another one, by reference, without a value.

    `MetricCollection` does so for a compute group, but through `Module.__setattr__`, which takes long.
    """
    vars(metric).update(other.metric_state, _update_count=other._update_count, _computed=None, **attributes)


def set_computed_value(metric: Metric, value: Any) -> None:
    """Let `compute` return a value that is known."""
    vars(metric).update(_computed=value)
