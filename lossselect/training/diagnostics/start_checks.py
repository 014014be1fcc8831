"""Checks of a fit with the user's own loaders and callbacks: its batches, its labels and its monitors."""

import difflib
from collections.abc import Iterator
from typing import Any

import numpy as np
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader, TensorDataset, default_collate

from lossselect.chunked.topk_metrics import TopKMetrics
from lossselect.compat.lightning import overrides_hook, train_loaders
from lossselect.data.checks import check_counts
from lossselect.exceptions import ConfigError, DataError
from lossselect.tasks.label_counts import count_target
from lossselect.tasks.task_names import naming_task
from lossselect.utils.checks import suggestion
from lossselect.utils.warnings import warn

MAX_LABELS = 10_000_000  # that are counted before the first step
CHANGE_LABELS = {"unpack_batch", "training_step", "validation_step", "step"}
TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
"""Methods and hooks that may change labels after a loader has returned them."""
CANNOT_LOG = {"__init__", "configure_callbacks", "configure_model", "configure_optimizers"}
"""Methods in which a module cannot log."""
RARELY_LOG = {"forward", "unpack_batch", *TRANSFER_HOOKS}
"""Methods in which a module could log, but hardly ever does."""
PACKAGES = {"lightning", "lossselect"}
"""Packages whose own callbacks do not log metrics."""
SIMILAR = 0.8  # similarity of a monitor and a metric that suggests a spelling mistake


def check_train_loaders(trainer: Trainer) -> None:
    """Raise DataError if a training loader has no batches."""
    for loader in train_loaders(trainer):
        if sized_len(loader) != 0:
            continue
        rows = sized_len(getattr(loader, "dataset", None))
        cause = "has no rows. Add at least one."
        if rows and getattr(loader, "drop_last", False):
            cause = (
                f"has {rows} rows, fewer than batch_size={loader.batch_size}, and drop_last=True. Add rows, "
                "lower batch_size, or set drop_last=False."
            )
        elif rows:
            cause = f"has {rows} rows, but its sampler yields none. Check the sampler."
        raise DataError(f"Expected at least one training batch, got none: the training loader {cause}")


def check_labels_in_memory(trainer: Trainer, module: Any) -> Iterator[str]:
    """Check labels in a TensorDataset, and yield the splits checked; see `check_epoch` for other data.

    Raises:
        DataError: all labels of a split are missing, or the training rows have a single class.
    """
    if CHANGE_LABELS & module._overrides() or overrides_hook(module, *TRANSFER_HOOKS):
        return
    train, task = train_loaders(trainer), module.task
    for split, loader in (("train", train[0] if len(train) == 1 else None), ("val", trainer.val_dataloaders)):
        if type(loader) is not DataLoader or type(loader.dataset) is not TensorDataset:
            continue
        tensors = loader.dataset.tensors
        is_pair = len(tensors) == 2 and loader.collate_fn is default_collate
        if is_pair and 0 < tensors[1].numel() <= MAX_LABELS and tensors[1].device.type == "cpu":
            counts = count_target(task, task.encode_first(tensors[1]))
            check_counts(task, split, counts.positives, counts.negatives, counts.soft)
            yield split


def check_epoch(trainer: Trainer, epoch: Any, split: str) -> bool:
    """Check the labels of an epoch, unless it had only some of the batches; return whether it was checked.

    Raises:
        DataError: all labels are missing.
    """
    limit = trainer.limit_train_batches if split == "train" else trainer.limit_val_batches
    parts = epoch.by_task
    if not all(part.counts for part in parts.values()) or not isinstance(limit, float) or limit < 1:
        return False
    for name, part in parts.items():
        positives, negatives = (count.cpu().numpy() for count in part.counts)
        if len(positives) < len(part.task.names):  # binary has two names, the negative class first
            positives, negatives = np.append(negatives, positives), np.append(positives, negatives)
        with naming_task(name):
            # the labels may be soft, which the epoch does not record
            check_counts(part.task, split, positives, negatives, soft=True)
    return True


def check_monitors(trainer: Trainer, module: Any, val_loaders: list[str]) -> None:
    """Check that the metrics that callbacks and schedulers monitor will be computed.

    If code of the user may log more metrics, only likely mistakes are reported, by a warning if a hook, a
    step or a callback is the user's.
    `val_loaders` are the names of the validation loaders if there are several.

    Raises:
        ConfigError: a name is unknown.
        DataError: there are no validation batches.
    """
    val, train = (_list_names(module._epochs[stage].first) for stage in ("val", "train"))
    of_loaders = [name.replace("val/", f"val/{loader}/", 1) for loader in val_loaders for name in val]
    known = [*val, *of_loaders, *train]
    val_batches = trainer.num_val_batches
    validates = trainer.enable_validation and (not val_batches or sum(val_batches) > 0)
    overrides, has_callback = module._overrides() - CANNOT_LOG, any(map(_is_users, trainer.callbacks))  # type: ignore[attr-defined]
    may_log, does_log = overrides or has_callback, overrides - RARELY_LOG or has_callback
    for owner, monitor in _find_monitors(trainer):
        error: type[Exception] = DataError
        # a metric of the user may have several values
        if monitor not in known and not any(monitor.startswith(f"{name}/") for name in known):
            error, similar = ConfigError, _has_similar(monitor, known)
            message = (
                f"Unknown metric {monitor!r} of {owner}.monitor.{suggestion(monitor, known)} Choose one of: "
                f"{', '.join(known)}."
            )
        elif monitor.startswith("val/") and not validates:
            similar = True
            message = (
                f"{owner} monitors {monitor}, but there are no validation batches. Add a val_dataloader to "
                "the data (and do not set trainer.limit_val_batches=0), or monitor train/loss."
            )
        else:
            continue
        if not may_log or (similar and not does_log):
            raise error(message)
        if similar:
            warn("unknown_monitor", message)


def _list_names(epoch: Any) -> list[str]:
    """Return the names of the values that an epoch logs."""
    prefix, metrics = epoch.prefix, epoch.metrics
    if isinstance(metrics, TopKMetrics):
        return [f"{prefix}{name}" for name in ("loss", *metrics.names)]
    names = [f"{prefix}loss"]
    for part in epoch.by_task.values():
        metrics = part.metrics.items(keep_base=True) if part.metrics else ()
        of_part = ["loss"]
        for name, metric in metrics:
            # a value for each class, or a name with a dot
            of_part += getattr(metric, "outputs", ()) or [name]
        names += [f"{part.prefix}{name}" for name in of_part]
    return [*dict.fromkeys(names)]


def _find_monitors(trainer: Trainer) -> Iterator[tuple[str, str]]:
    """Yield the monitors that must be available, each after the name of its callback or scheduler."""
    parts: list[Any] = [(callback, callback) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    parts += [
        (config.scheduler, config) for config in trainer.lr_scheduler_configs if config.reduce_on_plateau
    ]
    for owner, part in parts:
        monitor = getattr(part, "monitor", None)
        is_logged = monitor in ("epoch", "step") or str(monitor).startswith("lr-")  # by Lightning
        if isinstance(monitor, str) and not is_logged and getattr(part, "strict", True):
            yield type(owner).__name__, monitor


def _has_similar(monitor: str, known: list[str]) -> bool:
    """Return whether a monitor is a likely spelling mistake: "val/los" is, but "val/my_loss" is not."""
    prefix, _, name = monitor.rpartition("/")
    names = [other.removeprefix(f"{prefix}/") for other in known if other.startswith(prefix)]
    return bool(difflib.get_close_matches(name, [n for n in names if n not in name], cutoff=SIMILAR))


def _is_users(callback: Callback) -> bool:
    """Return whether a callback is of a class of the user, or has a hook of the user, as a LambdaCallback."""
    has_hook = bool(vars(callback).keys() & vars(Callback).keys())
    return has_hook or type(callback).__module__.partition(".")[0] not in PACKAGES
