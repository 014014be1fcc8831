"""Lightning's trainer, built of the config's values."""

import inspect
import logging
import types
import warnings
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from lightning.pytorch import Trainer

from lossselect.exceptions import ConfigError
from lossselect.run.settings import OF_A_RUN, OF_STEPS
from lossselect.utils.checks import check_options


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

MAX_CHOICES = 3
"""A longer list of words is checked by Lightning, whose message has them all."""


def _is_of_type(value: Any, expected: Any) -> bool:
    origin, inner = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return any(_is_of_type(value, one) for one in inner)
    if origin is Literal:
        long = len(inner) > MAX_CHOICES
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
