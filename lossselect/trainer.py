"""Lightning's trainer, built of the config's values."""

import inspect
import logging
import shutil
import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from .exceptions import ConfigError, DataError, StorageError
from .files import whole_file
from .names import check_options
from .settings import OF_A_RUN, OF_STEPS


def build_trainer(options: Mapping[str, Any], **ours: Any) -> Trainer:
    """A trainer with the settings `trainer.*`; to try them out, nothing more is needed.

    Raises:
        ValueError: a setting that Lightning does not know, or a value that it refuses.
    """
    quiet()
    known = [name for name in inspect.signature(Trainer).parameters if name not in OF_A_RUN]
    check_options(options, [*known, *OF_STEPS], "trainer")
    options = {name: value for name, value in options.items() if name not in OF_STEPS}
    _check_types(options)
    ours = {"logger": False, "enable_checkpointing": False, **ours}
    try:
        trainer = Trainer(**options, **ours, enable_model_summary=False)
    except Exception as error:  # its checks raise several kinds, all about these settings
        raise ConfigError(f"The trainer cannot be built: {error}") from None
    return trainer


def _check_types(options: Mapping[str, Any]) -> None:
    """ValueError for a value of the wrong type, which Lightning may accept here and fail on later."""
    for name, value in options.items():
        expected = inspect.signature(Trainer).parameters[name].annotation
        if not _is_of_type(value, expected):
            raise ConfigError(
                f"The trainer cannot be built: trainer.{name} must be {_in_words(expected)}, got {value!r}."
            )
        least = LEAST.get(name)
        if least is not None and isinstance(value, type(least)) and value < least:
            raise ConfigError(
                f"The trainer cannot be built: trainer.{name} must be at least {least}, got {value!r}."
            )


LEAST: dict[str, float] = {"val_check_interval": 1, "check_val_every_n_epoch": 1}
"""Least whole numbers of settings by which Lightning divides later; a share of an epoch is a float."""

MOST_CHOICES = 3
"""A longer list of words is checked by Lightning, whose message has them all."""


def _is_of_type(value: Any, expected: Any) -> bool:
    origin, inner = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return any(_is_of_type(value, one) for one in inner)
    if origin is Literal:
        long = len(inner) > MOST_CHOICES
        return any(type(value) is type(one) and (long or value == one) for one in inner)
    if origin is dict:
        return isinstance(value, Mapping) and all(_is_of_type(entry, inner[1]) for entry in value.values())
    if origin is not None:
        return isinstance(value, list | tuple) and all(_is_of_type(entry, inner[0]) for entry in value)
    if expected in (int, float):
        return isinstance(value, int | expected) and not isinstance(value, bool)
    return not isinstance(expected, type) or isinstance(value, expected)


WORDS = {
    bool: ["true or false"],
    int: ["a whole number"],
    float: ["a number"],
    str: ["text"],
    dict: ["a mapping of whole numbers"],
    list: ["a list of whole numbers"],
    type(None): ["null"],
}
"""What a config may say of the types of Lightning's trainer."""


def _in_words(expected: Any) -> str:
    return ", or ".join(dict.fromkeys(_words(expected))) or "an object, which a config cannot name"


def _words(expected: Any) -> list[str]:
    origin, inner = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return [word for one in inner for word in _words(one)]
    if origin is Literal:
        return [f"one of {', '.join(map(str, inner))}"]
    if origin is list and inner != (int,):  # of objects
        return []
    return WORDS.get(origin or expected, [])


class NeedsValidation(Callback):
    """Ends a run before its first step where what chooses the best checkpoint will never be known."""

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor.startswith("val/") and not sum(trainer.num_val_batches):
            raise DataError(
                f"There is no validation batch, but {self.monitor} chooses the best checkpoint: give the "
                "data a val_dataloader (and no trainer.limit_val_batches=0), or choose by train/loss with "
                "monitor=train/loss."
            )


class CanSave(Callback):
    """Ends a run before its first step where its checkpoints could not be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for callback in trainer.checkpoint_callbacks:
            best = callback.best_model_path if isinstance(callback, ModelCheckpoint) else ""
            if best and Path(best).parent != Path(callback.dirpath or ""):  # type: ignore[attr-defined]
                # of another run, whose file is not to be touched: the best one is looked for anew
                callback.best_model_path, callback.best_model_score = "", None  # type: ignore[attr-defined]
        if not trainer.is_global_zero:
            return
        weights = sum(weight.nbytes for weight in pl_module.parameters())
        # an optimizer may keep two numbers for each weight
        check_room(self.folder, 3 * weights)


def check_room(folder: Path, size: int) -> None:
    """OSError where a file of `size` bytes cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < size:
        raise StorageError(
            f"A checkpoint takes about {size / 1e6:.1f} MB, and {free / 1e6:.1f} MB are left in {folder}. "
            "Make room, or write elsewhere (at the command line hydra.run.dir=FOLDER)."
        )
    with whole_file(folder / "room") as part:  # a folder may be read-only, or have a quota
        part.write_bytes(bytes(min(size, MOST_TRIED)))
    (folder / "room").unlink()


MOST_TRIED = 1 << 20
"""Bytes that are written to see whether a folder takes some."""


def quiet() -> None:
    """Silence what Lightning says of itself and of data that are small on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*isinstance.treespec, LeafSpec.*",  # Lightning 2.6 under torch 2.13
        ".*Checkpoint directory .* exists and is not empty.*",
        "The dirpath has changed from",  # of a run that goes on in another folder
    ):
        warnings.filterwarnings("ignore", message=message)
