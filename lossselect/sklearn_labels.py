"""The labels that scikit-learn's users give, as indices, 0 and 1, or lists."""

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_array, column_or_1d

from .names import some

if TYPE_CHECKING:
    from .label_lists import LabelLists


def labels_of(y: Any, task: str) -> "tuple[str, np.ndarray | LabelLists, np.ndarray]":
    """The task's name, indices (N,), 0 and 1 (N, L) or lists, and the labels that there are."""
    from .label_values import form_of
    from .labels import Vocabulary

    name = task
    if name == "auto" and form_of(y) == "lists":
        name = "multilabel"
    if name == "auto":
        try:
            values = np.asarray(y)
        except ValueError:
            raise ValueError(
                "The rows of y are lists of several lengths. Lists of labels: task='multilabel'."
            ) from None
        if values.dtype.kind == "f":
            assert_all_finite(values, input_name="y")
        check_classification_targets(y)
        kind = type_of_target(y)
        name = "multilabel" if kind == "multilabel-indicator" else kind
    if name == "multilabel":
        matrix = matrix_of(y)
        if matrix is None:
            vocabulary = Vocabulary.fit_lists(y)
            return name, vocabulary.encode_lists(y), np.array(vocabulary.values)
        return name, matrix, np.arange(matrix.shape[1])
    shape = np.asarray(y).shape
    if len(shape) == 2 and shape[1] > 1:
        raise ValueError(
            f"task={name} needs a label a row, but y has the shape {shape}. Several labels per sample: "
            "task=multilabel."
        )
    labels = check_array(column_or_1d(y, warn=True), ensure_2d=False, dtype=None, input_name="y")
    check_classification_targets(labels)
    classes, indices = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"task={name} needs two classes, but y holds 1 class: {classes[0]}. There is nothing to tell "
            "apart."
        )
    if name == "binary" and len(classes) > 2:
        raise ValueError(
            f"task=binary needs two classes, but y holds {len(classes)}: {some(classes.tolist())}. One "
            "of several classes: task=multiclass."
        )
    return name, indices, classes


def matrix_of(y: Any) -> np.ndarray | None:
    """Labels as 0 and 1 (N, L), NaN where not known; None where they are lists of labels."""
    if hasattr(y, "toarray"):  # a sparse one
        y = y.toarray()
    try:
        matrix = np.asarray(y)
        matrix = matrix.astype(np.float32) if matrix.ndim == 2 else matrix
    except (TypeError, ValueError):  # of several lengths, or of no numbers
        return None
    if matrix.ndim != 2 or matrix.dtype.kind != "f":
        return None
    listed = isinstance(y, list | tuple) and not hasattr(y[0], "dtype")
    if listed and not bool((np.isin(matrix, (0, 1)) | np.isnan(matrix)).all()):
        return None  # labels that are numbers, as many in each row
    return matrix


def vocabulary_of(classes: np.ndarray) -> Any:
    """That lists of labels were encoded by."""
    from .labels import Vocabulary

    return Vocabulary(tuple(classes.tolist()))


def rows_of(labels: "np.ndarray | LabelLists", rows: np.ndarray) -> np.ndarray:
    """The labels of some rows, lists as 0 and 1."""
    return labels[rows] if isinstance(labels, np.ndarray) else labels.multi_hot(rows)
