"""What the estimator needs to fit: the task of the labels, default options of a net, random numbers."""

import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf

from lossselect.run.settings import packaged_config
from lossselect.utils.checks import lookup
from lossselect.utils.warnings import ignore_warnings

if TYPE_CHECKING:
    from torch import device

    from lossselect.tasks.registry import Task


def task_for(name: str, classes: np.ndarray) -> "Task":
    """Return the task called `name` for these classes or labels."""
    from lossselect.tasks.registry import TASKS, make_task

    width = len(classes) if TASKS[name].is_sized() else None
    return make_task(name, num_outputs=width, class_names=[str(value) for value in classes.tolist()])


def usual_options(net: str) -> dict[str, Any]:
    """The options that a run's net has by default."""
    from lossselect.models.nets import NETS

    lookup(NETS, net, "net")
    usual: Any = OmegaConf.to_container(packaged_config("model", net))
    return usual


@contextmanager
def restore_random_state(seed: int, device: "device") -> Iterator[None]:
    """Within it, random numbers are those of the seed, and Lightning says nothing of itself.

    Afterwards generators, filters of warnings and levels of logging are what they were.
    """
    import torch
    from lightning.fabric.utilities.warnings import PossibleUserWarning

    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # a net's own may use it
    cuda = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    with ignore_warnings(*SILENCED), torch.random.fork_rng(devices=cuda):
        warnings.simplefilter("ignore", PossibleUserWarning)
        warnings.filterwarnings("ignore", message="You defined a `validation_step` but have no")
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed_all(seed)
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


SILENCED = ("duplicate_rows", "no_positives", "one_class", "no_head_bias")
"""Warnings about metrics of the rows held out, which nobody sees, and about a start that nobody asked for."""
