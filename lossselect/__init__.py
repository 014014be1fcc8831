"""Declare the classification task once; head, loss, target, metrics, thresholds and decoding follow.

Names are imported when first used, so `import lossselect` costs next to nothing and the core
(tasks, losses) needs torch alone: Lightning and torchmetrics are loaded by `TaskModule` and
`make_metrics` only.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chunked import ChunkedLinear
    from .counts import LabelCounts, count_labels
    from .criterion import Loss, select_loss
    from .decision import fit_decision
    from .execution import StepsPerExecution
    from .explain import explain_task
    from .export import export_model
    from .guards import GuardWarning, allow
    from .infer import check_task, infer_task
    from .label_lists import LabelLists
    from .labels import Vocabulary
    from .losses import LOSSES
    from .metrics import make_metrics
    from .module import TaskModule
    from .positives import Positives
    from .rules import propose_loss
    from .served import read_export
    from .stopping import SaveAndStop
    from .tasks import (
        TASKS,
        Binary,
        Multiclass,
        Multilabel,
        Task,
        make_task,
    )
    from .top_names import top_metric_names
    from .tuning import tune_decision

_HOME = {
    "Binary": "tasks",
    "Multiclass": "tasks",
    "Multilabel": "tasks",
    "Task": "tasks",
    "TASKS": "tasks",
    "make_task": "tasks",
    "GuardWarning": "guards",
    "allow": "guards",
    "LabelLists": "label_lists",
    "Vocabulary": "labels",
    "check_task": "infer",
    "infer_task": "infer",
    "LOSSES": "losses",
    "Loss": "criterion",
    "fit_decision": "decision",
    "propose_loss": "rules",
    "LabelCounts": "counts",
    "count_labels": "counts",
    "select_loss": "criterion",
    "make_metrics": "metrics",
    "TaskModule": "module",
    "SaveAndStop": "stopping",
    "StepsPerExecution": "execution",
    "ChunkedLinear": "chunked",
    "top_metric_names": "top_names",
    "Positives": "positives",
    "tune_decision": "tuning",
    "explain_task": "explain",
    "export_model": "export",
    "read_export": "served",
}

__all__ = [
    "LOSSES",
    "TASKS",
    "Binary",
    "ChunkedLinear",
    "GuardWarning",
    "LabelCounts",
    "LabelLists",
    "Loss",
    "Multiclass",
    "Multilabel",
    "Positives",
    "SaveAndStop",
    "StepsPerExecution",
    "Task",
    "TaskModule",
    "Vocabulary",
    "allow",
    "check_task",
    "count_labels",
    "explain_task",
    "export_model",
    "fit_decision",
    "infer_task",
    "make_metrics",
    "make_task",
    "propose_loss",
    "read_export",
    "select_loss",
    "top_metric_names",
    "tune_decision",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("lossselect")
    if name not in _HOME:
        raise AttributeError(f"module 'lossselect' has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
