"""Detection of epochs that ended early by a StopIteration from a data set, a step or a hook."""

from contextlib import suppress
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import IterableDataset, SequentialSampler

from lossselect.compat.lightning import DataFetcher, IteratorFetcher, data_fetcher
from lossselect.exceptions import DataError
from lossselect.utils.checks import SPLIT_NAMES

CAUSE = (
    "Python treats that as the end of the loader, so the rest of the epoch would be left out. A usual cause "
    "is next() on an exhausted iterator. Pass it a default, or catch the error."
)


def evaluation_loop(trainer: Trainer, stage: str) -> Any:
    """Return the loop that runs a stage: "val", "test" or "predict"."""
    fitting = trainer.state.fn == TrainerFn.FITTING
    loops = {
        "val": trainer.fit_loop.epoch_loop.val_loop if fitting else trainer.validate_loop,
        "test": trainer.test_loop,
        "predict": trainer.predict_loop,
    }
    return loops[stage]


def check_epoch_length(trainer: Trainer, stage: str) -> None:
    """Raise DataError if an epoch that has just ended had fewer batches than the length of its loader.

    The length respects limits such as `trainer.limit_train_batches`. An epoch that the trainer itself ends
    (max_steps, should_stop) counts as complete.
    """
    loop: Any = trainer.fit_loop.epoch_loop if stage == "train" else evaluation_loop(trainer, stage)
    fetcher = data_fetcher(trainer.fit_loop if stage == "train" else loop)
    if fetcher is None or isinstance(fetcher, IteratorFetcher):
        return  # the step takes its batches from an iterator itself
    batches = loop.batch_progress.current
    if batches.ready > batches.processed:
        place = f"the step of {SPLIT_NAMES.get(stage, stage)} batch {batches.ready - 1}"
        raise DataError(f"StopIteration was raised in {place}. {CAUSE}")
    if stage == "train" and fetcher.done and fetcher.length is None and not batches.ready:
        raise DataError(
            "Expected at least one training batch, got none: the training loader yields nothing. If its data "
            "set is iterated only once, return a new iterator from __iter__."
        )
    if fetcher.done or stage != "train":
        check_fetched(fetcher, stage)


def check_fetched(fetcher: DataFetcher, stage: str) -> None:
    """Raise DataError if a fetcher has reached its end with fewer batches than its length."""
    loaders = fetcher.combined_loader.flattened
    expected, got = fetcher.length, fetcher.fetched
    if expected is None or got >= expected:
        return
    if any(isinstance(getattr(loader, "dataset", None), IterableDataset) for loader in loaders):
        return  # the length of an IterableDataset is only an estimate
    kind = SPLIT_NAMES.get(stage, stage)
    message = f"Expected {expected} {kind} batches (the length of the loader), got {got}."
    if len(loaders) == 1 and (row := _find_raising_row(loaders[0], got)) is not None:
        name = type(loaders[0].dataset).__name__
        raise DataError(f"{message} {name}[{row}] raises StopIteration. {CAUSE}")
    raise DataError(
        f"{message} Probably the data set raises StopIteration for an item of batch {got}. {CAUSE} Otherwise "
        "the loader's sampler is shorter than its __len__: correct that."
    )


def _find_raising_row(loader: Any, batch: int) -> int | None:
    """Return the item of a batch that raises StopIteration, if the loader yields the rows in their order."""
    batches = getattr(loader, "batch_sampler", None)  # Lightning replaces it for prediction
    size = getattr(batches, "batch_size", None)
    if not size or type(getattr(batches, "sampler", None)) is not SequentialSampler:
        return None
    with suppress(Exception):
        for row in range(batch * size, min((batch + 1) * size, len(loader.dataset))):
            try:
                loader.dataset[row]
            except StopIteration:
                return row
    return None
