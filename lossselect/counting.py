"""The labels of a data loader, counted before the first step."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from .counts import LabelCounts, count_batches
from .exceptions import DataError

if TYPE_CHECKING:
    from .module import TaskModule


def generators_of(loader: Any) -> list[torch.Generator]:
    """The random numbers of a loader's own."""
    batches = getattr(loader, "batch_sampler", None)
    owners = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    found = [getattr(owner, "generator", None) for owner in owners]
    return [*{id(generator): generator for generator in found if generator is not None}.values()]


def counts_of_loader(module: "TaskModule", loader: Iterable[Any]) -> LabelCounts | None:
    """The counts of a loader's labels, by one pass that leaves all random numbers as they were.

    Args:
        module: Knows what is the target of a batch.
        loader: Of train rows.

    Returns:
        What `module.use_counts` takes; None where there is no batch.

    Raises:
        ValueError: no label is known, or labels do not fit the task.
    """
    generators = generators_of(loader)
    states = [generator.get_state() for generator in generators]
    with isolate_rng():
        counts = count_batches(module.task, (module._encoded(batch).target for batch in loader))
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
    if counts is not None and not counts.known.any():
        raise DataError("The train loader has no label that is known: nothing can be learned from it.")
    return counts
