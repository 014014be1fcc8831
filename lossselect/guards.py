"""Warnings about what looks like a mistake and may be meant; each can be switched off by its name.

What cannot be meant is an error instead. Needs neither torch nor lightning.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from .label_values import some
from .names import lookup

GUARDS = {
    "absent_class": "a class or label that no train row has",
    "bounded_outputs": "a net that ends in ReLU, Tanh or the like, whose logits cannot take all values",
    "constant_feature": "a column with one value only, which is left out",
    "duplicate_rows": "rows of the train split that stand in another split too",
    "log_softmax": "a net that ends in LogSoftmax, under a softmax loss",
    "no_positives": "labels that the evaluated split has no positive of, in no macro mean",
    "one_class": "a validation or test split in which one class is all there is",
    "one_label_each": "multilabel rows that all have exactly one label",
    "rare_class": "classes of too few rows to be in every split",
    "row_number": "a column of features that counts the rows",
    "similar_labels": "labels that differ in case, or in how the same number is written",
    "unit_outputs": "logits that all lie between 0 and 1, as probabilities do",
    "unknown_category": "values of a category column that no train row has",
    "unseen_label": "labels that no train row has, and that count as missing by the user's choice",
}
"""What is warned of, by name."""


class GuardWarning(UserWarning):
    """What looks like a mistake and may be meant."""


def warn(name: str, message: str, stacklevel: int = 2) -> None:
    """Issue the warning `name`, which `allow=[name]` or `lossselect.allow(name)` switches off."""
    lookup(GUARDS, name, "warning")
    warnings.warn(f"{message} [{name}]", GuardWarning, stacklevel=stacklevel + 1)


@contextmanager
def allow(*names: str) -> Iterator[None]:
    """Within it, what these warnings are about is meant; for good, `silence` does it.

    Raises:
        ValueError: there is no warning of that name.

    Example:
        >>> from lossselect import Multilabel, allow, check_task
        >>> with allow("one_label_each"):
        ...     target = check_task(Multilabel(2), [[1, 0], [0, 1]])
    """
    with warnings.catch_warnings():
        silence(names)
        yield


def silence(names: Iterable[str]) -> None:
    """Switch the warnings of these names off."""
    for name in names:
        lookup(GUARDS, name, "warning")
        warnings.filterwarnings("ignore", message=rf"(?s).*\[{name}\]$", category=GuardWarning)


def warn_of_absent(names: list[str], stacklevel: int = 2) -> None:
    """Warn of classes that no train row has."""
    warn(
        "absent_class",
        f"No train row has {some(names)}: the net cannot learn what that is.",
        stacklevel=stacklevel + 1,
    )


def warn_of_single_labels() -> None:
    """Warn of multilabel rows that are multiclass ones."""
    warn(
        "one_label_each",
        "Every row has exactly one label. If a row can have no other number of them, it is of one of several "
        "classes: task=multiclass.",
        stacklevel=4,
    )
