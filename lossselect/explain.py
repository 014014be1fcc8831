"""The plan of a run, printed before it starts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from .counts import LabelCounts
from .criterion import Loss
from .data.module import TensorData
from .names import some
from .optim import best_mode
from .tasks import Task

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from .module import TaskModule


def plan(module: "TaskModule", data: Any, trainer: "Trainer", monitor: str) -> dict[str, str]:
    """What a run will do, a line each.

    Args:
        module: With a loss of ours.
        data: A `TensorData`, or the user's own data module.
        trainer: That will fit it.
        monitor: By which the best checkpoint is chosen.
    """
    task, net = module.task, module.net
    criterion = cast(Loss, module.criterion)
    formula = criterion.formula.__doc__ or criterion.formula.__name__
    names = ", ".join(task.names[:8]) + (f", ... ({len(task.names)})" if len(task.names) > 8 else "")
    lines = {
        "task": task.describe(),
        "classes": names,
        "head": f"{task.num_outputs} raw logits; {task.activation} for predictions and metrics only",
        "loss": f"{criterion.name} ({task.activation} form): {formula.splitlines()[0]}",
        "target": task.target_form,
        "decision": _decision(task),
        "metrics": ", ".join(("loss", *task.metric_names)) + f"; each over the whole epoch; {_means(task)}",
        "best by": f"{monitor} ({best_mode(monitor)})",
    }
    options = {key: value for key, value in criterion.options.items() if value is not None}
    for name in ("weight", "pos_weight"):
        buffer = getattr(criterion, name)
        if buffer is not None:
            options[name] = [round(value, 4) for value in buffer.tolist()]
    if criterion.label_smoothing:
        options["label_smoothing"] = criterion.label_smoothing
    if options:
        lines["options"] = ", ".join(f"{key}={value}" for key, value in options.items())
    lines["data"] = type(data).__name__
    if isinstance(data, TensorData):
        splits = data.splits
        if splits.reason:
            lines["task"] += f": {splits.reason}; another one with task=..."
        lines["labels"] = _label_line(task, data.counts)
        if splits.columns:
            lines["features"] = some(splits.columns, 20)
        counts = ", ".join(f"{len(rows)} {split}" for split, rows in splits.rows.items())
        lines["data"] = f"{splits.name}: {counts} rows of {data.num_features} features, standardised by train"
    weights = sum(p.numel() for p in module.parameters())
    lines["model"] = f"{type(net).__name__}, {weights:,} weights"
    lines["training"] = (
        f"at most {trainer.max_epochs} epochs, on {trainer.strategy.root_device}, "
        f"precision {trainer.precision}"
    )
    return lines


def _means(task: Task) -> str:
    """How the metrics are averaged."""
    if task.width_field == "num_labels":
        return "f1_micro pools all decisions, f1_macro, auroc and map are means over labels with a positive"
    if task.width_field is None:
        return "f1 of the positive class, f1_micro and f1_macro over both classes"
    return "f1_micro pools all decisions, f1_macro, auroc and map are means over the classes that occur"


def _label_line(task: Task, counts: Mapping[str, LabelCounts]) -> str:
    """The train split's labels, and what is missing anywhere."""
    train = counts["train"]
    kind = "label" if task.width_field == "num_labels" else "class"
    said = f"largest to smallest {kind} {train.imbalance:.3g} to 1 in train"
    if kind == "label":
        said = f"{train.cardinality:.3g} of {len(task.names)} labels a row, {said}"
    gone = [f"{count.missing} in {split}" for split, count in counts.items() if count.missing]
    return f"{said}; missing: {', '.join(gone) or 'none'}"


def label_table(task: Task, counts: Mapping[str, LabelCounts]) -> dict[str, list[str]]:
    """How many there are of each class in each split; of many classes the largest and the smallest."""
    order = sorted(range(len(task.names)), key=lambda i: -counts["train"].positives[i])
    lines = {task.names[i]: [str(count.positives[i]) for count in counts.values()] for i in order}
    if len(lines) > MOST_ROWS:
        names, half = [*lines], MOST_ROWS // 2
        ends = [*names[:half], *names[-half:]]
        lines = (
            {name: lines[name] for name in ends[:half]}
            | {"...": []}
            | {name: lines[name] for name in ends[half:]}
        )
    sums = {"(missing)": "missing", "(rows)": "rows"}
    return lines | {
        key: [str(getattr(count, name)) for count in counts.values()] for key, name in sums.items()
    }


MOST_ROWS = 30
"""Up to how many classes are listed each."""


def _decision(task: Task) -> str:
    threshold = getattr(task, "threshold", None)
    if threshold is None:
        return "the most probable class"
    shown = threshold if isinstance(threshold, float) else list(threshold)
    return f"1 where the probability is at least {shown}"


def print_table(title: str, lines: Mapping[str, str | list[str]], header: Sequence[str] = ()) -> None:
    """A title and a line for each entry, on the console; with a header, of several columns."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE, show_header=bool(header))
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left")
    for key, value in lines.items():
        # Text: a class name such as [red] is no markup
        cells = [value] if isinstance(value, str) else value
        table.add_row(Text(key, style="bold"), *map(Text, cells))
    Console().print(table)
