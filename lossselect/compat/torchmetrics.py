"""Private parts of torchmetrics. Tested with torchmetrics 1.9; see tests/compat/test_others.py."""

from operator import attrgetter
from typing import Any

from torchmetrics import Metric

update_count = attrgetter("_update_count")
"""How many updates a metric has had."""
computed_value = attrgetter("_computed")
"""The value that a metric has computed since its last update, or None."""


def set_update_count(metric: Metric, count: int) -> None:
    """Set how many updates a metric has had, and forget the value that was computed."""
    metric._update_count, metric._computed = count, None


def clear_caches(metric: Metric) -> None:
    """Forget the value of the last call and the states before synchronization, as `Metric.reset` does."""
    metric._forward_cache, metric._cache, metric._is_synced = None, None, False


def share_states(metric: Metric, other: Metric, computed: Any, **attributes: Any) -> None:
    """Give a metric the states and the number of updates of another one, by reference.

    As `MetricCollection` does for a compute group, but past `Module.__setattr__`, which is slow. `computed`
    is the value that `compute` is to return, or None if it is not known.
    """
    vars(metric).update(
        other.metric_state, _update_count=other._update_count, _computed=computed, **attributes
    )
