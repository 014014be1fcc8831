"""Private parts of torchmetrics. Tested with torchmetrics 1.9; see tests/compat/test_torchmetrics.py."""

from typing import Any

from torchmetrics import Metric


def update_count(metric: Metric) -> int:
    """Return how many updates a metric has had."""
    return metric._update_count


def set_update_count(metric: Metric, count: int) -> None:
    """Say how many updates a metric has had, and forget the value that was computed."""
    metric._update_count, metric._computed = count, None


def forget_forward_value(metric: Metric) -> None:
    """Forget the value of the last call, as `Metric.reset` does."""
    metric._forward_cache = None


def is_synced(metric: Metric) -> bool:
    """Return whether a metric's states are those of all processes."""
    return metric._is_synced


def share_states(metric: Metric, other: Metric, **more: Any) -> None:
    """Let a metric have the states and the number of updates of another one, by reference, without a value.

    As `MetricCollection` does for a compute group, but past `Module.__setattr__`, which takes long.

    Args:
        metric: Which forgets its own states.
        other: Whose states they are.
        more: Attributes to set as well.
    """
    vars(metric).update(other.metric_state, _update_count=other._update_count, _computed=None, **more)


def computed_value(metric: Metric) -> Any:
    """Return the value that a metric has computed since its last update; None if it has not."""
    return metric._computed


def set_computed_value(metric: Metric, value: Any) -> None:
    """Let `compute` return a value that is known."""
    vars(metric).update(_computed=value)
