"""Private parts of torchmetrics. Tested with torchmetrics 1.9; see tests/compat/test_others.py."""

from operator import attrgetter
from typing import Any

from torchmetrics import Metric

update_count = attrgetter("_update_count")
computed_value = attrgetter("_computed")  # since a metric's last update, or None


def set_update_count(metric: Metric, count: int) -> None:
    """Set how many updates a metric has had, and forget the value that was computed."""
    metric._update_count, metric._computed = count, None


def share_states(metric: Metric, other: Metric, computed: Any, **attributes: Any) -> None:
    """Give a metric the states of another one, as in a compute group, and the result of `compute` or None."""
    # past Module.__setattr__, which is slow
    vars(metric).update(
        other.metric_state, _update_count=other._update_count, _computed=computed, **attributes
    )
