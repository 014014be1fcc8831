"""Built-in data and data of files, checked against the task without Lightning."""

import json
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from lossselect.exceptions import ConfigError
from lossselect.utils.checks import check_options

if TYPE_CHECKING:
    from lossselect.data.splits import Splits
    from lossselect.tasks.registry import AnyTask


class LoadedData(NamedTuple):
    """Built-in data or data of a file, checked against the task before Lightning is imported."""

    splits: "Splits"
    task: "AnyTask"
    counts: "dict[str, Any]"

    def take_fold(self, num_folds: int, fold: int, seed: int) -> "LoadedData":
        """Return the data with a fold of the training rows as validation rows; see `draw_folds`.

        Raises:
            DataError: fewer rows or groups than folds, or `check_splits` raises it.
        """
        from lossselect.data.checks import check_splits
        from lossselect.data.folds import take_fold

        splits = take_fold(self.splits, num_folds, fold, seed)
        return self._replace(splits=splits, counts=check_splits(self.task, splits))


@lru_cache(maxsize=1)
def load_checked(data_json: str, task_json: str, versions: tuple[tuple[int, ...], ...]) -> LoadedData:
    """Return the data that settings describe.

    Args:
        data_json: The settings of the data, as JSON.
        task_json: The settings of the task, as JSON.
        versions: Properties of the files that change when they are overwritten.
    """
    from lossselect.data.checks import check_order, check_splits
    from lossselect.data.toy import DATASETS, load
    from lossselect.labels.sparse_labels import SparseLabels
    from lossselect.tasks.infer import encode_checked, infer_task
    from lossselect.tasks.multitask import MultiTask
    from lossselect.tasks.registry import TASKS, make_task

    options, settings = json.loads(data_json), json.loads(task_json)
    if settings["name"] == MultiTask.name:
        return _load_several(options, settings)
    names = settings.pop("class_names", None)
    has_order = names is not None
    if options["name"] in DATASETS:
        splits = load(**options)
        if isinstance(splits.known_task, MultiTask):
            raise ConfigError(f"{splits.name} has the labels of several tasks. Set task={MultiTask.name}.")
        if settings["name"] == "auto":
            settings["name"], reason = infer_task(splits.labels)
            splits = replace(splits, task=settings["name"], reason=f"{splits.name}: {reason}")
    else:
        from lossselect.data.files.load import load_own_data

        splits = load_own_data(**options, task={**settings, "class_names": names})
        settings["name"], names = splits.task, splits.class_names
    width = len(splits.class_names) if TASKS[settings["name"]].is_sized() else None
    # class names are added below, so that errors about labels of another task show the labels as they are
    task = make_task(num_outputs=width, **settings)
    if not isinstance(splits.labels, SparseLabels):
        fits = len(splits.class_names) == len(task.names)
        encode_checked(replace(task, class_names=splits.class_names) if fits else task, splits.labels)
    task = replace(task, class_names=splits.class_names if names is None else names)
    if task.ordinal and not has_order:
        check_order(task.names)
    return LoadedData(splits, task, check_splits(task, splits))


def _load_several(options: dict[str, Any], settings: dict[str, Any]) -> LoadedData:
    """Return the data of several tasks."""
    from lossselect.data.checks import check_order, check_splits
    from lossselect.data.files.load import load_own_data
    from lossselect.data.toy import DATASETS, load
    from lossselect.tasks.multitask import MultiTask
    from lossselect.tasks.task_names import naming_task

    check_options(settings, ["name", "missing", "weights", "losses"], f"task={MultiTask.name}")
    splits = load(**options) if options["name"] in DATASETS else load_own_data(**options, task=settings)
    task = splits.known_task
    if not isinstance(task, MultiTask):
        raise ConfigError(
            f"{splits.name} has the labels of one task. Set task=auto, or "
            "data=digits_questions for sample data of several tasks."
        )
    task = MultiTask(task.tasks, settings.get("weights"))
    for name, part in task.tasks.items():
        if part.ordinal:
            with naming_task(name):
                check_order(part.names)
    return LoadedData(splits, task, check_splits(task, splits))
