"""Encoding of the estimator's labels, and isolation of its random numbers."""

import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

from lossselect.exceptions import DataError
from lossselect.utils.checks import shorten
from lossselect.utils.warnings import ignore_warnings

if TYPE_CHECKING:
    from torch import device

LISTS = (
    "scikit-learn's scores and splits require a matrix of 0 and 1. Convert lists of labels with "
    "sklearn.preprocessing.MultiLabelBinarizer().fit_transform(y)."
)
# warnings about metrics of the held-out rows and about the initial bias, which the user did not request
SILENCED = ("duplicate_rows", "no_positives", "one_class", "no_head_bias")


def encode_labels(y: Any, task: str) -> tuple[str, np.ndarray, np.ndarray]:
    """Return the task's name, class indices (N,) or 0/1 (N, L), and the classes or column numbers."""
    from lossselect.tasks.registry import TASKS

    try:
        values = np.asarray(y.toarray() if hasattr(y, "toarray") else y)
    except ValueError:
        raise DataError(f"The rows of y are lists of different lengths. {LISTS}") from None
    _check_sortable(values)
    if task == "auto" or TASKS[task].kind != "multilabel":
        if values.dtype.kind == "f":
            assert_all_finite(values, input_name="y")
        check_classification_targets(y)
    # the part before "-" in multilabel-indicator and multiclass-multioutput
    name = type_of_target(y).partition("-")[0] if task == "auto" else task
    if TASKS[name].kind == "multilabel":
        if values.dtype.kind not in "biuf":  # names, or lists of them
            raise DataError(f"Expected y with 0 and 1, got an array of dtype {values.dtype}. {LISTS}")
        if values.ndim != 2:
            raise DataError(
                "task=multilabel requires y with 0 and 1 of shape (N, L), one column per label, got shape "
                f"{values.shape}."
            )
        return name, values.astype(np.float32), np.arange(values.shape[1])
    if values.ndim == 2 and values.shape[1] > 1:
        raise DataError(
            f"task={name} requires one label per row, got y of shape {values.shape}. If rows have several "
            "labels, set task=multilabel."
        )
    classes, indices = np.unique(column_or_1d(y, warn=True), return_inverse=True)
    if len(classes) < 2:
        raise DataError(
            f"task={name} requires at least two classes, but y contains only 1 class: {classes[0]}. Pass "
            "rows of another class too."
        )
    if TASKS[name].kind == "binary" and len(classes) > 2:
        raise DataError(
            f"task=binary requires two classes, but y contains {len(classes)}: {shorten(classes.tolist())}. "
            "Set task=multiclass."
        )
    return name, indices, classes


def _check_sortable(values: np.ndarray) -> None:
    """Raise DataError for labels that cannot be sorted, such as None among names."""
    examples: dict[str, tuple[int, Any]] = {}
    for row, value in enumerate(values if values.dtype == object and values.ndim == 1 else ()):
        examples.setdefault(type(value).__name__, (row, value))
    try:
        sorted(value for _, value in examples.values())
    except TypeError:
        types = ", ".join(f"{kind} in row {row}" for kind, (row, _) in examples.items())
        raise DataError(
            f"The labels in y must have one type, so that they can be sorted, got {types}. Convert them to "
            "one type."
        ) from None


@contextmanager
def restore_random_state(seed: int, device: "device") -> Iterator[None]:
    """Seed all generators and silence Lightning; then restore generators, warning filters and loggers."""
    import torch
    from lightning.fabric.utilities.warnings import PossibleUserWarning

    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002  # a custom net may use it
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
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
