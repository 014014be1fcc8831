"""The direction of each metric: whether a high or a low value is better. Does not import torch."""

from lossselect.exceptions import ConfigError

LOWER_IS_BETTER = {
    *("loss", "brier_score", "calibration_error", "hamming_distance", "mean_absolute_error", "ranking_loss"),
    "coverage_error",
}
HIGHER_IS_BETTER = {
    *("accuracy", "balanced_accuracy", "exact_match", "f1", "f1_micro", "f1_macro", "auroc"),
    *("average_precision", "quadratic_kappa"),
    *(f"{kind}_at_{k}" for kind in ("precision", "accuracy", "ndcg", "psp") for k in (1, 3, 5)),
    "last",  # Lightning logs the number of the epoch, which is largest in the last one
}


def best_mode(monitor: str) -> str:
    """Return "min" or "max" for a metric such as "val/f1"; raise ConfigError if its direction is unknown."""
    if (mode := direction(monitor)) is None:
        raise ConfigError(
            f"Unknown metric {monitor!r}, so it is not known whether high or low values are better. Set "
            "mode=max or mode=min."
        )
    return mode


def direction(monitor: str) -> str | None:
    """Return "min" or "max"; None for a metric of another package."""
    name = monitor.rpartition("/")[2]
    return "min" if name in LOWER_IS_BETTER else "max" if name in HIGHER_IS_BETTER else None
