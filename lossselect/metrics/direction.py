"""The direction of each metric: whether a high or a low value is better. Does not import torch."""

from collections.abc import Mapping

from lossselect.exceptions import ConfigError
from lossselect.metrics.names import split_name

LOWER_IS_BETTER = {
    *("loss", "brier_score", "calibration_error", "hamming_distance", "mean_absolute_error", "ranking_loss"),
    "coverage_error",
}
HIGHER_IS_BETTER = {
    *("accuracy", "balanced_accuracy", "exact_match", "precision", "recall", "specificity", "f_beta"),
    *("jaccard", "mcc", "auroc", "average_precision", "quadratic_kappa"),
    *(f"{kind}_at_k" for kind in ("precision", "accuracy", "ndcg", "psp")),
    "last",  # Lightning logs the number of the epoch, which is largest in the last one
}


def best_mode(monitor: str, directions: Mapping[str, str | None] | None = None) -> str:
    """Return "min" or "max" for a metric such as "val/f1"; raise ConfigError if its direction is unknown.

    `directions` has those of a run's metrics that have other names, or are not built-in.
    """
    if (mode := direction(monitor, directions)) is None:
        raise ConfigError(
            f"Unknown metric {monitor!r}, so it is not known whether high or low values are better. Set "
            "mode=max or mode=min."
        )
    return mode


def direction(monitor: str, directions: Mapping[str, str | None] | None = None) -> str | None:
    """Return "min" or "max"; None for a metric of another package."""
    for part in monitor.split("/"):
        if directions and part in directions:
            return directions[part]
        base = split_name(part)[0]
        if base in LOWER_IS_BETTER | HIGHER_IS_BETTER:
            return "min" if base in LOWER_IS_BETTER else "max"
    return None
