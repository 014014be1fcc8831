"""Lightning's trainer, built from a config, and conversion of the errors that it raises at the start."""

import inspect
import logging
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Union, get_args, get_origin

import torch
from lightning.pytorch import Callback, Trainer

from lossselect.exceptions import CheckpointError, ConfigError, LossSelectError
from lossselect.run.settings import RESERVED, STEP_OPTIONS
from lossselect.utils.checks import check_options, first_line
from lossselect.utils.devices import check_gpu

DIVISORS = ("val_check_interval", "check_val_every_n_epoch")
"""Settings that Lightning divides by if they are integers; a fraction of an epoch is a float."""

WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    list[int]: "a list of integers",
    dict[str, int]: "a mapping of integers",
    types.NoneType: "null",
}
"""Descriptions of the types that a config can contain."""


def build_trainer(options: Mapping[str, Any], **arguments: Any) -> Trainer:
    """Return a trainer with the settings `trainer.*`, and with `arguments` that no config sets."""
    quiet()
    parameters = inspect.signature(Trainer).parameters
    check_options(options, [*(name for name in parameters if name not in RESERVED), *STEP_OPTIONS], "trainer")
    options = {name: value for name, value in options.items() if name not in STEP_OPTIONS}
    strategy = str(options.get("strategy"))
    if strategy.endswith(("_spawn", "_fork", "_notebook")):
        raise ConfigError(
            f"trainer.strategy must start its processes with the program, got {strategy!r}, whose processes "
            "do not return the state of the run. Set trainer.strategy=ddp."
        )
    check_gpu(options.get("accelerator"))
    try:
        # Lightning may accept a value of the wrong type here and fail on it later
        for name, value in options.items():
            if not _has_type(value, expected := parameters[name].annotation):
                raise ConfigError(f"trainer.{name} must be {_describe_type(expected)}, got {value!r}.")
            if name in DIVISORS and isinstance(value, int) and value < 1:
                raise ConfigError(f"trainer.{name} must be >= 1, got {value!r}.")
        defaults = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
        return Trainer(**options, **{**defaults, **arguments})
    except Exception as error:  # Lightning raises several kinds, all about these settings
        raise ConfigError(f"The trainer cannot be built: {error}") from None


def trainer_on(device: torch.device) -> Trainer:
    """Return a trainer without a progress bar that evaluates and predicts on one device."""
    devices = 1 if device.index is None else [device.index]
    return build_trainer({"accelerator": device.type, "devices": devices, "enable_progress_bar": False})


def _has_type(value: Any, expected: Any) -> bool:
    origin, inner = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return any(_has_type(value, option) for option in inner)
    if origin is Literal:
        return value in inner
    if expected in (int, float):
        return isinstance(value, int | expected) and not isinstance(value, bool)
    if origin in (list, dict) and isinstance(value, origin):
        return all(_has_type(entry, inner[-1]) for entry in (value.values() if origin is dict else value))
    kind = origin or expected
    return not isinstance(kind, type) or isinstance(value, kind)


def _describe_type(expected: Any) -> str:
    """Return a description of an annotation, such as "an integer, or null"."""
    options = get_args(expected) if get_origin(expected) in (Union, types.UnionType) else [expected]
    # in a fixed order: typing may return an equal union, in the order in which it was first created
    names = [word for option, word in WORDS.items() if option in options]
    choices = [str(c) for option in options if get_origin(option) is Literal for c in get_args(option)]
    if choices:
        names.insert(0, f"one of {', '.join(dict.fromkeys(choices))}")
    return ", or ".join(names)


class StageRecorder(Callback):
    """Records the stage of a starting fit, which determines the error to raise."""

    stage = ""

    def setup(self, *_: Any, **__: Any) -> None:
        self.stage = "restoring"  # the checkpoint, if any

    def on_sanity_check_start(self, *_: Any) -> None:
        self.stage = "preparing"

    def on_validation_start(self, *_: Any) -> None:
        self.stage = "running"  # from here on the user's code may raise

    def on_sanity_check_end(self, *_: Any) -> None:
        self.stage = "preparing"

    def on_train_start(self, *_: Any) -> None:
        self.stage = "running"


@contextmanager
def convert_start_errors(trainer: Trainer, resumes: bool) -> Iterator[None]:
    """Convert errors of Lightning and torch before the first step of a fit to errors of this package."""
    recorder = StageRecorder()
    trainer.callbacks.append(recorder)  # type: ignore[attr-defined]
    try:
        yield
    except (LossSelectError, OSError):
        raise
    except Exception as error:
        hint = "Set HYDRA_FULL_ERROR=1 to see the traceback."
        if recorder.stage == "restoring" and resumes:
            raise CheckpointError(
                "The checkpoint is damaged or belongs to another run. Lightning cannot restore it: "
                f"{type(error).__name__}: {first_line(error)}. {hint}"
            ) from error
        if recorder.stage in ("restoring", "preparing") and type(error) in (ValueError, TypeError):
            raise ConfigError(f"Training cannot start: {str(error).strip().rstrip('.')}. {hint}") from error
        raise


def quiet() -> None:
    """Silence Lightning's advertisements, and its warnings about small data sets and existing folders."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*isinstance.treespec, LeafSpec.*",  # Lightning 2.6 under torch 2.13
        ".*Checkpoint directory .* exists and is not empty.*",
        "Experiment logs directory .* exists and is not empty",
        "The dirpath has changed from",  # a run was resumed in another folder
    ):
        warnings.filterwarnings("ignore", message=message)
