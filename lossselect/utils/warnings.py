"""Named warnings about suspicious but valid input; `ignore_warnings=[name]` silences one.

Invalid input raises an error instead. This module imports neither torch nor lightning.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from contextvars import ContextVar
from typing import Any

from lossselect.utils.checks import lookup, shorten

ON_NONFINITE = ("stop", "skip")  # options for a step whose loss or gradient is not finite

WARNINGS = {
    "class_without_rows": "a class or label without training rows",
    "bounded_outputs": "a net that ends in an activation such as ReLU or Tanh, which bounds the logits",
    "damaged_checkpoint": "an unreadable checkpoint that resume=auto skips",
    "constant_feature": "a feature column with a single value, which is left out",
    "duplicate_rows": "training rows that also occur in another split",
    "stopped_before_schedule_end": "a run that keeps its last epoch, but stopped at a learning rate above 0",
    "few_positives": "thresholds tuned on very few validation positives",
    "constant_label": "a label that every training row has",
    "target_leakage": "a feature whose values determine the class",
    "leading_zeros": "a feature of numbers such as 00501, which may be codes",
    "long_text": "cells of free text (data.text) whose end is ignored",
    "likely_missing_marker": "a label such as '?' that may mark missing labels",
    "left_out_metrics": "metric objects of a run that its checkpoint does not contain",
    "log_softmax": "a net that ends in LogSoftmax, trained with a softmax loss",
    "likely_no_label": "a label such as 'none' that may mean that a row has no label",
    "unfinished_run": "a checkpoint of a run that has not been evaluated",
    "unfitted_layers": "scaling and encoding of a net that are not fitted to the data",
    "no_head_bias": "a net without a head bias to initialise from the class frequencies",
    "no_positives": "labels or classes without positives in a split, excluded from macro averages",
    "no_votes": "rows without votes (data.counts), whose labels are missing",
    "no_prediction": "test rows without a prediction, because the net returned NaN",
    "not_compiled": "a net or loss that torch.compile failed to compile and that runs uncompiled",
    "one_class": "a validation or test split with a single class",
    "loss_changed_on_resume": "a run resumed with another loss than its checkpoint has",
    "one_hot_integers": "integers of shape (N, C) read as one-hot rows, which may be class indices",
    "looks_multiclass": "multilabel rows that all have exactly one label",
    "other_module": "a class that has the name of the trained one, but is defined in another module",
    "plateau_mode": "a ReduceLROnPlateau whose mode contradicts the metric that it monitors",
    "rounded_soft_labels": "soft labels that do not sum to 1 because they are rounded",
    "rare_class": "classes with too few rows for every split",
    "group_in_several_splits": "groups (data.group) with rows in two splits",
    "likely_group_column": "a feature with few rows per value, which may contain groups such as patients",
    "likely_split_column": "a feature that may contain the split of each row",
    "missing_group": "rows without a group (data.group)",
    "index_column": "a feature column that numbers the rows, or identifies them by an integer",
    "schedule_in_steps": "an epoch-wise learning rate schedule that seems to count optimizer steps",
    "several_labels": "cells that seem to contain several labels",
    "short_time_limit": "a time limit that ends training within the first epoch",
    "similar_labels": "labels that differ only in case or number format",
    "skipped_step": "optimizer steps skipped by on_nonfinite=skip",
    "split_brackets": "a delimiter that splits text in brackets",
    "outputs_look_like_probabilities": "logits that all lie between 0 and 1, like probabilities",
    "tied_annotators": "rows whose annotators are tied (data.annotators=majority), whose labels are missing",
    "unseen_category": "feature cells of an unknown category, or missing in a column complete in training",
    "shifted_indices": "a libsvm file whose indices seem to start at 1, whereas those of training start at 0",
    "unseen_feature": "indices of a libsvm file above those of the training file, which are left out",
    "untested_lightning": "an untested version of Lightning, for which steps_per_execution becomes 1",
    "untuned_threshold": "labels without a validation positive, whose thresholds are not tuned",
    "unlabelled_task": "one of several tasks without any label of a test row",
    "unused_entry": "an entry of a batch that seems to be meant for forward or as sample weights",
    "unused_delimiter": "a delimiter that no label cell contains",
    "unknown_monitor": "a monitor similar to a metric, but unknown, in a project whose hooks may log it",
    "unmatched_missing": "values of data.missing that no row has",
    "unmatched_no_label": "words of data.no_label that no row has",
    "unseen_label": "labels unknown from training, ignored due to handle_unknown=ignore",
}
"""Description of each named warning."""


class LossSelectWarning(UserWarning):
    """Warning about suspicious but valid input.

    Args:
        name: A name of `WARNINGS`.
        message: Description of the suspicious input, and the fix.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(name, message)
        self.name, self.message = name, message

    def __str__(self) -> str:
        return f"{self.message} [{self.name}]"


CURRENT_TASK = ContextVar("CURRENT_TASK", default="")
"""The name of the task, one of several, that a warning is about; see `naming_task`."""


def warn(name: str, message: str) -> None:
    """Issue the warning `name`, which `ignore_warnings=[name]` silences."""
    lookup(WARNINGS, name, "warning")
    if task := CURRENT_TASK.get():
        message = f"{message} (Task {task!r}.)"
    warnings.warn(LossSelectWarning(name, message), stacklevel=2)


@contextmanager
def ignore_warnings(*names: str) -> Iterator[None]:
    """Silence the warnings `names`, names of `WARNINGS`, within the context.

    Raises:
        ConfigError: an unknown name.

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
def drop_warnings_on_error() -> Iterator[None]:
    """Issue the warnings of the context when it ends; if it ends with an error, the error comes alone."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for each in caught:
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


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
    """Warn about classes or labels that no training row has."""
    them = "it" if len(names) == 1 else "them"
    warn(
        "class_without_rows",
        f"No training row has {shorten(names)}, so the net cannot learn {them}. Add rows that have {them}.",
    )


def warn_looks_multiclass() -> None:
    """Warn about multilabel rows that all have exactly one label."""
    warn(
        "looks_multiclass",
        "Every row has exactly one label. If this is true of all possible rows, set task=multiclass.",
    )


def warn_one_hot_integers(shape: Any) -> None:
    """Warn about integers (N, C) read as one-hot rows that may be class indices of C positions."""
    warn(
        "one_hot_integers",
        f"Integers of shape {tuple(shape)} were read as one-hot rows of {shape[1]} classes. If they are "
        f"class indices of {shape[1]} positions, call task.encode(target, trailing_dims=1). If they are "
        "one-hot rows, call task.encode(target, trailing_dims=0).",
    )
