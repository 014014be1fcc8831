"""The estimator for scikit-learn."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .estimator import TaskClassifier

__all__ = ["TaskClassifier"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lossselect.sklearn import estimator

    return getattr(estimator, name)
