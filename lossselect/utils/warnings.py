"""Warnings about what looks like a mistake and may be meant; each can be switched off by its name.

What cannot be meant is an error instead. Needs neither torch nor lightning.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

from lossselect.utils.checks import lookup, shorten

ON_NONFINITE = ("stop", "skip")  # what to do with a step whose loss or gradient is not finite

WARNINGS = {
    "class_without_rows": "a class or label that no train row has",
    "bounded_outputs": "a net that ends in ReLU, Tanh or the like, whose logits cannot take all values",
    "damaged_checkpoint": "a checkpoint that resume=auto passes over, as it cannot be read",
    "constant_feature": "a column with one value only, which is left out",
    "duplicate_rows": "rows of the train split that stand in another split too",
    "stopped_before_schedule_end": "a run that ended before its learning rate was 0 and keeps its last epoch",
    "few_positives": "thresholds that are tuned to a handful of validation positives",
    "constant_label": "a label that every train row has",
    "target_leakage": "a feature with one value for each class",
    "likely_missing_marker": "a label such as '?' that may mark a missing one",
    "log_softmax": "a net that ends in LogSoftmax, under a softmax loss",
    "no_head_bias": "a net without a last bias that could start from the shares of the classes",
    "no_positives": "labels or classes that the evaluated split has none of, in no macro mean",
    "no_prediction": "test rows for which the net returned NaN, and that have no prediction",
    "not_compiled": "a net or loss that torch.compile cannot compile here, and that runs without",
    "one_class": "a validation or test split in which one class is all there is",
    "loss_changed_on_resume": "a run that goes on from a checkpoint with another loss",
    "one_hot_integers": "integers of shape (N, C) that are read as one-hot rows, and may be class indices",
    "looks_multiclass": "multilabel rows that all have exactly one label",
    "plateau_mode": "a ReduceLROnPlateau whose mode is against the direction of what it monitors",
    "rare_class": "classes of too few rows to be in every split",
    "index_column": "a column of features that counts the rows",
    "schedule_in_steps": "a learning rate schedule per epoch whose numbers seem to count optimizer steps",
    "several_labels": "labels that look like several in one cell",
    "similar_labels": "labels that differ in case, or in how the same number is written",
    "skipped_step": "steps that on_nonfinite=skip leaves out",
    "split_brackets": "a delimiter that splits what brackets enclose",
    "outputs_look_like_probabilities": "logits that all lie between 0 and 1, as probabilities do",
    "unseen_category": "cells of a feature that are of an unknown category, or missing where no train row is",
    "untested_lightning": "a version of Lightning that was not tested, with which single steps are taken",
    "untuned_threshold": "labels without a validation positive, whose thresholds are not their own",
    "unused_delimiter": "a delimiter that no cell of labels holds",
    "unmatched_missing": "marks for missing labels that no row has",
    "unseen_label": "labels that no train row has, and that count as missing by the user's choice",
}
"""The meaning of each named warning."""


class LossSelectWarning(UserWarning):
    """Warning about suspicious but valid input.

    Args:
        name: A name of `WARNINGS`.
        message: What looks wrong, and the fix.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(name, message)
        self.name, self.message = name, message

    def __str__(self) -> str:
        return f"{self.message} [{self.name}]"


def warn(name: str, message: str) -> None:
    """Issue the warning `name`, which `ignore_warnings=[name]` silences."""
    lookup(WARNINGS, name, "warning")
    warnings.warn(LossSelectWarning(name, message), stacklevel=2)


@contextmanager
def ignore_warnings(*names: str) -> Iterator[None]:
    """Silence these warnings within the context.

    Raises:
        ValueError: there is no warning of that name.

    Example:
        >>> from lossselect import Multilabel, ignore_warnings, check_task
        >>> with ignore_warnings("looks_multiclass"):
        ...     task = check_task(Multilabel(2), [[1, 0], [0, 1]])
    """
    for name in names:
        lookup(WARNINGS, name, "warning")
    with warnings.catch_warnings():
        for name in names:
            warnings.filterwarnings("ignore", message=rf"(?s).*\[{name}\]$", category=LossSelectWarning)
        yield


@contextmanager
def silence() -> Iterator[None]:
    """Silence logs, warnings and stderr of other libraries within the context."""
    previous_level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(previous_level)


def warn_class_without_rows(names: list[str]) -> None:
    """Warn about classes that no train row has."""
    warn("class_without_rows", f"No train row has {shorten(names)}: the net cannot learn what that is.")


def warn_looks_multiclass() -> None:
    """Warn about multilabel rows that all have exactly one label."""
    warn(
        "looks_multiclass",
        "Every row has exactly one label. If a row can have no other number of them, it is of one of several "
        "classes: task=multiclass.",
    )


def warn_one_hot_integers(shape: Any) -> None:
    """Warn about integers (N, C) read as one-hot rows that may be class indices of C positions."""
    warn(
        "one_hot_integers",
        f"Integers of shape {tuple(shape)} were read as one-hot rows of {shape[1]} classes. If they are the "
        f"class indices of {shape[1]} positions, call task.encode(target, trailing_dims=1); if they are "
        "one-hot rows, trailing_dims=0.",
    )
