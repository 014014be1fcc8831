"""The random number generators of a data loader."""

from typing import Any

import torch


def generators_of(loader: Any) -> list[torch.Generator]:
    """The random numbers of a loader's own."""
    batches = getattr(loader, "batch_sampler", None)
    owners = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    found = [getattr(owner, "generator", None) for owner in owners]
    return [*{id(generator): generator for generator in found if generator is not None}.values()]
