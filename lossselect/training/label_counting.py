"""Label counts of a data loader."""

from collections.abc import Iterable
from typing import Any

from lightning.pytorch.utilities.seed import isolate_rng

from lossselect.exceptions import DataError
from lossselect.tasks.label_counts import LabelCounts, count_batches
from lossselect.training.checkpoints.rng import find_generators


def count_loader(module: Any, loader: Iterable[Any]) -> LabelCounts | None:
    """Return the label counts of a loader, None without a batch; random generators keep their states."""
    generators = find_generators([loader])
    states = [generator.get_state() for generator in generators]
    with isolate_rng():
        counts = count_batches(module.task, (module._encode_batch(batch).target for batch in loader))
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
    if counts is not None and not counts.known.any():
        raise DataError("The train loader has no label that is known: nothing can be learned from it.")
    return counts
