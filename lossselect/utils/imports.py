"""Packages that not every user has."""

from importlib.util import find_spec


def is_installed(package: str) -> bool:
    """Return whether a package is installed, without importing it; a folder such as W&B's is no package."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
