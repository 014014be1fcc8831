"""Packages that not every user has."""

from importlib.util import find_spec


def is_installed(package: str) -> bool:
    """Without importing it; a folder of that name, as W&B makes one, is none."""
    found = find_spec(package)
    return found is not None and found.origin is not None
