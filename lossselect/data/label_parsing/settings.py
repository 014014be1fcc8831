"""The settings of a run's labels, stored in its checkpoint to read the labels of other files."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from lossselect.data.label_parsing.options import LabelOptions, Labels
from lossselect.data.label_parsing.several import AnyOptions, MultiLabels, MultiOptions, Target
from lossselect.exceptions import CheckpointError, ConfigError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.vocabulary import Vocabulary
from lossselect.tasks.registry import AnyTask, MultiTask, Task
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

    @property
    def fix_name(self) -> str:
        """The advice for a file in which the target columns have other names."""
        return "set target=COLUMN"

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


@dataclass(frozen=True)
class MultiLabelSettings:
    """The settings of the labels of several tasks, like `LabelSettings` of one."""

    parts: Mapping[str, LabelSettings]
    task: MultiTask
    listed: bool = False

    @property
    def target(self) -> tuple[str, ...]:
        """The columns of all tasks."""
        return tuple(dict.fromkeys(name for part in self.parts.values() for name in part.target))

    @property
    def sample_weight(self) -> str | None:
        """The column of sample weights, or None."""
        return next(iter(self.parts.values())).sample_weight

    @property
    def options(self) -> MultiOptions:
        """The other settings, with the training labels as `fitted`."""
        targets = {n: Target(part.target, part.listed, part.options) for n, part in self.parts.items()}
        known: Any = {name: part.options.fitted for name, part in self.parts.items()}
        return MultiOptions(targets, fitted=MultiLabels(known, self.task))

    @property
    def fix_name(self) -> str:
        """The advice for a file in which the target columns have other names."""
        return "rename it; an empty column leaves a task out"

    def rename(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Raise a ConfigError: the columns of several tasks have the names of the training."""
        raise ConfigError(
            f"target cannot be set for several tasks, got {shorten(names)}. Rename the columns to those of "
            f"the training: {shorten(self.target)}."
        )

    def change(self, **options: Any) -> "MultiLabelSettings":
        """Return the settings with other options for all tasks; None leaves an option unchanged."""
        changed = {}
        for name, part in self.parts.items():
            kind = part.options.kind
            # an empty cell has no other meaning in a column of single labels
            fits = {k: v for k, v in options.items() if k != "empty" or kind == "multilabel"}
            changed[name] = part.change(**fits)
        return replace(self, parts=changed)


def stored_labels(values: Any, task: AnyTask, path: Any) -> LabelSettings | MultiLabelSettings:
    """Create the settings from values of the checkpoint `path`; CheckpointError if they are damaged."""
    if not isinstance(task, MultiTask):
        return LabelSettings.stored(values, task, path)
    stored = values.get("tasks") if isinstance(values, Mapping) else None
    if not isinstance(stored, Mapping) or stored.keys() != task.tasks.keys():
        raise CheckpointError(f"{path} is damaged: labels must describe the tasks {shorten([*task.tasks])}.")
    parts = {n: LabelSettings.stored(stored[n], part, path) for n, part in task.tasks.items()}
    return MultiLabelSettings(parts, task)


def describe_labels(
    target: tuple[str, ...], listed: bool, sample_weight: str | None, options: AnyOptions
) -> dict[str, Any]:
    """Return the settings of the labels as plain values for a checkpoint; for several tasks by task."""
    if isinstance(options, LabelOptions):
        return LabelSettings(target, listed, sample_weight, options).to_dict()
    parts = {
        name: LabelSettings(part.columns, part.listed, sample_weight, part.options).to_dict()
        for name, part in options.targets.items()
    }
    return {"tasks": parts}
