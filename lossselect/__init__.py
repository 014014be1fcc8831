"""Declare the classification task once; head, loss, target, metrics, thresholds and decoding follow.

Names are imported when first used, so `import lossselect` costs next to nothing and the core
(tasks, losses) needs torch alone: Lightning and torchmetrics are loaded by `TaskModule` and
`make_metrics` only.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossselect.decision.fit import fit_decision
    from lossselect.export.read import load_exported
    from lossselect.export.write import export_model
    from lossselect.labels.sparse_labels import SparseLabels
    from lossselect.labels.vocabulary import Vocabulary
    from lossselect.losses.auto import suggest_loss
    from lossselect.losses.loss import Loss, select_loss
    from lossselect.losses.registry import LOSSES
    from lossselect.metrics.collection import make_metrics
    from lossselect.reporting.explain import explain_task
    from lossselect.tasks.infer import check_task, infer_task
    from lossselect.tasks.label_counts import LabelCounts, count_labels
    from lossselect.tasks.registry import TASKS, Binary, Multiclass, Multilabel, Task, make_task
    from lossselect.training.callbacks.checkpoint_on_signal import CheckpointOnSignal
    from lossselect.training.callbacks.steps_per_execution import StepsPerExecution
    from lossselect.training.module import TaskModule
    from lossselect.training.tune import tune_decision
    from lossselect.utils.warnings import LossSelectWarning, ignore_warnings

_HOME = {
    "Binary": "tasks.registry",
    "Multiclass": "tasks.registry",
    "Multilabel": "tasks.registry",
    "Task": "tasks.registry",
    "TASKS": "tasks.registry",
    "make_task": "tasks.registry",
    "LossSelectWarning": "utils.warnings",
    "ignore_warnings": "utils.warnings",
    "SparseLabels": "labels.sparse_labels",
    "Vocabulary": "labels.vocabulary",
    "check_task": "tasks.infer",
    "infer_task": "tasks.infer",
    "LOSSES": "losses.registry",
    "Loss": "losses.loss",
    "fit_decision": "decision.fit",
    "suggest_loss": "losses.auto",
    "LabelCounts": "tasks.label_counts",
    "count_labels": "tasks.label_counts",
    "select_loss": "losses.loss",
    "make_metrics": "metrics.collection",
    "TaskModule": "training.module",
    "CheckpointOnSignal": "training.callbacks.checkpoint_on_signal",
    "StepsPerExecution": "training.callbacks.steps_per_execution",
    "tune_decision": "training.tune",
    "explain_task": "reporting.explain",
    "export_model": "export.write",
    "load_exported": "export.read",
}

__all__ = [
    "LOSSES",
    "TASKS",
    "Binary",
    "CheckpointOnSignal",
    "LabelCounts",
    "Loss",
    "LossSelectWarning",
    "Multiclass",
    "Multilabel",
    "SparseLabels",
    "StepsPerExecution",
    "Task",
    "TaskModule",
    "Vocabulary",
    "check_task",
    "count_labels",
    "explain_task",
    "export_model",
    "fit_decision",
    "ignore_warnings",
    "infer_task",
    "load_exported",
    "make_metrics",
    "make_task",
    "select_loss",
    "suggest_loss",
    "tune_decision",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # takes longer to import than all of this package's core

        return version("lossselect")
    if name not in _HOME:
        raise AttributeError(f"module 'lossselect' has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
