"""The labels that scikit-learn's users give, as indices, or 0 and 1."""

from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_array, column_or_1d

from lossselect.exceptions import DataError
from lossselect.utils.checks import shorten


def labels_of(y: Any, task: str) -> tuple[str, np.ndarray, np.ndarray]:
    """The task's name, indices (N,) or 0 and 1 (N, L), and the labels that there are."""
    from lossselect.tasks.registry import TASKS

    try:
        values = np.asarray(y.toarray() if hasattr(y, "toarray") else y)
    except ValueError:
        raise DataError(f"The rows of y are lists of several lengths. {LISTS}") from None
    _check_one_type(values)
    name = task
    if name == "auto":
        if values.dtype.kind == "f":
            assert_all_finite(values, input_name="y")
        check_classification_targets(y)
        kind = type_of_target(y)
        name = "multilabel" if kind == "multilabel-indicator" else kind
    if TASKS[name].kind == "multilabel":
        return name, _matrix(values), np.arange(values.shape[1])
    shape = values.shape
    if len(shape) == 2 and shape[1] > 1:
        raise DataError(
            f"task={name} needs a label a row, but y has the shape {shape}. Several labels per sample: "
            "task=multilabel."
        )
    labels = check_array(column_or_1d(y, warn=True), ensure_2d=False, dtype=None, input_name="y")
    check_classification_targets(labels)
    classes, indices = np.unique(labels, return_inverse=True)
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


def _check_one_type(values: np.ndarray) -> None:
    """ValueError for None among names, say, which have no order."""
    rows: dict[str, int] = {}
    for row, value in enumerate(values if values.dtype == object and values.ndim == 1 else ()):
        rows.setdefault(type(value).__name__, row)
    try:
        sorted({type(values[row]): values[row] for row in rows.values()}.values())
    except TypeError:
        said = ", ".join(f"{kind} in row {row}" for kind, row in rows.items())
        raise DataError(f"Labels of y must be of one type, to be sorted; there are {said}.") from None


def _matrix(values: np.ndarray) -> np.ndarray:
    """Labels as 0 and 1 (N, L), NaN where not known."""
    if values.dtype.kind not in "biuf":  # names, or lists of them
        raise DataError(LISTS)
    if values.ndim != 2:
        raise DataError(
            "task=multilabel needs 0 and 1 of shape (N, L), a column for each label, but y has the shape "
            f"{values.shape}."
        )
    return values.astype(np.float32)


LISTS = (
    "Lists of labels become 0 and 1, which scikit-learn's scores and splits need, by "
    "sklearn.preprocessing.MultiLabelBinarizer().fit_transform(y)."
)
"""What is said of them."""
