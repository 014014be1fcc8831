"""Classifiers from a task that is declared once: head, loss, target, metrics and decision follow from it.

Names are imported on first use, so `import lossselect` is fast and the core (tasks, losses) imports
only torch. Lightning and torchmetrics are imported only by `TaskModule` and `make_metrics`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossselect.decision.fit import fit_decision as fit_decision
    from lossselect.export.read import load_exported as load_exported
    from lossselect.export.write import export_model as export_model
    from lossselect.labels.sparse_labels import SparseLabels as SparseLabels
    from lossselect.labels.vocabulary import Vocabulary as Vocabulary
    from lossselect.losses.auto import suggest_loss as suggest_loss
    from lossselect.losses.loss import Loss as Loss
    from lossselect.losses.loss import select_loss as select_loss
    from lossselect.losses.registry import LOSSES as LOSSES
    from lossselect.metrics.collection import make_metrics as make_metrics
    from lossselect.reporting.explain import explain_task as explain_task
    from lossselect.tasks.infer import check_task as check_task
    from lossselect.tasks.infer import infer_task as infer_task
    from lossselect.tasks.label_counts import LabelCounts as LabelCounts
    from lossselect.tasks.label_counts import count_labels as count_labels
    from lossselect.tasks.registry import TASKS as TASKS
    from lossselect.tasks.registry import Binary as Binary
    from lossselect.tasks.registry import Multiclass as Multiclass
    from lossselect.tasks.registry import Multilabel as Multilabel
    from lossselect.tasks.registry import MultiTask as MultiTask
    from lossselect.tasks.registry import Task as Task
    from lossselect.tasks.registry import make_task as make_task
    from lossselect.training.callbacks.checkpoint_on_signal import CheckpointOnSignal as CheckpointOnSignal
    from lossselect.training.callbacks.steps_per_execution import StepsPerExecution as StepsPerExecution
    from lossselect.training.module import TaskModule as TaskModule
    from lossselect.training.tune import tune_decision as tune_decision
    from lossselect.utils.warnings import LossSelectWarning as LossSelectWarning
    from lossselect.utils.warnings import ignore_warnings as ignore_warnings

_NAMES = {
    "decision.fit": ["fit_decision"],
    "export.read": ["load_exported"],
    "export.write": ["export_model"],
    "labels.sparse_labels": ["SparseLabels"],
    "labels.vocabulary": ["Vocabulary"],
    "losses.auto": ["suggest_loss"],
    "losses.loss": ["Loss", "select_loss"],
    "losses.registry": ["LOSSES"],
    "metrics.collection": ["make_metrics"],
    "reporting.explain": ["explain_task"],
    "tasks.infer": ["check_task", "infer_task"],
    "tasks.label_counts": ["LabelCounts", "count_labels"],
    "tasks.registry": ["TASKS", "Binary", "MultiTask", "Multiclass", "Multilabel", "Task", "make_task"],
    "training.callbacks.checkpoint_on_signal": ["CheckpointOnSignal"],
    "training.callbacks.steps_per_execution": ["StepsPerExecution"],
    "training.module": ["TaskModule"],
    "training.tune": ["tune_decision"],
    "utils.warnings": ["LossSelectWarning", "ignore_warnings"],
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # slower to import than the core of this package

        return version("lossselect")
    if name not in _HOME:
        raise AttributeError(f"module 'lossselect' has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
