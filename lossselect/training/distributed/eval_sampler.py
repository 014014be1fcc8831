"""Several processes evaluate each row once."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import RunningStage
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data.distributed import DistributedSampler

from lossselect.compat.lightning import wrap_loader_preparation
from lossselect.exceptions import DataError

EVALUATING = (RunningStage.SANITY_CHECKING, RunningStage.VALIDATING, RunningStage.TESTING)


def take_each_row_once(trainer: Trainer) -> None:
    """Let loaders of the user's own give each process its rows of val and test, none of them twice.

    Lightning's sampler gives some rows to two processes, so that all have as many.
    """
    if trainer.world_size > 1:
        wrap_loader_preparation(trainer, _prepare)


def _prepare(method: Callable[..., object], *args: Any, mode: RunningStage, **kwargs: Any) -> object:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using `DistributedSampler` with the dataloaders")
        loader = method(*args, mode=mode, **kwargs)
    if mode in EVALUATING:
        repeat_no_row(_sampler_of(loader))
    return loader


def _sampler_of(loader: object) -> object:
    """What deals the rows: of a batch sampler of the user's own Lightning puts its sampler within that."""
    within = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    return within if isinstance(within, DistributedSampler) else getattr(loader, "sampler", None)


def repeat_no_row(sampler: object) -> None:
    """Let one of torch's samplers for several processes take each row once.

    Raises:
        ValueError: fewer rows than processes.
    """
    if type(sampler) in (DistributedSampler, DistributedSamplerWrapper) and not sampler.drop_last:  # type: ignore[attr-defined]
        assert isinstance(sampler, DistributedSampler)
        rows, ranks = len(sampler.dataset), sampler.num_replicas  # type: ignore[arg-type]
        if rows < ranks:
            raise DataError(
                f"A loader has {rows} rows for {ranks} processes, and each needs one at least: fewer "
                "processes (devices), or more rows."
            )
        sampler.total_size, sampler.num_samples = rows, len(range(sampler.rank, rows, ranks))


@contextmanager
def each_row_once(loader: Any) -> Iterator[None]:
    """Within it the loader's sampler takes each row once."""
    sampler = _sampler_of(loader)
    sizes = [getattr(sampler, name, None) for name in ("total_size", "num_samples")]
    repeat_no_row(sampler)
    try:
        yield
    finally:
        if isinstance(sampler, DistributedSampler):
            sampler.total_size, sampler.num_samples = sizes  # type: ignore[assignment]


def evaluate_apart(trainer: Trainer, apart: bool) -> None:
    """Let DDP ask nothing of the other processes in evaluation, where one may have a batch more than another.

    Running means of normalisation, which it would have made equal by the way, are made equal here.
    """
    model = trainer.strategy.model
    if not isinstance(model, DistributedDataParallel):
        return
    model.require_forward_param_sync = not apart
    if apart and model.broadcast_buffers:
        for buffer in model.module.buffers():
            dist.broadcast(buffer, 0)
