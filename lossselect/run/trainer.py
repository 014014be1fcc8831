"""Lightning's trainer, built from the config's values."""

import inspect
import logging
import types
import warnings
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from lightning.pytorch import Trainer

from lossselect.exceptions import ConfigError
from lossselect.run.settings import RESERVED, STEP_OPTIONS
from lossselect.utils.checks import check_options

MIN_DIVISORS = {"val_check_interval": 1, "check_val_every_n_epoch": 1}
"""Minimums of integers by which Lightning divides later; a share of an epoch is a float."""

MAX_CHOICES = 3  # longer lists of choices are checked by Lightning, whose message has them all

TYPE_NAMES = {
    bool: ["true or false"],
    int: ["a whole number"],
    float: ["a number"],
    str: ["text"],
    dict: ["a mapping of whole numbers"],
    list: ["a list of whole numbers"],
    type(None): ["null"],
}


def build_trainer(options: Mapping[str, Any], **arguments: Any) -> Trainer:
    """Return a trainer with the settings `trainer.*`, and further arguments that no config sets."""
    quiet()
    parameters = inspect.signature(Trainer).parameters
    check_options(options, [*(name for name in parameters if name not in RESERVED), *STEP_OPTIONS], "trainer")
    options = {name: value for name, value in options.items() if name not in STEP_OPTIONS}
    try:
        # Lightning may accept a value of the wrong type here and fail on it later
        for name, value in options.items():
            if not _has_type(value, expected := parameters[name].annotation):
                words = ", or ".join(dict.fromkeys(_describe_type(expected)))
                words = words or "an object, which a config cannot name"
                raise ConfigError(f"trainer.{name} must be {words}, got {value!r}.")
            if isinstance(value, int) and value < (minimum := MIN_DIVISORS.get(name, value)):
                raise ConfigError(f"trainer.{name} must be at least {minimum}, got {value!r}.")
        defaults = {"logger": False, "enable_checkpointing": False}
        return Trainer(**options, **{**defaults, **arguments}, enable_model_summary=False)
    except Exception as error:  # Lightning raises several kinds, all about these settings
        raise ConfigError(f"The trainer cannot be built: {error}") from None


def _has_type(value: Any, expected: Any) -> bool:
    origin, inner = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return any(_has_type(value, option) for option in inner)
    if origin is Literal:
        is_long = len(inner) > MAX_CHOICES
        return any(type(value) is type(choice) and (is_long or value == choice) for choice in inner)
    if origin is dict:
        return isinstance(value, Mapping) and all(_has_type(entry, inner[1]) for entry in value.values())
    if origin is not None:
        return isinstance(value, list | tuple) and all(_has_type(entry, inner[0]) for entry in value)
    if expected in (int, float):
        return isinstance(value, int | expected) and not isinstance(value, bool)
    return not isinstance(expected, type) or isinstance(value, expected)


def _describe_type(expected: Any) -> list[str]:
    origin, inner = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return [word for option in inner for word in _describe_type(option)]
    if origin is Literal:
        return [f"one of {', '.join(map(str, inner))}"]
    if origin is list and inner != (int,):  # of objects
        return []
    return TYPE_NAMES.get(origin or expected, [])


def quiet() -> None:
    """Silence what Lightning prints about itself and about data that are small on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*isinstance.treespec, LeafSpec.*",  # Lightning 2.6 under torch 2.13
        ".*Checkpoint directory .* exists and is not empty.*",
        "The dirpath has changed from",  # of a run that goes on in another folder
    ):
        warnings.filterwarnings("ignore", message=message)
