"""Evaluation over several processes, with each row evaluated exactly once."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch.distributed as dist
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import RunningStage
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data.distributed import DistributedSampler

from lossselect.compat.lightning import LOADER_PREPARATION, wrap
from lossselect.exceptions import DataError


def take_each_row_once(trainer: Trainer) -> None:
    """Make evaluation loaders yield each row in one process; Lightning's sampler would repeat some rows."""
    wrap(trainer, LOADER_PREPARATION, partial(_prepare, trainer.world_size))


def _prepare(
    processes: int, method: Callable[..., object], loader: object, mode: RunningStage, **kwargs: Any
) -> object:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Using `DistributedSampler` with the dataloaders")
            loader = method(loader, mode=mode, **kwargs)
    except (MisconfigurationException, TypeError):
        # Lightning creates the loader of a prediction once more, in order to know the rows of each batch. It
        # cannot do that for all subclasses of DataLoader, and only a BasePredictionWriter needs the rows.
        if mode is not RunningStage.PREDICTING or processes > 1:
            raise
    if mode.evaluating and processes > 1:
        _repeat_no_row(_get_sampler(loader))
    return loader


def _get_sampler(loader: object) -> Any:
    """Return the sampler of a loader; Lightning wraps its own in a batch sampler if the user has one."""
    inner = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    return inner if isinstance(inner, DistributedSampler) else getattr(loader, "sampler", None)


def _repeat_no_row(sampler: Any) -> None:
    """Make a distributed sampler of torch yield each row once, instead of repeating some."""
    if type(sampler) not in (DistributedSampler, DistributedSamplerWrapper) or sampler.drop_last:
        return
    rows, ranks = len(sampler.dataset), sampler.num_replicas
    if rows < ranks:
        raise DataError(
            f"Each of the {ranks} processes requires at least one row, but a loader has {rows}. Use fewer "
            "processes (trainer.devices), or add rows."
        )
    sampler.total_size, sampler.num_samples = rows, len(range(sampler.rank, rows, ranks))


@contextmanager
def each_row_once(loader: Any) -> Iterator[None]:
    """Make the loader's sampler yield each row once within this context."""
    sampler = _get_sampler(loader)
    sizes = {name: getattr(sampler, name, None) for name in ("total_size", "num_samples")}
    _repeat_no_row(sampler)
    try:
        yield
    finally:
        if isinstance(sampler, DistributedSampler):
            vars(sampler).update(sizes)


def evaluate_apart(trainer: Trainer, apart: bool) -> None:
    """Switch DDP's communication off if `apart`, as processes may evaluate different numbers of batches."""
    model = trainer.strategy.model
    if not isinstance(model, DistributedDataParallel):
        return
    model.require_forward_param_sync = not apart
    # DDP would have synchronised the buffers, such as running means, in the forward pass
    if apart and model.broadcast_buffers:
        for buffer in model.module.buffers():
            dist.broadcast(buffer, 0)
