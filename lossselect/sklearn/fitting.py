"""What the estimator fits: the labels that scikit-learn's users give, and random numbers of their own."""

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
    "Lists of labels become 0 and 1, which scikit-learn's scores and splits need, by "
    "sklearn.preprocessing.MultiLabelBinarizer().fit_transform(y)."
)
# about metrics of the rows held out, and about an initial bias, which the user did not ask for
SILENCED = ("duplicate_rows", "no_positives", "one_class", "no_head_bias")


def encode_labels(y: Any, task: str) -> tuple[str, np.ndarray, np.ndarray]:
    """Return the task's name, indices (N,) or 0 and 1 (N, L), and the classes or numbers of the labels."""
    from lossselect.tasks.registry import TASKS

    try:
        values = np.asarray(y.toarray() if hasattr(y, "toarray") else y)
    except ValueError:
        raise DataError(f"The rows of y are lists of several lengths. {LISTS}") from None
    _check_sortable(values)
    if task == "auto" or TASKS[task].kind != "multilabel":
        if values.dtype.kind == "f":
            assert_all_finite(values, input_name="y")
        check_classification_targets(y)
    # of multilabel-indicator, multiclass-multioutput
    name = type_of_target(y).partition("-")[0] if task == "auto" else task
    if TASKS[name].kind == "multilabel":
        if values.dtype.kind not in "biuf":  # names, or lists of them
            raise DataError(LISTS)
        if values.ndim != 2:
            raise DataError(
                "task=multilabel needs 0 and 1 of shape (N, L), a column for each label, but y has the shape "
                f"{values.shape}."
            )
        return name, values.astype(np.float32), np.arange(values.shape[1])
    if values.ndim == 2 and values.shape[1] > 1:
        raise DataError(
            f"task={name} needs a label a row, but y has the shape {values.shape}. Several labels per "
            "sample: task=multilabel."
        )
    classes, indices = np.unique(column_or_1d(y, warn=True), return_inverse=True)
    if len(classes) < 2:
        raise DataError(
            f"task={name} needs two classes, but y holds 1 class: {classes[0]}. There is nothing to tell "
            "apart."
        )
    if TASKS[name].kind == "binary" and len(classes) > 2:
        raise DataError(
            f"task=binary needs two classes, but y holds {len(classes)}: {shorten(classes.tolist())}. One "
            "of several classes: task=multiclass."
        )
    return name, indices, classes


def _check_sortable(values: np.ndarray) -> None:
    """Raise a DataError for labels without an order, such as None among names."""
    examples: dict[str, tuple[int, Any]] = {}
    for row, value in enumerate(values if values.dtype == object and values.ndim == 1 else ()):
        examples.setdefault(type(value).__name__, (row, value))
    try:
        sorted(value for _, value in examples.values())
    except TypeError:
        types = ", ".join(f"{kind} in row {row}" for kind, (row, _) in examples.items())
        raise DataError(f"Labels of y must be of one type, to be sorted; there are {types}.") from None


@contextmanager
def restore_random_state(seed: int, device: "device") -> Iterator[None]:
    """Draw random numbers from `seed`, silence Lightning, and restore generators, filters and loggers."""
    import torch
    from lightning.fabric.utilities.warnings import PossibleUserWarning

    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002  # a user's net may draw
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
