"""The settings of a run's labels, stored in its checkpoint to read the labels of other files."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from lossselect.data.label_parsing.options import LabelOptions, Labels
from lossselect.exceptions import CheckpointError, ConfigError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.vocabulary import Vocabulary
from lossselect.tasks.registry import Task
from lossselect.utils.checks import as_list, lookup, shorten
from lossselect.utils.structure import OptionalOf, check_structure

FORMS = ("single", "columns", "sparse")
"""Forms of the labels: one value per row, a matrix with a column for each label, or sparse labels."""
WORD = (type(None), str, int, float, bool)
STRUCTURE = {
    "target": [str],
    "listed": bool,
    "sample_weight": OptionalOf(str),
    "form": str,
    "notation": str,
    "vocabulary": OptionalOf({"values": [(str, int, bool)], "names": [str]}),
    "options": {
        **{
            name: OptionalOf(str)
            for name in ("delimiter", "empty", "uncertain", "annotators", "hierarchy", "id")
        },
        "handle_unknown": str,
        "class_names": OptionalOf([str]),
        "positive": WORD,
        "missing": [WORD],
        "no_label": [WORD],
        "counts": bool,
    },
}
"""Structure of the dictionary that `to_dict` returns."""


@dataclass(frozen=True)
class LabelSettings:
    """The settings of a run's labels.

    Args:
        target: The target columns of a table, or the name of the array of labels, if it was set.
        listed: Whether the user set a list of target columns.
        sample_weight: The column or array of sample weights, or None.
        options: The other settings, with the training labels as `fitted`.
    """

    target: tuple[str, ...]
    listed: bool
    sample_weight: str | None
    options: LabelOptions

    def rename(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the target columns of a file in which they have other names, in the order of training.

        Raises:
            ConfigError: another number of columns, or the columns of training in another order.
        """
        if len(names) != max(len(self.target), 1):
            raise ConfigError(
                f"target must name {len(self.target)} columns, as in training ({shorten(self.target)}), got "
                f"{len(names)}: {shorten(names)}."
            )
        for old, new in zip(self.target, names, strict=False):
            if new != old and new in self.target:
                raise ConfigError(
                    f"target names {new!r} in the place of {old!r}, but both are target columns of the "
                    f"training. Set target in their order: {shorten(self.target)}."
                )
        return names

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint, which `stored` accepts."""
        options, fitted = {**vars(self.options)}, self.options.fitted
        for name in ("task", "fitted"):  # the checkpoint has the task
            del options[name]
        if fitted is None:
            raise ValueError("The labels have not been fitted.")
        form = "columns" if np.ndim(fitted.values) > 1 else "single"
        return {
            "target": [*self.target],
            "listed": self.listed,
            "sample_weight": self.sample_weight,
            "form": "sparse" if isinstance(fitted.values, SparseLabels) else form,
            "notation": fitted.notation,
            "vocabulary": fitted.vocabulary.to_dict() if fitted.vocabulary else None,
            "options": {k: [*v] if isinstance(v, list | tuple) else v for k, v in options.items()},
        }

    @classmethod
    def stored(cls, values: Any, task: Task, path: Any) -> "LabelSettings":
        """Create the settings from values of the checkpoint `path`; CheckpointError if they are damaged."""
        try:
            check_structure(values, STRUCTURE, "labels")
            form = values["form"]
            lookup(dict.fromkeys(FORMS), form, "label format")
            stored = values["vocabulary"]
            vocabulary = None if stored is None else Vocabulary(**{k: tuple(v) for k, v in stored.items()})
            if vocabulary is not None and len(vocabulary) != len(task.names):
                raise CheckpointError(f"labels has {len(vocabulary)} classes, but the task {len(task.names)}")
            shape = (0,) if form == "single" else (0, len(task.names))
            known: Any = np.empty(shape)
            if form == "sparse":
                known = SparseLabels.from_pairs(np.empty(0, int), np.empty(0, int), shape)
            fitted = Labels(task.name, "", known, task.names, vocabulary, values["notation"])
            options: dict[str, Any] = {
                field.name: values["options"][field.name]
                for field in fields(LabelOptions)
                if field.name not in ("task", "fitted")
            }
            markers = (*options.pop("missing"), *as_list(task.missing))
            words = tuple(options.pop("no_label"))
            parsed = LabelOptions(task.name, **options, missing=markers, no_label=words, fitted=fitted)
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{path} is damaged: {str(error).rstrip('.')}.") from None
        return cls(tuple(values["target"]), values["listed"], values["sample_weight"], parsed)

    def change(self, **options: Any) -> "LabelSettings":
        """Return the settings with other options; None leaves an option unchanged."""
        changed = {name: value for name, value in options.items() if value is not None}
        return replace(self, options=replace(self.options, **changed))
