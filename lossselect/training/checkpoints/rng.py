"""The random number generators of a run."""

import random
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from lossselect.compat.lightning import train_loaders


def find_generators(loaders: Iterable[Any]) -> list[torch.Generator]:
    """Return the generators of data loaders and of their samplers, each once."""
    owners: list[Any] = []
    for loader in loaders:
        batches = getattr(loader, "batch_sampler", None)
        owners += [loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)]
    generators = (getattr(owner, "generator", None) for owner in owners)
    return [*dict.fromkeys(generator for generator in generators if generator is not None)]


def get_rng_state(trainer: Trainer) -> dict[str, Any]:
    """Return the states of all generators that this process uses, as tensors and plain values."""
    device = trainer.strategy.root_device
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    version, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype("int64")), *rest],
        "python": [version, torch.tensor(numbers), gauss],
        "loaders": [generator.get_state() for generator in find_generators(train_loaders(trainer))],
    }


def set_rng_state(state: Mapping[str, Any], trainer: Trainer) -> None:
    """Restore what `get_rng_state` returned."""
    device = trainer.strategy.root_device
    for generator, value in zip(find_generators(train_loaders(trainer)), state["loaders"], strict=True):
        generator.set_state(value)
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype("uint32"), *rest))  # noqa: NPY002
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
