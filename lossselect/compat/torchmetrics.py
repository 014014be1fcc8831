"""Private parts of torchmetrics. Tested with torchmetrics 1.9; see tests/compat/test_others.py."""

from operator import attrgetter
from typing import Any

from torchmetrics import Metric

update_count = attrgetter("_update_count")
computed_value = attrgetter("_computed")  # value computed since the last update, or None


def set_update_count(metric: Metric, count: int) -> None:
    """Set the number of updates of a metric, and clear its computed value."""
    metric._update_count, metric._computed = count, None


def share_states(metric: Metric, other: Metric, computed: Any, **attributes: Any) -> None:
    """Let a metric share the states of `other`, as in a compute group, and set its computed value."""
    # bypasses Module.__setattr__, which is slow
    vars(metric).update(
        other.metric_state, _update_count=other._update_count, _computed=computed, **attributes
    )
