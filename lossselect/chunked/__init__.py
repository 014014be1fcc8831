"""A last layer and a loss for very many outputs, which process the outputs in chunks."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .linear import ChunkedLinear
    from .options import top_metric_names

_HOME = {"ChunkedLinear": "linear", "top_metric_names": "options"}

__all__ = ["ChunkedLinear", "top_metric_names"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
